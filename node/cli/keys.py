"""`gridpact keys`: account keys, one file each, in --keys or the home's config/keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from node.cli.context import current
from node.cli.output import emit, emit_facts, say
from node.errors import ConfigError
from node.home import create_key, key_path, load_key, write_secret


def new(name: str, /) -> int:
    """Make an account key.

    Parameters
    ----------
    name: What you call it.
    """
    folder = current.keys_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = key_path(folder, name)
    key = create_key(file)
    say(f"made {file}; keep a copy of it: who has the file has the account")
    emit_facts({"name": name, "public": key.public.hex()}, [("name", name), ("public", key.public.hex())])
    return 0


def list_keys() -> int:
    """List the account keys."""
    found = []
    folder = current.keys_dir()
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if file.is_file() and not file.name.startswith("."):
            try:
                found.append((file.name, load_key(file).public.hex()))
            except ConfigError as error:
                say(str(error))
    emit([{"name": name, "public": public} for name, public in found], ("name", "public key"), found)
    return 0


def show(name: str, /) -> int:
    """Show a key's public half.

    Parameters
    ----------
    name: Name of the key, or the path of a key file.
    """
    key = load_key(Path(name)) if "/" in name else current.key(name)
    emit_facts({"name": name, "public": key.public.hex()}, [("name", name), ("public", key.public.hex())])
    return 0


def ssh(where: str, /) -> int:
    """Show an Ed25519 SSH key's public half as contracts and orders name it.

    Parameters
    ----------
    where: The key's file, private or public; or 'agent', or 'agent:WORD' of a key's comment.
    """
    from node.ssh import public_key as ssh_key

    public = ssh_key(where).hex()
    emit_facts({"name": where, "public": public}, [("name", where), ("public", public)])
    return 0


def import_key(name: str, /, *, file: Annotated[Path, Parameter(name=["--file", "-f"])]) -> int:
    """Take over a key from a file.

    Parameters
    ----------
    name: What you call it here.
    file: A file with the seed: 64 hex digits, readable by its owner only.
    """
    key = load_key(file)
    folder = current.keys_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(key_path(folder, name), file.read_text().strip() + "\n")
    emit_facts({"name": name, "public": key.public.hex()}, [("name", name), ("public", key.public.hex())])
    return 0


def public_key(text: str) -> bytes:
    """A public key given as 64 hex digits or as the name of a key file. Raises Refused, ConfigError."""
    from ledger.keys import public_key_from_hex

    if len(text) == 64:
        return public_key_from_hex(text, "key")
    return current.key(text).public
