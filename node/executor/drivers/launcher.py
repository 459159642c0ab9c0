"""One process per task: builds the sealed root, starts bubblewrap, keeps the log ring, dies with the node.

Runs by itself (`python -I -S`), with the standard library alone and one thread. One thread matters: the
kernel's "die with parent" signal fires when the *thread* that forked ends, and the node's worker threads end
all the time, so the node must not be bubblewrap's parent. The launcher is; and it dies with the node because
it sees the end of its control pipe.

It speaks JSON lines on stdout: `ready` (all is set up and held back), `exit`, or `failed`. On stdin it takes
one byte, `G`, to let the workload go; the end of stdin means kill everything. It stays after the workload's
exit, so that results can still be read, until stdin ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, NoReturn

from node.executor import kernel
from node.executor.tree import chunks, read_tree

STAGE = "/mnt"
"""Where the private mounts go, in the launcher's own mount namespace only; FHS has it on every host."""

ROOT = f"{STAGE}/root"
SCRATCH = f"{STAGE}/scratch"
_SEALED = kernel.MS_NOSUID | kernel.MS_NODEV
_READ_BYTES = 64 * 1024
_POLL_S = 0.001


class LogRing:
    """The newest bytes of the workload's output, in a memfd that the node reads.

    Layout: 8 bytes, little-endian, bytes written ever; then the ring. Reading is held to a rate, so that a
    flood is answered by blocking the workload's writes and not by the host's CPU.
    """

    def __init__(self, fd: int, size_bytes: int, rate_bytes_s: int) -> None:
        self._fd = fd
        self._size = size_bytes
        self._rate = rate_bytes_s
        self._total = 0
        self._budget = float(rate_bytes_s)
        self._at = time.monotonic()

    def put(self, data: bytes) -> None:
        """Append `data`, over the oldest bytes when full."""
        self._budget -= len(data)
        tail = data[-self._size :]
        at = (self._total + len(data) - len(tail)) % self._size
        first = tail[: self._size - at]
        os.pwrite(self._fd, first, 8 + at)
        os.pwrite(self._fd, tail[len(first) :], 8)
        self._total += len(data)
        os.pwrite(self._fd, self._total.to_bytes(8, "little"), 0)

    def wait_s(self) -> float:
        """Return how long to read nothing; 0 when there is budget."""
        now = time.monotonic()
        self._budget = min(float(self._rate), self._budget + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, -self._budget / self._rate)


