"""One peer, assembled: network, notary, engine or follower, outbox, events, and what sits on it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import structlog
import trio

from ledger.blocks import Header
from ledger.certificate import Certificate, Ed25519Scheme, ValidatorSet
from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.genesis import Genesis
from ledger.keys import Key
from ledger.state import Reader
from ledger.store import Store
from node.clock import now_ms, wall_ms
from node.engine import Engine
from node.event_log import EventLog
from node.follower import Follower
from node.handlers import PeerHandlers
from node.limits import (
    ANNOUNCE_EVERY_S,
    OVERLOAD_RETRY_S,
    TIP_EVERY_S,
    TIP_VALIDATORS_EVERY_S,
    WAITERS_MAX,
)
from node.mempool import Mempool
from node.notary import Committed, Notary
from node.outbox import Outbox
from node.safety_store import SafetyStore
from node.seam import Gap, NotFinal, NumberedEvent, Overloaded, PeerStatus, TxOutcome
from node.wire import Announcement, TipNote, topic
from p2p.network import Lane, Network, Started

log = structlog.get_logger("peer")

Metric = tuple[str, dict[str, str], float, str]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a peer is. `validator_key` is None for one that does not vote."""

    moniker: str
    roles: tuple[str, ...]
    node_key: Key
    validator_key: Key | None


