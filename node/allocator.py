"""What the C library does with memory that is freed: it keeps some, instead of giving all back at once.

Messages of a megabyte come and go a hundred times a second. By glibc's own rules each of them is mapped anew,
zeroed by the kernel, and unmapped: a tenth of what a fetched file costs. See mallopt(3).
"""

from __future__ import annotations

import ctypes
from typing import Final

from node.limits import MIB

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 32 * MIB  # at the most; in use again with the next burst
MAPPED_BYTES: Final = 8 * MIB  # what is larger is given back: no message is


def keep_freed_memory() -> bool:
    """For the whole process. False where the C library has no such setting: nothing changes then."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, MAPPED_BYTES))
