"""Runs one command of a contract inside a running sandbox, as confined as the workload itself: health checks.

A process of its own (`python -I -S`, standard library, one thread). It joins the task's groups and
namespaces, gives up every privilege, takes the same limits, the same Landlock rules and the same system call
filters upon itself, and executes the command, a file of the sealed root. What can be run so stands in the
contract; there is no way to ask for anything else. When it ends, the command and all of its process group do.

Argument: a descriptor of its configuration. It prints `ran` when the command executes, then its exit status
(as a shell counts); or the reason why not.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import struct
import sys
from typing import Any, NoReturn

from node.executor.host import kernel, landlock

_NAMESPACES = {"cgroup": 0x02000000, "ipc": 0x08000000, "uts": 0x04000000, "net": kernel.CLONE_NEWNET}
_PID, _USER = 0x20000000, kernel.CLONE_NEWUSER
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 1, 22, 24, 47
_CAPABILITIES = 64
_CAP_VERSION = 0x20080522
_INSTRUCTION_BYTES = 8
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the command that the configuration names; see the module's text."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        config = json.load(file)
    try:
        rules, groups = _join(config)
        kernel.not_dumpable()
        failed, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(config, rules, groups, told)
        os.close(told)
        said = os.read(failed, 500)  # ends when the command executes
    except OSError as error:
        os.write(1, f"inside: {error}\n".encode())
        return
    try:
        if said:
            os.write(1, b"inside: " + said.replace(b"\n", b" ") + b"\n")
            return
        os.write(1, b"ran\n")
        ended, _, _ = select.select([os.pidfd_open(pid), 0], [], [], config["timeout_s"])
        if not ended or 0 in ended:
            os.write(1, b"late\n")
            return
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        os.write(1, f"{code if code >= 0 else 128 - code}\n".encode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _join(config: dict[str, Any]) -> tuple[int, list[int]]:
    """Enter the namespaces of the task; its rules, as a descriptor, or -1, and its groups' files. Raises
    OSError."""
    init = config["init"]
    start = _start_ticks(init)
    namespaces = f"/proc/{init}/ns"
    names = (*_NAMESPACES, "mnt", "pid", "user")
    opened = {name: os.open(f"{namespaces}/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names}
    if start != config["start_ticks"] or _start_ticks(init) != start:
        raise OSError("the task has ended")
    rules = -1
    if config["rules"] is not None:
        rules = landlock.create()
        landlock.allow(rules, f"/proc/{init}/root", config["rules"])
    groups = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in config["cgroup_procs"]]
    if os.geteuid() == 0:
        os.setgroups([])
    else:
        owner = kernel.owner_userns(opened["net"])
        kernel.setns(owner, _USER)
        os.close(owner)
    for name, kind in _NAMESPACES.items():
        kernel.setns(opened[name], kind)
    kernel.setns(opened["pid"], _PID)  # of children
    kernel.setns(opened["mnt"], kernel.CLONE_NEWNS)
    kernel.setns(opened["user"], _USER)
    for fd in opened.values():
        os.close(fd)
    return rules, groups


def _become(config: dict[str, Any], rules: int, groups: list[int], told: int) -> NoReturn:
    """In the child: as the workload is, and then its command. Never returns."""
    try:
        for fd in groups:  # not before: what this program itself takes is not the workload's
            os.write(fd, b"0")
        os.setsid()
        os.chdir(config["folder"])
        nothing = os.open("/dev/null", os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(nothing, target)
        uid, gid = config["uid"], config["gid"]
        if config["groups"]:
            os.setgroups(config["groups"])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        _no_capabilities()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.no_new_privileges()
        kernel.bound(config["rlimits"])
        if rules >= 0:
            status = _libc.syscall(landlock.RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0))
            if status < 0:
                raise OSError(ctypes.get_errno(), "landlock_restrict_self")
        programs = [os.pread(fd, 1 << 16, 0) for fd in config["filters"]]
        for fd in config["filters"]:
            os.set_inheritable(fd, False)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        command, env = config["command"], config["env"]
        for program in reversed(programs):  # the list of what is allowed comes last: it allows no further one
            _filter(program)
        os.execve(command[0], command, env)
    except (OSError, ValueError) as error:
        os.write(told, str(error).encode()[:500])
    finally:
        os._exit(70)


def _filter(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    wanted = struct.pack("=H6xQ", len(program) // _INSTRUCTION_BYTES, ctypes.addressof(buffer))
    status = _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), wanted, ctypes.c_ulong(0), ctypes.c_ulong(0))
    if status < 0:
        raise OSError(ctypes.get_errno(), "prctl SECCOMP")


def _no_capabilities() -> None:
    for number in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0)  # the last ones do not exist
    _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(4), 0, 0, 0)
    if _libc.capset(struct.pack("=Ii", _CAP_VERSION, 0), bytes(24)) < 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _start_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


if __name__ == "__main__":
    main()
