"""The simulated shell of one validator: production Core, sign state, mempool and ledger (`node.notary` over
`ledger.storage.store`) on a simulated disk and clock.

It carries a Ready out in the stated order (persist, send, commit), as `node.voting.engine` does. Every step
on the way is a named crash point. Blocks are executed some time after the core committed them, as a real
shell may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.chain import Chain
from consensus.core import Config
from consensus.messages import (
    BatchHeld,
    Commit,
    Event,
    Executed,
    Fetch,
    Message,
    Propose,
    Ready,
    Received,
    Reply,
    Start,
    Tick,
    encode_message,
)
from ledger import keys
from ledger.blocks import Header, decode_batch
from ledger.codec import decode
from ledger.epochs import pending_hash
from ledger.errors import PeerFault, Refused
from ledger.limits import RECENT_ROOTS
from ledger.machine import next_due_ms
from ledger.outcome import Receipt
from ledger.proofs.certificate import VOTE_DOMAIN, Certificate, Statement
from ledger.storage.store import Store
from ledger.storage.stored import Tip
from node.limits import PRUNE_EVERY_VIEWS
from node.notary import Notary
from node.seam import Overloaded
from node.voting.accuser import Accuser
from node.voting.batch_desk import BatchDesk
from node.voting.mempool import HeldBatch, Mempool, open_batch
from node.voting.safety_store import SafetyStore
from tests.sim.disk import Disk
from tests.sim.ranges import Ranges

if TYPE_CHECKING:
    from consensus.core import Core
    from tests.sim.world import World

CRASH_POINTS: Final = (
    "before_persist",
    "in_persist",
    "after_persist",
    "in_send",
    "after_send",
    "before_exec",
    "in_exec",
    "after_exec",
)


WALL_DRIFT_MS_MAX: Final = 400


class CrashNow(Exception):
    """The node reached the crash point that the plan named."""


@dataclass(frozen=True, slots=True)
class Block:
    """A committed block. `certificate` finalizes it or a descendant."""

    header: Header
    hash: bytes
    batches: tuple[bytes, ...]
    certificate: Certificate
    root: bytes
    receipts: tuple[Receipt, ...]


@dataclass(slots=True)
class Clock:
    """Of one machine: monotonic ms at a rate of its own, which never goes back, and a wall clock that drifts
    with it as far as a time service lets it, may be off, and be set."""

    rate_ppm: int
    mono_ms: int
    wall_ms: int  # at simulated time 0

    def now(self, time_us: int) -> tuple[int, int]:
        """Monotonic and Unix ms at a simulated time."""
        passed = time_us * self.rate_ppm // 1_000_000_000
        true = time_us // 1_000
        drift = max(-WALL_DRIFT_MS_MAX, min(WALL_DRIFT_MS_MAX, passed - true))
        return self.mono_ms + passed, self.wall_ms + true + drift

    def when_us(self, mono_ms: int) -> int:
        """Simulated time at which the monotonic clock shows `mono_ms` at the earliest."""
        return -(-(mono_ms - self.mono_ms) * 1_000_000_000 // self.rate_ppm)


class SimNode:
    """One instance of a validator. Twins share `member` (and key), not `id`."""

    ranges_kind: type[Ranges] = Ranges
    core: Core
    notary: Notary
    mempool: Mempool
    accuser: Accuser
    safety: SafetyStore
    desk: BatchDesk

    def __init__(self, world: World, number: int, member: int, key: keys.Key, clock: Clock) -> None:
        self.world, self.id, self.member, self.key, self.clock = world, number, member, key, clock
        self.is_honest = world.is_honest(member)
        self.chain_disk, self.disk = Disk(), Disk()
        self.up = self.is_waiting = False  # waiting: its chain is older than the votes that it forgot
        self.lost_for_good = False  # its sign state is damaged: it must never vote again
        self.life = 0  # counts starts: timers of an earlier life are void
        self.doom: str | None = None  # the crash point at which it will crash
        self.doom_disk = "lost"  # and what becomes of unsynced writes then
        self.paused_until_us = 0
        self.execute_us = 0
        self.queue: list[Commit] = []
        self.wake_us: int | None = None
        self.ranges = self.ranges_kind(self)
        self.open_store()

    @property
    def store(self) -> Store:
        """The chain as it is on this node's disk."""
        return self.notary.store

    @property
    def tip(self) -> Tip:
        """The last committed block."""
        return self.notary.store.tip

    @property
    def height(self) -> int:
        """Of the last committed block."""
        return self.notary.store.tip.height

    @property
    def votes_no_more(self) -> bool:
        """Is its sign state damaged, noticed or not yet? It ends when that is read, so the damage counts from
        the first. What is written over before anybody reads it harms nobody."""
        return self.lost_for_good or bool(self.disk.harmed) or self.disk.refuses

    # ------------------------------------------------------------------ start and crash

    def open_store(self) -> None:
        """Open the chain as a process does. Raises DiskDamaged, or another LocalError."""
        self.chain_disk.open()
        store = Store(self.chain_disk, self.world.chain_id)
        self.notary = Notary.open(self.world.genesis, store, self.world.scheme)
        self.notary.trust.sets[0] = self.world.validators  # a variant may count its quorum wrongly

    def replace_chain(self) -> None:
        """The operator moves a damaged store away."""
        self.chain_disk = Disk()

    def boot(self) -> None:
        """Start from what is on the disk."""
        self.up, self.life, self.doom = True, self.life + 1, None
        self.queue, self.wake_us, self.ranges, self.pruned_view = [], None, self.ranges_kind(self), 0
        self.taken_back = 0  # transactions in batches that an earlier life had voted for
        self.open_store()
        self.disk.open()
        self.safety = SafetyStore(self.disk)
        self.mempool = Mempool(self.world.chain_id)
        self.desk = BatchDesk(self.mempool, self.store, self.batch_fault, lambda: None)
        self.accuser = Accuser(self.world.chain_id, self.key)
        self.core = self.make_core()
        self.is_waiting = self.safety.floor > self.tip.view
        if self.is_waiting:
            self.world.result.faults["chain.older_than_votes"] += 1
            self.ranges.ask_on(self.life)
        else:
            self.begin()

    def make_core(self) -> Core:
        """The core at the store's tip, as `node.voting.voter` makes it."""
        world, store = self.world, self.store
        config = Config(
            world.chain_id, self.notary.validators, self.member, world.timing, world.scheme, self.sign
        )
        stored = store.certificate(self.height)
        final = decode(Certificate, stored) if stored else None
        chain = Chain(self.notary.tip_header(), self.tip.hash)
        return world.core_of(self)(config, chain, self.notary.recent_roots(RECENT_ROOTS), final)

    def begin(self) -> None:
        """Take back what an earlier life promised, and vote."""
        self.is_waiting = False
        promised, kept = self.safety.load(self.notary.validators.epoch, self.tip.view)
        self.core.restore(promised)
        for data in kept.values():
            held = open_batch(data, self.world.chain_id, self.mempool.known.verify)
            if self.store.batch(held.digest) is None:
                self.mempool.hold(held, self.member, wanted=True)
                self.taken_back += held.count
                self.step(BatchHeld(held.digest, held.count, self.member))
        self.step(Start())

    def promises_reached(self) -> None:
        """Range sync went on: votes follow once the chain is where votes were forgotten
        (`node.voting.engine`)."""
        if self.is_waiting and self.tip.view >= self.safety.floor:
            self.begin()

    def sign(self, domain: str, message: bytes) -> bytes:
        """As a validator's signer."""
        if domain == VOTE_DOMAIN:
            self.world.signed(self, decode(Statement, message))
        return self.key.sign(domain, self.world.chain_id, message)

    def crash(self, how: str = "lost") -> None:
        """Power off: memory is gone, unsynced writes perhaps."""
        self.up = False
        for disk in (self.chain_disk, self.disk):
            if happened := disk.crash(self.world.rng, how):
                self.world.result.faults[f"disk.{happened}"] += 1
        self.queue = []

    def stop(self) -> None:
        """A clean stop, as at SIGTERM."""
        self.up = False
        self.store.close()
        self.safety.close()
        self.queue = []

    def point(self, name: str) -> None:
        """A crash point."""
        if self.doom == name:
            raise CrashNow(name)

    # ------------------------------------------------------------------ the core

    def step(self, event: Event) -> None:
        """One event through the core, its Ready carried out."""
        world, core = self.world, self.core
        mono_ms, wall_ms = self.clock.now(world.now_us)
        coverage = world.result.coverage
        frontier = coverage.before(core, event)
        ready = core.step(event, mono_ms, wall_ms)
        coverage.after(core, event, ready, frontier)
        for alarm in ready.alarms:
            world.alarm(self, alarm)
        self.carry_out(ready)
        for found in ready.evidence:
            self.accuser.found(found)
        if self.accuser.cases:
            self.accuser.report(self.store.state, self.height, self.submit)
        if ready.wake_ms is not None:
            at = max(world.now_us + 1_000, self.clock.when_us(ready.wake_ms))
            if self.wake_us is None or at < self.wake_us or self.wake_us <= world.now_us:
                self.wake_us = at
                world.timer(at, self)

    def carry_out(self, ready: Ready) -> None:
        """Persist, send, commit."""
        if ready.records or ready.certificates:
            self.persist(ready)
        if ready.send:
            self.send(ready)
        for commit in ready.commit:
            self.queue.append(commit)
            self.world.execute_later(self)

    def persist(self, ready: Ready) -> None:
        """Votes, synced, with what they need."""
        if ready.records:
            self.point("before_persist")
        self.disk.is_stuck = bool(ready.records) and self.doom == "in_persist"
        self.safety.persist(ready, self.desk.bytes_of)
        if ready.records:
            self.point("in_persist")
            self.point("after_persist")

    def send(self, ready: Ready) -> None:
        """What the core says, to whom it says."""
        for number, send in enumerate(ready.send):
            if number:
                self.point("in_send")
            message = send.message
            self.world.observe(self, message)
            if isinstance(message, Fetch) and message.kind == "batch":
                self.desk.asked(message.digest)
            data = encode_message(message)
            if self.is_honest:
                self.world.egress.posted(self, message, len(data), send.to)
            self.post(None if send.to is None else self.member_at(send.to), data)
        self.point("after_send")

    def member_at(self, place: int) -> int:
        """Which member has a place in the core's set. Where the set never changes, they are the same."""
        return place

    def post(self, to: int | None, data: bytes) -> None:
        """Bytes to one member, or to all others."""
        self.world.faults.send(self, to, data)

    def tick(self, life: int) -> None:
        """The core's timer."""
        if life != self.life or self.wake_us is None or self.wake_us > self.world.now_us:
            return  # of an earlier life, or an earlier wake came instead
        self.wake_us = None
        self.step(Tick())
        self.ranges.maybe_ask()

    # ------------------------------------------------------------------ execution

    def execute_next(self, life: int) -> None:
        """Execute and commit the oldest block that the core handed over."""
        if life != self.life or not self.queue:
            return
        commit = self.queue.pop(0)
        self.point("before_exec")
        found = [self.desk.bytes_of(digest) for digest in commit.header.batches]
        self.chain_disk.is_stuck = self.doom == "in_exec"
        held = tuple(b for b in found if b is not None)
        self.apply(commit.header, held, commit.certificate, commit.path)
        self.point("after_exec")
        self.executed(commit.header.height)

    def executed(self, height: int) -> None:
        """Tell the core of an executed block, as the engine does."""
        root = self.store.root(height)
        if root is not None:
            state = self.store.state
            self.step(Executed(height, root, next_due_ms(state), pending_hash(state)))

    def apply(
        self,
        header: Header,
        batches: tuple[bytes, ...],
        certificate: Certificate,
        path: tuple[bytes, ...] = (),
    ) -> None:
        """Execute and store a final block."""
        done = self.notary.commit(header, certificate, batches, self.mempool.known.txs, path)
        self.point("in_exec")
        receipts = done.result.receipts
        self.mempool.committed(header, tuple(receipt.id for receipt in receipts))
        self.world.committed(self, Block(header, done.hash, batches, certificate, done.root, receipts))
        self.prune(header.view)

    def prune(self, view: int) -> None:
        """After the commit is durable, what it settles may go; now and then, as in `node.voting.engine`."""
        if view >= self.pruned_view + PRUNE_EVERY_VIEWS:
            self.pruned_view = view
            self.safety.prune(view)

    # ------------------------------------------------------------------ transactions and batches

    def take(self, raw: bytes, source: str = "clients") -> str:
        """A transaction that `source` hands in, as the API takes it. Returns "" or why it was not taken."""
        try:
            tx = self.mempool.check(raw, self.notary.next_context, self.store.state.get, source)
            is_first = not self.mempool.pending
            self.mempool.add(tx, self.clock.now(self.world.now_us)[0], source)
        except Refused as error:
            return error.rule
        except Overloaded:
            return "overloaded"
        due_ms = self.mempool.seal_due_ms()
        if is_first and due_ms is not None:
            self.world.at(self.clock.when_us(due_ms), self, self.seal, self.life)
        return ""

    def submit(self, raw: bytes) -> bool:
        """An own transaction."""
        return not self.take(raw)

    def hand_in(self, data: bytes) -> None:
        """Transactions handed in together."""
        for raw in decode_batch(data).txs:
            self.take(raw)

    def seal(self, life: int) -> None:
        """Bundle what waits, hold it and stream it to all."""
        if life != self.life:
            return
        while (batch := self.mempool.seal(self.member)) is not None:
            self.push(batch)
            self.step(BatchHeld(batch.digest, batch.count, self.member))

    def push(self, batch: HeldBatch) -> None:
        """Stream a batch to all validators."""
        self.post(None, b"B" + batch.data)

    def batch_fault(self, sender: int, error: Refused) -> None:
        """A batch broke a rule."""
        self.world.fault(self, sender, PeerFault(str(sender), error.rule, error.detail))

    def hold_batch(self, sender: int, data: bytes) -> None:
        """A batch from a peer, judged as `node.voting.batch_desk` judges it, and held as `node.voting.engine`
        holds it."""
        try:
            batch = self.world.opened(data)
        except Refused as error:
            self.batch_fault(sender, error)
            return
        if batch.digest in self.mempool.batches or self.store.batch(batch.digest) is not None:
            return
        wanted = batch.digest in self.core.wants.wants
        if batch.is_spoiled and not wanted:
            self.batch_fault(sender, Refused("batch.entries", "not signed transactions"))
            return
        if self.mempool.hold(batch, sender, wanted=wanted):
            self.step(BatchHeld(batch.digest, batch.count, sender))

    # ------------------------------------------------------------------ network

    def receive(self, sender: int, data: bytes) -> None:
        """Bytes of another validator's stream: a batch, a range message or a consensus message."""
        tag = data[:1]
        if tag == b"R":
            self.ranges.receive(sender, data[1:])
        elif self.is_waiting:
            return  # what a core may not hear yet; it asks again when it may
        elif tag == b"B":
            self.hold_batch(sender, data[1:])
        else:
            try:
                event = self.world.checked(self, sender, data)
            except PeerFault as fault:
                self.world.fault(self, sender, fault)
                return
            self.handle(event)

    def handle(self, event: Received) -> None:
        """A checked message."""
        message = event.message
        if isinstance(message, Fetch) and message.kind == "batch":
            mono_ms, _ = self.clock.now(self.world.now_us)
            held = self.desk.answer(event.sender, message.digest, mono_ms)
            if held is not None:
                self.post(self.member_at(event.sender), b"B" + held)
            return
        if isinstance(message, Reply) and message.kind == "batch":
            return  # batches come by themselves
        self.world.heard(self, event)
        self.step(event)
        self.ranges.maybe_ask()


__all__ = ["CRASH_POINTS", "Block", "Clock", "CrashNow", "Message", "Propose", "SimNode"]
