"""What must hold of every run. Each checker is told what happens and complains to `report`.

They share no code with what they check: quorums are counted from weights here, votes are those seen on the
wire, disks are looked into directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from consensus.messages import Message, Propose, Received, Vote
from ledger.blocks import ZERO_HASH, Header, decode_header
from ledger.codec import decode
from ledger.limits import TIME_AHEAD_MS_MAX
from ledger.proofs import tree
from ledger.proofs.certificate import Statement, VoteKind
from ledger.records import KEY_SUPPLY, Account, Deployment, Supply
from ledger.storage.store import Store
from tests.sim.disk import durable_record, holds_batch

if TYPE_CHECKING:
    from tests.sim.node import Block, SimNode
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

    def replaced(self, node: SimNode) -> None:
        """A node's chain was damaged; its operator gave it an empty store, to sync anew."""

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
        if node.height != height:
            self.complain(f"node {node.id} committed {height} as its block {node.height}")


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

    def end(self) -> None:
        """The root is that of the records which each node would read."""
        for node in self.world.honest():
            if node.chain_disk.harmed or node.chain_disk.refuses:
                continue  # it cannot be read, and says so
            records = dict(node.store.state.scan(b""))
            proved = {key: value for key, value in records.items() if not key.startswith(b"seen/")}
            if tree.update(lambda path: None, proved)[0] != self.roots[node.height]:
                self.complain(f"node {node.id} holds other records than its root at height {node.height}")


class Certificates(Checker):
    """Each commit's certificate is Final, of a quorum by weight, and all its signers really signed it."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.cast: set[tuple[int, Statement]] = set()
        self.seen: set[bytes] = set()

    def signed(self, node: SimNode, statement: Statement) -> None:
        self.cast.add((node.member, statement))

    def committed(self, node: SimNode, block: Block) -> None:
        certificate, statement = block.certificate, block.certificate.statement
        if (
            statement.kind is not VoteKind.FINAL
            or statement.view < block.header.view
            or statement.epoch != block.header.epoch
        ):
            self.complain(f"block {block.header.height} was committed by {statement}")
        if statement.view == block.header.view and statement.block != block.hash:
            self.complain(f"block {block.header.height} was committed by another block's certificate")
        if block.hash + statement.block in self.seen:
            return
        self.seen.add(block.hash + statement.block)
        seats = self.world.seats(statement.epoch)
        signers = [seat for i, seat in enumerate(seats) if certificate.bitmap[i // 8] >> (i % 8) & 1]
        if 3 * sum(weight for _, weight in signers) <= 2 * sum(weight for _, weight in seats):
            self.complain(f"block {block.header.height} was committed without a quorum")
        for member, _ in signers:
            if self.world.is_honest(member) and (member, statement) not in self.cast:
                self.complain(f"member {member} never signed Final of view {statement.view}")


class Promises(Checker):
    """Over all lives of a validator: one Notar and one proposal a view, never Skip and Final; and each vote
    is durable, with the batches that a Notar names, before it is on the wire. A quorum signed Notar for the
    parent of what a Notar names, and Skip for every view between."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.votes: dict[tuple[int, int, int, str], bytes] = {}
        self.voters: dict[Statement, set[int]] = {}

    def signed(self, node: SimNode, statement: Statement) -> None:
        self.voters.setdefault(statement, set()).add(node.member)

    def sent(self, node: SimNode, message: Message) -> None:
        if isinstance(message, Propose):
            header = decode_header(message.header)
            self.once(node, header.epoch, header.view, "proposal", header.hash)
        elif isinstance(message, Vote):
            self.vote(node, message)

    def once(self, node: SimNode, epoch: int, view: int, what: str, block: bytes) -> None:
        if self.votes.setdefault((node.member, epoch, view, what), block) != block:
            self.complain(f"member {node.member}: two of {what} in view {view}")

    def vote(self, node: SimNode, vote: Vote) -> None:
        statement = vote.statement
        epoch, kind, view, block = statement.epoch, statement.kind, statement.view, statement.block
        new = (node.member, epoch, view, kind.name) not in self.votes
        self.once(node, epoch, view, kind.name, block)
        if kind is not VoteKind.NOTAR:
            other = "SKIP" if kind is VoteKind.FINAL else "FINAL"
            if (node.member, epoch, view, other) in self.votes:
                self.complain(f"member {node.member}: Skip and Final in view {view}")
        if not new:
            return
        if view > node.tip.view:
            self.durable(node, vote)
        if kind is VoteKind.FINAL and not self.reached(Statement(VoteKind.NOTAR, epoch, view, block)):
            self.complain(f"member {node.member}: Final without a Notar certificate in view {view}")

    def reached(self, statement: Statement) -> bool:
        """Did a quorum of its epoch's set sign the statement? Twins are counted as if they had."""
        seats, voters = self.world.seats(statement.epoch), self.voters.get(statement, set())
        cast = sum(weight for m, weight in seats if m in voters or not self.world.is_honest(m))
        return 3 * cast > 2 * sum(weight for _, weight in seats)

    def voted_for(self, header: Header) -> None:
        """An honest member signed its Notar."""

    def passed(self, header: Header, view: int) -> bool:
        """May a block leave this view below it out?"""
        return self.reached(Statement(VoteKind.SKIP, header.epoch, view, ZERO_HASH))

    def durable(self, node: SimNode, vote: Vote) -> None:
        statement = vote.statement
        kept = durable_record(node.disk, statement)
        if kept is None:
            self.complain(
                f"member {node.member}: {statement.kind.name} of view {statement.view} is not on disk"
            )
            return
        if statement.kind is not VoteKind.NOTAR:
            return
        header = decode_header(kept.header)
        self.voted_for(header)
        for digest in header.batches:
            if not holds_batch(node.disk, digest) and node.store.batch(digest) is None:
                self.complain(f"member {node.member}: Notar in view {header.view}, its batch is not on disk")
        epoch, parent_view, parent = header.epoch, header.parent_view, header.parent_hash
        if self.is_voted(header) and not self.reached(Statement(VoteKind.NOTAR, epoch, parent_view, parent)):
            self.complain(f"member {node.member}: Notar in view {header.view}, its parent is not notarized")
        for between in range(parent_view + 1, header.view):
            if not self.passed(header, between):
                self.complain(
                    f"member {node.member}: Notar in view {header.view} over view {between}, not skipped"
                )

    def is_voted(self, header: Header) -> bool:
        """Was the parent voted on in this epoch? Genesis was not, nor the block on which an epoch begins."""
        return header.parent_view > 0


