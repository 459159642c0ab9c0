"""What must hold of every run. Each checker is told what happens and complains to `report`.

They share no code with what they check: quorums are counted from weights here, votes are those seen on the
wire, disks are looked into directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from consensus.messages import Message, Propose, Received, Vote
from ledger.blocks import ZERO_HASH, decode_header
from ledger.certificate import Statement, VoteKind
from ledger.codec import decode
from ledger.limits import TIME_AHEAD_MS_MAX
from ledger.records import KEY_SUPPLY, Account, Deployment, Supply
from tests.sim.disk import Block, holds_batch, record_key, records

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

CLOCK_ERROR_MS_MAX = 6_500  # a scenario's offset, its worst fault of a wall clock, and a drift of 1 %
Report = Callable[[str, str], None]  # (checker, what)


class Checker:
    """Base: told of everything, minds what it wants."""

    def __init__(self, world: World, report: Report) -> None:
        self.world, self._report = world, report

    def complain(self, what: str) -> None:
        self._report(type(self).__name__, what)

    def sent(self, node: SimNode, message: Message) -> None:
        """A consensus message left an honest node."""

    def heard(self, node: SimNode, event: Received) -> None:
        """A checked message reaches the core of an honest node."""

    def signed(self, node: SimNode, statement: Statement) -> None:
        """An honest node signed a vote; it is not on the wire yet, and a crash may keep it from there."""

    def committed(self, node: SimNode, block: Block) -> None:
        """A block is durable in a node's store."""

    def crashed(self, node: SimNode) -> None:
        """A node lost its memory."""

    def alarm(self, node: SimNode, rule: str) -> None:
        """A core raised an alarm."""

    def end(self) -> None:
        """The run is over."""


class Agreement(Checker):
    """One block per height over all nodes and lives, each on the one before: one prefix."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.chain: list[Block] = []

    def committed(self, node: SimNode, block: Block) -> None:
        height = block.header.height
        if height > len(self.chain) + 1:
            self.complain(
                f"node {node.id} committed height {height} before {len(self.chain) + 1} was by anybody"
            )
        elif height == len(self.chain) + 1:
            parent = self.chain[-1].hash if self.chain else self.world.genesis_hash
            if block.header.parent_hash != parent:
                self.complain(f"height {height} does not stand on the block below")
            self.chain.append(block)
        elif self.chain[height - 1].hash != block.hash:
            self.complain(f"node {node.id} committed another block at height {height}")
        if node.store.height != height:
            self.complain(f"node {node.id} committed {height} as its block {node.store.height}")

    def end(self) -> None:
        for node in self.world.honest():
            for mine, ours in zip(node.store.blocks, self.chain, strict=False):
                if mine.hash != ours.hash:
                    self.complain(f"node {node.id} holds another block at height {mine.header.height}")


class EqualState(Checker):
    """Equal roots per height, and each header's delayed root is that of its state height."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.roots: dict[int, bytes] = {0: world.genesis_root}

    def committed(self, node: SimNode, block: Block) -> None:
        header = block.header
        if self.roots.setdefault(header.height, block.root) != block.root:
            self.complain(f"node {node.id} has another state at height {header.height}")
        if self.roots.get(header.state_height) != header.state_root:
            self.complain(f"block {header.height} claims a wrong root for height {header.state_height}")


