"""What holds for every command: the global flags, which may stand before or after the command's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from node.errors import ConfigError

if TYPE_CHECKING:  # a client's imports cost time at each start
    from ledger.keys import Key
    from node.client.sdk import Client
    from node.home import Home

Format = Literal["table", "json", "jsonl"]

EXIT_OK: Final = 0
EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_REJECTED: Final = 4
EXIT_NO_QUORUM: Final = 5
EXIT_TIMEOUT: Final = 6

HOME_DEFAULT: Final = "~/.gridpact"

# name -> (variable, what it means); all take a value.
GLOBAL_FLAGS: Final = {
    "--home": ("GRIDPACT_HOME", f"The peer's home directory (default {HOME_DEFAULT})."),
    "--api": ("GRIDPACT_API", "host:port of the peer to ask (default: the one running in the home)."),
    "--keys": ("GRIDPACT_KEYS", "Directory of account keys (default HOME/config/keys)."),
    "--output": ("GRIDPACT_OUTPUT", "table, json or jsonl; also -o."),
    "--timeout": ("GRIDPACT_TIMEOUT", "Seconds to wait for an answer or for finality (default 30)."),
}
_SHORT: Final = {"-o": "--output"}


class Failure(Exception):
    """A command ends with `code` and says `text` on stderr."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


@dataclass(slots=True)
class Context:
    """The global flags in force."""

    home_root: Path = Path(HOME_DEFAULT)
    api: str = ""
    keys: Path | None = None
    output: Format = "table"
    timeout_s: float = 30.0

    def home(self) -> Home:
        """The home directory's paths."""
        from node.home import Home

        return Home(self.home_root.expanduser())

    def keys_dir(self) -> Path:
        """Where account keys are looked up."""
        return self.keys if self.keys is not None else self.home().keys_dir

    def key(self, name: str) -> Key:
        """A named account key; asks for its passphrase when it is encrypted. Raises ConfigError."""
        from node.home import key_path, load_key

        return load_key(key_path(self.keys_dir(), name), ask_passphrase)

    def public(self, name: str) -> bytes:
        """The public half of a named account key; asks nobody. Raises ConfigError."""
        from node.home import key_path, read_public

        return read_public(key_path(self.keys_dir(), name))

    def public_keys(self) -> list[tuple[str, bytes]]:
        """Name and public half of each account key; one that cannot be read is left out, and said so."""
        from node.home import read_public

        found, folder = [], self.keys_dir()
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            if file.is_file() and not file.name.startswith("."):
                try:
                    found.append((file.name, read_public(file)))
                except ConfigError as error:
                    _say(str(error))
        return found

    def client(self) -> Client:
        """A client of the peer to ask. Raises Failure(3) when none is named or running."""
        from node.client.sdk import Client

        home = self.home()
        if self.api:
            address = self.api
        else:
            from node.home import read_run

            info = read_run(home)
            if info is None:
                raise Failure(
                    EXIT_UNREACHABLE,
                    f"no peer runs in {home.root}; start it, or name one with --api host:port",
                )
            address = info.api
        return Client(address, token_file=home.token_file, timeout_s=self.timeout_s, on_wait=_say)


def ask_passphrase(what: str) -> bytes:
    """The passphrase of an encrypted key: from the environment's file, else typed unseen. ConfigError."""
    import getpass
    import sys

    from node.client.key_files import PASSPHRASE_VARIABLE, from_environment

    if os.environ.get(PASSPHRASE_VARIABLE) or not sys.stdin.isatty():
        return from_environment(what)
    return getpass.getpass(f"Passphrase of {what}: ").encode()


current: Context = Context()


def take_globals(arguments: Sequence[str]) -> list[str]:
    """Set `current` from variables and flags; return the other arguments. Raises Failure(2), ConfigError."""
    values = {
        flag: os.environ[variable] for flag, (variable, _) in GLOBAL_FLAGS.items() if os.environ.get(variable)
    }
    rest: list[str] = []
    items = iter(arguments)
    for item in items:
        if item == "--":
            rest += [item, *items]
            break
        name, mark, value = item.partition("=")
        name = _SHORT.get(name, name)
        if name not in GLOBAL_FLAGS:
            rest.append(item)
            continue
        if not mark:
            found = next(items, None)
            if found is None:
                raise Failure(EXIT_USAGE, f"{item}: a value wanted")
            value = found
        values[name] = value
    _set(values)
    return rest


def _say(text: str) -> None:
    from node.cli.output import say

    say(text)


def _set(values: dict[str, str]) -> None:
    current.home_root = Path(values.get("--home", HOME_DEFAULT))
    current.api = values.get("--api", "").removeprefix("http://").rstrip("/")
    current.keys = Path(values["--keys"]).expanduser() if "--keys" in values else None
    output = values.get("--output", "table")
    if output not in ("table", "json", "jsonl"):
        raise Failure(EXIT_USAGE, f"--output: table, json or jsonl wanted, found {output!r}")
    current.output = cast(Format, output)
    try:
        current.timeout_s = float(values.get("--timeout", "30"))
    except ValueError:
        raise Failure(EXIT_USAGE, "--timeout: a number of seconds wanted") from None
    if not 0 < current.timeout_s <= 86_400:
        raise ConfigError("--timeout: more than 0, at most 86400 seconds")
