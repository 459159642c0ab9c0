"""The file by which members agree on a deed of their organisation: readable JSON, signed one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from ledger.errors import Refused
from ledger.keys import public_key_from_hex
from ledger.limits import ORGANISATION_BYTES_MAX, ORGANISATION_MEMBERS_MAX
from ledger.organisation import Deed, Signatures, decode_deed, is_deed_signed
from node.errors import ConfigError
from node.home import write_atomic

FORMAT: Final = "gridpact-deed/1"
_SIGNERS_MAX: Final = 2 * ORGANISATION_MEMBERS_MAX  # those before and those after
DEED_FILE_BYTES_MAX: Final = 4 * ORGANISATION_BYTES_MAX + 1_024 * _SIGNERS_MAX


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A member's word for it, in hex: 64 bytes, or an SSHSIG."""

    key: str
    signature: str


class DeedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file. What is signed is the canonical JSON of `deed`."""

    format: str
    deed: Deed
    signatures: tuple[Signature, ...] = ()


def read_deed(file: Path) -> DeedFile:
    """The deed in a file. Raises ConfigError naming what is wrong, Refused for a deed that makes no sense."""
    try:
        with file.open("rb") as stream:
            data = stream.read(DEED_FILE_BYTES_MAX + 1)
        if len(data) > DEED_FILE_BYTES_MAX:
            raise ConfigError(f"{file}: longer than {DEED_FILE_BYTES_MAX} bytes")
        found = msgspec.json.decode(data, type=DeedFile)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{file}: no deed of an organisation: {error}") from None
    if found.format != FORMAT:
        raise ConfigError(f"{file}: format {found.format[:40]!r}, this program reads {FORMAT!r}")
    if len(found.signatures) > _SIGNERS_MAX:
        raise ConfigError(f"{file}: more than {_SIGNERS_MAX} signatures")
    decode_deed(found.deed.encode())
    return found


def write_deed(file: Path, found: DeedFile, *, fresh: bool = False) -> None:
    """Replace the file whole. Raises ConfigError; with `fresh`, also when it exists."""
    if fresh and file.exists():
        raise ConfigError(f"{file}: exists already")
    write_atomic(file, msgspec.json.format(msgspec.json.encode(found)) + b"\n", 0o644)


def with_signature(found: DeedFile, public: bytes, signature: bytes) -> DeedFile:
    """The file with this key's signature in place of any former one."""
    kept = tuple(s for s in found.signatures if s.key != public.hex())
    word = Signature(key=public.hex(), signature=signature.hex())
    return msgspec.structs.replace(found, signatures=(*kept, word))


def collected(found: DeedFile) -> tuple[Signatures, list[str]]:
    """The signatures that hold, by ascending key, and the keys of those that do not."""
    good: dict[bytes, bytes] = {}
    bad: list[str] = []
    payload = found.deed.encode()
    for item in found.signatures:
        try:
            public, signature = public_key_from_hex(item.key, "signatures"), bytes.fromhex(item.signature)
        except (Refused, ValueError):
            bad.append(item.key[:64])
            continue
        if is_deed_signed(public, payload, signature):
            good[public] = signature
        else:
            bad.append(item.key)
    return tuple(sorted(good.items())), bad