class Certificates(Checker):
    """Each commit's certificate is Final, of a quorum by weight, and all its signers really signed it."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.cast: set[tuple[int, VoteKind, int, bytes]] = set()
        self.seen: set[bytes] = set()

    def signed(self, node: SimNode, statement: Statement) -> None:
        self.cast.add((node.member, statement.kind, statement.view, statement.block))

    def committed(self, node: SimNode, block: Block) -> None:
        certificate, members = block.certificate, self.world.validators.members
        statement = certificate.statement
        if statement.kind is not VoteKind.FINAL or statement.view < block.header.view:
            self.complain(f"block {block.header.height} was committed by {statement}")
        if statement.view == block.header.view and statement.block != block.hash:
            self.complain(f"block {block.header.height} was committed by another block's certificate")
        if block.hash + statement.block in self.seen:
            return
        self.seen.add(block.hash + statement.block)
        signers = [i for i in range(len(members)) if certificate.bitmap[i // 8] >> (i % 8) & 1]
        if 3 * sum(members[i].weight for i in signers) <= 2 * sum(m.weight for m in members):
            self.complain(f"block {block.header.height} was committed without a quorum")
        for i in signers:
            honest = self.world.is_honest(i)
            if honest and (i, VoteKind.FINAL, statement.view, statement.block) not in self.cast:
                self.complain(f"member {i} never signed Final of view {statement.view}")


class Promises(Checker):
    """Over all lives of a validator: one Notar and one proposal a view, never Skip and Final; and each vote
    is durable, with the batches that a Notar names, before it is on the wire. A quorum signed Notar for the
    parent of what a Notar names, and Skip for every view between."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.votes: dict[tuple[int, int, str], bytes] = {}
        self.weight: dict[tuple[VoteKind, int, bytes], dict[int, int]] = {}

    def signed(self, node: SimNode, statement: Statement) -> None:
        weight = self.world.validators.members[node.member].weight
        self.weight.setdefault((statement.kind, statement.view, statement.block), {})[node.member] = weight

    def sent(self, node: SimNode, message: Message) -> None:
        if isinstance(message, Propose):
            header = decode_header(message.header)
            self.once(node, header.view, "proposal", header.hash)
        elif isinstance(message, Vote):
            self.vote(node, message)

    def once(self, node: SimNode, view: int, what: str, block: bytes) -> None:
        if self.votes.setdefault((node.member, view, what), block) != block:
            self.complain(f"member {node.member}: two of {what} in view {view}")

    def vote(self, node: SimNode, vote: Vote) -> None:
        kind, view, block = vote.statement.kind, vote.statement.view, vote.statement.block
        new = (node.member, view, kind.name) not in self.votes
        self.once(node, view, kind.name, block)
        if kind is not VoteKind.NOTAR:
            other = "SKIP" if kind is VoteKind.FINAL else "FINAL"
            if (node.member, view, other) in self.votes:
                self.complain(f"member {node.member}: Skip and Final in view {view}")
        if not new:
            return
        if view > node.store.tip[0].view:
            self.durable(node, vote)
        if kind is VoteKind.FINAL and not self.reached(VoteKind.NOTAR, view, block):
            self.complain(f"member {node.member}: Final without a Notar certificate in view {view}")

    def reached(self, kind: VoteKind, view: int, block: bytes) -> bool:
        """Did a quorum sign the statement? Twins are counted as if they had."""
        members = self.world.validators.members
        cast = sum(self.weight.get((kind, view, block), {}).values())
        cast += sum(m.weight for i, m in enumerate(members) if not self.world.is_honest(i))
        return 3 * cast > 2 * sum(m.weight for m in members)

    def durable(self, node: SimNode, vote: Vote) -> None:
        statement = vote.statement
        kept = {record_key(r): r for r in records(node.disk)}
        same = [
            r
            for r in kept.values()
            if (r.kind, r.view, r.block) == (statement.kind, statement.view, statement.block)
        ]
        if not same:
            self.complain(
                f"member {node.member}: {statement.kind.name} of view {statement.view} is not on disk"
            )
            return
        if statement.kind is not VoteKind.NOTAR:
            return
        header = decode_header(same[0].header)
        for digest in header.batches:
            if not holds_batch(node.disk, digest) and digest not in node.store.places:
                self.complain(f"member {node.member}: Notar in view {header.view}, its batch is not on disk")
        parent_view, parent = header.parent_view, header.parent_hash
        if parent_view and not self.reached(VoteKind.NOTAR, parent_view, parent):
            self.complain(f"member {node.member}: Notar in view {header.view}, its parent is not notarized")
        for between in range(parent_view + 1, header.view):
            if not self.reached(VoteKind.SKIP, between, ZERO_HASH):
                self.complain(
                    f"member {node.member}: Notar in view {header.view} over view {between}, not skipped"
                )


