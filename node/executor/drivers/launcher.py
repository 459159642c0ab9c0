"""One process per task: builds the sealed root, starts bubblewrap, keeps the log ring, dies with the node.

Runs by itself (`python -I -S`), with the standard library alone and one thread. One thread matters: the
kernel's "die with parent" signal fires when the *thread* that forked ends, and the node's worker threads end
all the time, so the node must not be bubblewrap's parent. The launcher is; and it dies with the node because
it sees the end of its control pipe.

It speaks JSON lines on stdout: `ready` (all is set up and held back), `exit`, or `failed`. On stdin it takes
`G`, to let the workload go, and `D` with eight bytes, little-endian, a time of the boot clock in ms at which
it kills the workload by itself: the node moves that on with each renewal of its lease, so a node that is
frozen or hung keeps nothing running. The end of stdin means kill everything. It stays after the workload's
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

from node.executor import kernel, landlock
from node.executor.drivers import entry, image, mounts
from node.executor.drivers.ring import LogRing
from node.executor.tree import chunks, read_tree

STAGE = mounts.STAGE
"""Where the private mounts go, in the launcher's own mount namespace only; FHS has it on every host."""

ROOT = f"{STAGE}/root"
SCRATCH = f"{STAGE}/scratch"
_SEALED = kernel.MS_NOSUID | kernel.MS_NODEV
_READ_BYTES = 64 * 1024
_POLL_S = 0.001


