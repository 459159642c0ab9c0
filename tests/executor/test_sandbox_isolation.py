"""What a workload cannot do. System calls are probed from C, since busybox has no applets for them."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest
import trio

from node.executor.drivers.base import PortSpec
from node.executor.errors import SpecRefused, VerificationFailed

from .conftest import BUSYBOX, Bench, make_tar

PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TRY(name, call) do { errno = 0; long r = (long)(call); \
    printf("%s %s %d\n", name, r < 0 ? "refused" : "DONE", errno); fflush(stdout); } while (0)
int main(void) {
    char page[4096];
    struct { unsigned int bytes; int type; unsigned char h[16]; } handle = {16, 1, {0}};
    TRY("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
    TRY("umount2", syscall(SYS_umount2, "/tmp", 0));
    TRY("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
    TRY("chroot", syscall(SYS_chroot, "/tmp"));
    TRY("fsopen", syscall(430, "tmpfs", 0));
    TRY("open_tree", syscall(428, -100, "/", 0));
    TRY("mount_setattr", syscall(442, -100, "/", 0, page, 32));
    TRY("unshare-user", syscall(SYS_unshare, CLONE_NEWUSER));
    TRY("unshare-ns", syscall(SYS_unshare, CLONE_NEWNS));
    TRY("setns", syscall(SYS_setns, open("/proc/self/ns/net", O_RDONLY), 0));
    TRY("clone-newuser", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
    TRY("clone-newpid", syscall(SYS_clone, CLONE_NEWPID | 17, 0, 0, 0, 0));
    TRY("clone3", syscall(435, page, 0));
    TRY("ptrace", syscall(SYS_ptrace, 0, 0, 0, 0));
    TRY("process_vm_readv", syscall(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0));
    TRY("pidfd_getfd", syscall(438, 0, 0, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 1));
    TRY("add_key", syscall(SYS_add_key, "user", "a", "b", 1, -3));
    TRY("bpf", syscall(SYS_bpf, 0, page, 64));
    TRY("io_uring_setup", syscall(425, 1, page));
    TRY("perf_event_open", syscall(SYS_perf_event_open, page, 0, -1, -1, 0));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    TRY("init_module", syscall(SYS_init_module, page, 0, ""));
    TRY("finit_module", syscall(SYS_finit_module, 0, "", 0));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, -100, &handle, 0));
    TRY("name_to_handle_at", syscall(SYS_name_to_handle_at, -100, "/", &handle, page, 0));
    TRY("memfd_create", syscall(SYS_memfd_create, "x", 0));
    TRY("fanotify_init", syscall(SYS_fanotify_init, 0, 0));
    TRY("personality", syscall(SYS_personality, 0x0400000));
    TRY("syslog", syscall(SYS_syslog, 3, page, 100));
    TRY("settimeofday", syscall(SYS_settimeofday, 0, 0));
    TRY("sethostname", syscall(SYS_sethostname, "x", 1));
    TRY("acct", syscall(SYS_acct, 0));
    TRY("swapon", syscall(SYS_swapon, "/tmp/x", 0));
    TRY("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    TRY("setxattr", syscall(SYS_setxattr, "/tmp", "user.a", "b", 1, 0));
    TRY("socket-packet", socket(AF_PACKET, SOCK_RAW, 0));
    TRY("socket-raw", socket(AF_INET, SOCK_RAW, 1));
    TRY("socket-netlink", socket(16, SOCK_RAW, 0));
    TRY("socket-vsock", socket(40, SOCK_STREAM, 0));
    TRY("socket-alg", socket(38, 5, 0));
    TRY("mmap-wx", mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    TRY("mmap-anonymous-x", mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    void *data = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRY("mprotect-x", mprotect(data, 4096, PROT_READ | PROT_EXEC));
    int file = open("/tmp/code", O_RDWR | O_CREAT, 0755);
    write(file, page, 4096);
    TRY("mmap-x-of-scratch", mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0));
    int shared = shmget(0x1234, 4096, 0600 | 01000);
    TRY("shmat-x", shmat(shared, 0, 0100000));
    TRY("tiocsti", ioctl(0, 0x5412, "x"));
    TRY("tiocsti-high-bits", syscall(SYS_ioctl, 0, 0x100005412ul, "x"));
    TRY("setuid-0", setuid(0));
    TRY("mknod-device", mknod("/tmp/sda", 0060600, 0x800));
    TRY("write-proc-sys", open("/proc/sys/kernel/hostname", O_WRONLY));
    TRY("write-proc-sysrq", open("/proc/sysrq-trigger", O_WRONLY));
    TRY("read-kcore", open("/proc/kcore", O_RDONLY));
    TRY("allowed-getpid", getpid());
    TRY("allowed-tcp", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    TRY("allowed-udp", socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 17));
    TRY("allowed-unix", socket(AF_UNIX, SOCK_STREAM, 0));
    TRY("allowed-mmap", mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    return 0;
}
"""


