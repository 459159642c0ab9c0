"""Drives the consensus core of a validator: messages in, Ready carried out in its order.

One task owns core, mempool and notary. Network handlers only queue; what the queue cannot take is
dropped and counted, and the protocol recovers from loss.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import structlog
import trio

from consensus.chain import Chain
from consensus.core import Config, Core
from consensus.messages import (
    BatchHeld,
    Event,
    Executed,
    Fetch,
    Joined,
    Ready,
    Reply,
    Send,
    Start,
    Synced,
    Tick,
    decode_message,
    encode_message,
)
from consensus.timers import Timing
from consensus.verify import Rules, check
from ledger.blocks import Header, batch_digest
from ledger.certificate import Certificate
from ledger.codec import decode, encode
from ledger.errors import LocalError, PeerFault, Refused
from ledger.genesis import ConsensusParameters
from ledger.keys import Key
from ledger.limits import RECENT_ROOTS
from node.limits import ENGINE_DRAIN_MAX, ENGINE_INBOX_MAX, FAULT_POINTS, VERIFY_THREAD_TXS
from node.mempool import HeldBatch, Mempool, open_batch
from node.notary import Notary
from node.safety_store import SafetyStore
from node.wire import BatchPush
from p2p.network import Lane, Network

log = structlog.get_logger("engine")


def timing_of(parameters: ConsensusParameters) -> Timing:
    """The core's timers from the genesis parameters (growth there is per cent above 100)."""
    return Timing(
        view_timeout_ms=parameters.view_timeout_ms,
        alpha_percent=100 + parameters.alpha_percent,
        timeout_max_ms=parameters.view_timeout_max_ms,
        idle_ms=parameters.idle_ms,
        standstill_ms=parameters.idle_ms + parameters.view_timeout_ms,
    )


