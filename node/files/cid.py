"""CIDv1: what IPFS and others call the bytes that we call by their sha256. Pure.

Specifications: multiformats/cid (version 1), multiformats/multicodec (0x55 raw, 0x12 sha2-256),
multiformats/multibase ("b": base32 of RFC 4648, lower case, no padding). The CID is of the bytes as one raw
block; a tool that splits a file into a tree of blocks gives that tree another CID.
"""

from __future__ import annotations

import base64
import re
from typing import Final

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PREFIX: Final = bytes((0x01, 0x55, 0x12, 32))  # version, codec raw, hash sha2-256, its length
_CID: Final = re.compile(r"b[a-z2-7]{58}")  # 36 bytes in base32


def cid_of(sha256: str) -> str:
    """The CIDv1 of an artifact, 59 letters. Raises ValueError for what is no digest in hex."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError("a sha256 is 64 lower-case hex digits")
    return "b" + base64.b32encode(_PREFIX + bytes.fromhex(sha256)).decode().rstrip("=").lower()


def sha256_of(name: str) -> str:
    """The sha256 in hex, of itself or of a CIDv1 (raw, sha2-256). Raises ValueError saying what is wanted."""
    if _SHA256.fullmatch(name):
        return name
    wanted = "64 lower-case hex digits, or a CIDv1 (base32, raw, sha2-256) wanted"
    if not _CID.fullmatch(name):
        raise ValueError(wanted)
    data = base64.b32decode(name[1:].upper() + "=" * 6)  # always 36 bytes: 58 letters of base32
    if data[:4] != _PREFIX or cid_of(data[4:].hex()) != name:
        raise ValueError(wanted)  # another codec or hash, or a spelling that is not the one
    return data[4:].hex()
