"""The file by which members agree on a deed of their organisation: readable JSON, signed one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from ledger.limits import ORGANISATION_BYTES_MAX, ORGANISATION_MEMBERS_MAX
from ledger.organisations.organisation import Deed, Signatures, decode_deed, is_deed_signed
from node.client.signed_file import Signature, judged, read_signed, with_word

FORMAT: Final = "gridpact-deed/1"
_SIGNERS_MAX: Final = 2 * ORGANISATION_MEMBERS_MAX  # those before and those after
DEED_FILE_BYTES_MAX: Final = 4 * ORGANISATION_BYTES_MAX + 1_024 * _SIGNERS_MAX


class DeedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file. What is signed is the canonical JSON of `deed`; a signature has 64 bytes, or is an SSHSIG."""

    format: str
    deed: Deed
    signatures: tuple[Signature, ...] = ()


def read_deed(file: Path) -> DeedFile:
    """The deed in a file. Raises ConfigError naming what is wrong, Refused for a deed that makes no sense."""
    found = read_signed(
        file,
        DeedFile,
        "deed of an organisation",
        format_=FORMAT,
        bytes_max=DEED_FILE_BYTES_MAX,
        signatures_max=_SIGNERS_MAX,
    )
    decode_deed(found.deed.encode())
    return found


def with_signature(found: DeedFile, public: bytes, signature: bytes) -> DeedFile:
    """The file with this key's signature in place of any former one."""
    return msgspec.structs.replace(found, signatures=with_word(found.signatures, public, signature))


def collected(found: DeedFile) -> tuple[Signatures, list[str]]:
    """The signatures that hold, by ascending key, and the keys of those that do not."""
    payload = found.deed.encode()
    good, bad = judged(found.signatures, lambda public, word: is_deed_signed(public, payload, word))
    return tuple(sorted(good.items())), bad
