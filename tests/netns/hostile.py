"""What hostile machines do: hold hundreds of connections, say nothing or nonsense, flood, crowd in."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import secrets
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from ledger.codec import encode
from ledger.genesis import Genesis
from node.wire import PROTOCOL, Hello
from p2p.errors import Refused, RequestError
from p2p.host import Host, HostConfig
from p2p.network import Lane, Neighbour, Verdict
from tests.netns.lab import Machine

_MULTISTREAM = b"\x13/multistream/1.0.0\n"
# What a connection says first: nothing at all; a beginning and no more; nonsense; nonsense after a beginning.
OPENINGS = (b"", _MULTISTREAM, os.urandom(400), _MULTISTREAM + b"\x07/noise\n" + os.urandom(200))


@contextmanager
def connections(machine: Machine, host: str, port: int, count: int) -> Iterator[dict[str, int]]:
    """Keeps that many connections to a peer open from a machine, anew when it closes them. Yields figures."""
    figures = {"opened": 0, "open": 0, "open_max": 0}
    over = threading.Event()
    thread = threading.Thread(target=_hold, args=(machine, (host, port), count, figures, over))
    thread.start()
    try:
        yield figures
    finally:
        over.set()
        thread.join(20)
        assert not thread.is_alive()


def _hold(
    machine: Machine, target: tuple[str, int], count: int, figures: dict[str, int], over: threading.Event
) -> None:
    rng = random.Random(1)
    with machine.inside(), selectors.DefaultSelector() as waiting:
        while not over.is_set():
            for _ in range(min(50, count - len(waiting.get_map()))):
                one = socket.socket()
                one.setblocking(False)
                if one.connect_ex(target) not in (0, errno.EINPROGRESS):
                    one.close()
                    continue
                waiting.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE)
                figures["opened"] += 1
            for key, events in waiting.select(0.05):
                _serve(waiting, key, events, rng)
            figures["open"] = len(waiting.get_map())
            figures["open_max"] = max(figures["open_max"], figures["open"])
        for key in list(waiting.get_map().values()):
            waiting.unregister(key.fileobj)
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()


def _serve(
    waiting: selectors.BaseSelector, key: selectors.SelectorKey, events: int, rng: random.Random
) -> None:
    one = key.fileobj
    assert isinstance(one, socket.socket)
    try:
        if events & selectors.EVENT_WRITE:
            one.send(rng.choice(OPENINGS))
            waiting.modify(one, selectors.EVENT_READ)
        elif not one.recv(4_096):
            raise ConnectionError
    except OSError:
        waiting.unregister(one)
        one.close()


@dataclass
class Stranger:
    """A peer of ours in everything but its manners: `act` is done with each neighbour that it gets."""

    genesis: Genesis
    bootstrap: tuple[str, ...]
    lies: tuple[str, ...] = ()  # addresses that it tells of
    neighbours_max: int = 1
    ups: int = 0
    downs: list[str] = field(default_factory=list)
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        self.host = Host(
            HostConfig(
                seed=secrets.token_bytes(32),
                listen=("/ip4/0.0.0.0/tcp/0",),
                bootstrap=self.bootstrap,
                neighbours_max=self.neighbours_max,
            )
        )
        for address in self.lies:
            self.host._board.book.learn(address)
            self.host._board.book.dialled(address.rpartition("/")[2])

    def hello(self, peer_id: str) -> bytes:
        genesis = self.genesis
        return encode(Hello(PROTOCOL, genesis.chain_id, genesis.hash, "stranger", (), 0, b"", b""))

    def check_hello(self, peer_id: str, hello: bytes) -> None: ...

    def on_up(self, neighbour: Neighbour) -> None:
        self.ups += 1

    def on_down(self, peer_id: str, reason: str) -> None:
        self.downs.append(reason)

    def on_message(self, peer_id: str, lane: Lane, payload: bytes) -> None: ...

    async def serve(self, peer_id: str, method: str, body: bytes) -> bytes:
        raise Refused("nothing here")

    async def on_gossip(self, topic: str, peer_id: str, payload: bytes) -> Verdict:
        return Verdict.IGNORE

    async def ask_for_ever(self, method: str, body: bytes) -> None:
        """The valid flood: requests as fast as they are answered, 32 at a time."""

        async def one() -> None:
            while True:
                for neighbour in self.host.neighbours():
                    with contextlib.suppress(RequestError):
                        await self.host.request(neighbour.peer_id, method, body, 5.0)
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(one)

    async def send_for_ever(self, payload: bytes) -> None:
        """The invalid flood: messages that break a rule."""
        while True:
            for neighbour in self.host.neighbours():
                self.host.send(neighbour.peer_id, Lane.BULK, payload)
            await trio.sleep(0.001)


@contextmanager
def strangers(
    machine: Machine, *crowd: Stranger, flood: Callable[[Stranger], object] | None = None
) -> Iterator[None]:
    """Runs strangers on a machine, in a thread of their own; `flood` gives what each does for ever."""
    started = threading.Event()
    over = threading.Event()
    failed: list[BaseException] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for one in crowd:
                await nursery.start(one.host.run, one)
                if flood is not None:
                    nursery.start_soon(flood, one)  # type: ignore[arg-type]
            started.set()
            while not over.is_set():
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()

    def run() -> None:
        try:
            with machine.inside():
                trio.run(main)
        except BaseException as error:  # noqa: BLE001 - told by the test
            failed.append(error)
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(60)
        yield
    finally:
        over.set()
        thread.join(30)
        assert not thread.is_alive()
    assert not failed, failed
