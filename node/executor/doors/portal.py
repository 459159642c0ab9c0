"""The one door into a sandbox: host-side listening sockets whose connections come out at ports inside.

A process of its own (`python -I -S`, standard library, one thread). It inherits listening sockets, which stay
in the host's network namespace, then joins the workload's, where there is nothing but loopback; so it accepts
on the host's side and can connect only to the inside. The workload cannot use it the other way: it never
accepts inside. It ends when its stdin does, which is when the node ends.

Arguments: the pid whose network namespace to join, the uid to become (or -1), then `fd:inside` per port. It
prints one line, `ready` or the reason why not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from node.executor.host import kernel
from node.executor.limits import PORTAL_BUFFER_BYTES, PORTAL_CONNECTIONS_MAX, PORTAL_IDLE_S

_SWEEP_S = 1.0
_BACKLOG_PAUSE_S = 0.1
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(frozen=True)
class Target:
    """Where connections that come in at a listening socket go to."""

    host: str
    port: int


@dataclass
class _Side:
    """One socket of a pair: what waits to be written to it, and whether each direction has ended."""

    sock: socket.socket
    waiting: bytearray = field(default_factory=bytearray)
    read_ended: bool = False
    write_ended: bool = False


class Pair:
    """An accepted connection and its other half inside."""

    def __init__(self, outer: socket.socket, inner: socket.socket, now_s: float) -> None:
        self.outer = _Side(outer)
        self.inner = _Side(inner)
        self.connecting = True
        self.moved_at_s = now_s

    def wants(self, side: _Side) -> int:
        """Return the selector events of interest for `side`; 0 for none."""
        other = self.inner if side is self.outer else self.outer
        if self.connecting:
            return _WRITE if side is self.inner else 0
        events = _WRITE if side.waiting else 0
        if not side.read_ended and len(other.waiting) < PORTAL_BUFFER_BYTES:
            events |= _READ
        return events

    def move(self, side: _Side, events: int, now_s: float) -> bool:
        """Move bytes at `side`; False when the pair is done with."""
        self.moved_at_s = now_s
        if self.connecting:
            self.connecting = False
            return self.inner.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        other = self.inner if side is self.outer else self.outer
        if events & _WRITE and side.waiting:
            self._send(side, other)
        if events & _READ and not side.read_ended:
            self._receive(side, other)
        for one, source in ((side, other), (other, side)):
            if source.read_ended and not one.waiting and not one.write_ended:
                one.write_ended = True
                with contextlib.suppress(OSError):
                    one.sock.shutdown(socket.SHUT_WR)
        return not (self.outer.write_ended and self.inner.write_ended)

    def close(self) -> None:
        """Close both sockets."""
        self.outer.sock.close()
        self.inner.sock.close()

    @staticmethod
    def _send(side: _Side, other: _Side) -> None:
        try:
            del side.waiting[: side.sock.send(side.waiting)]
        except BlockingIOError:
            return
        except OSError:
            # Nobody takes this direction any more; the other one may still have something to deliver.
            side.waiting.clear()
            side.write_ended = other.read_ended = True

    @staticmethod
    def _receive(side: _Side, other: _Side) -> None:
        try:
            data = side.sock.recv(PORTAL_BUFFER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a reset ends the direction; what was read before it is still delivered
        side.read_ended = not data
        if not other.write_ended:
            other.waiting += data


class Portal:
    """The loop: accept, connect inside, pump; bounded in connections, buffers and idle time."""

    def __init__(
        self,
        listeners: dict[socket.socket, Target],
        control_fd: int,
        idle_s: float | None = None,
        may_connect: Callable[[Target], bool] | None = None,
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._listeners = listeners
        self._may_connect = may_connect
        self._idle_s = PORTAL_IDLE_S if idle_s is None else idle_s
        self._pairs: set[Pair] = set()
        self._accept_at_s = 0.0
        self._accepting = False
        self._selector.register(control_fd, _READ, None)

    def run(self) -> None:
        """Serve until the control descriptor ends, then close every connection."""
        try:
            self._serve()
        finally:
            for pair in self._pairs:
                pair.close()
            self._selector.close()

    def _serve(self) -> None:
        swept_at_s = time.monotonic()
        while True:
            self._watch_listeners()
            for key, events in self._selector.select(_SWEEP_S):
                if key.data is None:
                    return
                if isinstance(key.data, Target):
                    self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
                elif key.fileobj in self._selector.get_map():
                    pair, side = key.data
                    self._settle(pair, pair.move(side, events, time.monotonic()))
            now_s = time.monotonic()
            if now_s - swept_at_s >= _SWEEP_S:
                swept_at_s = now_s
                for pair in [pair for pair in self._pairs if now_s - pair.moved_at_s > self._idle_s]:
                    self._settle(pair, False)

    def _watch_listeners(self) -> None:
        # At the bound we stop accepting: callers wait in the kernel's backlog, which is bounded as well.
        want = len(self._pairs) < PORTAL_CONNECTIONS_MAX and time.monotonic() >= self._accept_at_s
        if want == self._accepting:
            return
        self._accepting = want
        for listener, target in self._listeners.items():
            if want:
                self._selector.register(listener, _READ, target)
            else:
                self._selector.unregister(listener)

    def _accept(self, listener: socket.socket, target: Target) -> None:
        if len(self._pairs) >= PORTAL_CONNECTIONS_MAX:
            return
        try:
            outer, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            self._accept_at_s = time.monotonic() + _BACKLOG_PAUSE_S  # out of descriptors or memory
            return
        if self._may_connect is not None and not self._may_connect(target):
            outer.close()
            return
        try:
            family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
            inner = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            outer.close()
            return
        pair = Pair(outer, inner, time.monotonic())
        for sock in (outer, inner):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.add(pair)
        inner.connect_ex((target.host, target.port))
        self._settle(pair, True)

    def _settle(self, pair: Pair, goes_on: bool) -> None:
        """Bring the selector in line with what the pair wants, or end the pair."""
        registered = self._selector.get_map()
        for side in (pair.outer, pair.inner):
            events = pair.wants(side) if goes_on else 0
            if side.sock not in registered:
                if events:
                    self._selector.register(side.sock, events, (pair, side))
            elif events:
                self._selector.modify(side.sock, events, (pair, side))
            else:
                self._selector.unregister(side.sock)
        if not goes_on:
            self._pairs.discard(pair)
            pair.close()


def join_network(pid: int, uid: int) -> None:
    """Enter the network namespace of `pid`; through its owner's user namespace when we are not root.

    Raises OSError, also when it is the one that we are in: what is meant for inside would be done outside.
    """
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/net")):
        os.close(fd)
        raise OSError(errno.EINVAL, f"process {pid} has no network of its own")
    if os.geteuid() != 0:
        owner = kernel.owner_userns(fd)
        kernel.setns(owner, kernel.CLONE_NEWUSER)
        os.close(owner)
    kernel.setns(fd, kernel.CLONE_NEWNET)
    os.close(fd)
    if uid >= 0:
        kernel.become(uid)
    kernel.no_new_privileges()
    kernel.not_dumpable()


def main() -> None:
    """Serve the ports named as arguments; see the module's text."""
    pid, uid, *ports = sys.argv[1:]
    try:
        listeners: dict[socket.socket, Target] = {}
        for port in ports:
            fd, inside = port.split(":")
            listener = socket.socket(fileno=int(fd))
            listener.setblocking(False)
            listener.set_inheritable(False)
            listeners[listener] = Target("127.0.0.1", int(inside))
        join_network(int(pid), int(uid))
    except OSError as error:
        os.write(1, f"portal: {error}\n".encode())
        return
    os.write(1, b"ready\n")
    Portal(listeners, 0).run()


if __name__ == "__main__":
    main()
