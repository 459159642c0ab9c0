"""Drives the consensus core of a validator for one epoch: messages in, Ready carried out in its order.

One task owns core, mempool and notary. Network handlers only queue; what a queue cannot take is
dropped and counted, and the protocol recovers from loss.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import structlog
import trio

from consensus.core import Core
from consensus.messages import (
    BatchHeld,
    Commit,
    Event,
    Executed,
    Fetch,
    Joined,
    Reply,
    Send,
    Start,
    Synced,
    Tick,
    decode_message,
    encode_message,
    epoch_of,
)
from consensus.verify import Rules, check
from ledger.blocks import Header
from ledger.codec import encode
from ledger.errors import PeerFault, Refused
from ledger.evidence import Evidence, accused, offence_name
from ledger.keys import Key
from ledger.proofs.certificate import Certificate
from node.clock import now_ms, wall_ms
from node.errors import StateDiffers, TwoChains
from node.limits import ENGINE_DRAIN_MAX, ENGINE_DRAIN_MS, FAULT_POINTS, PRUNE_EVERY_VIEWS
from node.notary import Notary
from node.seam import Overloaded
from node.voting.accuser import Accuser
from node.voting.batch_desk import BatchDesk
from node.voting.counters import Counters
from node.voting.former_epoch import FormerEpoch
from node.voting.inbox import Inbox
from node.voting.mempool import HeldBatch, Mempool, open_batch
from node.voting.other_epochs import is_answer
from node.voting.roll_call import RollCall
from node.voting.safety_store import SafetyStore
from node.voting.voter import executed, make_core
from node.wire import BatchPush
from p2p.network import Lane, Network

log = structlog.get_logger("engine")


@dataclass(slots=True)
class Engine:
    """See the module. `peers` are the connected validators: member index to peer id. `on_other_epoch(peer id,
    epoch)` hears of messages that are not of this epoch; `former` too, of those of the one before, in which
    we voted."""

    notary: Notary
    mempool: Mempool
    safety: SafetyStore
    network: Network
    key: Key
    me: int
    on_other_epoch: Callable[[str, int], None] = lambda peer_id, epoch: None
    former: FormerEpoch | None = None
    halted: bool = False  # another state is in place: nothing of this core counts any more
    core: Core = field(init=False)
    desk: BatchDesk = field(init=False)
    accuser: Accuser = field(init=False)
    prune_every_views: int = PRUNE_EVERY_VIEWS
    counters: Counters = field(default_factory=Counters)
    roll_call: RollCall = field(default_factory=RollCall)
    peers: dict[int, str] = field(default_factory=dict)
    _inbox: Inbox = field(default_factory=Inbox)
    _bell: trio.Event = field(default_factory=trio.Event)
    _nursery: trio.Nursery | None = None
    _synced: deque[tuple[Header, Certificate]] = field(default_factory=deque)
    _joined: deque[int] = field(default_factory=deque)
    _pruned_view: int = 0
    _due_ms: int | None = None  # when the core has something to do if nothing else happens
    _final: deque[Commit] = field(default_factory=deque)  # to be executed, in order
    _prune_view: int = 0

    def __post_init__(self) -> None:
        self.core = make_core(self.notary, self.key, self.me)
        self.desk = BatchDesk(self.mempool, self.notary.store, self._fault, self.wake)
        self.accuser = Accuser(self.mempool.chain_id, self.key)

    # ------------------------------------------------------------------ called by others

    def deliver(self, member: int, payload: bytes) -> None:
        """Queue a consensus message of a validator. What it sends too much is dropped."""
        if self._inbox.put(member, payload):
            self._bell.set()
        else:
            self.counters.dropped += 1

    def deliver_batch(self, member: int, data: bytes) -> None:
        """Check a pushed batch off the loop, then queue it. At the bound it is dropped: Fetch repairs."""
        if self._nursery is None or not self.desk.push(self._nursery, member, data):
            self.counters.dropped += 1

    def wake(self) -> None:
        """There is something to do, such as a transaction in the mempool."""
        self._bell.set()

    def synced(self, header: Header, certificate: Certificate) -> None:
        """Range sync committed a block."""
        self._synced.append((header, certificate))
        self._bell.set()

    def connected(self, member: int, peer_id: str) -> None:
        """A validator's stream is up: tell it where we stand, so that both catch up."""
        self.peers[member] = peer_id
        self.roll_call.came(member, self.core.config.validators)
        self._joined.append(member)
        self._bell.set()

    def halt(self) -> None:
        """No step from now on, not one: the store is another than the core was made from."""
        self.halted = True
        self._bell.set()

    def alarm(self, rule: str) -> None:
        """Something that people should look at."""
        count = self.counters.alarms.get(rule, 0) + 1
        self.counters.alarms[rule] = count
        if count & (count - 1) == 0:  # some come with every step: log the 1st, 2nd, 4th …
            log.error("alarm", rule=rule, height=self.notary.store.tip.height, count=count)

    def disconnected(self, peer_id: str) -> None:
        """A neighbour is gone."""
        self.peers = {m: p for m, p in self.peers.items() if p != peer_id}

    # ------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Until the epoch ends, by the notary's commit of its last block, or cancelled. Raises LocalError
        when our own state is wrong."""
        if not await self._reach_promises():
            return
        self._restore()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self._step(Start())
                wake_ms = self._commit()
                while not self.core.ended:
                    await self._wait(wake_ms)
                    self._bell = trio.Event()
                    if self.halted:
                        break  # awake already when it was halted: a cancellation would come too late
                    if self.notary.differs:  # found by others: nothing needs to be committed here to tell
                        raise StateDiffers(self.notary.differs)
                    self._drain()
                    wake_ms = self._commit()
                    if self._inbox or self.desk.ready:
                        self._bell.set()
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            finally:
                self._nursery = None

    async def _reach_promises(self) -> bool:
        """Wait until range sync has brought the chain to the view up to which votes were forgotten. False:
        halted.

        So far a vote is in the chain's past; with an older copy of the chain we could vote twice.
        """
        floor = self.safety.floor
        if self.notary.store.tip.view < floor:
            log.warning("chain_older_than_votes", view=self.notary.store.tip.view, wanted=floor)
        while not self.halted:
            self._take_synced()
            if self.notary.store.tip.view >= floor or self.core.ended:
                return True
            await self._bell.wait()
            self._bell = trio.Event()
        return False

    def _restore(self) -> None:
        if self.core.ended:
            return
        state, batches = self.safety.load(self.core.config.validators.epoch, self.notary.store.tip.view)
        self.core.restore(state)
        for waiting in list(self.mempool.batches.values()):  # from the epoch before
            maker = self.mempool.makers[waiting.digest]
            self._step(BatchHeld(waiting.digest, waiting.count, maker))
            if maker == self.me:
                self._push(waiting.data)  # not all may have been there, or have had a seat
        for data in batches.values():
            held = open_batch(data, self.mempool.chain_id, self.mempool.known.verify)
            self.mempool.hold(held, self.me, wanted=True)
            self._step(BatchHeld(held.digest, held.count, self.me))

    async def _wait(self, wake_ms: int | None) -> None:
        due = [ms for ms in (wake_ms, self.mempool.seal_due_ms()) if ms is not None]
        timeout_s = max(0.0, (min(due) - now_ms()) / 1000) if due else 3600.0
        with trio.move_on_after(timeout_s):
            await self._bell.wait()

    def _drain(self) -> int | None:
        """Handle what is queued, then time. Returns when to wake next."""
        self._take_synced()
        while self._joined:
            self._step(Joined(self._joined.popleft()))
        while (opened := self.desk.take()) is not None:
            self._hold(*opened)
        until_ms = now_ms() + ENGINE_DRAIN_MS
        for _ in range(ENGINE_DRAIN_MAX):
            waiting = self._inbox.take()
            if waiting is None or self.core.ended:
                break
            self._message(*waiting)
            if now_ms() >= until_ms:
                break
        store = self.notary.store
        self.accuser.report(store.state, store.tip.height, self._submit)
        due = self.mempool.seal_due_ms()
        while due is not None and now_ms() >= due and not self.core.ended:
            self._seal()
            due = self.mempool.seal_due_ms()
        if self._due_ms is not None and self._due_ms > now_ms():
            return self._due_ms  # events and time alone change the core: nothing is due
        return self._step(Tick())

    def _take_synced(self) -> None:
        while self._synced:
            header, certificate = self._synced.popleft()
            if (done := self._executed(header.height)) is not None:
                self._step(done)  # more may be judged at once
            elif self._is_past(header):
                continue
            self._step(Synced(header, certificate))

    def _executed(self, height: int) -> Executed | None:
        """The event for a block of the store. None when its root is forgotten (a later block's will do), and
        when the store is past the core's epoch: what was pending in it is not to be read there any more, and
        without it the core would judge wrongly."""
        root = self.notary.store.root(height)
        is_over = self.notary.validators.epoch != self.core.config.validators.epoch
        return None if root is None or is_over else executed(self.notary.store, height, root)

    def _is_past(self, header: Header) -> bool:
        """Does the store know the end of this block's epoch already? Then only the boundary matters, which
        ends the core."""
        is_over = self.notary.validators.epoch != self.core.config.validators.epoch
        return is_over and header.next_validators == header.validators

    def _message(self, member: int, payload: bytes) -> None:
        self.counters.received += 1
        peer, validators = self.peers.get(member, ""), self.core.config.validators
        try:
            decoded = decode_message(peer, payload)
            epoch = epoch_of(decoded)
            if epoch is not None and epoch != validators.epoch:
                if epoch > validators.epoch or not is_answer(decoded):
                    self.on_other_epoch(peer, epoch)
                if self.former is not None and epoch == self.former.epoch:
                    self._accuse(self.former.heard(validators.members[member].key, decoded))
                return
            rules = Rules(self.mempool.chain_id, validators, self.notary.scheme, self.core.knows)
            event = check(rules, member, decoded)
        except PeerFault as fault:
            self._fault(member, Refused(fault.rule, fault.detail))
            return
        message = event.message
        if isinstance(message, Fetch) and message.kind == "batch":
            data = self.desk.answer(member, message.digest, now_ms())
            if data is not None and peer:
                self.network.send(peer, Lane.BULK, encode(BatchPush(data)))
            return
        if isinstance(message, Reply) and message.kind == "batch":
            return  # batches come by the bulk lane
        self.roll_call.heard(member, message, validators)
        self._step(event)

    def _fault(self, member: int, error: Refused) -> None:
        """A validator's bytes broke a rule."""
        peer = self.peers.get(member, "")
        self.counters.faults[error.rule] = self.counters.faults.get(error.rule, 0) + 1
        log.warning("peer_fault", peer=peer, rule=error.rule, detail=error.detail)
        if peer:
            self.network.penalise(peer, error.rule, FAULT_POINTS)

    def _hold(self, member: int, batch: HeldBatch) -> None:
        wanted = batch.digest in self.core.wants.wants
        if not wanted and self.notary.store.batch(batch.digest) is not None:
            return  # late: it is final already
        if self.mempool.hold(batch, member, wanted=wanted):
            self._step(BatchHeld(batch.digest, batch.count, member))

    def _submit(self, raw: bytes) -> bool:
        """Queue an own transaction. False when the mempool does not take it now."""
        try:
            tx = self.mempool.check(raw, self.notary.next_context, self.notary.store.state.get)
            self.mempool.add(tx, now_ms())
        except (Overloaded, Refused) as error:
            log.warning("own_tx_not_taken", reason=str(error))
            return False
        return True

    def _seal(self) -> None:
        sealed = self.mempool.seal(self.me)
        if sealed is None:
            return
        self._push(sealed.data)
        self._step(BatchHeld(sealed.digest, sealed.count, self.me))

    def _push(self, batch: bytes) -> None:
        data = encode(BatchPush(batch))
        for peer_id in self.peers.values():
            self.network.send(peer_id, Lane.BULK, data)

    # ------------------------------------------------------------------ carrying out

    def _step(self, event: Event) -> int | None:
        """One step of the core: persist, then send. What it commits is noted for `_commit`."""
        ready = self.core.step(event, now_ms(), wall_ms())
        self.counters.steps += 1
        if ready.records or ready.certificates:
            self.safety.persist(ready, self.desk.bytes_of)
        for send in ready.send:
            self._send(send)
        self._final.extend(ready.commit)
        self._prune_view = max(self._prune_view, ready.prune_view)
        self._accuse(*ready.evidence)
        for alarm in ready.alarms:
            self.alarm(alarm)
            if alarm == "final_off_chain":
                raise TwoChains(f"a final block is not above ours of height {self.core.chain.tip.height}")
        self._due_ms = ready.wake_ms
        return self._due_ms

    def _accuse(self, *found: Evidence | None) -> None:
        for evidence in (one for one in found if one is not None):
            log.error("equivocation", by=accused(evidence).hex(), what=offence_name(evidence))
            self.accuser.found(evidence)
            self.alarm("equivocation")

    def _commit(self) -> int | None:
        """Execute what is final, several blocks in one synced write, and tell the core. Returns when to wake
        next."""
        if self.halted:  # since they became final: the store is another
            return None
        while self._final:
            with self.notary.store.grouped() if len(self._final) > 1 else nullcontext():
                blocks = [self._execute(self._final.popleft()) for _ in range(len(self._final))]
            for done in blocks:  # in order: what is proposed may name a root of each
                if done is not None:
                    self._step(done)
        if self._prune_view >= self._pruned_view + self.prune_every_views:
            self._pruned_view = self._prune_view
            self.safety.prune(self._prune_view)
        return self._due_ms

    def _execute(self, commit: Commit) -> Executed | None:
        header = commit.header
        if header.height <= self.notary.store.tip.height:  # range sync was faster
            return self._executed(header.height)
        (present, txs), known = self.desk.block(header), self.mempool.known.txs
        done = self.notary.commit(header, commit.certificate, present, known, commit.path, txs)
        return executed(self.notary.store, header.height, done.root)

    def _send(self, send: Send) -> None:
        message = send.message
        if isinstance(message, Fetch) and message.kind == "batch":
            self.desk.asked(message.digest)
        data = encode_message(message)
        targets = self.peers.items() if send.to is None else [(send.to, self.peers.get(send.to, ""))]
        for member, peer_id in list(targets):
            if peer_id and member != self.me:
                self.counters.sent += 1
                self.network.send(peer_id, Lane.CONSENSUS, data)