def main() -> None:
    """Read the configuration from the descriptor named as the argument; run one task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        config = json.load(file)
    for fd in config["fds"]:
        os.set_inheritable(fd, False)
    try:
        _own_namespaces(as_root=config["uid"] is not None)
        _build_root(config["root"], config["uid"])
        task = _Task(config)
    except (OSError, ValueError) as error:
        _say({"event": "failed", "reason": str(error)})
        return
    task.run()


def _say(message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


def _own_namespaces(as_root: bool) -> None:
    if as_root:
        kernel.unshare(kernel.CLONE_NEWNS)
    else:
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUSER)
        maps = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
        for name, text in maps.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    # Slave, not private: what the host unmounts later must not stay busy because of us.
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)


def _build_root(root: dict[str, Any], uid: int | None) -> None:
    """Mount the artifacts read-only at ROOT, and a bounded scratch that nothing can be executed from."""
    kernel.mount("tmpfs", STAGE, "tmpfs", _SEALED, "size=64k,nr_inodes=16,mode=0755")
    os.umask(0)
    os.mkdir(ROOT, 0o755)
    os.mkdir(SCRATCH, 0o755)
    sizes = f"size={root['size_bytes']},nr_inodes={root['inodes']},mode=0755"
    kernel.mount("tmpfs", ROOT, "tmpfs", _SEALED, sizes)
    for path in ("/proc", "/dev", "/tmp", "/result"):
        os.mkdir(ROOT + path, 0o755)
    for file in root["files"]:
        with os.fdopen(file["fd"], "rb") as source:
            source.seek(0)
            _write(ROOT + file["path"], file["mode"], iter(partial(source.read, 1 << 20), b""))
    for tree in root["trees"]:
        _unpack(tree["fd"], ROOT + tree["path"])
    # The whole file system is made read-only, not one mount of it: no other mount of it can write either.
    kernel.mount("none", ROOT, "none", kernel.MS_REMOUNT | kernel.MS_RDONLY | _SEALED)
    scratch = f"size={root['scratch_bytes']},nr_inodes={root['scratch_inodes']},mode=0755"
    kernel.mount("tmpfs", SCRATCH, "tmpfs", _SEALED | kernel.MS_NOEXEC, scratch)
    for name, mode in (("tmp", 0o1777), ("result", 0o755)):
        os.mkdir(f"{SCRATCH}/{name}", mode)
        if uid is not None:
            os.chown(f"{SCRATCH}/{name}", uid, uid)


def _write(path: str, mode: int, data: Iterable[bytes]) -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as target:
        for chunk in data:
            target.write(chunk)


def _unpack(fd: int, top: str) -> None:
    os.makedirs(top, 0o755, exist_ok=True)
    with os.fdopen(fd, "rb") as tar:
        for member in read_tree(tar, os.fstat(fd).st_size):
            path = f"{top}/{member.path}"
            if member.is_dir:
                os.makedirs(path, 0o755, exist_ok=True)
            else:
                _write(path, member.mode, chunks(tar, member))


class _Task:
    """Bubblewrap, held back at first; then the loop that pumps logs and watches the node."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._init = 0
        self._init_fd = -1
        self._ring = LogRing(config["log_fd"], config["log_bytes"], config["log_rate_bytes_s"])
        self._log, log_in = os.pipe()
        block_out, self._block = os.pipe()
        self._status, status_in = os.pipe()
        nothing, closed = os.pipe()
        os.close(closed)
        # Bubblewrap's monitor ends without collecting process 1, and not every host's own first process does.
        kernel.adopt_orphans()
        self.pid = os.fork()
        if self.pid == 0:
            _become_bwrap(config, nothing, log_in, block_out, status_in)
        for fd in (log_in, block_out, status_in, nothing, *config["bwrap_fds"]):
            os.close(fd)
        if config["uid"] is not None:
            kernel.become(config["uid"])
        kernel.no_new_privileges()
        deadline_s = time.monotonic() + config["start_timeout_s"]
        self._init = self._child_pid(deadline_s)
        # Held by descriptor: once it is collected, its number may belong to another process.
        self._init_fd = os.pidfd_open(self._init)
        self._until_held(deadline_s)
        if config["nproc"] is not None:
            # Only now: the count is per user *namespace*, and this one did not exist before.
            resource.prlimit(self._init, resource.RLIMIT_NPROC, (config["nproc"], config["nproc"]))

    def run(self) -> None:
        """Say `ready`, then serve until the node closes our stdin."""
        _say({"event": "ready", "bwrap": self.pid, "init": self._init})
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ, "control")
            selector.register(self._log, selectors.EVENT_READ, "log")
            ended = os.pidfd_open(self.pid)
            selector.register(ended, selectors.EVENT_READ, "ended")
            selector.register(self._init_fd, selectors.EVENT_READ, "orphan")
            pause_s = 0.0
            while True:
                names = {key.data for key, _ in selector.select(pause_s or None)}
                if pause_s:
                    selector.register(self._log, selectors.EVENT_READ, "log")
                    pause_s = 0.0
                if "control" in names and not self._control():
                    break
                if "log" in names and (not self._pump() or (pause_s := self._ring.wait_s()) > 0):
                    selector.unregister(self._log)
                if "ended" in names:
                    selector.unregister(ended)
                    self._report_exit()
                if "orphan" in names:
                    selector.unregister(self._init_fd)
                    self._collect_init(os.WNOHANG)
        self._kill()

    def _child_pid(self, deadline_s: float) -> int:
        """Return the pid of the sandbox's process 1 from bubblewrap's status lines."""
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._status, selectors.EVENT_READ)
            while b"\n" not in text and selector.select(max(0.0, deadline_s - time.monotonic())):
                chunk = os.read(self._status, _READ_BYTES)
                if not chunk:
                    break
                text += chunk
        if b"\n" not in text:
            self._give_up("bubblewrap did not start")
        return int(json.loads(text.split(b"\n", 1)[0])["child-pid"])

    def _until_held(self, deadline_s: float) -> None:
        """Wait until process 1 has built its file system and waits for our byte.

        Bubblewrap gives no sign of that; but it drops its capabilities when the last mount is made, and not
        before, so that is what we look for.
        """
        while time.monotonic() < deadline_s:
            try:
                with open(f"/proc/{self._init}/status") as file:
                    held = [line.split()[1] for line in file if line.startswith("CapEff:")]
            except (FileNotFoundError, ProcessLookupError):
                break
            if not held or not int(held[0], 16):
                break
            time.sleep(_POLL_S)
        status, _ = os.waitpid(self.pid, os.WNOHANG)
        if status or time.monotonic() >= deadline_s:
            self.pid = 0 if status else self.pid
            self._give_up("bubblewrap could not set the sandbox up")

    def _give_up(self, otherwise: str) -> NoReturn:
        """Kill, and raise ValueError with what bubblewrap said."""
        self._kill()
        os.set_blocking(self._log, False)
        text = b""
        with contextlib.suppress(BlockingIOError):
            text = os.read(self._log, _READ_BYTES)
        raise ValueError(text.decode(errors="replace").strip() or otherwise)

    def _control(self) -> bool:
        """Take one control byte; False at the end of the pipe."""
        byte = os.read(0, 1)
        if byte == b"G":
            with contextlib.suppress(BrokenPipeError):
                os.write(self._block, b"G")
        return bool(byte)

    def _pump(self) -> bool:
        data = os.read(self._log, _READ_BYTES)
        self._ring.put(data)
        return bool(data)

    def _report_exit(self) -> None:
        # What is already in the pipe belongs to the log, also when the budget is spent.
        os.set_blocking(self._log, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._log, _READ_BYTES):
                self._ring.put(data)
        os.set_blocking(self._log, True)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self._collect_init(os.WNOHANG)
        _say({"event": "exit", "status": os.waitstatus_to_exitcode(status)})

    def _kill(self) -> None:
        if self._init_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        self._collect_init(0)

    def _collect_init(self, flags: int) -> None:
        """Collect process 1, where its parent, bubblewrap's monitor, has left it to us."""
        with contextlib.suppress(ChildProcessError):
            if self._init and os.waitpid(self._init, flags)[0]:
                self._init = 0


def _become_bwrap(config: dict[str, Any], stdin: int, log: int, block: int, status: int) -> NoReturn:
    """In the forked child: enter the cgroups, bound the process, drop root, and exec. Never returns."""
    try:
        for path in config["cgroup_procs"]:
            with open(path, "w") as file:
                file.write("0")
        if config["uid"] is not None:
            kernel.become(config["uid"])
        for name, wanted in config["rlimits"].items():
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(kind, (value, value))
        for source, target in ((stdin, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        for fd in (block, status, *config["bwrap_fds"]):
            os.set_inheritable(fd, True)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        held = ["--block-fd", str(block), "--json-status-fd", str(status)]
        path, *options = config["argv"]
        os.execve(path, ["bwrap", *held, *options], {})
    except (OSError, ValueError) as error:
        os.write(2, f"launcher: {error}\n".encode())
    finally:
        os._exit(70)


if __name__ == "__main__":
    main()
