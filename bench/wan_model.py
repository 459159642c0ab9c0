"""A wide network of validators as a seeded event heap: the production consensus core of each, on machines
that work one thing at a time and are joined by lines with the delays of bench.wan_lines.

What is real: `consensus.core` with its messages, their encoded sizes, batches, timers, certificates. What is
charged (bench.wan_costs): signatures, decoding, disk, execution, network, each from a measurement; and the
core's own steps, whose cost is measured in a first run of the same network. Not modelled: loss, TCP's slow
start, other programs. Time is in microseconds.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from bench.wan_costs import Costs
from bench.wan_lines import REGIONS, rtt_ms
from consensus.chain import Chain
from consensus.core import Config, Core
from consensus.messages import (
    BatchHeld,
    Certified,
    Event,
    Executed,
    Fetch,
    Message,
    Propose,
    Ready,
    Received,
    Start,
    Tick,
    Vote,
    encode_message,
)
from consensus.timers import Timing
from ledger.blocks import ZERO_HASH, Header, decode_header
from ledger.codec import sha256
from ledger.genesis import ConsensusParameters
from ledger.keys import Key
from ledger.proofs.certificate import Certificate, Ed25519Scheme, Validator, ValidatorSet
from node.limits import BATCH_SEAL_MS
from node.voting.voter import timing_of

CHAIN: Final = "wide"
TX_BYTES: Final = 250  # of a signed transfer
HEADER_BYTES: Final = 5
FRAME_BYTES: Final = HEADER_BYTES + 12 + 18 + 54  # and yamux's, noise's, TCP/IP on Ethernet: a message alone
TIMING: Final = timing_of(ConsensusParameters())
WALL_MS: Final = 1_800_000_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """A network and its load. `crashed` members never run; `regions` is where members stand, in turns."""

    validators: int
    crashed: int = 0
    rate_per_s: float = 50.0
    seconds: float = 30.0
    warm_s: float = 5.0
    seed: int = 1
    regions: tuple[int, ...] = tuple(range(len(REGIONS)))
    timing: Timing = TIMING


@dataclass(frozen=True, slots=True)
class Batch:
    """A sealed batch: who made it, and the submit times of its transactions."""

    digest: bytes
    maker: int
    submitted_us: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """On the wire, about."""
        return 16 + len(self.submitted_us) * (TX_BYTES + 3)


@dataclass(slots=True)
class Figures:
    """What was seen after the warm-up."""

    tx_ms: list[float] = field(default_factory=list)  # from submit to final where it was submitted
    block_ms: list[float] = field(default_factory=list)  # from proposal to final, at every validator
    messages: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)
    busy_us: Counter[int] = field(default_factory=Counter)
    submitted: int = 0
    events: int = 0


class Machine:
    """One validator: an inbox, a core, and the time until which it works."""

    def __init__(self, world: Wide, me: int) -> None:
        self.world, self.me = world, me
        self.region = world.shape.regions[me % len(world.shape.regions)]
        config = Config(
            CHAIN, world.validators, me, world.shape.timing, world.scheme, world.keys[me].sign_for
        )
        self.core = Core(config, Chain(world.genesis, world.genesis_hash), {0: _root(0)}, None)
        self.batches: dict[bytes, Batch] = {}
        self.pending: list[int] = []  # submit times of transactions not sealed yet
        self.sealing = False
        self.inbox: deque[tuple[str, Callable[[], float]]] = deque()
        self.busy_until = self.link_until = 0
        self.wake_us: int | None = None
        self.committed = 0

    # ------------------------------------------------------------------ work, one thing at a time

    def take(self, what: str, work: Callable[[], float]) -> None:
        """Do some work now or when what came before is done; `work` returns what it cost in us."""
        self.inbox.append((what, work))
        if len(self.inbox) == 1:
            self.world.at(max(self.world.now_us, self.busy_until), self._work)

    def _work(self) -> None:
        _, work = self.inbox[0]
        self.spent_us = 0.0
        cost = work()
        self.world.figures.busy_us[self.me] += int(cost)
        self.busy_until = self.world.now_us + int(cost)
        self.inbox.popleft()
        if self.inbox:
            self.world.at(self.busy_until, self._work)

    # ------------------------------------------------------------------ what comes

    def hear(self, sender: int, message: Message, header: Header | None) -> float:
        """A consensus message: checked as `consensus.verify` does, then a step."""
        costs = self.world.costs
        cost = costs.message_us + costs.codec_us
        match message:
            case Vote():
                cost += costs.verify_us
            case Propose():
                cost += costs.verify_us
                proofs = (message.parent, *message.skips)
                cost += sum(self._certificate_us(one) for one in proofs if one is not None)
            case Certified(certificate):
                cost += self._certificate_us(certificate)
            case Fetch("batch", digest):
                if (batch := self.batches.get(digest)) is not None:
                    self._push(batch, (sender,), cost)
                return cost
        return self._step(Received(sender, message, header), type(message).__name__, cost)

    def _certificate_us(self, certificate: Certificate) -> float:
        if self.core.knows(certificate.statement):
            return 0.0
        return len(certificate.signatures) * self.world.costs.verify_us

    def hold(self, batch: Batch) -> float:
        """Another's batch: each transaction is checked."""
        costs = self.world.costs
        cost = costs.message_us + len(batch.submitted_us) * costs.verify_us
        if batch.digest in self.batches:
            return costs.message_us
        self.batches[batch.digest] = batch
        return self._step(BatchHeld(batch.digest, len(batch.submitted_us)), "BatchHeld", cost)

    def submit(self) -> float:
        """A client's transaction arrives; a batch goes out a little later."""
        self.pending.append(self.world.now_us)
        if not self.sealing:
            self.sealing = True
            self.world.at(self.world.now_us + BATCH_SEAL_MS * 1_000, self.take, "seal", self.seal)
        return self.world.costs.submit_us

    def seal(self) -> float:
        """What is pending becomes a batch, for all."""
        self.sealing = False
        txs, self.pending = tuple(self.pending), []
        number = b"%d/%d" % (self.me, self.world.now_us)
        batch = self.batches[sha256(number)] = Batch(sha256(number), self.me, txs)
        cost = self._push(batch, tuple(self.world.others(self.me)), 0.0)
        return self._step(BatchHeld(batch.digest, len(txs)), "BatchHeld", cost)

    def _push(self, batch: Batch, targets: tuple[int, ...], cost: float) -> float:
        for target in targets:
            cost += self.world.costs.message_us if target not in self.world.down else 0.0
            machine = self.world.machines[target]
            self._leave(target, "Batch", batch.size_bytes, cost, partial(machine.hold, batch))
        return cost

    def tick(self) -> float:
        """The core's timer."""
        if self.wake_us is None or self.wake_us > self.world.now_us:
            return 0.0
        self.wake_us = None
        return self._step(Tick(), "Tick", 0.0)

    def start(self) -> float:
        """The first step."""
        return self._step(Start(), "Start", 0.0)

    # ------------------------------------------------------------------ a step, carried out

    def _step(self, event: Event, kind: str, cost: float) -> float:
        """Step the core and carry out its Ready: persist, send, commit. Returns the cost so far."""
        world, costs = self.world, self.world.costs
        queue: deque[tuple[Event, str]] = deque([(event, kind)])
        while queue:
            event, kind = queue.popleft()
            now_ms = (world.now_us + int(cost)) // 1_000
            begin = time.thread_time()
            ready = self.core.step(event, now_ms, WALL_MS + now_ms)
            world.timed[kind].append(time.thread_time() - begin)
            cost += world.step_us.get(kind, 0.0)
            assert not ready.alarms, ready.alarms
            cost += len(ready.records) * costs.sign_us + (costs.sync_us if ready.records else 0.0)
            cost = self._send(ready, cost)
            for commit in ready.commit:
                cost = self._commit(commit.header, cost)
                height = commit.header.height
                queue.append((Executed(height, _root(height)), "Executed"))
            if ready.wake_ms is not None:
                self._wake(ready.wake_ms * 1_000)
        return cost

    def _send(self, ready: Ready, cost: float) -> float:
        for send in ready.send:
            message = send.message
            data = encode_message(message)
            header = decode_header(message.header) if isinstance(message, Propose) else None
            if header is not None:
                cost += self.world.costs.sign_us
                self.world.proposed.setdefault(header.hash, self.world.now_us + int(cost))
            cost += self.world.costs.codec_us
            targets = self.world.others(self.me) if send.to is None else [send.to]
            for target in targets:
                cost += self.world.costs.message_us if target not in self.world.down else 0.0
                heard = partial(self.world.machines[target].hear, self.me, message, header)
                self._leave(target, type(message).__name__, len(data), cost, heard)
        return cost

    def _leave(self, to: int, kind: str, size: int, cost: float, arrive: Callable[[], float]) -> None:
        """Bytes go on the line to another machine, after what the link is still busy with."""
        world = self.world
        if to in world.down:
            return  # no link, so nothing is sent
        size += FRAME_BYTES
        if world.is_counting:
            world.figures.messages[kind] += 1
            world.figures.size_bytes[kind] += size
        begin = max(world.now_us + int(cost), self.link_until)
        self.link_until = begin + int(size * 8e6 / world.costs.link_bps)
        machine = world.machines[to]
        delay_us = rtt_ms(self.region, machine.region) * 500 * world.rng.uniform(1.0, 1.05)
        world.at(self.link_until + int(delay_us), machine.take, kind, arrive)

    def _commit(self, header: Header, cost: float) -> float:
        world, costs = self.world, self.world.costs
        batches = [self.batches[digest] for digest in header.batches]
        cost += costs.commit_us + sum(len(b.submitted_us) for b in batches) * costs.tx_us
        self.committed = header.height
        done_us = world.now_us + int(cost)
        if world.is_counting:
            world.figures.block_ms.append((done_us - world.proposed[header.hash]) / 1_000)
            own = (at for b in batches if b.maker == self.me for at in b.submitted_us)
            world.figures.tx_ms.extend((done_us - at) / 1_000 for at in own)
        return cost

    def _wake(self, at_us: int) -> None:
        at_us = max(at_us, self.world.now_us + 1_000)
        if self.wake_us is None or at_us < self.wake_us or self.wake_us <= self.world.now_us:
            self.wake_us = at_us
            self.world.at(at_us, self.take, "tick", self.tick)