class Durability(Checker):
    """What a node once showed as final (blocks, and receipts of transactions: on that a client may rely) is
    on its disk after every crash; at the end it is read back through a store opened anew."""

    READ_BACK = 12  # transactions of each node, spread over its chain

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.shown: dict[int, dict[int, Block]] = {}
        self.certain: dict[int, int] = {}  # up to this height a crash was survived before

    def committed(self, node: SimNode, block: Block) -> None:
        self.shown.setdefault(node.id, {})[block.header.height] = block

    def replaced(self, node: SimNode) -> None:
        """It said so: this copy is lost, and will be fetched from the others."""
        self.shown.pop(node.id, None)
        self.certain.pop(node.id, None)

    def crashed(self, node: SimNode) -> None:
        disk = node.chain_disk
        if disk.refuses or disk.harmed:
            return  # it will be noticed, or no reader sees it
        shown = self.shown.get(node.id, {})
        for height in range(self.certain.get(node.id, 0) + 1, max(shown, default=0) + 1):
            block = shown.get(height)
            if block is None:
                continue  # a crash came between the write, which was whole, and its news
            if disk.get(b"h" + block.hash) != height.to_bytes(8, "big"):
                self.complain(f"node {node.id} lost height {height}")
            for receipt in block.receipts:
                if disk.get(b"t" + receipt.id) is None:
                    self.complain(f"node {node.id} lost a transaction of height {height}")
            self.certain[node.id] = height

    def end(self) -> None:
        for node in self.world.honest():
            self.crashed(node)
            if node.chain_disk.refuses or node.chain_disk.harmed:
                continue
            store, shown = Store(node.chain_disk, self.world.chain_id), self.shown.get(node.id, {})
            for height, block in shown.items():
                if store.header(height) != block.header.encode():
                    self.complain(f"node {node.id} holds another block at height {height}")
            receipts = [(h, r) for h, block in shown.items() for r in block.receipts]
            for height, receipt in receipts[:: len(receipts) // self.READ_BACK + 1]:
                found = store.tx(receipt.id)
                if found is None or found.height != height or found.receipt != receipt:
                    self.complain(f"node {node.id} answers otherwise about {receipt.id.hex()[:8]} now")


class Money(Checker):
    """All balances and escrows together are the supply, after every block."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.roots: dict[int, bytes] = {}  # by node, of what was counted last

    def committed(self, node: SimNode, block: Block) -> None:
        if self.roots.get(node.id) == block.root:
            return  # nothing changed
        self.roots[node.id] = block.root
        state = node.store.state
        supply = decode(Supply, state.get(KEY_SUPPLY) or b"").total
        held = [decode(Account, v).balance for _, v in state.scan(b"account/")]
        deals = [decode(Deployment, v) for _, v in state.scan(b"deployment/")]
        held += [deal.escrow + deal.withheld for deal in deals]
        if sum(held) != supply or min(held) < 0:
            self.complain(f"node {node.id}, height {block.header.height}: {sum(held)} held, supply {supply}")


class BlockTime(Checker):
    """Block times never go back, and are ahead by no more than the rule and the worst honest clock allow. A
    clock that jumped is not honest: those of which there are few must not move the time of the chain."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.last: dict[int, tuple[int, int]] = {}

    def committed(self, node: SimNode, block: Block) -> None:
        time_ms = block.header.time_ms
        last = self.last.get(node.id, (0, 0))
        self.last[node.id] = block.header.height, time_ms
        if last[0] + 1 == block.header.height and time_ms < last[1]:
            self.complain(f"the time of block {block.header.height} is before its parent's")
        ahead_ms = time_ms - self.world.wall_ms
        if ahead_ms > TIME_AHEAD_MS_MAX + CLOCK_ERROR_MS_MAX:
            self.complain(f"block {block.header.height} is {ahead_ms} ms ahead of time")


class Alarms(Checker):
    """Without Byzantine members no core sees a broken rule."""

    def alarm(self, node: SimNode, rule: str) -> None:
        if not self.world.twins:
            self.complain(f"node {node.id}: {rule}")


class Progress(Checker):
    """After the faults end, every node that is up commits new blocks and all transactions handed in since,
    within `World.heal_bound_ms`, and every honest client is served. Asked by the world for when that is."""

    BLOCKS = 3
    OWED = 5

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.goal: int | None = None
        self.submitted: set[bytes] = set()
        self.shown: dict[int, set[bytes]] = {}

    def heal(self) -> None:
        """The faults are over."""
        self.goal = max(node.height for node in self.world.honest()) + self.BLOCKS

    def owed(self, id_: bytes, expires: int) -> None:
        """A client handed a transaction in that does not expire soon."""
        if self.world.calm and len(self.submitted) < self.OWED and self.goal and expires > self.goal + 500:
            self.submitted.add(id_)

    def committed(self, node: SimNode, block: Block) -> None:
        if self.submitted:
            found = self.submitted.intersection(receipt.id for receipt in block.receipts)
            self.shown.setdefault(node.id, set()).update(found)

    def missing(self) -> str | None:
        """What is still awaited, or None."""
        assert self.goal is not None
        for node in self.world.honest():
            if not node.up:
                continue
            if node.height < self.goal:
                return f"node {node.id} is at height {node.height}, wanted {self.goal}"
            if late := self.submitted - self.shown.get(node.id, set()):
                return f"node {node.id} has not committed {len(late)} of {len(self.submitted)} transactions"
        return None

    def quiet_missing(self) -> str | None:
        """What is wrong at the end of a quiet stretch, or None: nobody is left behind or waits."""
        heights = [node.height for node in self.world.honest() if node.up]
        if max(heights) - min(heights) > 2:
            return f"heights {heights}"
        bound_us = self.world.heal_bound_ms * 1_000
        pending, now_us = self.world.clients.pending.values(), self.world.now_us
        waiting = [p for p in pending if p.since_us + bound_us < now_us]
        return f"{len(waiting)} transactions wait" if waiting else None


ALL: tuple[type[Checker], ...] = (
    Agreement,
    EqualState,
    Certificates,
    Promises,
    Durability,
    Money,
    BlockTime,
    Alarms,
    Progress,
)
