"""The system calls that a sandboxed workload may make, as two seccomp filters.

The first is an allow-list: everything else fails with ENOSYS, as on a kernel that never had it, so that a C
library falls back (glibc does so from clone3 to clone). The second refuses with EPERM some uses of allowed
calls: new namespaces; executable memory that is writable, anonymous or shared; terminal injection. The kernel
applies the stricter of the two. Together with a scratch mounted noexec, and programs whose headers ask for no
such memory (`node.executor.host.elf`), the second means that all code that a workload runs comes from its
verified files: no just-in-time compilers.

Needs libseccomp (Debian: libseccomp2) through pyseccomp, which is imported late: without it, the driver's
fingerprint says so and nothing starts.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

from node.executor.errors import DriverUnavailable

_ALLOWED_NAMES = """
accept accept4 access alarm arch_prctl bind brk capget chdir chmod chown clock_getres clock_gettime
clock_nanosleep clone close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat
exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat
fcntl fdatasync fgetxattr flistxattr flock fork fstat fstatfs fsync ftruncate futex futex_waitv futimesat
get_robust_list getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername
getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid
getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1
inotify_rm_watch ioctl ioprio_get kill landlock_restrict_self lchown lgetxattr link linkat listen listxattr
llistxattr lseek lstat
madvise membarrier mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mremap msgctl
msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv
preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom
recvmmsg recvmsg rename renameat renameat2 restart_syscall riscv_flush_icache rmdir rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_yield select semctl semget semop semtimedop
sendfile sendmmsg sendmsg sendto set_robust_list set_tid_address setgid setgroups setitimer setpgid
setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid shmat shmctl shmdt
shmget shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat sync_file_range
sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
utimensat utimes vfork wait4 waitid write writev
"""
ALLOWED = tuple(_ALLOWED_NAMES.split())

_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_PROT_WRITE, _PROT_EXEC, _MAP_SHARED, _MAP_ANONYMOUS, _SHM_EXEC = 2, 4, 1, 0x20, 0o100000
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_STREAM, _DATAGRAM, _SEQPACKET, TYPE_MASK = 1, 2, 5, 0xF
_TCP, _UDP = 6, 17
SOCKETS = (
    *((AF_UNIX, kind, 0) for kind in (_STREAM, _DATAGRAM, _SEQPACKET)),
    *((family, _STREAM, protocol) for family in (_AF_INET, _AF_INET6) for protocol in (0, _TCP)),
    *((family, _DATAGRAM, protocol) for family in (_AF_INET, _AF_INET6) for protocol in (0, _UDP)),
)
"""Family, type and protocol of the sockets that may be made."""
_EPERM, _ENOSYS = 1, 38


@cache
def filters() -> tuple[bytes, bytes]:
    """Return the two BPF programs for this machine. Raises DriverUnavailable without libseccomp."""
    try:
        lib = importlib.import_module("pyseccomp")
    except (ImportError, RuntimeError, OSError) as error:
        raise DriverUnavailable(f"seccomp: {error} (Debian package: libseccomp2)") from error
    return _program(_allow(lib)), _program(_refuse(lib))


def _allow(lib: Any) -> Any:
    chosen = lib.SyscallFilter(lib.ERRNO(_ENOSYS))
    for name in ALLOWED:
        try:
            number = lib.resolve_syscall(lib.system_arch(), name)
        except ValueError:
            continue  # libseccomp does not know it: it stays refused
        if number >= 0:
            chosen.add_rule(lib.ALLOW, name)
    for family, kind, protocol in SOCKETS:
        chosen.add_rule(
            lib.ALLOW,
            "socket",
            lib.Arg(0, lib.EQ, family),
            lib.Arg(1, lib.MASKED_EQ, TYPE_MASK, kind),
            lib.Arg(2, lib.EQ, protocol),
        )
    chosen.add_rule(lib.ALLOW, "socketpair", lib.Arg(0, lib.EQ, AF_UNIX))
    return chosen


def _refuse(lib: Any) -> Any:
    chosen = lib.SyscallFilter(lib.ALLOW)
    refuse = lib.ERRNO(_EPERM)

    def refuse_bits(name: str, argument: int, bits: int) -> None:
        chosen.add_rule(refuse, name, lib.Arg(argument, lib.MASKED_EQ, bits, bits))

    for flag in _NAMESPACES:  # not CLONE_NEWTIME: for clone, that bit belongs to the signal number
        refuse_bits("clone", 0, flag)
    refuse_bits("mmap", 2, _PROT_WRITE | _PROT_EXEC)
    # Shared pages, such as those of /dev/zero, can be mapped once more, and be written there.
    for kind in (_MAP_ANONYMOUS, _MAP_SHARED):
        chosen.add_rule(
            refuse,
            "mmap",
            lib.Arg(2, lib.MASKED_EQ, _PROT_EXEC, _PROT_EXEC),
            lib.Arg(3, lib.MASKED_EQ, kind, kind),
        )
    refuse_bits("mprotect", 2, _PROT_EXEC)
    refuse_bits("pkey_mprotect", 2, _PROT_EXEC)
    refuse_bits("shmat", 2, _SHM_EXEC)
    for request in _TERMINAL_INJECTION:
        # Only the low half counts in the kernel, so only that may be compared.
        chosen.add_rule(refuse, "ioctl", lib.Arg(1, lib.MASKED_EQ, 0xFFFFFFFF, request))
    return chosen


def _program(chosen: Any) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with os.fdopen(fd, "w+b") as file:
        chosen.export_bpf(file)
        return os.pread(fd, 1 << 20, 0)
