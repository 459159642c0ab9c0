"""A peer for tests of what sits on one: the real state machine and store, one block for each transaction."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import trio

from ledger.blocks import decode_header
from ledger.errors import Refused
from ledger.genesis import Genesis
from ledger.keys import Key
from ledger.machine import Context, check_window
from ledger.outcome import BlockResult
from ledger.proofs.certificate import ValidatorSet
from ledger.state import Reader
from ledger.storage.store import Store
from ledger.transactions import decode_tx, verified
from node.audits import Audits
from node.event_log import EventLog
from node.seam import Gap, NotFinal, NumberedEvent, Overloaded, PeerStatus, TxOutcome
from p2p.book import PeerBook
from p2p.errors import Refused as RequestRefused
from p2p.network import Ban, Neighbour, Network
from p2p.operator import Operator
from p2p.standing import Standing
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.world import key_of

NODE_KEY = key_of("api peer")


@dataclass
class FakeNetwork:
    """Neighbours that never were."""

    peer_id: str = "12D3KooWFake"

    def addresses(self) -> tuple[str, ...]:
        return ("/ip4/127.0.0.1/tcp/1/p2p/12D3KooWFake",)

    def neighbours(self) -> tuple[Neighbour, ...]:
        return (Neighbour("12D3KooWOther", "/ip4/127.0.0.1/tcp/2", False, b"", 5, None, -3, 10, 20, 1),)

    def banned(self) -> tuple[Ban, ...]:
        by_hand = [Ban(peer_id, reason, None) for peer_id, reason in self.book.banned.items()]
        return (Ban("12D3KooWBad", "frame.too_long", 12.5), *by_hand)

    def __post_init__(self) -> None:
        self.book = PeerBook(self.peer_id, random.Random(1))
        self.operator = Operator(self.book, Standing(lambda: 0.0), lambda peer_id, why: None, lambda: None)


@dataclass
class FakePeer:
    """See node.seam.PeerSeam. `final` False: nothing becomes final. `overloaded`: nothing is taken."""

    world: ChainWorld = field(default_factory=ChainWorld)
    home: Path = Path()
    final: bool = True
    overloaded: bool = False
    behind: int = 0
    stale: bool = False
    last_final_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    gap: Gap | None = None
    watched: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.network = cast(Network, FakeNetwork())
        self.event_log = EventLog(self.world.store)
        self.audits = Audits(self.world.store, trio.Lock())

    @property
    def genesis(self) -> Genesis:
        return self.world.genesis

    @property
    def store(self) -> Store:
        return self.world.store

    @property
    def node_key(self) -> Key:
        return NODE_KEY

    @property
    def chain_id(self) -> str:
        return self.genesis.chain_id

    @property
    def validators(self) -> ValidatorSet:
        return self.world.validators

    @property
    def state(self) -> Reader:
        return self.store.state

    @property
    def height(self) -> int:
        return self.store.tip.height

    @property
    def time_ms(self) -> int:
        return self.store.tip.time_ms

    def block(self, *raw: bytes) -> BlockResult:
        """One more block."""
        result = self.world.run(*(decode_tx(item, self.chain_id) for item in raw))
        self.event_log.tick()
        return result

    async def audit(self, deployment: bytes) -> bytes:
        return await self.audits.export(deployment)

    async def answer(self, method: str, body: bytes) -> bytes:
        raise RequestRefused(f"request.method: {method!r} is not known here")

    async def submit(self, raw: bytes, source: str = "") -> bytes:
        tx = verified(decode_tx(raw, self.chain_id))
        tip = self.store.tip
        check_window(tx.tx, Context(self.chain_id, tip.height + 1, tip.time_ms, tip.hash))
        if self.overloaded:
            raise Overloaded(2.0)
        if self.store.tx(tx.id) is not None:
            raise Refused("tx.duplicate", "final already")
        if self.final:
            self.block(raw)
        return tx.id

    async def submit_many(
        self, raws: Sequence[bytes], source: str = ""
    ) -> list[bytes | Refused | Overloaded]:
        answers: list[bytes | Refused | Overloaded] = []
        for raw in raws:
            try:
                answers.append(await self.submit(raw))
            except (Refused, Overloaded) as error:
                answers.append(error)
        return answers

    def watch_final(self, tx: bytes, told: Callable[[TxOutcome], None]) -> None:
        if self.store.tx(tx) is not None:
            told(self._outcome(tx))
        self.watched.add(tx)

    def unwatch(self, tx: bytes, told: Callable[[TxOutcome], None]) -> None:
        self.watched.discard(tx)

    async def wait_final(self, tx: bytes, timeout_s: float) -> TxOutcome:
        if self.store.tx(tx) is None:
            raise NotFinal(f"not final after {timeout_s:.0f} s")
        return self._outcome(tx)

    def _outcome(self, tx: bytes) -> TxOutcome:
        stored = self.store.tx(tx)
        assert stored is not None
        header = self.store.header(stored.height)
        assert header is not None
        time_ms = decode_header(header).time_ms
        return TxOutcome(stored.height, stored.inclusion.index, time_ms, stored.receipt)

    async def next_block(self, above: int) -> int:
        while self.height <= above:
            await self.event_log.wait()
        return self.height

    def events(self, after: str | None) -> AsyncIterator[NumberedEvent | Gap]:
        return self._events(after)

    async def _events(self, after: str | None) -> AsyncIterator[NumberedEvent | Gap]:
        if self.gap is not None:
            yield self.gap
        async with aclosing(cast(AsyncGenerator[Any, None], self.event_log.follow(after))) as found:
            async for item in found:
                yield item

    def status(self) -> PeerStatus:
        tip = self.store.tip
        return PeerStatus(
            chain_id=self.chain_id,
            moniker="fake",
            roles=("validator",),
            peer_id=self.network.peer_id,
            addresses=self.network.addresses(),
            version="0",
            height=tip.height,
            first_height=self.store.first_height,
            block_time_ms=tip.time_ms,
            block_hash=tip.hash.hex(),
            state_root=tip.root.hex(),
            view=tip.view,
            catching_up=self.behind > 0,
            best_height=tip.height + self.behind,
            last_final_ms=self.last_final_ms,
            neighbours=1,
            validators_connected=1,
            mempool_txs=0,
            mempool_bytes=0,
            started_ms=1,
            alarms=(),
            stale=self.stale,
        )

    def metrics(self) -> Sequence[tuple[str, dict[str, str], float, str]]:
        rows: list[Any] = [("consensus_height", {}, float(self.height), "gauge")]
        rows += [("refused_total", {"rule": rule}, 2.0, "counter") for rule in ("tx.expired", "tx.signature")]
        return rows
