"""The sandbox's two filters of system calls as one profile, in podman's words. See `drivers.seccomp`;
seccomp.json(5)."""

from __future__ import annotations

import json
import platform
from typing import Any

from node.executor.drivers import seccomp

_ALL_NAMESPACES = 0x7E02_0000
_PROT_WRITE, _PROT_EXEC, _MAP_ANONYMOUS, _SHM_EXEC = 2, 4, 0x20, 0o100000
_TERMINAL_INJECTION = (0x5412, 0x541C)
_LOW_HALF = 0xFFFF_FFFF
_ENOSYS = 38
_NAMED_APART = ("clone", "mmap", "mprotect", "pkey_mprotect", "shmat", "ioctl", "socket", "socketpair")
_ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "AARCH64", "riscv64": "RISCV64"}


def profile() -> bytes:
    """Return it as JSON: what it does not name fails as on a kernel that never had it."""
    allowed = sorted(set(seccomp.ALLOWED) - set(_NAMED_APART))
    rules: list[dict[str, Any]] = [_allow(allowed)]
    rules += [_allow(["clone"], _bits(0, _ALL_NAMESPACES, 0))]
    # Code comes from files that are not writable at the same place, and from nowhere else.
    rules += [
        _allow(["mmap"], _bits(2, _PROT_EXEC, 0)),
        _allow(["mmap"], _bits(2, _PROT_WRITE | _PROT_EXEC, _PROT_EXEC), _bits(3, _MAP_ANONYMOUS, 0)),
        _allow(["mprotect", "pkey_mprotect"], _bits(2, _PROT_EXEC, 0)),
        _allow(["shmat"], _bits(2, _SHM_EXEC, 0)),
    ]
    rules += [_allow(["ioctl"], one) for one in _all_but(1, _TERMINAL_INJECTION)]
    rules += [
        _allow(["socket"], _equals(0, family), _bits(1, seccomp.TYPE_MASK, kind), _equals(2, protocol))
        for family, kind, protocol in seccomp.SOCKETS
    ]
    rules += [_allow(["socketpair"], _equals(0, seccomp.AF_UNIX))]
    found = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,
        "architectures": [f"SCMP_ARCH_{_ARCHITECTURES.get(platform.machine(), platform.machine().upper())}"],
        "syscalls": rules,
    }
    return json.dumps(found, sort_keys=True).encode()


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _bits(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _equals(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": "SCMP_CMP_EQ"}


def _all_but(index: int, values: tuple[int, int]) -> list[dict[str, Any]]:
    """Return comparisons of which at least one holds for every low half but these two values.

    A profile has no "and not" for one argument: so, bit by bit, what differs from both; then all else that is
    equal to both where they are equal to each other.
    """
    one, two = values
    same = _LOW_HALF & ~(one ^ two)
    found = [_bits(index, bit, ~one & bit) for bit in (1 << n for n in range(32)) if same & bit]
    free = [1 << n for n in range(32) if (one ^ two) >> n & 1]
    for choice in range(1 << len(free)):
        value = one & same | sum(bit for n, bit in enumerate(free) if choice >> n & 1)
        if value not in values:
            found.append(_bits(index, _LOW_HALF, value))
    return found
