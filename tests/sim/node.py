"""The simulated shell of one validator: production Core, sign state and ledger over a
simulated disk, pool and clock.

It carries a Ready out in the stated order (persist, send, commit). Every step on the way is a named crash
point. Blocks are executed some time after the core committed them, as a real shell may do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.chain import Chain
from consensus.core import Config, Core
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
    decode_message,
    encode_message,
)
from consensus.verify import Rules, check
from ledger import keys
from ledger.blocks import Batch, Header, batch_digest, decode_batch
from ledger.certificate import VOTE_DOMAIN, Certificate, Ed25519Scheme, Statement
from ledger.codec import decode, encode
from ledger.errors import PeerFault, Refused
from ledger.machine import execute, next_due_ms
from ledger.transactions import CheckedTx, decode_tx, verified
from node.accuser import Accuser
from node.safety_store import SafetyStore
from tests.sim.byzantine import LIARS
from tests.sim.disk import Block, Disk, Store
from tests.sim.ranges import Ranges

if TYPE_CHECKING:
    from tests.sim.world import World

CRASH_POINTS: Final = (
    "before_persist",
    "in_persist",
    "after_persist",
    "in_send",
    "after_send",
    "before_exec",
    "after_exec",
)


class CrashNow(Exception):
    """The node reached the crash point that the plan named."""


@dataclass(slots=True)
class Clock:
    """Of one machine: monotonic ms at a rate of its own, and a wall clock that may be off."""

    rate_ppm: int
    mono_ms: int
    wall_ms: int  # at simulated time 0

    def now(self, time_us: int) -> tuple[int, int]:
        passed = time_us * self.rate_ppm // 1_000_000_000
        return self.mono_ms + passed, self.wall_ms + passed

    def when_us(self, mono_ms: int) -> int:
        """Simulated time at which the monotonic clock shows `mono_ms` at the earliest."""
        return -(-(mono_ms - self.mono_ms) * 1_000_000_000 // self.rate_ppm)


class SimNode:
    """One instance of a validator. Twins share `member` (and key), not `id`."""

    def __init__(
        self, world: World, number: int, member: int, key: keys.Key, clock: Clock, store: Store
    ) -> None:
        self.world, self.id, self.member, self.key, self.clock = world, number, member, key, clock
        self.store, self.disk = store, Disk()
        self.safety = SafetyStore(self.disk)
        self.up = False
        self.life = 0  # counts starts: timers of an earlier life are void
        self.doom: str | None = None
        self.paused_until_us = 0
        self.execute_us = 0
        self.core: Core
        self.pool: dict[bytes, bytes] = {}
        self.queue: list[Commit] = []
        self.wake_us: int | None = None
        self.ranges = Ranges(self)

    # ------------------------------------------------------------------ start and crash

    def boot(self) -> None:
        """Start from what is on the disk and in the store."""
        self.up, self.life, self.doom = True, self.life + 1, None
        self.queue, self.wake_us, self.ranges = [], None, Ranges(self)
        self.accuser = Accuser(self.world.chain_id, self.key)
        header, tip_hash = self.store.tip
        final = self.store.blocks[-1].certificate if self.store.blocks else None
        world = self.world
        sign = self.sign
        config = Config(world.chain_id, world.validators, self.member, world.timing, Ed25519Scheme(), sign)
        kind = world.variant.core if world.is_honest(self.member) else LIARS[world.scenario.lie]
        self.core = kind(config, Chain(header, tip_hash), dict(self.store.roots), final)
        promised, kept = self.safety.load(header.view)
        if self.safety.floor > header.view:
            world.report("Promises", f"node {self.id} would vote where it has forgotten its votes")
        self.core.restore(promised)
        self.rules = Rules(world.chain_id, world.validators, Ed25519Scheme(), self.core.knows)
        self.pool = {d: b for d, b in kept.items() if d not in self.store.places}
        for digest, data in self.pool.items():
            self.step(BatchHeld(digest, len(decode_batch(data).txs)))
        self.step(Start())

    def sign(self, domain: str, message: bytes) -> bytes:
        if domain == VOTE_DOMAIN:
            self.world.signed(self, decode(Statement, message))
        return self.key.sign(domain, self.world.chain_id, message)

    def crash(self) -> None:
        """Power off: memory is gone, unsynced writes perhaps."""
        self.up = False
        self.disk.crash(self.world.rng)
        self.pool, self.queue = {}, []

    def point(self, name: str) -> None:
        if self.doom == name:
            raise CrashNow(name)

    # ------------------------------------------------------------------ the core

    def step(self, event: Event) -> None:
        """One event through the core, its Ready carried out."""
        mono_ms, wall_ms = self.clock.now(self.world.now_us)
        coverage, core = self.world.result.coverage, self.core
        frontier = coverage.before(core, event)
        ready = core.step(event, mono_ms, wall_ms)
        coverage.after(core, event, ready, frontier)
        for alarm in ready.alarms:
            self.world.alarm(self, alarm)
        self.carry_out(ready)
        for found in ready.evidence:
            self.accuser.found(found)
        self.accuser.report(self.store.state, self.store.height, self.submit)
        if ready.wake_ms is not None:
            at = max(self.world.now_us + 1_000, self.clock.when_us(ready.wake_ms))
            if self.wake_us is None or at < self.wake_us or self.wake_us <= self.world.now_us:
                self.wake_us = at
                self.world.timer(at, self)

    def carry_out(self, ready: Ready) -> None:
        if ready.records or ready.certificates:
            self.persist(ready)
        self.send(ready)
        for commit in ready.commit:
            self.queue.append(commit)
            self.world.execute_later(self)

    def persist(self, ready: Ready) -> None:
        if ready.records:
            self.point("before_persist")
        self.disk.is_stuck = bool(ready.records) and self.doom == "in_persist"
        self.safety.persist(ready, self.pool.get)
        if ready.records:
            self.point("in_persist")
            self.point("after_persist")

    def send(self, ready: Ready) -> None:
        for number, send in enumerate(ready.send):
            if number:
                self.point("in_send")
            self.world.observe(self, send.message)
            data = encode_message(send.message)
            if self.world.is_honest(self.member):
                self.world.egress.posted(self, send.message, len(data), send.to)
            self.post(send.to, data)
        if ready.send:
            self.point("after_send")

    def post(self, to: int | None, data: bytes) -> None:
        """Bytes to one member, or to all others."""
        members = range(len(self.world.validators.members)) if to is None else (to,)
        for member in members:
            if member != self.member:
                self.world.faults.send(self, member, data)

    def tick(self, life: int) -> None:
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
        found = [self.batch(digest) for digest in commit.header.batches]
        self.apply(commit.header, tuple(b for b in found if b is not None), commit.certificate)
        self.point("after_exec")
        self.executed(commit.header.height)

    def executed(self, height: int) -> None:
        """Tell the core of an executed block, as the engine does."""
        self.step(Executed(height, self.store.roots[height], next_due_ms(self.store.state)))

    def apply(self, header: Header, batch_bytes: tuple[bytes, ...], certificate: Certificate) -> Block:
        txs = self.transactions(batch_bytes)
        block = self.store.commit(header, batch_bytes, certificate, execute(self.store.state, header, txs))
        for digest in header.batches:
            self.pool.pop(digest, None)
        self.world.committed(self, block)
        self.prune(header.view)
        return block

    def transactions(self, batch_bytes: tuple[bytes, ...]) -> list[CheckedTx]:
        return [tx for data in batch_bytes for tx in self.world.decoded(data)]

    def prune(self, view: int) -> None:
        """After the commit is durable, what it settles may go."""
        self.safety.prune(view)

    # ------------------------------------------------------------------ batches

    def hold_batch(self, data: bytes) -> None:
        """A batch from a client or a peer."""
        try:
            digest = batch_digest(data)
        except Refused:
            return
        if digest in self.pool or digest in self.store.places:
            return
        self.pool[digest] = data
        self.step(BatchHeld(digest, len(self.world.decoded(data))))

    def submit(self, raw: bytes) -> bool:
        """An own transaction, handed in as a batch of its own."""
        self.world.at(self.world.now_us, self, self.hand_in, encode(Batch((raw,))))
        return True

    def hand_in(self, data: bytes) -> None:
        """Hold a batch and stream it to all."""
        self.hold_batch(data)
        self.post(None, b"B" + data)

    def batch(self, digest: bytes) -> bytes | None:
        return self.pool.get(digest) or self.store.batch(digest)

    # ------------------------------------------------------------------ network

    def receive(self, sender: int, data: bytes) -> None:
        """Bytes of another validator's stream: a batch, a range message or a consensus message."""
        tag, body = data[:1], data[1:]
        if tag == b"B":
            self.hold_batch(body)
        elif tag == b"R":
            self.ranges.receive(sender, body)
        else:
            try:
                event = check(self.rules, sender, decode_message(str(sender), data))
            except PeerFault as fault:
                self.world.fault(self, sender, fault)
                return
            self.handle(event)

    def handle(self, event: Received) -> None:
        message = event.message
        if isinstance(message, Fetch) and message.kind == "batch":
            held = self.batch(message.digest)
            if held is not None:
                self.post(event.sender, encode_message(Reply("batch", message.digest, held)))
            return
        if isinstance(message, Reply) and message.kind == "batch":
            self.hold_batch(message.data)
            return
        self.world.heard(self, event)
        self.step(event)
        self.ranges.maybe_ask()


def decode_batch_txs(data: bytes, chain_id: str) -> list[CheckedTx]:
    """Decoded and verified transactions of a batch; those that break a rule are left out by all alike."""
    found: list[CheckedTx] = []
    for raw in decode_batch(data).txs:
        try:
            found.append(verified(decode_tx(raw, chain_id)))
        except Refused:
            continue
    return found


__all__ = ["CRASH_POINTS", "Clock", "CrashNow", "Message", "Propose", "SimNode", "decode_batch_txs"]
