"""One process per container: builds the sealed root, has podman run it, keeps the log ring, dies with the
node.

Runs by itself (`python -I -S`), with the standard library alone and one thread, and speaks with the node as
the sandbox's launcher does (`drivers.launcher`): `ready`, `exit` or `failed` on stdout; `G`, `D` and the end
on stdin.

podman, its monitor (conmon) and the container are in a pid namespace of their own, whose first process is our
child, the keeper. It dies with us, and with it the kernel kills all of them: conmon, which is made to outlive
whoever started it, outlives nobody. They are in a mount namespace of their own, too, where podman's whole
state is in memory: nothing of it is on the host, and nothing is left.

[Z5] A container ends with the process that started it, and so does its engine; the engine restarts nothing,
     asks no registry and keeps nothing on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import sys
import time
from typing import Any, NoReturn

from node.executor import kernel
from node.executor.drivers import image, mounts
from node.executor.drivers.launcher import ROOT, SCRATCH, STAGE
from node.executor.drivers.ring import LogRing
from node.executor.limits import ENGINE_BYTES, ENGINE_TIMEOUT_S
from node.executor.oci import engine, flatten
from node.executor.oci.layers import ImageRefused
from node.executor.tree import TreeRefused

_SEALED = kernel.MS_NOSUID | kernel.MS_NODEV
_CLOSED = _SEALED | kernel.MS_NOEXEC
_READ_BYTES = 64 * 1024
_SAID_BYTES = 500
_KILLED = 128 + signal.SIGKILL
_DESCRIPTORS_MAX = 4_096
_COLLECT_S = 5.0
_HYBRID = "/sys/fs/cgroup/unified"


def main() -> None:
    """Read the configuration from the descriptor named as the argument; run one container."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        config = json.load(file)
    for fd in config["fds"]:
        os.set_inheritable(fd, False)
    box = None
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
        # Slave, not private: what the host unmounts later must not stay busy because of us.
        kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)
        loop = _build_root(config)
        if config["secrets"]:
            mounts.mount_secrets(config["secrets"], config["owner"])
        mounts.mount_volumes(config["volumes"], time.monotonic() + config["start_timeout_s"])
        for number in range(len(config["volumes"])):
            os.chown(f"{mounts.VOLUME}{number}", config["owner"], config["group"])
        box = _Box(config)
        box.prepare()
    except (OSError, ValueError, ImageRefused, TreeRefused) as error:
        _say({"event": "failed", "reason": str(error)})
        if box is not None:
            box.kill()
        return
    box.run(loop)


