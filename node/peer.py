"""One peer, assembled: network, notary, engine or follower, outbox, events, and what sits on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from ledger.blocks import Header
from ledger.codec import decode
from ledger.errors import Refused
from ledger.genesis import Genesis
from ledger.keys import Key
from ledger.proofs.certificate import Certificate, Ed25519Scheme, ValidatorSet
from ledger.state import Reader
from ledger.storage.store import Store
from ledger.transactions import VerifiedTx
from node.audits import Audits
from node.clock import now_ms, wall_ms
from node.errors import StateDiffers, TwoChains
from node.event_log import EventLog
from node.handlers import PeerHandlers
from node.limits import OUTBOX_RESENDS_AT_ONCE
from node.notary import Committed, Notary
from node.outbox import RARE_KINDS, Outbox, topic_kind
from node.peer_view import Metric, metrics_of, status_of
from node.seam import Gap, NotFinal, NumberedEvent, Overloaded, PeerStatus, TxOutcome
from node.sync.follower import Follower
from node.sync.repair import Repair
from node.sync.snapshots import Snapshots
from node.sync.state_sync import StateSync
from node.sync.teller import Teller
from node.voting.engine import Engine
from node.voting.mempool import OURS, Mempool
from node.voting.mesh import METHOD, Mesh
from node.voting.other_epochs import OtherEpochs
from node.voting.pace import Pace
from node.voting.safety_store import SafetyStore
from node.voting.seat import Seat
from node.waiters import Waiters
from node.wire import topic
from p2p.network import Network, Started

log = structlog.get_logger("peer")


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
    seat: Seat
    follower: Follower
    handlers: PeerHandlers
    outbox: Outbox
    event_log: EventLog
    teller: Teller
    started_ms: int = field(default_factory=wall_ms)
    last_final_ms: int = 0
    sources: list[Callable[[], Sequence[Metric]]] = field(default_factory=list)  # of what sits here
    refused_final: dict[str, int] = field(default_factory=dict)  # rule -> final transactions that broke it
    waiters: Waiters = field(default_factory=Waiters)
    _turned: trio.Event = field(default_factory=trio.Event)
    _voting: trio.CancelScope | None = None
    snapshots: Snapshots = field(init=False)
    state_sync: StateSync = field(init=False)
    repair: Repair = field(init=False)
    mesh: Mesh = field(init=False)
    audits: Audits = field(init=False)

    def __post_init__(self) -> None:
        self.snapshots = Snapshots(self.store, on_damaged=self._damaged)
        self.state_sync = StateSync(
            self.notary, self.network, self.follower, self.snapshots, self._other_state
        )
        self.audits = Audits(self.store, self.state_sync.audit_use)
        self.follower.is_deferred = self.state_sync.is_due
        self.repair = Repair(self.notary, self.state_sync)
        voter = self.seat.key.public if self.seat.key is not None else b""
        self.mesh = Mesh(self.notary, self.network, voter, self.handlers.hellos)
        self.handlers.on_proved = self.mesh.proved
        self.handlers.methods.update(self.snapshots.methods() | {METHOD: self.mesh.answer})
        self.notary.on_commit += [self._committed, self.snapshots.committed]
        self.sources += [self.snapshots.metrics, self.state_sync.metrics]

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
        mempool = Mempool(genesis.chain_id, Pace(now_ms))
        key = identity.validator_key if safety is not None else None
        event_log = EventLog(store)

        def synced(header: Header, certificate: Certificate) -> None:
            if seat.engine is not None:
                seat.engine.synced(header, certificate)

        def told(peer_id: str, height: int) -> None:
            if not follower.holds(peer_id, height):  # a hint is never less than what it told itself
                follower.told(peer_id, height)

        voter = key.public if key is not None else b""
        others = OtherEpochs(notary, network, voter, told, now_ms)
        seat = Seat(notary, mempool, network, key, safety, others.heard)
        engine = seat.engine
        follower = Follower(notary, network, engine is not None, synced, mempool.known.txs)
        handlers = PeerHandlers(
            peer_id=network.peer_id,
            moniker=identity.moniker,
            roles=identity.roles,
            notary=notary,
            mempool=mempool,
            follower=follower,
            engine=engine,
            other_epochs=others,
            validator_key=key,
            now_ms=now_ms,
        )
        outbox = Outbox(
            network=network,
            validators=lambda: sorted(handlers.members),
            publish=lambda kind, raw: network.publish(topic(genesis.chain_id, kind), raw),
            height=lambda: store.tip.height,
            faulty_max=lambda: (len(notary.validators.members) - 1) // 3,
        )
        return cls(
            home,
            genesis,
            identity,
            store,
            network,
            notary,
            mempool,
            seat,
            follower,
            handlers,
            outbox,
            event_log,
            Teller(network, store, genesis.chain_id, follower, handlers, engine),
        )

    # ------------------------------------------------------------------ life

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. `started` gives the listen addresses."""
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(self._run_network)
            if self.seat.key is not None:
                nursery.start_soon(self._vote)
            nursery.start_soon(self.follower.run)
            nursery.start_soon(self.outbox.run)
            nursery.start_soon(self.teller.run)
            for part in (self.snapshots, self.state_sync, self.repair, self.mesh):
                nursery.start_soon(part.run)
            task_status.started(addresses)

    async def _run_network(self, *, task_status: Started) -> None:
        await self.network.run(self.handlers, task_status=task_status)

    async def _vote(self) -> None:
        """An engine for each epoch in which our key has a seat, while our state is to be trusted. Until
        cancelled."""
        while True:
            if self.engine is None:
                await self._turned.wait()
                self._turned = trio.Event()
                continue
            with trio.CancelScope() as self._voting:
                try:
                    await self.engine.run()
                except* StateDiffers:
                    self.seat.stopped = True
                except* TwoChains:
                    self.follower.off_chain = self.seat.stopped = True
            self._voting = None
            self._turn()

    def _damaged(self, height: int) -> None:
        """What we hold is not what a quorum signed."""
        self.notary.wrong_roots += 1
        self.notary.differs = height

    def _other_state(self) -> None:
        """Another state took the place of ours: all that follows the chain begins anew there."""
        self.seat.stopped = self.follower.off_chain
        if self.engine is not None:
            self.engine.halt()
        if self._voting is not None:
            self._voting.cancel()  # `_vote` goes on with another engine
        else:
            self._turn()
        self.event_log.tick()
        self.teller.committed()

    def _turn(self) -> None:
        """[12] The next epoch has begun, or voting ends or begins again."""
        self.seat.turn()
        self.mesh.look()
        self.handlers.turn(self.engine)
        self.teller.engine = self.engine
        self.follower.patient = self.engine is not None
        if self.engine is None:  # what was accepted here is still ours to bring in
            for tx in self.mempool.hand_over():
                self.outbox.adopt(tx)
        self._turned.set()

    def _committed(self, done: Committed) -> None:
        ids = tuple(receipt.id for receipt in done.result.receipts)
        for receipt in done.result.receipts:
            if not receipt.ok:
                self.refused_final[receipt.rule] = self.refused_final.get(receipt.rule, 0) + 1
        self.mempool.committed(done.header, ids)
        self.outbox.final(ids)
        self.follower.committed()
        self.last_final_ms = wall_ms()
        self.waiters.committed(done)
        self.event_log.tick()
        self.teller.committed()
        if self.engine is None and self.seat.has_turned:
            self._turn()  # a running engine comes to its own end first

    # ------------------------------------------------------------------ the seam

    @property
    def engine(self) -> Engine | None:
        """Of the epoch, while our validator key has a seat."""
        return self.seat.engine

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

    async def answer(self, method: str, body: bytes) -> bytes:
        """See PeerSeam.answer."""
        return await self.handlers.serve(self.network.peer_id, method, body)

    async def submit(self, raw: bytes, source: str = OURS) -> bytes:
        """See PeerSeam.submit."""
        try:
            tx = self.handlers.accept(raw, source)
        except Refused as error:
            self.handlers.count(error.rule)
            raise
        if self.engine is None:
            await self.outbox.submit(tx, source)
        else:
            await trio.lowlevel.checkpoint()
            if (kind := topic_kind(tx)) in RARE_KINDS:  # batches bring it to validators, this to strangers
                self.outbox.publish(kind, raw)
        return tx.id

    async def submit_many(
        self, raws: Sequence[bytes], source: str = OURS
    ) -> list[bytes | Refused | Overloaded]:
        """See PeerSeam.submit_many."""
        if self.engine is not None:
            taken = await self.handlers.accept_many(raws, source)
            for one in taken:
                if isinstance(one, VerifiedTx) and (kind := topic_kind(one)) in RARE_KINDS:
                    self.outbox.publish(kind, one.raw)
            return [one.id if isinstance(one, VerifiedTx) else one for one in taken]
        answers: list[bytes | Refused | Overloaded] = [b""] * len(raws)

        async def one_by_one(place: int, raw: bytes) -> None:
            async with room:
                try:
                    answers[place] = await self.submit(raw, source)
                except (Refused, Overloaded) as error:
                    answers[place] = error

        room = trio.CapacityLimiter(OUTBOX_RESENDS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for place, raw in enumerate(raws):
                nursery.start_soon(one_by_one, place, raw)
        return answers

    async def wait_final(self, tx: bytes, timeout_s: float) -> TxOutcome:
        """See PeerSeam.wait_final."""
        if (found := self._outcome(tx)) is not None:
            return found
        is_final = trio.Event()
        outcomes: list[TxOutcome] = []

        def told(outcome: TxOutcome) -> None:
            outcomes.append(outcome)
            is_final.set()

        self.waiters.add(tx, told)
        try:
            with trio.move_on_after(timeout_s):
                await is_final.wait()
        finally:
            self.waiters.remove(tx, told)
        if outcomes:
            return outcomes[0]
        if (found := self._outcome(tx)) is not None:  # it came with a whole state, not by a block
            return found
        raise NotFinal(f"not final after {timeout_s:.0f} s")

    def watch_final(self, tx: bytes, told: Callable[[TxOutcome], None]) -> None:
        """See PeerSeam.watch_final."""
        if (found := self._outcome(tx)) is not None:
            told(found)
        else:
            self.waiters.add(tx, told)

    def unwatch(self, tx: bytes, told: Callable[[TxOutcome], None]) -> None:
        """See PeerSeam.unwatch."""
        self.waiters.remove(tx, told)

    def _outcome(self, tx: bytes) -> TxOutcome | None:
        stored = self.store.tx(tx)
        if stored is None:
            return None
        header = self.store.header(stored.height)
        time_ms = decode(Header, header).time_ms if header else 0
        return TxOutcome(stored.height, stored.inclusion.index, time_ms, stored.receipt)

    async def audit(self, deployment: bytes) -> bytes:
        """See PeerSeam.audit."""
        return await self.audits.export(deployment)

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
        return status_of(self)

    def metrics(self) -> Sequence[Metric]:
        """See PeerSeam.metrics."""
        return metrics_of(self)


__all__ = ["Identity", "Peer"]
