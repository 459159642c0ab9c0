"""The load loop against a server whose every answer the test decides."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from bench.load.channel import Channel, ChannelLost
from bench.load.loop import Loop, Plan

WORD = 8  # bytes of a request and of an answer: the tag, and 1 in the first byte for an error


class WordChannel(Channel):
    """The tag goes out, the tag comes back."""

    def __init__(self, port: int, most: int) -> None:
        super().__init__("127.0.0.1", port)
        self._most = most
        self._buffer = bytearray()
        self.open()

    @property
    def room(self) -> int:
        return self._most - len(self.under_way)

    def encode(self, tag: int, payload: bytes) -> bytes:
        return tag.to_bytes(WORD, "big")

    def parse(self, data: bytes) -> list[tuple[int, str]]:
        self._buffer += data
        done = []
        while len(self._buffer) >= WORD:
            word = bytes(self._buffer[:WORD])
            del self._buffer[:WORD]
            done.append((int.from_bytes(word[1:], "big"), "no" if word[0] else ""))
        return done


@dataclass
class Server:
    """`answer` gives the bytes for a word, after it has waited for as long as it likes; None: never."""

    answer: Callable[[bytes], bytes | None]
    heard: list[bytes] = field(default_factory=list)
    under_way_max: int = 0
    _listener: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._spawn(self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        buffer = bytearray()
        with sock:
            while True:
                try:
                    data = sock.recv(65_536)
                except OSError:
                    return
                if not data:
                    return
                buffer += data
                self.under_way_max = max(self.under_way_max, len(buffer) // WORD)
                while len(buffer) >= WORD:
                    word = bytes(buffer[:WORD])
                    del buffer[:WORD]
                    self.heard.append(word)
                    said = self.answer(word)
                    if said is None:
                        continue
                    if not said:
                        return  # hangs up
                    sock.sendall(said)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[bytes], bytes | None]], Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[bytes], bytes | None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def run(plan: Plan, server: Server, *, count: int, channels: int, most: int) -> Loop:
    opened: list[Channel] = [WordChannel(server.port, most) for _ in range(channels)]
    loop = Loop(plan, [b""] * count, list(opened))
    loop.run()
    for channel in opened:
        channel.close()
    return loop


def soon(
    seconds: float, *, warm_up_s: float = 0.0, rate: float = 0.0, outstanding: int = 0, grace_s: float = 20
) -> Plan:
    start = time.monotonic() + 0.05
    begin = start + warm_up_s
    return Plan(start, begin, begin + seconds, begin + seconds + grace_s, rate, outstanding)


def test_a_stall_is_charged_to_all_that_was_due_meanwhile(serve: Callable[..., Server]) -> None:
    """No coordinated omission: one place, so nothing can be sent in the stall, and yet all of it counts."""
    stall_s = 0.6
    until = time.monotonic() + 0.05 + stall_s

    def answer(word: bytes) -> bytes:
        time.sleep(max(0.0, until - time.monotonic()))
        return word

    server = serve(answer)
    plan = soon(0.5, rate=100)
    report = run(plan, server, count=1_000, channels=1, most=1).report
    assert report.due == 50
    assert len(report.latencies_ms) == 50
    least = [(until - (plan.start_s + n / 100)) * 1000 for n in range(50)]
    assert all(
        found >= wanted - 1 for found, wanted in zip(sorted(report.latencies_ms), sorted(least), strict=True)
    )
    assert report.late_ms_max >= 400, "what was sent late is told"


def test_the_open_loop_sends_what_is_due_and_no_more(serve: Callable[..., Server]) -> None:
    server = serve(lambda word: word)
    report = run(soon(0.5, warm_up_s=0.2, rate=200), server, count=1_000, channels=2, most=50).report
    assert len(server.heard) == 140
    assert report.due == len(report.latencies_ms) == 100, "the warm-up does not count"
    assert (report.failed, report.unanswered, report.ran_out) == (0, 0, False)


def test_the_closed_loop_keeps_its_number_under_way(serve: Callable[..., Server]) -> None:
    held: list[bytes] = []

    def answer(word: bytes) -> bytes | None:
        held.append(word)
        if len(held) < 7:
            return None
        all_of_them = b"".join(held)
        held.clear()
        return all_of_them

    server = serve(answer)
    plan = soon(0.4, outstanding=7, grace_s=1.0)
    loop = run(plan, server, count=100_000, channels=1, most=100)
    assert len(server.heard) > 7, "with fewer than seven nothing would move"  # the end may cut a round
    assert server.under_way_max <= 7
    assert loop.report.done <= len(server.heard)


def test_requests_without_an_answer_are_counted(serve: Callable[..., Server]) -> None:
    server = serve(lambda word: word if word[-1] % 2 else None)
    report = run(soon(0.2, rate=100, grace_s=0.3), server, count=100, channels=1, most=100).report
    assert report.unanswered == 10
    assert len(report.latencies_ms) == 10


def test_what_waits_for_room_at_the_end_is_unanswered_too(serve: Callable[..., Server]) -> None:
    server = serve(lambda word: None)
    report = run(soon(0.2, rate=100, grace_s=0.3), server, count=100, channels=1, most=1).report
    assert len(server.heard) == 1
    assert report.unanswered == 20


def test_a_refusal_is_no_success_and_its_place_rests(serve: Callable[..., Server]) -> None:
    server = serve(lambda word: b"\x01" + word[1:])
    report = run(soon(0.5, outstanding=2), server, count=1_000, channels=1, most=2).report
    assert report.done == 0 and report.latencies_ms == []
    assert report.failed == report.errors["no"]
    assert 2 <= report.failed <= 22, "two places, a rest of 50 ms after each"


def test_a_lost_connection_fails_what_it_carried(serve: Callable[..., Server]) -> None:
    server = serve(lambda word: b"" if word[-1] == 5 else word)
    report = run(soon(0.3, rate=100), server, count=100, channels=2, most=10).report
    assert report.lost == 1
    assert report.failed >= 1
    assert report.failed + len(report.latencies_ms) == 30, "the other connection takes the rest"


def test_it_says_that_it_ran_out_of_transactions(serve: Callable[..., Server]) -> None:
    server = serve(lambda word: word)
    report = run(soon(0.3, outstanding=1), server, count=3, channels=1, most=1).report
    assert report.ran_out
    assert len(server.heard) == 3


def test_a_server_that_is_gone_is_an_error_of_the_channel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channel = WordChannel(listener.getsockname()[1], 1)
        peer, _ = listener.accept()
        peer.close()
    deadline = time.monotonic() + 60

    def read_on() -> None:
        while time.monotonic() < deadline:
            channel.receive()

    with pytest.raises(ChannelLost, match="hung up"):
        read_on()
    channel.close()
