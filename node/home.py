"""A peer's home directory: where things stand, key files, and the note of a running peer.

    config/config.toml  config/genesis.json  config/node_key  config/validator_key  config/api_token
    config/keys/NAME    account keys          data/            store, artifacts, logs, run.json

Directories are 0700, secret files 0600; wider secrets are refused, not repaired: they may have leaked.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from ledger.errors import Refused
from ledger.genesis import Genesis, decode_genesis
from ledger.keys import Key
from node.errors import ConfigError

if TYPE_CHECKING:
    from node.client.key_files import Ask

_SECRET_FILE_BYTES_MAX: Final = 1024  # an encrypted key has some 310
_RUN_FILE_BYTES_MAX: Final = 64 * 1024
_NAME_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Home:
    """Paths of one peer's home. Nothing is created by looking."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_dir = root / "config"
        self.keys_dir = self.config_dir / "keys"
        self.config_file = self.config_dir / "config.toml"
        self.genesis_file = self.config_dir / "genesis.json"
        self.node_key_file = self.config_dir / "node_key"
        self.validator_key_file = self.config_dir / "validator_key"
        self.token_file = self.config_dir / "api_token"
        self.data_dir = root / "data"
        self.store_dir = self.data_dir / "store"
        self.artifacts_dir = self.data_dir / "artifacts"
        self.log_file = self.data_dir / "peer.log"
        self.run_file = self.data_dir / "run.json"
        self.quarantine_file = self.data_dir / "quarantine.json"

    def create(self) -> None:
        """Make the directories, 0700. Raises ConfigError when it cannot."""
        try:
            for folder in (self.root, self.config_dir, self.keys_dir, self.data_dir):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.root}: the home cannot be made: {error.strerror}") from error

    def read_genesis(self) -> Genesis:
        """The checked genesis. Raises ConfigError."""
        return read_genesis(self.genesis_file)

    def node_key(self) -> Key:
        """The node key. Raises ConfigError."""
        return load_key(self.node_key_file)

    def validator_key(self) -> Key:
        """The validator key. Raises ConfigError."""
        return load_key(self.validator_key_file)

    def account_key(self, name: str) -> Key:
        """A named account key. Raises ConfigError."""
        return load_key(key_path(self.keys_dir, name))

    def token(self) -> str:
        """The API token. Raises ConfigError."""
        return read_secret(self.token_file).strip()


def read_genesis(file: Path) -> Genesis:
    """The checked genesis of a file. Raises ConfigError naming file and field."""
    try:
        return decode_genesis(file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{file}: no readable genesis: {error.strerror}. Ask the chain's founder"
        ) from error
    except Refused as error:
        raise ConfigError(f"{file}: {error}") from error


def key_path(folder: Path, name: str) -> Path:
    """The file of a named key. Raises ConfigError for a name that is no plain file name."""
    if not 1 <= len(name) <= 64 or name.startswith(".") or not _NAME_LETTERS.issuperset(name):
        raise ConfigError(f"key name {name[:80]!r}: 1 to 64 of letters, digits, '-', '_', '.' (not first)")
    return folder / name


def create_key(file: Path) -> Key:
    """A new random key in a new 0600 file. Raises ConfigError; an existing file is never touched."""
    seed = secrets.token_bytes(32)
    write_secret(file, seed.hex() + "\n")
    return Key(seed)


def ensure_key(file: Path) -> Key:
    """The key of a file, made if there is none: an `init` that died is said again. Raises ConfigError."""
    return load_key(file) if file.exists() else create_key(file)


def load_key(file: Path, ask: Ask | None = None) -> Key:
    """The key of a key file. `ask` gives the passphrase of one that is encrypted; without it the environment
    does. Raises ConfigError for a missing, malformed, too open or wrongly opened file."""
    from node.client.key_files import from_environment, seed_of

    return Key(seed_of(read_secret(file).strip(), str(file), ask or from_environment))


def read_public(file: Path) -> bytes:
    """The public half that a key file names; no passphrase is needed. Raises ConfigError."""
    from node.client.key_files import public_of

    return public_of(read_secret(file).strip(), str(file))


def write_secret(file: Path, text: str) -> None:
    """A new file, 0600 from the first moment, on disk when this returns. Raises ConfigError if it exists."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(fresh, file, follow_symlinks=False)  # whole or not at all, and never over another
        finally:
            os.unlink(fresh)
        sync_folder(file.parent)
    except FileExistsError:
        raise ConfigError(f"{file}: exists already and is never overwritten") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def read_secret(file: Path) -> str:
    """The text of a secret file. Raises ConfigError when others may read it."""
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(
                    f"{file}: others can read it (mode {stat.S_IMODE(mode):04o}), so it may be known. "
                    f"If you trust it: chmod 600 {file}"
                )
            return stream.read(_SECRET_FILE_BYTES_MAX).decode(errors="replace")
    except FileNotFoundError:
        raise ConfigError(f"{file.parent} has no {file.name}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error


def write_atomic(file: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file whole, or not at all, also over a crash."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, file)
        sync_folder(file.parent)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def clear_drafts(folder: Path) -> None:
    """Remove what a crash left of files that did not take their names yet. Nobody else may write there."""
    for draft in folder.glob(".*.new"):
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """New names in a folder are on disk when this returns. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a started peer tells local programs. `start_ticks` tells a reused pid apart."""

    pid: int
    start_ticks: int
    moniker: str
    peer_id: str
    api: str  # host:port
    p2p: tuple[str, ...]  # full multiaddrs
    started_ms: int


def write_run(home: Home, info: RunInfo) -> None:
    """Say that the peer is up. Call when the API and the network listen."""
    write_atomic(home.run_file, msgspec.json.format(msgspec.json.encode(info)) + b"\n")


def remove_run(home: Home) -> None:
    """Say that the peer is down. Idempotent."""
    home.run_file.unlink(missing_ok=True)


def read_run(home: Home) -> RunInfo | None:
    """The note of a running peer; None when there is none, or its process is gone."""
    try:
        with home.run_file.open("rb") as stream:
            info = msgspec.json.decode(stream.read(_RUN_FILE_BYTES_MAX), type=RunInfo)
    except (OSError, msgspec.MsgspecError):
        return None
    return info if is_running(info.pid, info.start_ticks) else None


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone (a zombie is gone, too)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def is_running(pid: int, ticks: int) -> bool:
    """True when `pid` is the process that started then."""
    return start_ticks(pid) == ticks