@dataclass(slots=True)
class Peer:
    """See node.seam.PeerSeam. Made by `Peer.assemble`, lives in `run`."""

    home: Path
    genesis: Genesis
    identity: Identity
    store: Store
    network: Network
    notary: Notary
    mempool: Mempool
    engine: Engine | None
    follower: Follower
    handlers: PeerHandlers
    outbox: Outbox
    event_log: EventLog
    started_ms: int = field(default_factory=wall_ms)
    last_final_ms: int = 0
    sources: list[Callable[[], Sequence[Metric]]] = field(default_factory=list)  # of what sits here
    refused_final: dict[str, int] = field(default_factory=dict)  # rule -> final transactions that broke it
    _waiters: dict[bytes, list[trio.Event]] = field(default_factory=dict)
    _waiting: int = 0  # in all of them
    _validators_told_ms: int = 0
    _tip_bell: trio.Event = field(default_factory=trio.Event)

    @classmethod
    def assemble(
        cls,
        home: Path,
        genesis: Genesis,
        identity: Identity,
        store: Store,
        safety: SafetyStore | None,
        network: Network,
    ) -> Peer:
        """Parts to a peer; nothing runs yet. `safety` is given exactly when the peer votes."""
        notary = Notary.open(genesis, store, Ed25519Scheme())
        mempool = Mempool(genesis.chain_id)
        engine = _engine(notary, mempool, safety, network, identity.validator_key)
        event_log = EventLog(store)

        def synced(header: Header, certificate: Certificate) -> None:
            if engine is not None:
                engine.synced(header, certificate)

        follower = Follower(notary, network, engine is not None, synced, mempool.known.txs)
        handlers = PeerHandlers(
            peer_id=network.peer_id,
            moniker=identity.moniker,
            roles=identity.roles,
            notary=notary,
            mempool=mempool,
            follower=follower,
            engine=engine,
            validator_key=identity.validator_key if engine is not None else None,
            now_ms=now_ms,
        )
        outbox = Outbox(
            network=network,
            validators=lambda: sorted(handlers.members),
            publish=lambda kind, raw: network.publish(topic(genesis.chain_id, kind), raw),
            height=lambda: store.tip.height,
            faulty_max=lambda: (len(notary.validators.members) - 1) // 3,
        )
        peer = cls(
            home,
            genesis,
            identity,
            store,
            network,
            notary,
            mempool,
            engine,
            follower,
            handlers,
            outbox,
            event_log,
        )
        notary.on_commit.append(peer._committed)
        return peer

    # ------------------------------------------------------------------ life

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. `started` gives the listen addresses."""
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(self._run_network)
            if self.engine is not None:
                nursery.start_soon(self.engine.run)
            nursery.start_soon(self.follower.run)
            nursery.start_soon(self.outbox.run)
            nursery.start_soon(self._tell_tips)
            nursery.start_soon(self._announce)
            task_status.started(addresses)

    async def _run_network(self, *, task_status: Started) -> None:
        await self.network.run(self.handlers, task_status=task_status)

    def _committed(self, done: Committed) -> None:
        ids = tuple(receipt.id for receipt in done.result.receipts)
        for receipt in done.result.receipts:
            if not receipt.ok:
                self.refused_final[receipt.rule] = self.refused_final.get(receipt.rule, 0) + 1
        self.mempool.committed(done.header, ids)
        self.outbox.final(ids)
        self.follower.committed()
        self.last_final_ms = wall_ms()
        for id_ in ids:
            for waiter in self._waiters.pop(id_, ()):
                waiter.set()
        self.event_log.tick()
        self._tip_bell.set()

    async def _tell_tips(self) -> None:
        """Tell all neighbours of new final blocks, coalesced."""
        while True:
            await self._tip_bell.wait()
            self._tip_bell = trio.Event()
            tip = self.store.tip
            note = encode(TipNote(tip.height, tip.time_ms))
            to_validators = self._tells_validators()
            for neighbour in self.network.neighbours():
                peer_id = neighbour.peer_id
                if self.follower.holds(peer_id, tip.height):
                    continue
                if to_validators or peer_id not in self.handlers.members:
                    self.network.send(peer_id, Lane.BULK, note)
            await trio.sleep(TIP_EVERY_S)

    def _tells_validators(self) -> bool:
        """Validators hear of blocks by consensus, so they tell each other of tips only now and then."""
        if self.engine is not None and now_ms() - self._validators_told_ms < TIP_VALIDATORS_EVERY_S * 1000:
            return False
        self._validators_told_ms = now_ms()
        return True

    async def _announce(self) -> None:
        """Gossip the newest certified block for strangers; validators only, in turns of height."""
        while True:
            await trio.sleep(ANNOUNCE_EVERY_S)
            height = self.store.tip.height
            certificate, header = self.store.certificate(height), self.store.header(height)
            if self.engine is None or certificate is None or header is None:
                continue
            if decode(Header, header).proposer == self.engine.key.public:
                payload = encode(Announcement(header, certificate))
                self.network.publish(topic(self.chain_id, "blocks"), payload)

    # ------------------------------------------------------------------ the seam

    @property
    def node_key(self) -> Key:
        """The node key."""
        return self.identity.node_key

    @property
    def chain_id(self) -> str:
        """Name of the chain."""
        return self.genesis.chain_id

    @property
    def validators(self) -> ValidatorSet:
        """The current voters."""
        return self.notary.validators

    @property
    def state(self) -> Reader:
        """Committed state."""
        return self.store.state

    @property
    def height(self) -> int:
        """Last committed height."""
        return self.store.tip.height

    @property
    def time_ms(self) -> int:
        """Block time of `height`."""
        return self.store.tip.time_ms

    async def submit(self, raw: bytes) -> bytes:
        """See PeerSeam.submit."""
        try:
            tx = self.handlers.accept(raw)
        except Refused as error:
            self.handlers.count(error.rule)
            raise
        if self.engine is not None:
            await trio.lowlevel.checkpoint()
        else:
            await self.outbox.submit(tx)
        return tx.id

    async def wait_final(self, tx: bytes, timeout_s: float) -> TxOutcome:
        """See PeerSeam.wait_final."""
        if (found := self._outcome(tx)) is not None:
            return found
        if self._waiting >= WAITERS_MAX:
            raise Overloaded(OVERLOAD_RETRY_S)
        waiter = trio.Event()
        self._waiters.setdefault(tx, []).append(waiter)
        self._waiting += 1
        try:
            with trio.move_on_after(timeout_s):
                await waiter.wait()
        finally:
            self._waiting -= 1
            waiting = self._waiters.get(tx)
            if waiting is not None and waiter in waiting:
                waiting.remove(waiter)
                if not waiting:
                    del self._waiters[tx]
        if (found := self._outcome(tx)) is not None:
            return found
        raise NotFinal(f"not final after {timeout_s:.0f} s")

    def _outcome(self, tx: bytes) -> TxOutcome | None:
        stored = self.store.tx(tx)
        if stored is None:
            return None
        header = self.store.header(stored.height)
        time_ms = decode(Header, header).time_ms if header else 0
        return TxOutcome(stored.height, stored.inclusion.index, time_ms, stored.receipt)

    async def next_block(self, above: int) -> int:
        """See PeerSeam.next_block."""
        while self.store.tip.height <= above:
            await self.event_log.wait()
        return self.store.tip.height

    def events(self, after: str | None) -> AsyncIterator[NumberedEvent | Gap]:
        """See PeerSeam.events."""
        return self.event_log.follow(after)

    def status(self) -> PeerStatus:
        """See PeerSeam.status."""
        tip = self.store.tip
        best = self.follower.best_height
        engine = self.engine
        return PeerStatus(
            chain_id=self.chain_id,
            moniker=self.identity.moniker,
            roles=self.identity.roles,
            peer_id=self.network.peer_id,
            addresses=self.network.addresses(),
            version=version("gridpact"),
            height=tip.height,
            block_time_ms=tip.time_ms,
            block_hash=tip.hash.hex(),
            state_root=tip.root.hex(),
            view=engine.core.frontier if engine else 0,
            catching_up=best > tip.height + 2,
            best_height=best,
            last_final_ms=self.last_final_ms,
            neighbours=len(self.network.neighbours()),
            validators_connected=len(self.handlers.members),
            mempool_txs=self.mempool.tx_count if engine else len(self.outbox.entries),
            mempool_bytes=self.mempool.size_bytes,
            started_ms=self.started_ms,
            alarms=self._alarms(),
        )

    def _alarms(self) -> tuple[str, ...]:
        ours = ("state_root_differs",) if self.notary.wrong_roots else ()
        return (*ours, *self.engine.counters.alarms) if self.engine else ours

    def metrics(self) -> Sequence[Metric]:
        """See PeerSeam.metrics. Names follow cometbft where there is one."""
        tip = self.store.tip
        rows: list[Metric] = [
            ("consensus_height", {}, tip.height, "gauge"),
            ("consensus_latest_block_age_seconds", {}, max(0.0, time.time() - tip.time_ms / 1000), "gauge"),
            ("consensus_validators", {}, len(self.validators.members), "gauge"),
            ("p2p_peers", {}, len(self.network.neighbours()), "gauge"),
            ("mempool_txs", {}, self.mempool.tx_count, "gauge"),
            ("mempool_size_bytes", {}, self.mempool.size_bytes, "gauge"),
            ("sync_blocks_fetched_total", {}, self.follower.fetched_blocks, "counter"),
            ("sync_lies_total", {}, self.follower.lies, "counter"),
            ("state_root_differs_total", {}, self.notary.wrong_roots, "counter"),
            ("outbox_txs", {}, len(self.outbox.entries), "gauge"),
        ]
        rows += [("p2p_events_total", {"kind": k}, v, "counter") for k, v in self.network.stats().items()]
        rows += [("refused_total", {"rule": k}, v, "counter") for k, v in self.handlers.refused.items()]
        rows += [("ledger_refused_total", {"rule": k}, v, "counter") for k, v in self.refused_final.items()]
        rows += [row for source in self.sources for row in source()]
        if self.engine is not None:
            counters = self.engine.counters
            rows.append(("consensus_view", {}, self.engine.core.frontier, "gauge"))
            rows.append(("consensus_steps_total", {}, counters.steps, "counter"))
            rows.append(("consensus_dropped_total", {}, counters.dropped, "counter"))
            rows.append(("consensus_messages_sent_total", {}, counters.sent, "counter"))
            rows.append(("consensus_messages_received_total", {}, counters.received, "counter"))
            rows += [
                ("consensus_faults_total", {"rule": k}, v, "counter") for k, v in counters.faults.items()
            ]
            rows += [
                ("consensus_alarms_total", {"rule": k}, v, "counter") for k, v in counters.alarms.items()
            ]
        return rows


def _engine(
    notary: Notary, mempool: Mempool, safety: SafetyStore | None, network: Network, key: Key | None
) -> Engine | None:
    """The engine of a peer whose key is in the validator set; None for the others."""
    if key is None or safety is None:
        return None
    me = notary.validators.index(key.public)
    if me is None:
        log.warning("not_in_validator_set", key=key.public.hex())
        return None
    return Engine(notary, mempool, safety, network, key, me)


__all__ = ["Identity", "Peer"]
