"""The portal's pump: bytes, half-closes, bounds and idle time, without a sandbox around it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from node.executor.doors import portal


@contextmanager
def door(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Run a portal in a thread, in front of a service in our own network; yield where it listens."""
    inner = socket.create_server(("127.0.0.1", 0))
    outer = socket.create_server(("127.0.0.1", 0))
    outer.setblocking(False)
    control_out, control_in = os.pipe()

    def service() -> None:
        while True:
            try:
                sock, _ = inner.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threads = [
        threading.Thread(target=service),
        threading.Thread(
            target=portal.Portal({outer: portal.Target("127.0.0.1", inner.getsockname()[1])}, control_out).run
        ),
    ]
    for thread in threads:
        thread.start()
    try:
        yield outer.getsockname()
    finally:
        os.close(control_in)
        inner.shutdown(socket.SHUT_RDWR)
        inner.close()
        for thread in threads:
            thread.join(60)
        outer.close()
        os.close(control_out)
        assert not any(thread.is_alive() for thread in threads)


def echo(sock: socket.socket) -> None:
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(1 << 20):
        data += chunk
    return data


def test_much_data_both_ways_and_half_close() -> None:
    payload = os.urandom(3_000_000)
    with door(echo) as address, socket.create_connection(address, 10) as sock:

        def send() -> None:
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert read_all(sock) == payload
        sender.join(60)


def test_slow_reader_stops_the_writer() -> None:
    sent = 0
    stalled = threading.Event()

    def flood(sock: socket.socket) -> None:
        nonlocal sent
        sock.settimeout(0.5)
        with sock:
            try:
                while True:
                    sent += sock.send(bytes(65536))
            except OSError:
                stalled.set()

    with door(flood) as address, socket.create_connection(address, 10) as sock:
        assert stalled.wait(60)
        # Kernel buffers hold some megabytes; the portal itself holds no more than its bound.
        assert 0 < sent < 64 << 20
        sock.recv(1)


def test_service_that_is_not_there_closes_the_caller() -> None:
    free = socket.create_server(("127.0.0.1", 0))
    inside = free.getsockname()[1]
    free.close()
    outer = socket.create_server(("127.0.0.1", 0))
    outer.setblocking(False)
    control_out, control_in = os.pipe()
    thread = threading.Thread(
        target=portal.Portal({outer: portal.Target("127.0.0.1", inside)}, control_out).run
    )
    thread.start()
    with socket.create_connection(outer.getsockname(), 10) as sock:
        assert sock.recv(1) == b""
    os.close(control_in)
    thread.join(60)
    outer.close()
    os.close(control_out)


def test_reply_before_a_reset_is_delivered() -> None:
    def rude(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(b"x" * 100_000)
        sock.close()  # with unread bytes: the kernel sends a reset after the data

    with door(rude) as address, socket.create_connection(address, 10) as sock:
        sock.sendall(b"a")
        data = b""
        while len(data) < 100_000 and (chunk := sock.recv(65536)):
            data += chunk
        assert len(data) == 100_000


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal, "PORTAL_CONNECTIONS_MAX", 2)
    with door(echo) as address:
        socks = [socket.create_connection(address, 10) for _ in range(3)]
        for sock in socks[:2]:
            sock.sendall(b"a")
            assert sock.recv(1) == b"a"
        socks[2].sendall(b"c")
        socks[2].settimeout(0.3)
        with pytest.raises(TimeoutError):
            socks[2].recv(1)
        socks[0].close()
        socks[2].settimeout(60)
        assert socks[2].recv(1) == b"c"
        for sock in socks:
            sock.close()


def test_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal, "PORTAL_IDLE_S", 0.2)
    monkeypatch.setattr(portal, "_SWEEP_S", 0.05)
    with door(echo) as address, socket.create_connection(address, 10) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        assert sock.recv(1) == b""