class Durability(Checker):
    """A block that a node once committed is in its store after every crash; all of them at the end."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.acknowledged: dict[int, dict[int, bytes]] = {}

    def committed(self, node: SimNode, block: Block) -> None:
        self.acknowledged.setdefault(node.id, {})[block.header.height] = block.hash

    def crashed(self, node: SimNode) -> None:
        self.check(node)

    def end(self) -> None:
        for node in self.world.honest():
            self.check(node)

    def check(self, node: SimNode) -> None:
        held = {b.header.height: b.hash for b in node.store.blocks}
        for height, block in self.acknowledged.get(node.id, {}).items():
            if held.get(height) != block:
                self.complain(f"node {node.id} lost height {height}")


class Money(Checker):
    """All balances and escrows together are the supply, after every block."""

    def committed(self, node: SimNode, block: Block) -> None:
        state = node.store.state
        supply = decode(Supply, state.get(KEY_SUPPLY) or b"").total
        held = [decode(Account, v).balance for _, v in state.scan(b"account/")]
        held += [decode(Deployment, v).escrow for _, v in state.scan(b"deployment/")]
        if sum(held) != supply or min(held) < 0:
            self.complain(f"node {node.id}, height {block.header.height}: {sum(held)} held, supply {supply}")


class BlockTime(Checker):
    """Block times never go back, and are ahead by no more than the rule and the worst honest clock allow."""

    def committed(self, node: SimNode, block: Block) -> None:
        time_ms = block.header.time_ms
        blocks = node.store.blocks
        if len(blocks) > 1 and time_ms < blocks[-2].header.time_ms:
            self.complain(f"the time of block {block.header.height} is before its parent's")
        ahead_ms = time_ms - self.world.wall_ms
        if ahead_ms > TIME_AHEAD_MS_MAX + CLOCK_ERROR_MS_MAX:
            self.complain(f"block {block.header.height} is {ahead_ms} ms ahead of time")


class Bounded(Checker):
    """Nothing runs away: consensus messages per node and second, and what a core keeps in memory."""

    MESSAGES_PER_SECOND = 3_000
    TICKS_PER_SECOND = 500
    VIEWS = 1_500

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.counts: dict[tuple[int, str, int], int] = {}

    def count(self, node: SimNode, what: str, limit: int) -> None:
        key = (node.id, what, self.world.now_us // 1_000_000)
        self.counts[key] = self.counts.get(key, 0) + 1
        if self.counts[key] == limit:
            self.complain(f"node {node.id}: {limit} {what} within second {key[2]}")

    def sent(self, node: SimNode, message: Message) -> None:
        self.count(node, "messages", self.MESSAGES_PER_SECOND)

    def ticked(self, node: SimNode) -> None:
        """A timer of the node went off."""
        self.count(node, "ticks", self.TICKS_PER_SECOND)
        if len(node.core.views) > self.VIEWS:
            self.complain(f"node {node.id} keeps {len(node.core.views)} views")


class Alarms(Checker):
    """Without Byzantine members no core sees a broken rule."""

    def alarm(self, node: SimNode, rule: str) -> None:
        if not self.world.twins:
            self.complain(f"node {node.id}: {rule}")


class Progress(Checker):
    """After the faults end, every node that is up commits new blocks and all batches handed in since,
    within `World.heal_bound_ms`. Asked by the world for when that is."""

    BLOCKS = 3

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.goal: int | None = None
        self.submitted: set[bytes] = set()

    def heal(self) -> None:
        """The faults are over."""
        self.goal = max(node.store.height for node in self.world.honest()) + self.BLOCKS

    def missing(self) -> str | None:
        """What is still awaited, or None."""
        assert self.goal is not None
        for node in self.world.honest():
            if node.up and node.store.height < self.goal:
                return f"node {node.id} is at height {node.store.height}, wanted {self.goal}"
            if node.up and (late := self.submitted - node.store.places.keys()):
                return f"node {node.id} has not committed {len(late)} of {len(self.submitted)} batches"
        return None


ALL: tuple[type[Checker], ...] = (
    Agreement,
    EqualState,
    Certificates,
    Promises,
    Durability,
    Money,
    BlockTime,
    Bounded,
    Alarms,
    Progress,
)
