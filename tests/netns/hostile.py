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

from consensus.messages import Vote, encode_message
from ledger.blocks import Batch
from ledger.codec import encode
from ledger.documents import ApprovalPredicate, sign_approval, sign_contract
from ledger.genesis import Genesis
from ledger.keys import Key
from ledger.limits import EXPIRY_BLOCKS_DEFAULT
from ledger.proofs.certificate import VOTE_DOMAIN, Statement, VoteKind, vote_message
from ledger.transactions import Body, Decide, PublishContract, Transfer, Tx, sign_tx
from node.wire import PROTOCOL, TOPIC_KINDS, BatchPush, Hello, topic
from p2p.errors import Refused, RequestError
from p2p.host import Host, HostConfig
from p2p.network import Lane, Neighbour, Verdict
from tests.ledger.contract_samples import contract
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
    said: int = 0  # by gossip
    downs: list[str] = field(default_factory=list)
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        self.host = Host(
            HostConfig(
                seed=secrets.token_bytes(32),
                listen=("/ip4/0.0.0.0/tcp/0",),
                bootstrap=self.bootstrap,
                neighbours_max=self.neighbours_max,
                topics=tuple(topic(self.genesis.chain_id, kind) for kind in TOPIC_KINDS),
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

    async def send_for_ever(self, payload: bytes, lane: Lane = Lane.BULK) -> None:
        """The invalid flood: messages that break a rule."""
        while True:
            for neighbour in self.host.neighbours():
                self.host.send(neighbour.peer_id, lane, payload)
            await trio.sleep(0.001)

    async def gossip_for_ever(self, kind: str, height: int) -> None:
        """Valid gossip, as much as this machine can sign and send: past all budgets of its own."""
        name = topic(self.genesis.chain_id, kind)
        while True:
            key = Key(secrets.token_bytes(32))
            for _ in range(20):
                raw = self.transaction(key, self.body(key, kind), height)
                await self.host._gossip._pubsub.publish(name, raw)
                self.said += 1
                await trio.lowlevel.checkpoint()

    def transaction(self, key: Key, body: Body, height: int) -> bytes:
        """Signed, of this chain, and in time."""
        tx = Tx(
            self.genesis.chain_id, key.public, height + EXPIRY_BLOCKS_DEFAULT, secrets.token_bytes(8), body
        )
        return sign_tx(key, tx)

    def body(self, key: Key, kind: str) -> Body:
        """What that topic carries, in good form."""
        if kind == "contracts":
            return PublishContract(sign_contract(key, contract(name=f"c-{secrets.token_hex(8)}")))
        if kind == "approvals":
            digest = secrets.token_bytes(32)
            said = ApprovalPredicate(
                chain_id=self.genesis.chain_id,
                deployment=digest.hex(),
                act="deploy",
                role="budget",
                decision="granted",
            )
            return Decide(sign_approval(key, said, digest))
        return Transfer(key.public, 1)

    def batch(self, height: int) -> bytes:
        """A good batch, of somebody who does not vote."""
        key = Key(secrets.token_bytes(32))
        raws = tuple(self.transaction(key, Transfer(key.public, n + 1), height) for n in range(20))
        return encode(BatchPush(encode(Batch(raws))))

    def vote(self, view: int) -> bytes:
        """A good vote, signed by a key without a seat."""
        key = Key(secrets.token_bytes(32))
        statement = Statement(VoteKind.SKIP, 0, view, bytes(32))
        signed = key.sign(VOTE_DOMAIN, self.genesis.chain_id, vote_message(statement))
        return encode_message(Vote(statement, 0, signed))


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
