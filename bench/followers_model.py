"""Thousands of followers, message by message: the production plan (`node.sync.sync_plan`) of each, on a
network as `p2p.room` and the default settings make it: 8 neighbours each, at most 6 of them dialled it.

Real: whom to ask for what and when, message sizes (encoded), places for neighbours, the pace of notes and
requests. Charged: the work for a request, a block, a note (`Work`). Lines: as in bench.wan_lines. Not
modelled: loss, gossip of announcements (one message in 5 s), pings. Time is in seconds.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.common import percentile
from bench.wan_lines import REGIONS, rtt_ms
from bench.wan_model import FRAME_BYTES, TX_BYTES
from bench.wan_plot import Lines, draw
from ledger.blocks import Header
from ledger.codec import encode
from ledger.proofs.certificate import Certificate, Statement, VoteKind
from ledger.proofs.quorum import quorum
from node.config import P2P
from node.limits import RANGE_BYTES_MAX, TIP_EVERY_S
from node.sync.sync_plan import Ask, SyncPlan
from node.wire import RangeRequest, TipNote
from p2p import room

IMAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
COUNTS: Final = (1, 10, 50, 500, 5_000)
VALIDATORS: Final = (4, 16, 50, 100)
NEIGHBOURS: Final = P2P().neighbours_max
_TRIES: Final = 200  # dials of a follower that finds others full


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of a follower's core, from bench/results ("followers", "catchup"): for a request with its
    answer and proof, a committed block with its certificate of three, each further signature, a note, a
    transaction."""

    request_s: float = 0.0015
    block_s: float = 0.001
    signature_s: float = 0.00005
    note_s: float = 0.00015
    tx_s: float = 0.0002


@dataclass(frozen=True, slots=True)
class Crowd:
    """Followers beside validators, and the chain that they follow."""

    followers: int
    validators: int = 4
    rate_per_s: float = 50.0
    block_every_s: float = 0.1
    seconds: float = 3.0
    warm_s: float = 1.5
    seed: int = 1


class Member:
    """A peer: what it holds, its neighbours, its traffic. A follower has a plan; a validator has none."""

    def __init__(self, world: Followers, name: str, region: int) -> None:
        self.world, self.name, self.region = world, name, region
        self.links: list[Member] = []
        self.dialled: list[Member] = []
        self.tip = 0
        self.hops: dict[int, int] = {}
        self.bytes_in = self.bytes_out = self.asked = 0
        self.busy_s = self.busy_until_s = 0.0
        self.told_until_s = 0.0
        self.telling = False
        self.plan: SyncPlan | None = None
        self.wake_s = 0.0

    # ------------------------------------------------------------------ bytes

    def send(self, to: Member, size: int, arrive: Callable[[], None]) -> None:
        """Bytes on the line to a neighbour."""
        size += FRAME_BYTES
        if self.world.is_counting:
            self.bytes_out += size
            to.bytes_in += size
        delay_s = rtt_ms(self.region, to.region) / 2_000 * self.world.rng.uniform(1.0, 1.05)
        self.world.at(self.world.now_s + delay_s, arrive)

    def work(self, seconds: float, then: Callable[[], None]) -> None:
        """Work for so long, after what is already to be done; then go on."""
        begin = max(self.world.now_s, self.busy_until_s)
        self.busy_until_s = begin + seconds
        if self.world.is_counting:
            self.busy_s += seconds
        self.world.at(self.busy_until_s, then)

    # ------------------------------------------------------------------ telling, as node.sync.teller does

    def committed(self) -> None:
        """The tip has moved."""
        if not self.telling:
            self.telling = True
            self.world.at(max(self.world.now_s, self.told_until_s), self._tell)

    def _tell(self) -> None:
        self.telling = False
        self.told_until_s = self.world.now_s + TIP_EVERY_S
        note = len(encode(TipNote(self.tip, 1_800_000_000_000)))
        for peer in self.links:
            if peer.plan is None:
                continue  # a validator hears of blocks by consensus
            source = self.plan.sources.get(peer.name) if self.plan is not None else None
            if source is None or source.told < self.tip:
                self.send(peer, note, partial(peer.hear, self, self.tip))

    def hear(self, teller: Member, height: int) -> None:
        """A note."""
        self.work(self.world.work.note_s, lambda: None)
        assert self.plan is not None
        if self.plan.told(teller.name, height) and height > self.tip:
            self.look()

    # ------------------------------------------------------------------ following, as node.sync.follower does

    def look(self) -> None:
        """Make the requests that are due, and wake when the next ones are."""
        world, plan = self.world, self.plan
        assert plan is not None
        while (ask := plan.next(self.tip, world.now_s)) is not None:
            self.asked += world.is_counting
            size = len(encode(RangeRequest(ask.first, RANGE_BYTES_MAX, ask.blocks_max)))
            source = world.by_name[ask.peer_id]
            self.send(source, size, partial(source.serve, self, ask))
        wait_s = plan.wait_s(self.tip, world.now_s)
        if wait_s < 60 and not world.now_s < self.wake_s <= world.now_s + wait_s:
            self.wake_s = world.now_s + wait_s
            world.at(self.wake_s, self.look)

    def serve(self, asker: Member, ask: Ask) -> None:
        """Blocks for a follower."""
        last = min(ask.last, self.tip)
        size = self.world.block_bytes * (last - ask.first + 1)

        def answer() -> None:
            self.send(asker, size, partial(asker.take, ask, last, size, self))

        self.work(self.world.work.request_s / 3, answer)

    def take(self, ask: Ask, last: int, size: int, source: Member) -> None:
        """An answer: proved, then committed in its turn."""
        world, plan = self.world, self.plan
        assert plan is not None
        if last < ask.first:
            plan.failed(ask, world.now_s)
            return
        for height in range(ask.first, last + 1):
            self.hops[height] = source.hops[height] + 1
        blocks = last - ask.first + 1
        cost_s = world.work.request_s + blocks * world.block_s

        def proved() -> None:
            if last > self.tip:
                plan.delivered(ask, last, size, world.now_s)
            else:
                plan.given_up(ask)
            plan.past(self.tip)
            while (first := plan.ready(self.tip)) is not None:
                until = plan._held[first]
                world.saw(self, self.tip + 1, until)
                self.tip = until
                plan.used(first)
                self.committed()
            self.look()

        self.work(cost_s, proved)


