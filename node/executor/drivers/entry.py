"""The entry program: takes Landlock's rules upon itself, then becomes the workload's command.

Bubblewrap cannot do it, and nothing can do it before bubblewrap: under Landlock nobody mounts. So there must
be a program between the two, inside, where there is no interpreter and no library. It is so small that it is
written here as machine code, made anew for each task with the numbers of its two descriptors in it, and run
from a sealed memfd, so that no file of it stands in the workload's root. It makes four system calls:
landlock_restrict_self(rules, 0), close(rules), close(itself), execve(argv[1], argv + 1, environ).

Standard library only: the launcher uses it.
"""

from __future__ import annotations

import os
import struct
from typing import Final

MACHINES: Final = ("x86_64",)
_BASE: Final = 0x400000
_HEADERS_BYTES: Final = 64 + 2 * 56
_CLOSE, _WRITE, _EXECVE, _EXIT_GROUP, _RESTRICT_SELF = 3, 1, 59, 231, 446
_SYSCALL: Final = b"\x0f\x05"
_NO_RULES: Final = b"entry: Landlock refused the rules\n"
_NAME_BYTES_MAX: Final = 200


def supported() -> bool:
    """Return True where the program exists for this machine."""
    return os.uname().machine in MACHINES


def program(rules_fd: int, own_fd: int, command: str) -> bytes:
    """Return the static ELF that finds its rules at `rules_fd`, and itself at `own_fd` (x86-64 ABI).

    `command` is what it says that cannot be executed, if so.
    """
    # By the ABI the stack starts with argc, the arguments, a null, the environment, a null.
    restrict = _edi(rules_fd) + b"\x31\xf6" + _eax(_RESTRICT_SELF) + _SYSCALL + b"\x48\x85\xc0"  # test rax
    become = _edi(rules_fd) + _eax(_CLOSE) + _SYSCALL + _edi(own_fd) + _eax(_CLOSE) + _SYSCALL
    become += b"\x48\x8b\x7c\x24\x10"  # mov rdi, [rsp + 16]: argv[1]
    become += b"\x48\x8d\x74\x24\x10"  # lea rsi, [rsp + 16]: argv + 1
    become += b"\x48\x8b\x0c\x24"  # mov rcx, [rsp]: argc
    become += b"\x48\x8d\x54\xcc\x10"  # lea rdx, [rsp + rcx * 8 + 16]: environ
    become += _eax(_EXECVE) + _SYSCALL
    name = command.encode(errors="surrogateescape")[:_NAME_BYTES_MAX]
    become += _say_and_exit(b"entry: cannot execute " + name + b"\n", 127)
    code = restrict + b"\x0f\x85" + struct.pack("<i", len(become)) + become  # jnz: past it
    return _elf(code + _say_and_exit(_NO_RULES, 126))


def _eax(value: int) -> bytes:
    return b"\xb8" + struct.pack("<I", value)


def _edi(value: int) -> bytes:
    return b"\xbf" + struct.pack("<I", value)


def _say_and_exit(text: bytes, code: int) -> bytes:
    after = b"\xba" + struct.pack("<I", len(text))  # mov edx
    after += _edi(2) + _eax(_WRITE) + _SYSCALL + _edi(code) + _eax(_EXIT_GROUP) + _SYSCALL
    return b"\x48\x8d\x35" + struct.pack("<i", len(after)) + after + text  # lea rsi, [rip + ...]: the text


def _elf(code: bytes) -> bytes:
    size = _HEADERS_BYTES + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)  # 64 bits, little-endian
    start = _BASE + _HEADERS_BYTES
    head = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # readable, executable
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK: not executable
    return head + load + stack + code
