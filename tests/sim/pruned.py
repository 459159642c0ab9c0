"""`python -m tests.sim.pruned --seeds 20`: networks that keep few blocks, and a member that is cut off for so
long that nobody holds its next block any more: it comes back by state sync.

Windows are small here (16 blocks instead of 4,000), so that a run reaches them. One member may lie about its
chunks or say nothing, and the one that fetches crashes on its way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any, Final

import msgspec

import ledger.machine
import node.sync.snapshots
import node.sync.state_fetch
import node.voting.accuser
import tests.sim.clients
from consensus.messages import BatchHeld
from ledger.blocks import Header
from ledger.codec import decode, encode, sha256
from ledger.errors import Refused
from ledger.proofs.certificate import Certificate
from ledger.storage.retention import FIRST_KEY
from ledger.storage.snapshot import Proved, StateChunk, check_chunk
from node.notary import stored_trust
from node.sync.ranges import HELD_FROM, answer_batch, answer_range, held_from
from node.sync.snapshots import Snapshots
from tests.sim.checkers import Agreement, Checker, Durability, Progress, Report
from tests.sim.command import run_seeds
from tests.sim.disk import Disk
from tests.sim.node import Block, CrashNow, SimNode
from tests.sim.ranges import Ranges
from tests.sim.result import Result
from tests.sim.scenario import Fault, Scenario, make
from tests.sim.state_fetch import States
from tests.sim.world import Variant, World

WINDOW: Final = 16  # blocks ahead that a transaction may expire: the replay window
KEEP: Final = 26  # blocks held, as PRUNE_KEEP_BLOCKS
SNAPSHOT_EVERY: Final = 6
PRUNE_EVERY: Final = 4
CRASH_RATE: Final = 0.04  # at each write while a state comes
CRASHES_MAX: Final = 2
IDLE_ACCOUNTS: Final = 150
LIES: Final = ("nothing", "value", "left_out", "bytes", "silent")
_SMALL: Final = (
    (ledger.machine, "EXPIRY_BLOCKS_MAX", WINDOW),
    (node.sync.snapshots, "EXPIRY_BLOCKS_MAX", WINDOW),
    (node.sync.state_fetch, "EXPIRY_BLOCKS_MAX", WINDOW),
    (node.voting.accuser, "EVIDENCE_EXPIRY_BLOCKS", WINDOW - 4),
    (tests.sim.clients, "EXPIRY_BLOCKS_DEFAULT", WINDOW - 4),
)


@contextmanager
def small_window() -> Iterator[None]:
    """Within the block, transactions live for WINDOW blocks at the most."""
    real = [(module, name, getattr(module, name)) for module, name, _ in _SMALL]
    for module, name, value in _SMALL:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in real:
            setattr(module, name, value)


class PrunedRanges(Ranges):
    """See Ranges. Who asks for what is no longer held is told so, as by `node.handlers`."""

    node: PrunedNode

    def receive(self, sender: int, body: bytes) -> None:
        kind, about = body[:1], body[1:]
        if kind == b"X":
            if held_from(about.decode(errors="replace")) > self.node.height + 1:
                self.node.states.begin()
            return
        try:
            if kind == b"?":
                answer_range(self.node.store, about)
            elif kind == b"b":
                answer_batch(self.node.store, about)
        except Refused as error:
            if error.detail.startswith(HELD_FROM):
                self.node.post(sender, b"RX" + f"{error.rule}: {error.detail}".encode())
            return
        super().receive(sender, body)


class PrunedNode(SimNode):
    """Drops old blocks, offers states, and takes one when it has to."""

    world: PrunedWorld
    ranges_kind = PrunedRanges
    snapshots: Snapshots = None  # type: ignore[assignment]  # from the first `open_store` on

    def __init__(self, *about: Any) -> None:
        self.next_disk = Disk()  # of the store that is to take the chain's place
        self.crashes_left = CRASHES_MAX
        super().__init__(*about)
        self.states = States(self)

    def open_store(self) -> None:
        super().open_store()
        self.store._staged = self.next_disk
        self.let_go()
        self.snapshots = Snapshots(self.store, every_blocks=SNAPSHOT_EVERY)

    def let_go(self) -> None:
        """Of all states on offer: they are gone with the process."""
        if self.snapshots is not None:
            for height in self.snapshots.heights:
                self.snapshots._drop(height)

    def boot(self) -> None:
        self.states = States(self)
        super().boot()

    def crash(self, how: str = "lost") -> None:
        super().crash(how)
        self.next_disk.crash(self.world.rng, how if how == "torn" else "lost")

    def receive(self, sender: int, data: bytes) -> None:
        if data[:1] == b"S":
            self.states.receive(sender, data[1:])
        else:
            super().receive(sender, data)

    def apply(
        self,
        header: Header,
        batches: tuple[bytes, ...],
        certificate: Certificate,
        path: tuple[bytes, ...] = (),
    ) -> None:
        """See SimNode; then as `node.sync.snapshots` and `node.sync.pruner`."""
        super().apply(header, batches, certificate, path)
        self.snapshots.take(header)
        if header.height % PRUNE_EVERY == 0:
            self.drop_blocks()

    def drop_blocks(self) -> None:
        """All but the last KEEP blocks, and those that who fetches a state needs."""
        wanted = self.snapshots.keep_from()
        first = self.height + 1 - KEEP
        retention = self.store.retention
        while self.store.first_height < min(first, first if wanted is None else wanted):
            retention.drop(retention.plan(self.store.first_height))
            self.world.result.faults["block.dropped"] += 1

    # ------------------------------------------------------------------ a state from elsewhere

    def check_chunk(self, root: bytes, data: bytes) -> Proved:
        """A foreign chunk, proved. Raises Refused."""
        return check_chunk(root, data)

    def window_first(self, height: int) -> int:
        """The first block whose transactions may come again after a height."""
        return max(1, height - WINDOW + 1)

    def may_crash(self, where: str) -> None:
        """Power may go at each write on the way, while there are faults."""
        world = self.world
        if self.crashes_left and not world.calm and world.rng.random() < CRASH_RATE:
            self.crashes_left -= 1
            self.doom_disk = world.rng.choice(("lost", "torn"))
            world.at(world.now_us + world.rng.randint(50, 800) * 1_000, None, world.faults.boot, self)
            raise CrashNow(where)

    def new_stage(self) -> None:
        """`Store.unstage` and an empty one."""
        self.next_disk = Disk()
        self.store._staged = self.next_disk

    def adopt(self) -> None:
        """What was fetched takes the chain's place; all that follows the chain begins anew there."""
        self.let_go()
        self.store.adopt()
        self.chain_disk, self.next_disk = self.next_disk, Disk()
        self.store._staged = self.next_disk
        self.snapshots = Snapshots(self.store, every_blocks=SNAPSHOT_EVERY)
        self.notary.trust = stored_trust(self.notary.genesis, self.notary.store)
        self.notary.trust.sets[0] = self.world.validators
        self.world.installed(self)
        self.may_crash("after_adopt")
        self.queue, self.wake_us, self.core = [], None, self.make_core()
        for batch in list(self.mempool.batches.values()):
            self.step(BatchHeld(batch.digest, batch.count, self.mempool.makers[batch.digest]))
        self.is_waiting = self.safety.floor > self.tip.view
        if self.is_waiting:
            self.ranges.ask_on(self.life)
        else:
            self.begin()