@dataclass(slots=True)
class Counters:
    """For metrics."""

    steps: int = 0
    dropped: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    alarms: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class Engine:
    """See the module. `members` maps peer ids of connected validators to their index and back."""

    notary: Notary
    mempool: Mempool
    safety: SafetyStore
    network: Network
    key: Key
    me: int
    core: Core = field(init=False)
    counters: Counters = field(default_factory=Counters)
    peers: dict[int, str] = field(default_factory=dict)  # member index -> peer id
    _inbox: deque[tuple[int, bytes | HeldBatch]] = field(default_factory=deque)
    _bell: trio.Event = field(default_factory=trio.Event)
    _opening: int = 0
    _nursery: trio.Nursery | None = None
    _synced: deque[tuple[Header, Certificate]] = field(default_factory=deque)
    _joined: deque[int] = field(default_factory=deque)

    def __post_init__(self) -> None:
        notary = self.notary
        chain_id = notary.genesis.chain_id
        config = Config(
            chain_id=chain_id,
            validators=notary.validators,
            me=self.me,
            timing=timing_of(notary.genesis.consensus),
            scheme=notary.scheme,
            sign=lambda domain, message: self.key.sign(domain, chain_id, message),
        )
        tip = notary.store.tip
        stored = notary.store.certificate(tip.height)
        final = decode(Certificate, stored) if stored else None
        chain = Chain(notary.tip_header(), tip.hash)
        self.core = Core(config, chain, notary.recent_roots(RECENT_ROOTS), final)

    # ------------------------------------------------------------------ called by others

    def deliver(self, member: int, payload: bytes) -> None:
        """Queue a consensus message of a validator."""
        if len(self._inbox) >= ENGINE_INBOX_MAX:
            self.counters.dropped += 1
            return
        self._inbox.append((member, payload))
        self._bell.set()

    def deliver_batch(self, member: int, data: bytes) -> None:
        """Check a pushed batch off the loop, then queue it. At the bound it is dropped: Fetch repairs."""
        if self._nursery is None or self._opening >= ENGINE_INBOX_MAX // 64:
            self.counters.dropped += 1
            return
        self._opening += 1
        self._nursery.start_soon(self._open_batch, member, data)

    def wake(self) -> None:
        """Something was added to the mempool."""
        self._bell.set()

    def synced(self, header: Header, certificate: Certificate) -> None:
        """Range sync committed a block."""
        self._synced.append((header, certificate))
        self._bell.set()

    def connected(self, member: int, peer_id: str) -> None:
        """A validator's stream is up: tell it where we stand, so that both catch up."""
        self.peers[member] = peer_id
        self._joined.append(member)
        self._bell.set()

    def disconnected(self, peer_id: str) -> None:
        """A neighbour is gone."""
        self.peers = {m: p for m, p in self.peers.items() if p != peer_id}

    # ------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Until cancelled. Raises LocalError when our own state is wrong."""
        self._restore()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            wake_ms = self._step(Start())
            while True:
                await self._wait(wake_ms)
                self._bell = trio.Event()
                wake_ms = self._drain()
                if self._inbox:
                    self._bell.set()
                await trio.lowlevel.checkpoint()

    def _restore(self) -> None:
        state, batches = self.safety.load(self.notary.store.tip.view)
        self.core.restore(state)
        for digest, data in batches.items():
            held = open_batch(data, self.mempool.chain_id, self.mempool.verified)
            self.mempool.hold(held, self.me, wanted=True)
            self._step(BatchHeld(digest, held.count))

    async def _wait(self, wake_ms: int | None) -> None:
        due = [ms for ms in (wake_ms, self.mempool.seal_due_ms()) if ms is not None]
        timeout_s = max(0.0, (min(due) - now_ms()) / 1000) if due else 3600.0
        with trio.move_on_after(timeout_s):
            await self._bell.wait()

    def _drain(self) -> int | None:
        """Handle what is queued, then time. Returns when to wake next."""
        while self._synced:
            header, certificate = self._synced.popleft()
            self._step(Synced(header, certificate))
            self._step(Executed(header.height, self.notary.store.root(header.height) or b""))
        while self._joined:
            self._step(Joined(self._joined.popleft()))
        for _ in range(min(len(self._inbox), ENGINE_DRAIN_MAX)):
            member, payload = self._inbox.popleft()
            if isinstance(payload, HeldBatch):
                self._hold(member, payload)
            else:
                self._message(member, payload)
        due = self.mempool.seal_due_ms()
        while due is not None and now_ms() >= due:
            self._seal()
            due = self.mempool.seal_due_ms()
        return self._step(Tick())

    def _message(self, member: int, payload: bytes) -> None:
        peer = self.peers.get(member, "")
        self.counters.received += 1
        try:
            rules = Rules(self.mempool.chain_id, self.notary.validators, self.notary.scheme, self.core.knows)
            event = check(rules, member, decode_message(peer, payload))
        except PeerFault as fault:
            self.counters.faults[fault.rule] = self.counters.faults.get(fault.rule, 0) + 1
            log.warning("peer_fault", peer=peer, rule=fault.rule, detail=fault.detail)
            if peer:
                self.network.penalise(peer, fault.rule, FAULT_POINTS)
            return
        message = event.message
        if isinstance(message, Fetch) and message.kind == "batch":
            self._answer_batch(member, message.digest)
            return
        if isinstance(message, Reply) and message.kind == "batch":
            return  # batches come by the bulk lane
        self._step(event)

    def _answer_batch(self, member: int, digest: bytes) -> None:
        held = self.mempool.batches.get(digest)
        data = held.data if held else self.notary.store.batch(digest)
        if data is not None and member in self.peers:
            self.network.send(self.peers[member], Lane.BULK, encode(BatchPush(data)))

    async def _open_batch(self, member: int, data: bytes) -> None:
        try:
            if len(data) > VERIFY_THREAD_TXS * 200:
                batch = await trio.to_thread.run_sync(
                    open_batch, data, self.mempool.chain_id, dict(self.mempool.verified)
                )
            else:
                batch = open_batch(data, self.mempool.chain_id, self.mempool.verified)
        except Refused as error:
            peer = self.peers.get(member, "")
            self.counters.faults[error.rule] = self.counters.faults.get(error.rule, 0) + 1
            if peer:
                self.network.penalise(peer, error.rule, FAULT_POINTS)
            return
        finally:
            self._opening -= 1
        if skipped := batch.count - len(batch.txs):
            # Counted, nobody is blamed: a validator that was asked passes on what another made.
            self.counters.faults["batch.no_transaction"] = (
                self.counters.faults.get("batch.no_transaction", 0) + skipped
            )
        self._inbox.append((member, batch))
        self._bell.set()

    def _hold(self, member: int, batch: HeldBatch) -> None:
        digest = batch_digest(batch.data)
        wanted = digest in self.core.wants.wants
        if not wanted and self.notary.store.batch(digest) is not None:
            return  # late: it is final already
        if self.mempool.hold(batch, member, wanted) is not None:
            self._step(BatchHeld(digest, batch.count))

    def _seal(self) -> None:
        sealed = self.mempool.seal(self.me)
        if sealed is None:
            return
        digest, batch = sealed
        push = encode(BatchPush(batch.data))
        for peer_id in self.peers.values():
            self.network.send(peer_id, Lane.BULK, push)
        self._step(BatchHeld(digest, batch.count))

    # ------------------------------------------------------------------ carrying out

    def _step(self, event: Event) -> int | None:
        """One step of the core and all that follows from it: persist, then send, then commit."""
        queue: deque[Event] = deque([event])
        wake_ms: int | None = None
        while queue:
            ready = self.core.step(queue.popleft(), now_ms(), wall_ms())
            self.counters.steps += 1
            if ready.records or ready.certificates:
                self.safety.persist(ready, self._batch_bytes)
            for send in ready.send:
                self._send(send)
            self._commit(ready, queue)
            for alarm in ready.alarms:
                self.counters.alarms[alarm] = self.counters.alarms.get(alarm, 0) + 1
                log.error("alarm", rule=alarm, height=self.notary.store.tip.height)
            wake_ms = ready.wake_ms
        return wake_ms

    def _commit(self, ready: Ready, queue: deque[Event]) -> None:
        for commit in ready.commit:
            header = commit.header
            if header.height <= self.notary.store.tip.height:
                continue  # range sync was faster
            batches = [self._batch_bytes(digest) for digest in header.batches]
            if any(data is None for data in batches):
                raise LocalError(f"block {header.height} is to be committed, but a batch of it is not held")
            present = [data for data in batches if data is not None]
            done = self.notary.commit(header, commit.certificate, present, self.mempool.verified)
            queue.append(Executed(header.height, done.root))
        if ready.prune_view:
            self.safety.prune(ready.prune_view)

    def _batch_bytes(self, digest: bytes) -> bytes | None:
        held = self.mempool.batches.get(digest)
        return held.data if held else self.notary.store.batch(digest)

    def _send(self, send: Send) -> None:
        data = encode_message(send.message)
        targets = self.peers.items() if send.to is None else [(send.to, self.peers.get(send.to, ""))]
        for member, peer_id in list(targets):
            if peer_id and member != self.me:
                self.counters.sent += 1
                self.network.send(peer_id, Lane.CONSENSUS, data)


def now_ms() -> int:
    """Monotonic ms, for timers."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Unix ms, for block times."""
    return time.time_ns() // 1_000_000
