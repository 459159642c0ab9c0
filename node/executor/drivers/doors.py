"""The two doors of a sandbox, each a helper of its own: the portal into it, the outlet out of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping

from node.executor.drivers.base import EgressSpec
from node.executor.drivers.process import Helper, python_argv, start_helper
from node.executor.errors import StartFailed


async def open_portal(init_pid: int, uid: int | None, listeners: Mapping[socket.socket, int]) -> Helper:
    """Bring callers of these sockets to the ports inside. Raises StartFailed."""
    ports = [f"{listener.fileno()}:{inside}" for listener, inside in listeners.items()]
    return await _open("portal", init_pid, uid, ports, [listener.fileno() for listener in listeners])


async def open_outlet(init_pid: int, uid: int | None, ways: Iterable[EgressSpec]) -> Helper:
    """Let the sandbox connect to these addresses and ports. Raises StartFailed."""
    words = [word for way in ways for word in (way.address, str(way.port))]
    return await _open("outlet", init_pid, uid, words, [])


async def _open(name: str, init_pid: int, uid: int | None, words: list[str], fds: list[int]) -> Helper:
    argv = python_argv(f"node.executor.doors.{name}", str(init_pid), str(-1 if uid is None else uid), *words)
    errors = os.memfd_create("errors", os.MFD_CLOEXEC)
    try:
        helper = await start_helper(argv, fds, errors)
        line: bytes | None = None
        try:
            line = await helper.line()
        finally:
            if line != b"ready":
                await helper.close(0)
        if line != b"ready":
            text = line or os.pread(errors, 4096, 0)
            raise StartFailed(f"{name}: {text.decode(errors='replace').strip()[-500:]}")
    finally:
        os.close(errors)
    return helper