class InstalledState(Checker):
    """A state that was installed is that of its height, byte by byte, and of the ids that guard against
    replay it holds exactly those that still may come again."""

    world: PrunedWorld

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.states: dict[int, dict[bytes, bytes]] = {}

    def committed(self, node: SimNode, block: Block) -> None:
        if block.header.height not in self.states:
            self.states[block.header.height] = dict(node.store.state.scan(b""))

    def installed(self, node: SimNode) -> None:
        """A node goes on from another state."""
        height = node.height
        found, wanted = dict(node.store.state.scan(b"")), self.states[height]
        for what, of in (("pairs", self._proved), ("guarded ids", self._seen)):
            mine, theirs = of(found, height), of(wanted, height)
            if mine != theirs:
                differ = len(mine.items() ^ theirs.items())
                self.complain(f"node {node.id} installed height {height}: {differ} {what} differ")

    def _proved(self, state: dict[bytes, bytes], height: int) -> dict[bytes, bytes]:
        return {key: value for key, value in state.items() if not key.startswith(b"seen/")}

    def _seen(self, state: dict[bytes, bytes], height: int) -> dict[bytes, bytes]:
        ids = {key: value for key, value in state.items() if key.startswith(b"seen/")}
        return {k: b"" for k in ids if int.from_bytes(k[5:13], "big") > height}


class PrunedDurability(Durability):
    """See Durability: of what is still to be held, and that is no less than was promised."""

    def crashed(self, node: SimNode) -> None:
        self._forget(node)
        super().crashed(node)

    def end(self) -> None:
        for one in self.world.honest():
            self._forget(one)
        super().end()

    def _forget(self, node: SimNode) -> None:
        """What was dropped by the rule."""
        if node.chain_disk.refuses or node.chain_disk.harmed:
            return
        data = node.chain_disk.get(FIRST_KEY)
        first = 1 if data is None else int.from_bytes(data, "big")
        shown = self.shown.get(node.id, {})
        dropped = [height for height in shown if height < first]
        if dropped and max(dropped) > max(shown) - KEEP:
            self.complain(f"node {node.id} dropped height {max(dropped)} of {max(shown)}")
        for height in dropped:
            del shown[height]