class Wide:
    """One network. `run` once. `step_us`: what a core's step costs by kind of event (empty: nothing)."""

    def __init__(self, shape: Shape, costs: Costs, step_us: dict[str, float] | None = None) -> None:
        self.shape, self.costs, self.step_us = shape, costs, step_us or {}
        self.rng = random.Random(shape.seed)
        self.now_us = self._sequence = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.figures = Figures()
        self.is_counting = False
        self.timed: dict[str, list[float]] = {k: [] for k in _KINDS}
        self.proposed: dict[bytes, int] = {}
        self.scheme = Ed25519Scheme()
        self.keys = [_Signer(n) for n in range(shape.validators)]
        members = tuple(Validator(key.public, 1, f"v{n}") for n, key in enumerate(self.keys))
        self.validators = ValidatorSet(0, members)
        set_hash = self.validators.hash
        self.genesis = Header(
            CHAIN, 0, 0, 0, 0, ZERO_HASH, WALL_MS - 1_000, ZERO_HASH, 0, ZERO_HASH, set_hash, set_hash, ()
        )
        self.genesis_hash = sha256(b"genesis of a wide network")
        # Spread evenly, so that leaders fail in turns as they would, and in all regions alike.
        step = shape.validators / shape.crashed if shape.crashed else 0.0
        self.down = frozenset(int(step * n + step / 2) for n in range(shape.crashed))
        self.live = [n for n in range(shape.validators) if n not in self.down]
        self.machines = [Machine(self, n) for n in range(shape.validators)]
        self._others = [[n for n in range(shape.validators) if n != me] for me in range(shape.validators)]

    def others(self, me: int) -> list[int]:
        """All members but one."""
        return self._others[me]

    def at(self, time_us: int, call: Callable[..., None], *args: Any) -> None:
        """Something to happen at a time."""
        self._sequence += 1
        heapq.heappush(self._heap, (time_us, self._sequence, call, args))

    def run(self) -> Figures:
        """To the end of the shape's time. Returns the figures after the warm-up."""
        shape = self.shape
        for n in self.live:
            self.at(self.rng.randrange(1_000), self.machines[n].take, "start", self.machines[n].start)
        self._arrive()
        warm_us, end_us = int(shape.warm_s * 1e6), int((shape.warm_s + shape.seconds) * 1e6)
        self.at(warm_us, self._count)
        while self._heap and self._heap[0][0] <= end_us:
            self.now_us, _, call, args = heapq.heappop(self._heap)
            self.figures.events += 1
            call(*args)
        self.view_last = max(self.machines[n].core.final_view for n in self.live)
        self.height_last = max(self.machines[n].committed for n in self.live)
        return self.figures

    def _count(self) -> None:
        self.is_counting = True
        self.figures = Figures()
        self.view_first = max(self.machines[n].core.final_view for n in self.live)
        self.height_first = max(self.machines[n].committed for n in self.live)

    def _arrive(self) -> None:
        """The next client's transaction, at a random validator that runs."""
        if self.now_us:
            machine = self.machines[self.rng.choice(self.live)]
            machine.take("submit", machine.submit)
            self.figures.submitted += self.is_counting
        self.at(self.now_us + 1 + int(self.rng.expovariate(self.shape.rate_per_s) * 1e6), self._arrive)

    def step_means_us(self) -> dict[str, float]:
        """What the core's steps took in this run, by kind: the mean without the slowest hundredth (other
        programs' turns)."""
        means = {}
        for kind, taken in self.timed.items():
            kept = sorted(taken)[: max(1, len(taken) * 99 // 100)]
            means[kind] = round(sum(kept) / len(kept) * 1e6, 1) if kept else 0.0
        return means


_KINDS: Final = (
    *("Propose", "Vote", "Certified", "Status", "Fetch", "Reply"),
    *("BatchHeld", "Executed", "Tick", "Start"),
)


class _Signer:
    """A validator's key; signatures have the right length and are checked by nobody here: their cost is
    charged instead."""

    def __init__(self, number: int) -> None:
        self.public = Key(b"wide %d" % number + bytes(32 - len(b"wide %d" % number))).public

    def sign_for(self, domain: str, message: bytes) -> bytes:
        half = sha256(self.public + message)
        return half + half


def _root(height: int) -> bytes:
    return sha256(b"state %d" % height)
