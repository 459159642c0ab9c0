"""LevelDB's log file as bytes: how a disk's writes lie in it, and what opening makes of a damaged one.

The layout is LevelDB's (`doc/log_format.md`: blocks of 32 KiB, records with a header of checksum, length and
type) but for the checksum's polynomial; the rules of reading are those of `paranoid_checks`, which
`ledger.storage.store` sets, and the rules [J1] and [J2] of `ledger.storage.store_log`.
`tests/sim/test_disk.py` harms this model and the real thing alike and compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from zlib import crc32

Writes = Mapping[bytes, bytes | None]

BLOCK_BYTES: Final = 32 * 1024
HEADER_BYTES: Final = 7
SECTOR_BYTES: Final = 512
_END: Final = b"m/\xff"  # deleted by each write of ledger.storage.store, so that its last byte is not 0
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class DamagedLog(Exception):
    """The log cannot be read to its end: opening refuses."""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_writes(writes: Writes, number: int) -> bytes:
    """One WriteBatch, as long as LevelDB's; in place of the sequence number its place in the log."""
    parts = [number.to_bytes(8, "little"), (len(writes) + 1).to_bytes(4, "little")]
    for key, value in [*writes.items(), (_END, None)]:
        parts += [b"\0" if value is None else b"\1", _varint(len(key)), key]
        if value is not None:
            parts += [_varint(len(value)), value]
    return b"".join(parts)


def append(log: bytearray, data: bytes) -> None:
    """Add a record, cut at block borders."""
    is_first = True
    while is_first or data:
        room = BLOCK_BYTES - len(log) % BLOCK_BYTES
        if room < HEADER_BYTES:
            log += bytes(room)
            room = BLOCK_BYTES
        piece, data = data[: room - HEADER_BYTES], data[room - HEADER_BYTES :]
        kind = (_LAST if not data else _MIDDLE) if not is_first else (_FIRST if data else _FULL)
        body = bytes([kind]) + piece
        log += crc32(body).to_bytes(4, "little") + len(piece).to_bytes(2, "little") + body
        is_first = False


def lay_out(batches: Iterable[Writes], start: int = 0) -> bytes:
    """The log's bytes from offset `start` (the end of what is durable) on."""
    log = bytearray(start % BLOCK_BYTES)
    for number, writes in enumerate(batches):
        append(log, encode_writes(writes, number))
    return bytes(log[start % BLOCK_BYTES :])


def whole(data: bytes, start: int = 0) -> list[int]:
    """Which of the records from `start` on are read when the store opens, by number.

    A file that ends within a record lost that one, and so did one that ends in sectors of zeros within it;
    zeros for a header end the log in silence. Raises DamagedLog where opening refuses.
    """
    log = bytes(start % BLOCK_BYTES) + data
    at, found, is_open = start % BLOCK_BYTES, list[int](), False
    number = b""
    while at < len(log):
        room = BLOCK_BYTES - at % BLOCK_BYTES
        if room < HEADER_BYTES:
            at += room
            continue
        header = log[at : at + HEADER_BYTES]
        if len(header) < HEADER_BYTES:
            break  # the file ends within a header
        length, kind = int.from_bytes(header[4:6], "little"), header[6]
        if HEADER_BYTES + length > room:
            if at - at % BLOCK_BYTES + BLOCK_BYTES > len(log) or _is_torn(log, at + room):
                break  # as a file that ends here
            raise DamagedLog("bad record length")
        if kind == 0 and length == 0:
            if any(log[at + HEADER_BYTES :]):
                raise DamagedLog("zeros before other records")
            break
        body = log[at + 6 : at + HEADER_BYTES + length]
        if len(body) < 1 + length:
            break  # the file ends within the record
        if crc32(body) != int.from_bytes(header[:4], "little"):
            if _is_torn(log, at + HEADER_BYTES + length):
                break
            raise DamagedLog("checksum mismatch")
        at += HEADER_BYTES + length
        if kind in (_FULL, _FIRST) and is_open:
            raise DamagedLog("partial record without end")
        if kind in (_MIDDLE, _LAST) and not is_open:
            raise DamagedLog("missing start of fragmented record")
        is_open = kind in (_FIRST, _MIDDLE)
        number = (body[1:] if kind in (_FULL, _FIRST) else number + body[1:])[:8]
        if kind in (_FULL, _LAST):
            found.append(int.from_bytes(number, "little"))
    return found


def _is_torn(log: bytes, end: int) -> bool:
    """A bad record before `end`: is its last sector, and all behind it, zeros?"""
    last = (end - 1) // SECTOR_BYTES * SECTOR_BYTES
    return not any(log[last:])
