"""Runs a command of the contract inside a sandbox: the node's side of `node.executor.inside`."""

from __future__ import annotations

import contextlib
import json
import os

import trio

from node.executor.drivers import seccomp
from node.executor.drivers.process import python_argv, start_helper
from node.executor.drivers.running import Running
from node.executor.errors import ExecutorError
from node.executor.host.seal import seal_bytes
from node.executor.limits import ENTER_WITHIN_S, KILL_WITHIN_S

_LATE = b"late"


async def run_check(running: Running, command: tuple[str, ...], timeout_s: float) -> int | None:
    """The command's exit status, 128 and its number for a signal; None when it took longer than `timeout_s`,
    and was killed. Raises ExecutorError when it could not be run."""
    baseline = running.baseline
    if baseline is None or running.exit is not None:
        raise ExecutorError(f"task {running.task_id} is not running")
    try:
        groups = [str(path) for path in running.groups()]
    except OSError as error:
        raise ExecutorError(f"task {running.task_id} has ended: {error}") from error
    with contextlib.ExitStack() as stack:

        def keep(data: bytes, name: str) -> int:
            fd = seal_bytes(data, name)
            stack.callback(os.close, fd)
            return fd

        filters = [keep(program, "seccomp") for program in seccomp.filters()]
        config = running.confinement | {
            "init": baseline.init_pid,
            "start_ticks": baseline.init_start_ticks,
            "cgroup_procs": groups,
            "filters": filters,
            "command": list(command),
            "env": dict(running.spec.env),
            "timeout_s": timeout_s,
        }
        fds = [*filters, keep(json.dumps(config).encode(), "config")]
        argv = python_argv("node.executor.inside", str(fds[-1]))
        async with running.entering:
            try:
                helper = await start_helper(argv, fds, running.errors_fd)
            except OSError as error:
                raise ExecutorError(f"nothing can be started: {error}") from error
            said: bytes | None = b"inside: it did not begin in time"
            try:
                with trio.move_on_after(ENTER_WITHIN_S):
                    said = await helper.line()
            finally:
                if said != b"ran":
                    await helper.close(0)
        if said != b"ran":
            raise ExecutorError((said or b"inside: it said nothing").decode(errors="replace")[:300])
        try:
            said = _LATE
            with trio.move_on_after(timeout_s + KILL_WITHIN_S):
                said = await helper.line()
        finally:
            await helper.close(KILL_WITHIN_S / 4)
        if said is None or said == _LATE:
            return None
        return int(said)
