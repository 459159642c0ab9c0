"""Landlock: rules on files that a process takes upon itself and can never take off, landlock(7).

The launcher makes the ruleset while the sandbox is held back, since its rules name the sandbox's own mounts;
the entry program (`drivers/entry.py`) takes it upon itself as the last thing before the workload. Standard
library only: the launcher uses it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

CREATE, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same numbers on every machine
_VERSION_ONLY: Final = 1
_PATH_BENEATH: Final = 1
ABI_LEAST: Final = 2  # before it, nothing could be moved from one folder to another under any rules

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR, _MAKE_REG = 16, 32, 64, 128, 256
_MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM, _REFER, _TRUNCATE = 512, 1024, 2048, 4096, 8192, 16384
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_SCOPES: Final = 3  # abstract sockets, and signals to whom has no such rules: bubblewrap's process 1

_CHANGES: Final = (
    _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM | _REFER
)
ACCESS: Final = {
    "list": _READ_DIR,
    "read": _READ_DIR | _READ_FILE,
    "code": _READ_DIR | _READ_FILE | _EXECUTE,
    "device": _READ_DIR | _READ_FILE | _WRITE_FILE,
    "write": _READ_DIR | _READ_FILE | _WRITE_FILE | _TRUNCATE | _CHANGES,
}
"""What a rule may allow at and below a path, by name. Nothing else is: no device is ever made, and nothing
is executed but what "code" names."""

Rule = tuple[str, str]
"""A path inside, and a name of `ACCESS`."""

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the version of Landlock that the kernel speaks; 0 when it has none, or it is switched off."""
    return max(0, int(_libc.syscall(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_ONLY))))


def task_rules(artifacts: Iterable[str]) -> list[Rule]:
    """Return the rules for a task whose artifacts stand at these paths inside.

    `/proc` is not to be written: else a process could alter its own code through `/proc/self/mem`.
    """
    tops = sorted({"/" + path.split("/")[1] for path in artifacts})
    rules: list[Rule] = [("/", "list"), ("/proc", "read"), ("/dev", "device")]
    return [*rules, ("/tmp", "write"), ("/result", "write"), *((top, "code") for top in tops)]


def create() -> int:
    """Return a descriptor of a ruleset that, as it is, allows nothing. Raises OSError."""
    version = abi()
    handled = _handled(version)
    fields = [handled] if version < 4 else [handled, 0] if version < 6 else [handled, 0, _SCOPES]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    size = ctypes.c_size_t(len(attributes))
    fd = _check(_libc.syscall(CREATE, attributes, size, ctypes.c_uint32(0)), "landlock_create_ruleset")
    os.set_inheritable(fd, False)
    return fd


def allow(ruleset_fd: int, root: str, rules: Iterable[Rule]) -> None:
    """Add the rules to the ruleset; their paths are looked up below `root`. Raises OSError."""
    known = _handled(abi())
    for path, name in rules:
        fd = os.open(root + path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            allowed = ACCESS[name] & known
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                allowed &= _OF_FILES
            rule = struct.pack("=Qi", allowed, fd)
            status = _libc.syscall(
                ADD_RULE,
                ctypes.c_int(ruleset_fd),
                ctypes.c_int(_PATH_BENEATH),
                rule,
                ctypes.c_uint32(0),
            )
            _check(status, f"landlock_add_rule {path}")
        finally:
            os.close(fd)


def _handled(version: int) -> int:
    return (1 << 14) - 1 | (_TRUNCATE if version >= 3 else 0)


def _check(status: int, what: str) -> int:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return status