class PrunedProgress(Progress):
    """See Progress. Who takes a state has what stands in the blocks below it."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.until: dict[bytes, int] = {}

    def owed(self, id_: bytes, expires: int) -> None:
        """All expire soon here."""
        if self.world.calm and len(self.until) < self.OWED and self.goal:
            self.submitted.add(id_)
            self.until[id_] = expires

    def committed(self, node: SimNode, block: Block) -> None:
        super().committed(node, block)
        for id_, expires in self.until.items():
            if expires < block.header.height and not any(id_ in ids for ids in self.shown.values()):
                self.submitted.discard(id_)  # it expired; its client gets another through

    def installed(self, node: SimNode) -> None:
        """A node goes on from another state."""
        below = self.world.checker(Agreement).chain[: node.height]
        found = {receipt.id for block in below for receipt in block.receipts}
        self.shown.setdefault(node.id, set()).update(found & self.submitted)


PRODUCTION: Final = Variant(node=PrunedNode)


class PrunedWorld(World):
    """See the module."""

    def __init__(self, seed: int, variant: Variant = PRODUCTION, **more: Any) -> None:
        scenario = more.pop("scenario", None) or make_pruned(seed)
        super().__init__(seed, variant, scenario, **more)
        choice = Random(f"liar/{seed}")
        self.lie = choice.choice(LIES)
        cut = scenario.faults[0].who[0]
        self.liar = choice.choice([m for m in range(len(scenario.weights)) if m != cut])

    def run(self) -> Result:
        with small_window():
            result = super().run()
        for node_ in self.nodes:
            if isinstance(node_, PrunedNode):
                node_.let_go()
        return result

    def accounts(self) -> dict[str, int]:
        """See World; and some that only make the state larger."""
        more = {sha256(bytes([number])).hex(): 1 for number in range(IDLE_ACCOUNTS)}
        return {**super().accounts(), **more}

    def checker_kinds(self) -> tuple[type[Checker], ...]:
        own = {Durability: PrunedDurability, Progress: PrunedProgress}
        return (*(own.get(kind, kind) for kind in super().checker_kinds()), InstalledState)

    def installed(self, node: PrunedNode) -> None:
        """A node goes on from another state."""
        self.result.faults["state.installed"] += 1
        if self.log:
            self.log(f"{'':>17}{node.id} installs the state of height {node.height}")
        if node.is_honest:
            self.told("replaced", node)
            self.checker(InstalledState).installed(node)
            self.checker(PrunedProgress).installed(node)

    def changed_chunk(self, node: PrunedNode, data: bytes) -> bytes | None:
        """What a member gives as a chunk; None: nothing."""
        if node.member != self.liar or self.lie == "nothing":
            return data
        self.result.faults[f"state.{self.lie}"] += 1
        if self.lie == "silent":
            return None
        if self.lie == "bytes":
            at = self.rng.randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1 :]
        chunk = decode(StateChunk, data)
        pairs = list(chunk.pairs)
        at = self.rng.randrange(len(pairs))
        if self.lie == "value":
            pairs[at] = pairs[at][0], pairs[at][1] + b"\0"
        else:
            del pairs[at]
        return encode(msgspec.structs.replace(chunk, pairs=tuple(pairs)))

    def lied(self, node: SimNode, sender: int, error: Refused) -> None:
        """Something about a state did not prove itself."""
        if self.is_honest(sender) and (sender != self.liar or self.lie in ("nothing", "silent")):
            self.report("InstalledState", f"node {node.id} refused member {sender}: {error}")
        self.result.faults["state.lie_noticed"] += 1


def make_pruned(seed: int) -> Scenario:
    """The scenario of a seed. The first fault cuts one member off until nobody holds its next block; the
    others come when it is back, and fetches."""
    scenario, rng = make(seed), Random(f"pruned/{seed}")
    weights, scenario.always_down = scenario.weights, ()
    able = [m for m in range(len(weights)) if m != scenario.twin]
    member = min(rng.sample(able, len(able)), key=lambda m: weights[m])
    begins_ms, ends_ms = rng.randint(300, 1_500), rng.randint(10_000, 15_000)
    scenario.faults_end_ms = ends_ms + rng.randint(3_000, 6_000)
    scenario.batch_every_ms = 60
    scenario.timing = replace(scenario.timing, idle_ms=200, view_timeout_ms=300)
    others = [
        replace(fault, at_ms=rng.randint(ends_ms - 500, ends_ms + 4_000), for_ms=min(fault.for_ms, 2_000))
        for fault in rng.sample(scenario.faults, min(len(scenario.faults), 5))
    ]
    cut = Fault(begins_ms, "split", ends_ms - begins_ms, (member,))
    scenario.faults = [cut, *(f for f in others if f.at_ms < scenario.faults_end_ms)]
    return scenario


def run(seed: int, variant: Variant = PRODUCTION, ed25519: bool = False) -> Result:
    """One seed, start to finish."""
    return PrunedWorld(seed, variant, ed25519=ed25519).run()


def main(argv: list[str]) -> int:
    """Exit code 1 on a violation."""
    return run_seeds("tests.sim.pruned", __doc__, PrunedWorld, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