def _say(message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


def plan_of(root: dict[str, Any]) -> flatten.Plan:
    """What the root of a launcher's configuration holds: by the node and by its launcher the same."""
    layers, trees, files = root["layers"], root["trees"], root["files"]
    with contextlib.ExitStack() as stack:

        def tar(fd: int) -> Any:
            return stack.enter_context(os.fdopen(os.dup(fd), "rb"))

        numbers = {fd: number for number, fd in enumerate(root["sources"])}
        plan = flatten.flatten((numbers[fd], tar(fd), os.fstat(fd).st_size) for fd in layers)
        flatten.lay_over(
            plan,
            [
                (numbers[tree["fd"]], tar(tree["fd"]), os.fstat(tree["fd"]).st_size, tree["path"])
                for tree in trees
            ],
            [(numbers[f["fd"]], os.fstat(f["fd"]).st_size, f["path"], f["mode"]) for f in files],
            root["points"],
        )
    flatten.stand_ins(plan, engine.MADE)
    return plan


def _build_root(config: dict[str, Any]) -> str | None:
    """Mount the plan read-only at ROOT, and a bounded scratch. Returns the loop device behind ROOT, or None
    when it is a tmpfs."""
    root, owner = config["root"], config["owner"]
    plan = plan_of(root)
    kernel.mount("tmpfs", STAGE, "tmpfs", _SEALED, "size=64k,nr_inodes=32,mode=0755")
    os.umask(0)
    os.mkdir(ROOT, 0o755)
    os.mkdir(SCRATCH, 0o755)
    sizes = f"size={root['size_bytes']},nr_inodes={root['inodes']},mode=0755"
    kernel.mount("tmpfs", ROOT, "tmpfs", _SEALED, sizes)
    flatten.write(plan, ROOT, root["sources"], engine.BASE_UID)
    loop = None
    if root["mkfs"] is None:
        kernel.mount("none", ROOT, "none", kernel.MS_REMOUNT | kernel.MS_RDONLY | _SEALED)
    else:
        fd = image.make(root["mkfs"], ROOT, owners=True)
        try:
            kernel.unmount(ROOT)
            loop = image.mount(fd, ROOT)
        finally:
            os.close(fd)
    scratch = f"size={root['scratch_bytes']},nr_inodes={root['scratch_inodes']},mode=0755"
    kernel.mount("tmpfs", SCRATCH, "tmpfs", _CLOSED, scratch)
    for name, mode in (("tmp", 0o1777), ("result", 0o755)):
        os.mkdir(f"{SCRATCH}/{name}", mode)
        os.chown(f"{SCRATCH}/{name}", owner, config["group"])
    return loop


class _Box:
    """The keeper's namespaces, and podman in them."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._timer = kernel.boot_timer()
        if config["kill_at_ms"] is not None:
            kernel.set_boot_timer(self._timer, config["kill_at_ms"])
        self._ring = LogRing(config["log_fd"], config["log_bytes"], config["log_rate_bytes_s"])
        self._log, self._log_in = os.pipe()
        self._init = 0
        self._init_fd = -1
        self._late = False
        kernel.unshare(kernel.CLONE_NEWPID)
        ready_out, ready_in = os.pipe()
        self._keeper = os.fork()
        if self._keeper == 0:
            _keep(config, ready_in)
        os.close(ready_in)
        with os.fdopen(ready_out, "rb") as ready:
            said = ready.read(_READ_BYTES)
        if said != b"ready":
            raise ValueError(said.decode(errors="replace") or "the keeper ended")
        self._mounts = os.open(f"/proc/{self._keeper}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def prepare(self) -> None:
        """Have podman set the container up, and hold its first process back. Raises ValueError, OSError."""
        self._call(engine.create_options(self._config))
        self._call(["init", engine.CONTAINER])
        self._drain()  # what podman itself said: the container has not said anything yet
        with open(f"/proc/{self._keeper}/root{engine.PID_FILE}") as file:
            self._init = self._on_host(int(file.read()))
        self._init_fd = os.pidfd_open(self._init)

    def run(self, loop: str | None) -> None:
        """Say `ready`, then serve until the node closes our stdin."""
        os.close(self._log_in)
        _say({"event": "ready", "keeper": self._keeper, "init": self._init, "loop": loop})
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ, "control")
            selector.register(self._log, selectors.EVENT_READ, "log")
            selector.register(self._init_fd, selectors.EVENT_READ, "ended")
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
                    selector.unregister(self._init_fd)
                    self._report_exit()
        self.kill()

    def _control(self) -> bool:
        """Take one control message; False at the end of the pipe."""
        byte = os.read(0, 1)
        if byte == b"D":
            kernel.set_boot_timer(self._timer, int.from_bytes(os.read(0, 8), "little"))
        if byte == b"G":
            try:
                self._call(["start", engine.CONTAINER])
            except (OSError, ValueError) as error:
                _say({"event": "failed", "reason": str(error)})
                self.kill()
        return bool(byte)

    def _pump(self) -> bool:
        data = os.read(self._log, _READ_BYTES)
        self._ring.put(data)
        return bool(data)

    def _drain(self) -> bytes:
        """Return what is in the log's pipe now."""
        found = b""
        os.set_blocking(self._log, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._log, _READ_BYTES):
                found += data
        os.set_blocking(self._log, True)
        return found

    def _report_exit(self) -> None:
        # What is already in the pipe belongs to the log, also when the budget is spent.
        self._ring.put(self._drain())
        status, oom = _KILLED, self._was_oom()  # at once: podman is about to remove the group
        if not self._late:
            with contextlib.suppress(OSError, ValueError):  # killed with all else: nobody can say more
                status = int(self._call(["wait", engine.CONTAINER]))
        self.kill()
        _say({"event": "exit", "status": status, "late": self._late, "oom": oom})

    def _was_oom(self) -> bool:
        """Return whether the memory limit killed a process of the container: version 1 of control groups
        counts that in podman's own group below the task's, and nowhere else."""
        for folder, _, _ in os.walk(self._config["memory_group"]):
            with contextlib.suppress(OSError), open(f"{folder}/memory.oom_control") as file:
                if any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in file):
                    return True
        return False

    def _bark(self) -> None:
        """The deadline has come, and nobody moved it on: kill. Its exit is reported as any other."""
        with contextlib.suppress(BlockingIOError):  # not moved on in between
            os.read(self._timer, 8)
            self._late = self._keeper != 0
            self.kill()

    def kill(self) -> None:
        """SIGKILL the keeper, with which the kernel ends all; again is harmless."""
        if self._keeper:
            os.kill(self._keeper, signal.SIGKILL)
            os.waitpid(self._keeper, 0)
            self._keeper = 0

    def _on_host(self, inside: int) -> int:
        """Return our own number of a process that has another one in the keeper's namespace."""
        device = os.stat(ROOT).st_dev
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                with open(f"/proc/{int(name)}/status") as file:
                    numbers = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [])
                # The container's own namespace lies in the keeper's: its first process has one number more.
                if len(numbers) < 3 or numbers[-2:] != [str(inside), "1"]:
                    continue
                if os.stat(f"/proc/{name}/root/").st_dev == device:
                    return int(name)
        raise ValueError("the container's first process cannot be found")

    def _call(self, words: list[str]) -> str:
        """Run one command of podman's in the keeper's namespaces; return what it says. Raises ValueError with
        its last words, or when the deadline comes first."""
        argv = engine.command(self._config["podman"], self._config["runtime"], *words)
        said_fd = os.memfd_create("said", os.MFD_CLOEXEC)
        child = os.fork()
        if child == 0:
            self._become_podman(argv, said_fd)
        try:
            ended = os.pidfd_open(child)
            try:
                found, _, _ = select.select([ended, self._timer], [], [], ENGINE_TIMEOUT_S)
            finally:
                os.close(ended)
            if ended not in found:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            text = os.pread(said_fd, _READ_BYTES, 0).decode(errors="replace").strip()
            if status and "init" in words:
                text = self._drain().decode(errors="replace").strip()
        finally:
            os.close(said_fd)
        if status:
            raise ValueError(f"podman {words[0]}: {text[-_SAID_BYTES:] or 'not done in time'}")
        return text.rpartition("\n")[2]

    def _become_podman(self, argv: list[str], said_fd: int) -> NoReturn:
        try:
            kernel.setns(self._mounts, kernel.CLONE_NEWNS)
            nothing = os.open("/dev/null", os.O_RDONLY)
            # The monitor, and with it the container, inherits what `init` has as its stdout and stderr.
            starts = "init" in argv
            for source, target in ((nothing, 0), (self._log_in if starts else said_fd, 1), (said_fd, 2)):
                os.dup2(source, target)
            if starts:
                os.dup2(self._log_in, 2)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.chdir("/")
            os.execve(argv[0], argv, engine.environment())
        except OSError as error:
            os.write(said_fd, f"{error}\n".encode())
        finally:
            os._exit(70)


