"""Which programs the kernel would give memory that is both written and executed, elf(5). Pure.

When it starts a program, the kernel maps its segments and its stack as the program's headers ask for, past
every filter of system calls. Code that a workload writes there itself would be code that nobody approved.

The headers are read as the kernel reads them: in this machine's byte order, and of the size that their
entries have, whatever the file says of itself in its first bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

_LOAD: Final = 1
_STACK: Final = 0x6474E551  # PT_GNU_STACK
_EXECUTE, _WRITE = 1, 2
_HEADER_BYTES: Final = 64
_TABLE_BYTES_MAX: Final = 65_536  # the kernel's own bound
# The table's place in the header, its size, where both stand; the bytes of an entry, and of its flags.
_LAYOUTS: Final = (("=Q", 32, 54, 56, 4), ("=I", 28, 42, 32, 24))

Read = Callable[[int, int], bytes]
"""So many bytes of the file at most, from an offset on."""


def fault(read: Read) -> str:
    """Why the file must not be executed, or ""; also of a file that the kernel does not start as a program of
    this format."""
    head = read(_HEADER_BYTES, 0)
    if head[:4] != b"\x7fELF" or len(head) < _HEADER_BYTES:
        return ""
    for place, place_at, size_at, entry_bytes, flags_at in _LAYOUTS:
        (table,) = struct.unpack_from(place, head, place_at)
        size, count = struct.unpack_from("=HH", head, size_at)
        if size != entry_bytes or not 0 < size * count <= _TABLE_BYTES_MAX or table >= 1 << 62:
            continue
        entries = read(size * count, table)
        if len(entries) == size * count:
            found = [memoryview(entries)[at : at + size] for at in range(0, len(entries), size)]
            if why := _fault([(_word(entry, 0), _word(entry, flags_at)) for entry in found]):
                return why
    return ""


def _word(entry: memoryview, at: int) -> int:
    (found,) = struct.unpack_from("=I", entry, at)
    return int(found)


def _fault(segments: list[tuple[int, int]]) -> str:
    """Of kinds and flags."""
    stacks = [flags for kind, flags in segments if kind == _STACK]
    if any(flags & _EXECUTE for flags in stacks):
        return "a program whose stack is executed is not run"
    if not stacks:  # Linux before 5.8 then executes all that can be read
        return "a program that does not say that its stack is never executed is not run"
    if any(kind == _LOAD and flags & _WRITE and flags & _EXECUTE for kind, flags in segments):
        return "a program with a segment that is both written and executed is not run"
    return ""
