"""`gridpact keys`: account keys, one file each, in --keys or the home's config/keys; encrypted if wished."""

from __future__ import annotations

import getpass
import secrets
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ledger.keys import SEED_BYTES, Key
from node.cli.context import EXIT_USAGE, Failure, ask_passphrase, current
from node.cli.output import emit, emit_facts, say
from node.errors import ConfigError
from node.home import create_key, key_path, read_public, read_secret, write_atomic, write_secret

NewPassphrase = Annotated[
    Path | None,
    Parameter(name="--passphrase-file", help="File with the new passphrase (default: it is asked for)."),
]


def new(name: str, /, *, encrypt: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Make an account key.

    Args:
        name: What you call it.
        encrypt: Ask for a passphrase, and keep the key encrypted under it.
    """
    folder = current.keys_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = key_path(folder, name)
    if encrypt:
        from node.client.key_files import seal

        seed = secrets.token_bytes(SEED_BYTES)
        key = Key(seed)
        write_secret(file, seal(seed, _new_passphrase(None)))
        say(f"made {file}; keep a copy of it and of its passphrase: without both the key is lost")
    else:
        key = create_key(file)
        say(f"made {file}; keep a copy of it: who has the file has the account")
    emit_facts({"name": name, "public": key.public.hex()}, [("name", name), ("public", key.public.hex())])
    return 0


def list_keys() -> int:
    """List the account keys."""
    found = [(name, public.hex()) for name, public in current.public_keys()]
    emit([{"name": name, "public": public} for name, public in found], ("name", "public key"), found)
    return 0


def show(name: str, /) -> int:
    """Show a key's public half.

    Args:
        name: Name of the key, or the path of a key file.
    """
    public = (read_public(Path(name)) if "/" in name else current.public(name)).hex()
    emit_facts({"name": name, "public": public}, [("name", name), ("public", public)])
    return 0


def encrypt(name: str, /, *, passphrase_file: NewPassphrase = None) -> int:
    """Encrypt a key's file under a passphrase.

    Args:
        name: Name of the key.
    """
    return _rewrite(name, sealed=False, passphrase_file=passphrase_file)


def change(name: str, /, *, passphrase_file: NewPassphrase = None) -> int:
    """Give an encrypted key another passphrase.

    Args:
        name: Name of the key.
    """
    return _rewrite(name, sealed=True, passphrase_file=passphrase_file)


def decrypt(name: str, /) -> int:
    """Write an encrypted key's file in the clear again.

    Args:
        name: Name of the key.
    """
    from node.client.key_files import seed_of

    file = key_path(current.keys_dir(), name)
    _must_be(file, True)
    seed = seed_of(read_secret(file).strip(), str(file), ask_passphrase)
    write_atomic(file, f"{seed.hex()}\n".encode())
    say(f"{file} is no longer encrypted: who has the file has the account")
    return 0


def _rewrite(name: str, *, sealed: bool, passphrase_file: Path | None) -> int:
    from node.client.key_files import seal, seed_of

    file = key_path(current.keys_dir(), name)
    _must_be(file, sealed)
    seed = seed_of(read_secret(file).strip(), str(file), ask_passphrase)
    write_atomic(file, seal(seed, _new_passphrase(passphrase_file)).encode())
    say(f"{file} is encrypted; copies of it that were made before are not changed by this")
    return 0


def _must_be(file: Path, sealed: bool) -> None:
    from node.client.key_files import is_sealed

    if is_sealed(read_secret(file)) != sealed:
        change = f"encrypted already; another passphrase: gridpact keys change {file.name}"
        raise ConfigError(f"{file} is {'not encrypted' if sealed else change}")


def _new_passphrase(file: Path | None) -> bytes:
    """A new passphrase, from a file or typed twice. Raises ConfigError, Failure."""
    from node.client.key_files import passphrase_file

    if file is not None:
        return passphrase_file(file)
    if not sys.stdin.isatty():
        raise Failure(EXIT_USAGE, "nobody to ask for a passphrase here: pass --passphrase-file")
    first, again = (getpass.getpass(text).encode() for text in ("New passphrase: ", "Once more: "))
    if first != again:
        raise ConfigError("the two are not the same; nothing was changed")
    return first


def ssh(where: str, /) -> int:
    """Show an Ed25519 SSH key's public half as contracts and orders name it.

    Args:
        where: The key's file, private or public; or 'agent', or 'agent:WORD' of a key's comment.
    """
    from node.client.ssh import public_key as ssh_key

    public = ssh_key(where).hex()
    emit_facts({"name": where, "public": public}, [("name", where), ("public", public)])
    return 0


def import_key(name: str, /, *, file: Annotated[Path, Parameter(name=["--file", "-f"])]) -> int:
    """Take over a key from a file.

    Args:
        name: What you call it here.
        file: A key file, encrypted or a seed of 64 hex digits, readable by its owner only.
    """
    public = read_public(file).hex()
    folder = current.keys_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(key_path(folder, name), read_secret(file).strip() + "\n")
    emit_facts({"name": name, "public": public}, [("name", name), ("public", public)])
    return 0


def public_key(text: str) -> bytes:
    """A public key given as 64 hex digits or as the name of a key file. Raises Refused, ConfigError."""
    from ledger.keys import public_key_from_hex

    if len(text) == 64:
        return public_key_from_hex(text, "key")
    return current.public(text)