def _keep(config: dict[str, Any], ready: int) -> NoReturn:
    """In the forked child, the first process of its pid namespace: make the place for podman, then collect
    orphans until the launcher ends."""
    try:
        kernel.die_with_parent()
        with (
            os.fdopen(config["profile_fd"], "rb") as file,
            os.fdopen(config["environment_fd"], "rb") as other,
        ):
            profile, environment = file.read(), other.read()
        try:
            _furnish(profile, environment)
        except OSError as error:
            os.write(ready, str(error).encode()[:_SAID_BYTES])
            os._exit(70)
        os.write(ready, b"ready")
        # Nothing of the launcher stays open here: its pipes end when it ends.
        os.closerange(0, _DESCRIPTORS_MAX)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        while True:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            signal.sigtimedwait([signal.SIGCHLD], _COLLECT_S)
    finally:
        os._exit(70)


def _furnish(profile: bytes, environment: bytes) -> None:
    """Make the mount namespace in which podman works: its own /proc, its own state, nothing of the host's."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)
    kernel.mount("proc", "/proc", "proc", _CLOSED)
    kernel.mount("tmpfs", "/run", "tmpfs", _SEALED, f"size={ENGINE_BYTES},nr_inodes=4096,mode=0755")
    for folder in ("/etc/containers", "/usr/share/containers"):
        if os.path.isdir(folder):  # settings, hooks and mounts of the host's are not for our containers
            kernel.mount("tmpfs", folder, "tmpfs", _CLOSED, "size=64k,nr_inodes=16,mode=0755")
    if os.path.ismount(_HYBRID):  # crun refuses hosts that show it both versions of control groups
        kernel.unmount(_HYBRID)
    os.umask(0o022)
    os.mkdir(engine.FOLDER, 0o755)
    engine.write_configuration(profile, environment)


if __name__ == "__main__":
    main()