def main() -> None:
    """Read the configuration from the descriptor named as the argument; run one task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        config = json.load(file)
    for fd in config["fds"]:
        os.set_inheritable(fd, False)
    try:
        _own_namespaces(as_root=config["uid"] is not None)
        loop = _build_root(config["root"], config["uid"])
        if config["secrets"]:
            mounts.mount_secrets(config["secrets"], config["uid"])
        mounts.mount_volumes(config["volumes"], time.monotonic() + config["start_timeout_s"])
        task = _Task(config, loop)
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


def _build_root(root: dict[str, Any], uid: int | None) -> str | None:
    """Mount the artifacts read-only at ROOT, and a bounded scratch that nothing can be executed from.

    Returns the loop device behind ROOT, or None when ROOT is a tmpfs.
    """
    kernel.mount("tmpfs", STAGE, "tmpfs", _SEALED, "size=64k,nr_inodes=16,mode=0755")
    os.umask(0)
    os.mkdir(ROOT, 0o755)
    os.mkdir(SCRATCH, 0o755)
    sizes = f"size={root['size_bytes']},nr_inodes={root['inodes']},mode=0755"
    kernel.mount("tmpfs", ROOT, "tmpfs", _SEALED, sizes)
    for path in ("/proc", "/dev", "/tmp", "/result", *root["points"]):
        os.makedirs(ROOT + path, 0o755, exist_ok=True)
    for file in root["files"]:
        with os.fdopen(file["fd"], "rb") as source:
            source.seek(0)
            _write(ROOT + file["path"], file["mode"], iter(partial(source.read, 1 << 20), b""))
    for tree in root["trees"]:
        _unpack(tree["fd"], ROOT + tree["path"])
    loop = _seal(root["mkfs"])
    scratch = f"size={root['scratch_bytes']},nr_inodes={root['scratch_inodes']},mode=0755"
    kernel.mount("tmpfs", SCRATCH, "tmpfs", _SEALED | kernel.MS_NOEXEC, scratch)
    for name, mode in (("tmp", 0o1777), ("result", 0o755)):
        os.mkdir(f"{SCRATCH}/{name}", mode)
        if uid is not None:
            os.chown(f"{SCRATCH}/{name}", uid, uid)
    return loop


def _seal(mkfs: str | None) -> str | None:
    """Make what was unpacked at ROOT unchangeable: a sealed image in its place, else read-only."""
    if mkfs is None:
        # The whole file system is made read-only, not one mount of it: no other mount of it can write either.
        kernel.mount("none", ROOT, "none", kernel.MS_REMOUNT | kernel.MS_RDONLY | _SEALED)
        return None
    fd = image.make(mkfs, ROOT)
    try:
        kernel.unmount(ROOT)
        return image.mount(fd, ROOT)
    finally:
        os.close(fd)


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

    def __init__(self, config: dict[str, Any], loop: str | None) -> None:
        self._loop = loop
        self._init = 0
        self._init_fd = -1
        self._late = False
        self._timer = kernel.boot_timer()
        if config["kill_at_ms"] is not None:
            kernel.set_boot_timer(self._timer, config["kill_at_ms"])
        self._ring = LogRing(config["log_fd"], config["log_bytes"], config["log_rate_bytes_s"])
        self._log, log_in = os.pipe()
        block_out, self._block = os.pipe()
        self._status, status_in = os.pipe()
        nothing, closed = os.pipe()
        os.close(closed)
        # Bubblewrap's monitor ends without collecting process 1, and not every host's own first process does.
        kernel.adopt_orphans()
        rules_fd, entry_fd, command = _entry(config)
        inside = [*config["bwrap_fds"], *(fd for fd in (rules_fd, entry_fd) if fd >= 0)]
        self.pid = os.fork()
        if self.pid == 0:
            _become_bwrap(config, command, inside, (nothing, log_in, block_out, status_in))
        for fd in (log_in, block_out, status_in, nothing, *(fd for fd in inside if fd != rules_fd)):
            os.close(fd)
        if config["uid"] is not None:
            kernel.become(config["uid"])
        kernel.no_new_privileges()
        deadline_s = time.monotonic() + config["start_timeout_s"]
        self._init = self._child_pid(deadline_s)
        # Held by descriptor: once it is collected, its number may belong to another process.
        self._init_fd = os.pidfd_open(self._init)
        self._until_held(deadline_s)
        if rules_fd >= 0:
            # Only now: the rules name the mounts that bubblewrap made. Nobody has taken them on yet.
            try:
                landlock.allow(rules_fd, f"/proc/{self._init}/root", config["rules"])
            except OSError as error:
                self._give_up(str(error), said=False)
            os.close(rules_fd)
        if config["nproc"] is not None:
            # Only now: the count is per user *namespace*, and this one did not exist before.
            resource.prlimit(self._init, resource.RLIMIT_NPROC, (config["nproc"], config["nproc"]))

    def run(self) -> None:
        """Say `ready`, then serve until the node closes our stdin."""
        _say({"event": "ready", "bwrap": self.pid, "init": self._init, "loop": self._loop})
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ, "control")
            selector.register(self._log, selectors.EVENT_READ, "log")
            ended = os.pidfd_open(self.pid)
            selector.register(ended, selectors.EVENT_READ, "ended")
            selector.register(self._init_fd, selectors.EVENT_READ, "orphan")
            selector.register(self._timer, selectors.EVENT_READ, "deadline")
            pause_s = 0.0
            while True:
                names = {key.data for key, _ in selector.select(pause_s or None)}
                if pause_s:
                    selector.register(self._log, selectors.EVENT_READ, "log")
                    pause_s = 0.0
                if "deadline" in names:
                    self._bark()
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

    def _give_up(self, otherwise: str, said: bool = True) -> NoReturn:
        """Kill, and raise ValueError with what bubblewrap `said`."""
        self._kill()
        os.set_blocking(self._log, False)
        text = b""
        with contextlib.suppress(BlockingIOError):
            text = os.read(self._log, _READ_BYTES)
        raise ValueError((said and text.decode(errors="replace").strip()) or otherwise)

    def _bark(self) -> None:
        """The deadline has come, and nobody moved it on: kill. Its exit is reported as any other."""
        with contextlib.suppress(BlockingIOError):  # not moved on in between
            os.read(self._timer, 8)
            self._late = self.pid != 0
            self._kill_init()

    def _control(self) -> bool:
        """Take one control message; False at the end of the pipe."""
        byte = os.read(0, 1)
        if byte == b"D":
            kernel.set_boot_timer(self._timer, int.from_bytes(os.read(0, 8), "little"))
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
        _say({"event": "exit", "status": os.waitstatus_to_exitcode(status), "late": self._late})

    def _kill_init(self) -> None:
        """SIGKILL process 1, with which the kernel ends its pid namespace."""
        if self._init_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)

    def _kill(self) -> None:
        self._kill_init()
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


def _entry(config: dict[str, Any]) -> tuple[int, int, list[str]]:
    """Return the descriptors of a ruleset and of the program that takes it on, and what to execute inside.

    The descriptors are -1 where no rules are asked for.
    """
    if config["rules"] is None:
        return -1, -1, config["command"]
    rules_fd = landlock.create()
    fd = os.memfd_create("entry", os.MFD_CLOEXEC)
    os.write(fd, entry.program(rules_fd, fd, config["command"][0]))
    return rules_fd, fd, [f"/proc/self/fd/{fd}", *config["command"]]


def _become_bwrap(
    config: dict[str, Any], command: list[str], inside: list[int], own: tuple[int, int, int, int]
) -> NoReturn:
    """In the forked child: enter the cgroups, bound the process, drop root, and exec. Never returns."""
    stdin, log, block, status = own
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
        for fd in (block, status, *inside):
            os.set_inheritable(fd, True)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        held = ["--block-fd", str(block), "--json-status-fd", str(status)]
        path, *options = config["argv"]
        os.execve(path, ["bwrap", *held, *options, *command], {})
    except (OSError, ValueError) as error:
        os.write(2, f"launcher: {error}\n".encode())
    finally:
        os._exit(70)


if __name__ == "__main__":
    main()
