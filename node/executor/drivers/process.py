"""Starts our own helper processes (launcher, portal) and reads what they say. Bounded, and never a shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import trio

import node

_LINE_BYTES_MAX = 64 * 1024
_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {module} import main; main()"


def python_argv(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `main` of a module of ours that needs the standard library alone.

    The host's Python settings and packages do not reach it.
    """
    home = str(Path(node.__file__).parent.parent)
    return [sys.executable, "-I", "-S", "-B", "-c", _BOOT.format(module=module), home, *arguments]


class Helper:
    """A running helper: `control` ends it when closed; `line` returns what it prints."""

    def __init__(self, process: trio.Process, control_fd: int, report: trio.lowlevel.FdStream) -> None:
        self.process = process
        self._control_fd = control_fd
        self._report = report
        self._text = b""
        self._lock = trio.Lock()

    @property
    def pid(self) -> int:
        """The helper's process id; its own until `close` has returned."""
        return self.process.pid

    async def line(self) -> bytes | None:
        """Return the next line without its end, or None when the helper has closed its output."""
        async with self._lock:
            while b"\n" not in self._text:
                chunk = await self._report.receive_some(_LINE_BYTES_MAX)
                if not chunk or len(self._text) > _LINE_BYTES_MAX:
                    return None
                self._text += bytes(chunk)
            line, _, self._text = self._text.partition(b"\n")
            return line

    def tell(self, message: bytes) -> None:
        """Write a short control message. Raises OSError when the helper has ended, or reads nothing."""
        os.write(self._control_fd, message)

    def end(self) -> None:
        """Close the control pipe, which asks the helper to end; again is harmless."""
        fd, self._control_fd = self._control_fd, -1
        if fd >= 0:
            os.close(fd)

    async def close(self, within_s: float) -> None:
        """End the helper and collect it, by SIGKILL when it takes longer than `within_s`."""
        self.end()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(within_s):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            await self._report.aclose()


async def start_helper(argv: list[str], pass_fds: Iterable[int], stderr_fd: int) -> Helper:
    """Start a helper with a control pipe as stdin and a report pipe as stdout. Raises OSError.

    Its environment is empty and it leads its own session, so that a ^C at the node's terminal is not its own.
    """
    control_out, control_in = os.pipe()
    os.set_blocking(control_in, False)  # a helper that hangs must not hold the node up
    report_out, report_in = os.pipe()
    try:
        with trio.CancelScope(shield=True):
            process = await trio.lowlevel.open_process(
                argv,
                stdin=control_out,
                stdout=report_in,
                stderr=stderr_fd,
                pass_fds=tuple(pass_fds),
                env={},
                cwd="/",
                start_new_session=True,
            )
    except BaseException:
        os.close(control_in)
        os.close(report_out)
        raise
    finally:
        os.close(control_out)
        os.close(report_in)
    return Helper(process, control_in, trio.lowlevel.FdStream(report_out))
