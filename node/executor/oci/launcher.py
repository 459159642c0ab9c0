"""The launcher of a container: builds the sealed root, has podman run it, and serves (`drivers.launching`).

podman, its monitor (conmon) and the container are in a pid namespace of their own, whose first process is our
child, the keeper. It dies with us, and with it the kernel kills all of them: conmon, which is made to outlive
whoever started it, outlives nobody. They are in a mount namespace of their own, too, where podman's whole
state is in memory: nothing of it is on the host, and nothing is left.

[Z5] A container ends with the process that started it, and so does its engine; the engine restarts nothing,
     asks no registry and keeps nothing on disk.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from node.executor.drivers import mounts, stage
from node.executor.drivers.launching import READ_BYTES, Launcher, launch
from node.executor.drivers.stage import ROOT
from node.executor.host import kernel
from node.executor.limits import ENGINE_BYTES, ENGINE_TIMEOUT_S
from node.executor.oci import engine, flatten
from node.executor.oci.layers import ImageRefused
from node.executor.tree import TreeRefused

_SAID_BYTES = 500
_KILLED = 128 + signal.SIGKILL
_DESCRIPTORS_MAX = 4_096
_COLLECT_S = 5.0
_HYBRID = "/sys/fs/cgroup/unified"


def main() -> None:
    """Read the configuration from the descriptor named as the argument; run one container."""
    launch(_start, (OSError, ValueError, ImageRefused, TreeRefused))


def _start(config: dict[str, Any]) -> tuple[Launcher, str | None]:
    stage.enter()
    root, owner = config["root"], (config["owner"], config["group"])
    plan = plan_of(root)

    def fill() -> None:
        flatten.write(plan, ROOT, root["sources"], engine.BASE_UID)

    loop = stage.build(root, fill, owner, owners=True)
    mounts.mount_beside(config, config["owner"], owner)
    box = _Box(config)
    try:
        box.prepare()
    except BaseException:
        box.kill()
        raise
    return box, loop


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


class _Box(Launcher):
    """The keeper's namespaces, and podman in them."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._config = config
        kernel.unshare(kernel.CLONE_NEWPID)
        ready_out, ready_in = os.pipe()
        self._keeper = os.fork()
        if self._keeper == 0:
            _keep(config, ready_in)
        os.close(ready_in)
        with os.fdopen(ready_out, "rb") as ready:
            said = ready.read(READ_BYTES)
        if said != b"ready":
            raise ValueError(said.decode(errors="replace") or "the keeper ended")
        self._mounts = os.open(f"/proc/{self._keeper}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def prepare(self) -> None:
        """Have podman set the container up, and hold its first process back. Raises ValueError, OSError."""
        self._call(engine.create_options(self._config))
        self._call(["init", engine.CONTAINER])
        os.close(self._log_in)
        self.drain()  # what podman itself said: the container has not said anything yet
        with open(f"/proc/{self._keeper}/root{engine.PID_FILE}") as file:
            self._init = self._on_host(int(file.read()))
        self._init_fd = os.pidfd_open(self._init)

    @property
    def helper(self) -> int:
        """See `Launcher.helper`."""
        return self._keeper

    def watched(self) -> Mapping[int, Callable[[], None]]:
        """See `Launcher.watched`."""
        return {self._init_fd: self.report_exit}

    def let_go(self) -> None:
        """See `Launcher.let_go`."""
        self._call(["start", engine.CONTAINER])

    def ended(self) -> dict[str, Any]:
        """See `Launcher.ended`. It also tells whether the memory limit was what killed."""
        status, oom = _KILLED, self._was_oom()  # at once: podman is about to remove the group
        if not self._late:
            with contextlib.suppress(OSError, ValueError):  # killed with all else: nobody can say more
                status = int(self._call(["wait", engine.CONTAINER]))
        self.kill()
        return {"status": status, "oom": oom}

    def end_task(self) -> None:
        """See `Launcher.end_task`."""
        self.kill()

    def kill(self) -> None:
        """See `Launcher.kill`. With the keeper the kernel ends all."""
        if self._keeper:
            os.kill(self._keeper, signal.SIGKILL)
            os.waitpid(self._keeper, 0)
            self._keeper = 0

    def _was_oom(self) -> bool:
        """Return whether the memory limit killed a process of the container: version 1 of control groups
        counts that in podman's own group below the task's, and nowhere else."""
        for folder, _, _ in os.walk(self._config["memory_group"]):
            with contextlib.suppress(OSError), open(f"{folder}/memory.oom_control") as file:
                if any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in file):
                    return True
        return False

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
            self._become_podman(argv, said_fd, self._log_in if words[0] == "init" else said_fd)
        try:
            ended = os.pidfd_open(child)
            try:
                found, _, _ = select.select([ended, self._timer], [], [], ENGINE_TIMEOUT_S)
            finally:
                os.close(ended)
            if ended not in found:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            text = os.pread(said_fd, READ_BYTES, 0).decode(errors="replace").strip()
            if status and words[0] == "init":
                text = self.drain().decode(errors="replace").strip()
        finally:
            os.close(said_fd)
        if status:
            raise ValueError(f"podman {words[0]}: {text[-_SAID_BYTES:] or 'not done in time'}")
        return text.rpartition("\n")[2]

    def _become_podman(self, argv: list[str], said_fd: int, output: int) -> NoReturn:
        try:
            kernel.setns(self._mounts, kernel.CLONE_NEWNS)
            nothing = os.open("/dev/null", os.O_RDONLY)
            # The monitor, and with it the container, inherits what `init` has as its stdout and stderr.
            for source, target in ((nothing, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
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
    stage.enter()
    kernel.mount("proc", "/proc", "proc", stage.CLOSED)
    kernel.mount("tmpfs", "/run", "tmpfs", stage.SEALED, f"size={ENGINE_BYTES},nr_inodes=4096,mode=0755")
    for folder in ("/etc/containers", "/usr/share/containers"):
        if os.path.isdir(folder):  # settings, hooks and mounts of the host's are not for our containers
            kernel.mount("tmpfs", folder, "tmpfs", stage.CLOSED, "size=64k,nr_inodes=16,mode=0755")
    if os.path.ismount(_HYBRID):  # crun refuses hosts that show it both versions of control groups
        kernel.unmount(_HYBRID)
    os.umask(0o022)
    os.mkdir(engine.FOLDER, 0o755)
    engine.write_configuration(profile, environment)


if __name__ == "__main__":
    main()