class Followers:
    """One network. `run` once."""

    def __init__(self, crowd: Crowd, work: Work = Work()) -> None:
        self.crowd, self.work = crowd, work
        self.rng = random.Random(crowd.seed)
        self.now_s, self._sequence = 0.0, 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self.is_counting = False
        self.txs = crowd.rate_per_s * crowd.block_every_s
        signatures = quorum(crowd.validators)
        self.block_bytes = block_bytes(crowd.validators, self.txs)
        self.block_s = work.block_s + (signatures - 3) * work.signature_s + self.txs * work.tx_s
        self.made_s: dict[int, float] = {}
        self.delays_ms: list[float] = []
        self.hops: list[int] = []
        regions = len(REGIONS)
        self.validators = [Member(self, f"v{n}", n % regions) for n in range(crowd.validators)]
        self.followers = [Member(self, f"f{n}", self.rng.randrange(regions)) for n in range(crowd.followers)]
        self.by_name = {one.name: one for one in (*self.validators, *self.followers)}
        for one in self.validators:
            one.hops[0] = 0
        self._connect()

    def _connect(self) -> None:
        """One after the other joins: it dials whom it may have heard of, at random, as p2p.room says."""
        known = list(self.validators)
        for one in self.followers:
            one.plan = SyncPlan()
            dials = room.dialled_max(NEIGHBOURS, len(known))
            for _ in range(_TRIES):
                if len(one.links) >= dials:
                    break
                other = self.rng.choice(known)
                if other is not one and other not in one.links and self._takes(other):
                    one.links.append(other)
                    one.dialled.append(other)
                    other.links.append(one)
            known.append(one)
        for one in self.followers:
            assert one.plan is not None
            for other in one.links:
                one.plan.came(other.name, 0)

    def _takes(self, one: Member) -> bool:
        """Has a peer room for one that dials it? A peer that dialled more than it needs gives one up."""
        guests = len(one.links) - len(one.dialled)
        if guests >= room.inbound_max(NEIGHBOURS):
            return False
        if len(one.links) < NEIGHBOURS:
            return True
        if len(one.dialled) <= room.dialled_max(NEIGHBOURS, len(self.by_name)):
            return False
        other = one.dialled.pop(self.rng.randrange(len(one.dialled)))
        one.links.remove(other)
        other.links.remove(one)
        return True

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Something to happen at a time."""
        self._sequence += 1
        heapq.heappush(self._heap, (time_s, self._sequence, call))

    def run(self) -> dict[str, Any]:
        """To the end. Returns the figures after the warm-up."""
        crowd = self.crowd
        height, due_s = 1, 0.0
        end_s = crowd.warm_s + crowd.seconds
        while due_s < end_s:
            self.at(due_s, partial(self._make, height))
            height, due_s = height + 1, due_s + crowd.block_every_s
        self.at(crowd.warm_s, self._count)
        while self._heap and self._heap[0][0] <= end_s:
            self.now_s, _, call = heapq.heappop(self._heap)
            call()
        return self._figures()

    def _count(self) -> None:
        self.is_counting = True

    def _make(self, height: int) -> None:
        """A block becomes final, at each validator when its votes are there."""
        self.made_s[height] = self.now_s
        for one in self.validators:
            self.at(self.now_s + self.rng.uniform(0.0, 0.02), partial(self._final, one, height))

    def _final(self, one: Member, height: int) -> None:
        one.tip, one.hops[height] = max(one.tip, height), 0
        one.committed()

    def saw(self, one: Member, first: int, last: int) -> None:
        """A follower has committed blocks."""
        if self.is_counting:
            self.delays_ms += [
                (self.now_s - self.made_s[height]) * 1_000 for height in range(first, last + 1)
            ]
            self.hops += [one.hops[height] for height in range(first, last + 1)]

    def _figures(self) -> dict[str, Any]:
        crowd, count = self.crowd, self.crowd.followers
        txs = crowd.rate_per_s * crowd.seconds
        found, voters = self.followers, self.validators
        return {
            "followers": count,
            "validators": crowd.validators,
            "neighbours": round(sum(len(one.links) for one in found) / count, 1),
            "bytes_in_per_tx": round(sum(one.bytes_in for one in found) / count / txs),
            "bytes_out_per_tx": round(sum(one.bytes_out for one in found) / count / txs),
            "bytes_out_per_tx_max": round(max(one.bytes_out for one in found) / txs),
            "cpu_us_per_tx": round(sum(one.busy_s for one in found) * 1e6 / count / txs),
            "requests_per_s": round(sum(one.asked for one in found) / count / crowd.seconds, 1),
            "delay_p50_ms": round(percentile(self.delays_ms, 0.5)),
            "delay_p99_ms": round(percentile(self.delays_ms, 0.99)),
            "hops_p50": percentile(self.hops, 0.5),
            "hops_max": max(self.hops),
            "validator_bytes_per_tx": round(sum(one.bytes_out for one in voters) / len(voters) / txs),
            "lowest_behind_blocks": max(one.tip for one in voters) - min(one.tip for one in found),
        }


def block_bytes(validators: int, txs: float) -> int:
    """A block as a range answer carries it: header, certificate of a quorum, one batch."""
    none = bytes(32)
    header = Header("bench", 0, 9_999, 9_999, 9_998, none, 1 << 40, none, 9_997, none, none, none, (none,))
    statement = Statement(VoteKind.FINAL, 0, 9_999, none)
    voters = quorum(validators)
    certificate = Certificate(statement, bytes((validators + 7) // 8), (bytes(64),) * voters)
    return len(header.encode()) + len(encode(certificate)) + int(txs * (TX_BYTES + 3)) + 16


def measure_all(counts: tuple[int, ...] = COUNTS, validators: tuple[int, ...] = VALIDATORS) -> dict[str, Any]:
    """By number of followers beside 4 validators, and 50 followers by number of validators."""
    return {
        "by_followers": [Followers(Crowd(count)).run() for count in counts],
        "by_validators": [Followers(Crowd(50, validators=number)).run() for number in validators],
    }


def plots(model: dict[str, Any], folder: Path = IMAGES) -> list[Path]:
    """The plots of the figures by number of followers, as files in a folder."""
    found = model["by_followers"]

    def points(key: str) -> list[tuple[float, float]]:
        return [(one["followers"], one[key]) for one in found]

    wanted = {
        "followers-bytes.svg": Lines(
            "Bytes a transaction, by number of followers",
            "B",
            "followers",
            {
                "into a follower": points("bytes_in_per_tx"),
                "out of a follower": points("bytes_out_per_tx"),
                "out of a validator, to followers": points("validator_bytes_per_tx"),
            },
            log_x=True,
        ),
        "followers-delay.svg": Lines(
            "Behind the chain, by number of followers",
            "ms",
            "followers",
            {"p50": points("delay_p50_ms"), "p99": points("delay_p99_ms")},
            log_x=True,
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, lines in wanted.items():
        files.append(folder / name)
        files[-1].write_text(draw(lines))
    return files