async def test_system_calls_are_refused(bench: Bench, compile_c: Callable[[str], bytes]) -> None:
    program = bench.file("/probe", compile_c(PROBE), 0o555)
    text = await bench.output(bench.spec(("/probe",), files=(program,)))
    found = {name: (verdict, int(number)) for name, verdict, number in map(str.split, text.splitlines())}
    assert len(found) == PROBE.count("TRY(") - 1, text
    wrong = [
        name for name, (verdict, _) in found.items() if (verdict == "DONE") != name.startswith("allowed-")
    ]
    assert wrong == []
    # A filter, not some accident further down, must be what refuses the calls that are not on the list.
    assert found["ptrace"][1] == found["bpf"][1] == found["mount"][1] == errno.ENOSYS
    assert found["clone-newuser"][1] == found["mprotect-x"][1] == found["tiocsti"][1] == errno.EPERM
    assert found["tiocsti-high-bits"][1] == errno.EPERM


WRITTEN_CODE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
    int zero = open("/dev/zero", O_RDWR);
    char *run = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, zero, 0);
    if (run == MAP_FAILED) { puts("refused"); return 0; }
    char *write = mremap(run, 0, 4096, MREMAP_MAYMOVE);
    if (write == MAP_FAILED || mprotect(write, 4096, PROT_READ | PROT_WRITE)) { puts("no alias"); return 0; }
    memcpy(write, code, sizeof code);
    printf("executed %d\n", ((int (*)(void))run)());
    return 0;
}
"""


async def test_shared_memory_is_not_executed(bench: Bench, compile_c: Callable[[str], bytes]) -> None:
    """One page, seen twice: written here, executed there. No single mapping is both."""
    program = bench.file("/probe", compile_c(WRITTEN_CODE), 0o555)
    assert await bench.output(bench.spec(("/probe",), files=(program,))) == "refused\n"


def with_flags(program: bytes, kind: int, flags: int) -> bytes:
    """The ELF program, 64-bit and little-endian, with other rights for its first segment of that kind."""
    (table,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    for at in range(table, table + size * count, size):
        if struct.unpack_from("<I", program, at) == (kind,):
            return program[: at + 4] + struct.pack("<I", flags) + program[at + 8 :]
    raise AssertionError(f"no segment {kind:#x}")


@pytest.mark.parametrize(("kind", "what"), [(0x6474E551, "stack"), (1, "segment")])
async def test_programs_with_memory_that_is_written_and_executed_are_refused(
    bench: Bench, kind: int, what: str
) -> None:
    """The kernel makes such memory itself when it starts them, past every filter of system calls."""
    program = with_flags(BUSYBOX.read_bytes(), kind, 7)
    script = "cat /proc/self/maps"
    for path, mode in (("/bin/other", 0o555), ("/data/other", 0o444)):
        spec = bench.spec((path, "sh", "-c", script), files=(bench.file(path, program, mode),))
        if mode & 0o111:
            with pytest.raises(VerificationFailed, match=rf"files\[1\].*{what}"):
                await bench.driver.prepare(spec)
        else:
            (await bench.driver.prepare(spec)).close()  # only data
    tar = make_tar({"bin": None, "bin/other": program}, mode=0o755)
    with pytest.raises(VerificationFailed, match=rf"trees\[0\].*other.*{what}"):
        await bench.driver.prepare(bench.shell("true", trees=(bench.tree("/opt", tar),)))


async def test_what_a_program_says_of_itself_hides_no_executed_stack(bench: Bench) -> None:
    """Linux looks at neither class nor byte order; where nothing is said of the stack, it may execute it."""
    executed = with_flags(BUSYBOX.read_bytes(), 0x6474E551, 7)
    silent = bytearray(BUSYBOX.read_bytes())
    silent[silent.index(struct.pack("<II", 0x6474E551, 6))] = 0  # of another kind
    for program in (executed[:4] + b"\x01\x02" + executed[6:], bytes(silent)):
        with pytest.raises(VerificationFailed, match="stack"):
            await bench.driver.prepare(bench.shell("true", files=(bench.file("/other", program, 0o555),)))
    for text in (b"", b"\x7fELF", b"\x7fELF" + bytes(200), b"#!/bin/busybox sh\n"):
        (await bench.driver.prepare(bench.shell("true", files=(bench.file("/x", text, 0o555),)))).close()


async def test_i386_calls_do_not_pass_by_the_filter(bench: Bench, compile_c: Callable[[str], bytes]) -> None:
    # int 0x80 reaches the 32-bit table, where number 26 is ptrace and 20 is getpid.
    text = 'int main(){long r; asm volatile("int $0x80":"=a"(r):"a"(20)); return r > 0 ? 0 : 1;}'
    program = bench.file("/probe", compile_c(text), 0o555)
    async with bench.running(bench.spec(("/probe",), files=(program,))) as handle:
        ended = await bench.driver.wait(handle)
        assert ended.signal == 31, bench.driver.logs(handle, 1000)  # SIGSYS


async def test_privileges_inside(bench: Bench) -> None:
    text = await bench.output(bench.shell("cat /proc/self/status; id -u; id -G; hostname; umask"))
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0
    assert fields["Seccomp"].strip() == "2"
    assert fields["NoNewPrivs"].strip() == "1"
    assert text.splitlines()[-4:-1] == ["65534", "65534", "gridpact"]


async def test_no_descriptor_or_environment_leaks_in(bench: Bench) -> None:
    script = "for p in self 1 $$; do ls -l /proc/$p/fd; done; cat /proc/$$/environ | tr '\\0' '\\n'"
    text = await bench.output(bench.shell(script, env={"ONLY": "this"}))
    for line in text.splitlines():
        if "->" in line:
            assert any(kind in line for kind in ("pipe:", "/proc/", "anon_inode:[eventfd]", "signalfd")), text
    assert {line.split("=")[0] for line in text.splitlines() if "=" in line} <= {"ONLY", "PWD"}


async def test_host_is_out_of_sight(bench: Bench) -> None:
    script = """
    ls /; echo; ls /proc | grep -c '^[0-9]'; echo; find / -xdev -type f | grep -v ^/proc; echo
    ls -d /sys /home /etc /usr /root 2>/dev/null; cat /proc/1/environ 2>/dev/null
    """
    text = await bench.output(bench.shell(script))
    top, processes, files, others = text.split("\n\n")
    assert top.split() == ["bin", "dev", "proc", "result", "tmp"]
    assert int(processes) <= 6
    assert files.split() == ["/bin/busybox"]
    assert others == ""


async def test_writes_only_to_scratch(bench: Bench) -> None:
    script = """
    for at in / /bin /bin/busybox /dev /dev/shm /proc /proc/sys/kernel /data /data/tree /data/tree/a; do
        if [ -d $at ]; then (echo x > $at/file) 2>/dev/null && echo "wrote in $at"
        else (echo x >> $at) 2>/dev/null && echo "wrote $at"; fi
    done
    chmod 777 /bin/busybox 2>/dev/null && echo chmod; rm -f /bin/busybox 2>/dev/null && echo removed
    mv /data /datb 2>/dev/null && echo moved
    ln /bin/busybox /tmp/hard 2>/dev/null && echo linked
    for at in /tmp /result; do echo x > $at/file && echo "fine $at"; done
    cp /bin/busybox /tmp/busybox
    chmod 755 /tmp/busybox; /tmp/busybox true 2>/dev/null && echo ran
    true
    """
    tree = bench.tree("/data/tree", make_tar({"a": b"a"}))
    text = await bench.output(bench.shell(script, trees=(tree,)))
    assert text.splitlines() == ["fine /tmp", "fine /result"]


async def test_no_network_at_all(bench: Bench, compile_c: Callable[[str], bytes]) -> None:
    """Not the host's loopback, not another sandbox, no route: only what comes in through the portal."""
    heard: list[bytes] = []
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]

        async def hear(stream: trio.SocketStream) -> None:
            heard.append(await stream.receive_some(10))

        await nursery.start(trio.serve_listeners, hear, listeners)
        site = PortSpec("http", 8080)
        async with bench.running(bench.shell("nc -ll -p 8080 -e /bin/busybox true", ports=(site,))) as other:
            outer = other.ports["http"][1]
            script = f"""
            for to in '127.0.0.1 {port}' '127.0.0.1 {outer}' '127.0.0.1 8080' '1.1.1.1 53' '10.0.0.1 80'; do
                echo x | nc -w 1 $to >/dev/null 2>&1 && echo "reached $to"
            done
            cat /proc/net/dev | tail -n +3 | cut -d: -f1; cat /proc/net/route | tail -n +2
            """
            text = await bench.output(bench.shell(script))
        nursery.cancel_scope.cancel()
    assert text.split() == ["lo"]
    assert heard == []


async def test_portal_is_one_way(bench: Bench) -> None:
    """A workload that listens where the portal's host side listens does not get the host's callers."""
    script = "nc -ll -p 8080 -e /bin/busybox echo inside"
    async with bench.running(bench.shell(script, ports=(PortSpec("a", 8080), PortSpec("b", 9)))) as handle:
        with trio.fail_after(60):
            answer = b""
            while answer != b"inside\n":
                async with await trio.open_tcp_stream(*handle.ports["a"]) as stream:
                    answer = await stream.receive_some(100)
        async with await trio.open_tcp_stream(*handle.ports["b"]) as stream:
            with trio.fail_after(60):
                assert await stream.receive_some(1) == b""


@pytest.mark.parametrize("path", ["/proc/x", "/dev/null", "/tmp/x", "/result", "/a/../b", "a", "/", "/a//b"])
async def test_artifact_paths_are_checked(bench: Bench, path: str) -> None:
    with pytest.raises(SpecRefused, match=r"files\[1\].path"):
        await bench.driver.prepare(bench.spec(("/bin/busybox",), files=(bench.file(path, b""),)))
