"""LevelDB's log file as bytes (after its text on the log format): what a power cut left of it, by the rules
below. `ledger.storage.store` asks; nothing is read or written here.

A file is blocks of 32 KiB. A block holds physical records: checksum (4 bytes, masked CRC-32C of type and
data), length (2), type (1), data. A WriteBatch is one FULL record or FIRST, MIDDLE …, LAST. LevelDB itself
takes a file that ends within a record as one that lost this record. But where a file system had made the file
longer and not yet written the sectors, they read as zeros, and LevelDB refuses. The rules:

[J1] A log whose first bad record is followed by nothing but zeros is *torn* there, and is cut where the write
     began that the record belongs to. The zeros must reach into this write: from a sector's border within it
     to the end of the file, or else its last part must be missing. A bad record with anything behind it is
     damage, and so is one whose last byte is there: both refuse.
[J2] Zeros where a record should begin, with anything but zeros behind them, are damage. LevelDB alone would
     pass over them to the next block in silence, and a write would be missing in the midst.

Why no synced write can lie in what [J1] cuts: fsync covers the file up to and with the synced record, so
that each of its sectors was written; each write that `ledger.storage.store` makes ends with the byte 0xff
(`END_KEY`), so its last sector is not all zeros, and no other bad byte or bit makes it so. Hence the write
that is cut was not complete on the disk, and its sync had not returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

BLOCK_BYTES: Final = 32 * 1024
HEADER_BYTES: Final = 7
SECTOR_BYTES: Final = 512  # the least that a disk writes whole
END_KEY: Final = b"m/\xff"  # never there: deleting it puts this key last into a write's bytes
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_MASK_DELTA: Final = 0xA282EAD8


@dataclass(frozen=True, slots=True)
class Log:
    """What a log file is: whole (LevelDB opens it), torn from byte `at` on [J1], or damaged [J1], [J2].

    `why` is for people; empty when whole.
    """

    state: Literal["whole", "torn", "damaged"]
    at: int = 0
    why: str = ""


def _table() -> tuple[int, ...]:
    found = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_POLYNOMIAL if number & 1 else 0)
        found.append(number)
    return tuple(found)


_TABLE: Final = _table()


def checksum(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4), masked as LevelDB masks it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def examine(data: bytes, sums: bool = True) -> Log:
    """What the log with these bytes is. Without `sums` only lengths and types are looked at, which costs
    little and is enough for [J2]; then a log that is not "whole" may still be found otherwise with them."""
    at = began = 0
    is_open = False
    while at + HEADER_BYTES <= len(data):
        room = BLOCK_BYTES - at % BLOCK_BYTES
        if room < HEADER_BYTES:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        end = at + HEADER_BYTES + length
        began = at if not is_open else began
        if not length and not kind:
            return _zeros(data, at, began, is_open)
        if length + HEADER_BYTES > room:
            if at - at % BLOCK_BYTES + BLOCK_BYTES > len(data):
                break  # as a file that ends here
            return _bad(data, began, at, at + room, "a length that does not fit")
        if end > len(data):
            break  # the file ends within the record
        wanted = int.from_bytes(data[at : at + 4], "little")
        if sums and checksum(data[at + 6 : end]) != wanted:
            return _bad(data, began, at, end, "a checksum that does not match")
        if (kind in (_FULL, _FIRST)) is is_open or not _FULL <= kind <= _LAST:
            return Log("damaged", at, "a record's part out of its place")
        is_open = kind in (_FIRST, _MIDDLE)
        at = end
    return Log("whole")


def _zeros(data: bytes, at: int, began: int, is_open: bool) -> Log:
    """Zeros in the place of a header (its checksum's bytes may be there)."""
    if data[at + HEADER_BYTES :].strip(b"\0"):
        return Log("damaged", at, "zeros before other records [J2]")
    return Log("torn", began, "zeros in place of a write's last part [J1]") if is_open else Log("whole")


def _bad(data: bytes, began: int, at: int, end: int, why: str) -> Log:
    """The record at `at` to `end` is bad; its write began at `began`. [J1]"""
    written = len(data.rstrip(b"\0"))
    border = -(-written // SECTOR_BYTES) * SECTOR_BYTES
    if border < end:
        return Log("torn", began, f"{why}, and nothing but zeros behind it [J1]")
    return Log("damaged", at, f"{why}, and more than zeros behind it")
