"""The lines between sites, with delay, loss and cuts: one process that carries packets between TUN devices.

    python wan.py NAME=NAMESPACE=NETWORK/BITS …

It stands in for `tc netem`, which many kernels lack. Each namespace of a site gets `wan0`; a packet that
leaves there waits for its line's delay and comes out at the site whose network it is for. Orders are JSON
lines on stdin, the whole state each time; each is answered by one line of figures. It ends with its stdin.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, get_errno
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_PACKET_BYTES_MAX = 65_536
_WAITING_MAX = 50_000  # packets under way; a real line drops what does not fit, too
_LIBC = CDLL(None, use_errno=True)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """What this thread opens or starts within the block belongs to that network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(there)
    finally:
        os.close(home)


def _enter(handle: int) -> None:
    if _LIBC.setns(handle, _CLONE_NEWNET):
        raise OSError(get_errno(), "setns")


def _open_tun(namespace: str, name: str) -> int:
    with inside(namespace):
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return handle


class Wan:
    """Carries packets; `delay_ms`, `loss` and `blocked` are by direction, written "a>b"."""

    def __init__(self, sites: list[tuple[str, str, str]]) -> None:
        self.devices = {name: _open_tun(namespace, "wan0") for name, namespace, _ in sites}
        self.names = {handle: name for name, handle in self.devices.items()}
        self.networks = [(*_network(text), name) for name, _, text in sites]
        self.delay_ms: dict[str, float] = {}
        self.loss: dict[str, float] = {}
        self.blocked: frozenset[str] = frozenset()
        self.figures = {"carried": 0, "blocked": 0, "lost": 0, "overflow": 0}
        self._rng = random.Random(1)
        self._waiting: list[tuple[float, int, str, str, bytes]] = []
        self._count = 0

    def run(self) -> None:
        """Until stdin ends."""
        poll = select.poll()
        for handle in (*self.names, 0):
            poll.register(handle, select.POLLIN)
        orders = b""
        while True:
            for handle, _ in poll.poll(self._wait_ms()):
                if handle:
                    self._read(handle)
                    continue
                piece = os.read(0, 65_536)
                if not piece:
                    return
                *lines, orders = (orders + piece).split(b"\n")
                for line in lines:
                    self._order(json.loads(line))
            self._deliver()

    def _wait_ms(self) -> float | None:
        return max(0.0, (self._waiting[0][0] - time.monotonic()) * 1_000) if self._waiting else None

    def _order(self, order: dict[str, object]) -> None:
        self.delay_ms.update(order.get("delay_ms", {}))  # type: ignore[call-overload]
        self.loss.update(order.get("loss", {}))  # type: ignore[call-overload]
        self.blocked = frozenset(order.get("blocked", ()))  # type: ignore[call-overload]
        print(json.dumps(self.figures), flush=True)

    def _read(self, handle: int) -> None:
        source = self.names[handle]
        while True:
            try:
                packet = os.read(handle, _PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            target = self._target(packet)
            if target is None or target == source:
                continue
            line = f"{source}>{target}"
            if self._rng.random() < self.loss.get(line, 0.0):
                self.figures["lost"] += 1
            elif len(self._waiting) >= _WAITING_MAX:
                self.figures["overflow"] += 1
            else:
                due = time.monotonic() + self.delay_ms.get(line, 0.0) / 1_000
                self._count += 1
                heapq.heappush(self._waiting, (due, self._count, line, target, packet))

    def _target(self, packet: bytes) -> str | None:
        if packet[0] >> 4 != 4:
            return None
        address = int.from_bytes(packet[16:20], "big")
        return next((name for base, mask, name in self.networks if address & mask == base), None)

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, line, target, packet = heapq.heappop(self._waiting)
            if line in self.blocked:  # a cut takes what is under way with it
                self.figures["blocked"] += 1
                continue
            try:
                os.write(self.devices[target], packet)
                self.figures["carried"] += 1
            except OSError:
                self.figures["overflow"] += 1


def _network(text: str) -> tuple[int, int]:
    base, _, bits = text.partition("/")
    mask = 0xFFFFFFFF << (32 - int(bits)) & 0xFFFFFFFF
    return int.from_bytes(socket.inet_aton(base), "big") & mask, mask


def main() -> None:
    """Open the devices, say so by a first line, carry."""
    sites = [(name, namespace, network) for name, namespace, network in (w.split("=") for w in sys.argv[1:])]
    wan = Wan(sites)
    print(json.dumps(wan.figures), flush=True)
    wan.run()


if __name__ == "__main__":
    main()
