"""The sandbox's launcher: builds the sealed root, starts bubblewrap in it, serves (`drivers.launching`)."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn

from node.executor.drivers import entry, mounts, stage
from node.executor.drivers.launching import READ_BYTES, Launcher, launch
from node.executor.drivers.stage import ROOT
from node.executor.host import kernel, landlock
from node.executor.tree import chunks, read_tree

_POLL_S = 0.001


def main() -> None:
    """Read the configuration from the descriptor named as the argument; run one task."""
    launch(_start)


def _start(config: dict[str, Any]) -> tuple[Launcher, str | None]:
    uid = config["uid"]
    if uid is not None:
        stage.enter()
    else:
        _enter_as_user()
    loop = stage.build(config["root"], lambda: _fill(config["root"]), None if uid is None else (uid, uid))
    mounts.mount_beside(config, uid)
    return _Task(config), loop


def _enter_as_user() -> None:
    """`stage.enter` for who is not root: in a user namespace in which only this user is there."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUSER)
    maps = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    stage.follow_host()


def _fill(root: dict[str, Any]) -> None:
    """Write the artifacts, and the points at which other mounts begin, at ROOT."""
    for path in ("/proc", "/dev", "/tmp", "/result", *root["points"]):
        os.makedirs(ROOT + path, 0o755, exist_ok=True)
    for file in root["files"]:
        with os.fdopen(file["fd"], "rb") as source:
            source.seek(0)
            _write(ROOT + file["path"], file["mode"], iter(partial(source.read, 1 << 20), b""))
    for tree in root["trees"]:
        _unpack(tree["fd"], ROOT + tree["path"])


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


class _Task(Launcher):
    """Bubblewrap, held back at first."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        block_out, self._block = os.pipe()
        self._status, status_in = os.pipe()
        nothing, closed = os.pipe()
        os.close(closed)
        # Bubblewrap's monitor ends without collecting process 1, and not every host's own first process does.
        kernel.adopt_orphans()
        rules_fd, entry_fd, command = _entry(config)
        inside = [*config["bwrap_fds"], *(fd for fd in (rules_fd, entry_fd) if fd >= 0)]
        self._bwrap = os.fork()
        if self._bwrap == 0:
            _become_bwrap(config, command, inside, (nothing, self._log_in, block_out, status_in))
        for fd in (self._log_in, block_out, status_in, nothing, *(fd for fd in inside if fd != rules_fd)):
            os.close(fd)
        if config["uid"] is not None:
            kernel.become(config["uid"])
        kernel.no_new_privileges()
        deadline_s = time.monotonic() + config["start_timeout_s"]
        self._init = self._child_pid(deadline_s)
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

    @property
    def helper(self) -> int:
        """See `Launcher.helper`: bubblewrap's monitor."""
        return self._bwrap

    def watched(self) -> Mapping[int, Callable[[], None]]:
        """See `Launcher.watched`."""
        collect = partial(self._collect_init, os.WNOHANG)
        return {os.pidfd_open(self._bwrap): self.report_exit, self._init_fd: collect}

    def let_go(self) -> None:
        """See `Launcher.let_go`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._block, b"G")

    def ended(self) -> dict[str, Any]:
        """See `Launcher.ended`."""
        _, status = os.waitpid(self._bwrap, 0)
        self._bwrap = 0
        self._collect_init(os.WNOHANG)
        return {"status": os.waitstatus_to_exitcode(status)}

    def end_task(self) -> None:
        """See `Launcher.end_task`. With process 1 the kernel ends its pid namespace."""
        if self._init_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)

    def kill(self) -> None:
        """See `Launcher.kill`."""
        self.end_task()
        if self._bwrap:
            os.kill(self._bwrap, signal.SIGKILL)
            os.waitpid(self._bwrap, 0)
            self._bwrap = 0
        self._collect_init(0)

    def _child_pid(self, deadline_s: float) -> int:
        """Return the pid of the sandbox's process 1 from bubblewrap's status lines."""
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._status, selectors.EVENT_READ)
            while b"\n" not in text and selector.select(max(0.0, deadline_s - time.monotonic())):
                chunk = os.read(self._status, READ_BYTES)
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
        status, _ = os.waitpid(self._bwrap, os.WNOHANG)
        if status or time.monotonic() >= deadline_s:
            self._bwrap = 0 if status else self._bwrap
            self._give_up("bubblewrap could not set the sandbox up")

    def _give_up(self, otherwise: str, said: bool = True) -> NoReturn:
        """Kill, and raise ValueError with what bubblewrap `said`."""
        self.kill()
        text = self.drain()
        raise ValueError((said and text.decode(errors="replace").strip()) or otherwise)

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
        kernel.bound(config["rlimits"])
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
