"""What must hold of every run in which the validator set changes (rule 12). See tests.sim.checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.limits import EVIDENCE_VIEWS, VIEW_WINDOW
from consensus.messages import Message, Propose, Received, Vote
from ledger.blocks import Header, decode_header, validators_hash
from ledger.codec import decode
from ledger.proofs.certificate import Statement, ValidatorSet, VoteKind
from ledger.proofs.light import Trust
from ledger.records import KEY_NEXT_VALIDATORS, KEY_VALIDATORS
from tests.sim.bounds import Memory
from tests.sim.checkers import Checker, Progress, Promises, Report
from tests.sim.offences import Offences

if TYPE_CHECKING:
    from tests.sim.epochs import EpochWorld
    from tests.sim.node import Block, SimNode
    from tests.sim.world import World


class Epochs(Checker):
    """Which block ends an epoch, and that nothing above it in that epoch is ever committed.

    Counted from headers and records alone: a header names another set exactly when the state of its own
    `state_height` holds a pending one; such a block is the last of its epoch at every node; the next block is
    of the next epoch and of that set; and all nodes put the same set in force.
    """

    world: EpochWorld

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        genesis = self.world.founding.hash
        self.pending: dict[int, bytes | None] = {0: None}  # hash of the pending set by height
        self.after: dict[int, tuple[int, bytes]] = {0: (0, genesis)}  # epoch and set that follow a height
        self.last: dict[int, Header] = {}  # by node

    def committed(self, node: SimNode, block: Block) -> None:
        header, state = block.header, node.store.state
        height = header.height
        pending = state.get(KEY_NEXT_VALIDATORS)
        ends = header.next_validators != header.validators
        if (header.epoch, header.validators) != self.after.get(height - 1):
            self.complain(f"node {node.id}: block {height} of epoch {header.epoch} is above its boundary")
        wanted = self.pending.get(header.state_height) or header.validators
        if header.next_validators != wanted:
            self.complain(f"node {node.id}: block {height} names another next set than its state holds")
        found = validators_hash(pending) if pending is not None else None
        if self.pending.setdefault(height, found) != found:
            self.complain(f"node {node.id}: another pending set at height {height}")
        current = state.get(KEY_VALIDATORS) or b""
        if validators_hash(current) != header.next_validators:
            self.complain(f"node {node.id}: another set in force above height {height} than it names")
        epoch = header.epoch + 1 if ends else header.epoch
        if self.after.setdefault(height, (epoch, header.next_validators)) != (epoch, header.next_validators):
            self.complain(f"node {node.id}: the epoch ends elsewhere, at height {height}")
        if ends:
            self.world.sets.setdefault(epoch, decode(ValidatorSet, current))

    def end(self) -> None:
        """Somebody with the genesis file alone comes to the same set, at each node."""
        for node in self.world.honest():
            if node.chain_disk.harmed or node.chain_disk.refuses:
                continue
            trust = Trust(self.world.chain_id, self.world.founding)
            for proof in node.store.epochs.proofs(0, 1_000):
                trust.advance(proof)
            if trust.latest != node.notary.validators:
                self.complain(f"node {node.id} cannot show how epoch {node.notary.validators.epoch} began")


class MembersOnly(Checker):
    """Who has no seat in an epoch signs nothing in it, and proposes nothing."""

    world: EpochWorld

    def signed(self, node: SimNode, statement: Statement) -> None:
        if node.member not in dict(self.world.seats(statement.epoch)):
            self.complain(f"member {node.member} has no seat in epoch {statement.epoch}, and votes")


class Tail(Checker):
    """What is proposed above a boundary carries nothing, names the same next set, and stands on it alone."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.ends: dict[bytes, Header] = {}  # boundaries, and what was seen above them

    def sent(self, node: SimNode, message: Message) -> None:
        """By an honest leader; others of its kind vote for it or not."""
        if not isinstance(message, Propose):
            return
        header = decode_header(message.header)
        below = self.ends.get(header.parent_hash)
        is_tail = below is not None and below.epoch == header.epoch
        if is_tail and (header.batches or header.next_validators == header.validators):
            self.complain(f"member {node.member} proposes {len(header.batches)} batches above a boundary")
        if is_tail and below is not None and below.parent_hash in self.ends:
            self.complain(f"member {node.member} proposes a block on one of the tail, not on the boundary")
        if header.next_validators != header.validators:
            self.ends[header.hash] = header


class EpochPromises(Promises):
    """See Promises: within an epoch, in the tail of which a notarized block beside lets a view pass, too."""

    world: EpochWorld

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.headers: dict[bytes, Header] = {}
        self.beside: dict[tuple[int, int, bytes], list[bytes]] = {}  # by epoch, view and parent

    def voted_for(self, header: Header) -> None:
        if self.headers.setdefault(header.hash, header) is header:
            self.beside.setdefault((header.epoch, header.view, header.parent_hash), []).append(header.hash)

    def passed(self, header: Header, view: int) -> bool:
        """An honest member voted for each block that is notarized, so its header is known."""
        if super().passed(header, view):
            return True
        parent = self.headers.get(header.parent_hash)
        if parent is None or parent.epoch != header.epoch or parent.next_validators == parent.validators:
            return False
        found = self.beside.get((header.epoch, view, header.parent_hash), [])
        return any(self.reached(Statement(VoteKind.NOTAR, header.epoch, view, block)) for block in found)

    def is_voted(self, header: Header) -> bool:
        """The block on which an epoch begins was voted on in the one before."""
        first = min((h for h, (e, _) in self._ends().items() if e == header.epoch), default=0)
        return header.parent_view > 0 and header.height != first + 1

    def _ends(self) -> dict[int, tuple[int, bytes]]:
        return self.world.checker(Epochs).after


class EpochProgress(Progress):
    """See Progress; and the change that is proposed after the faults comes into force everywhere."""

    world: EpochWorld

    def missing(self) -> str | None:
        """What is still awaited, or None."""
        if not self.world.awaited:
            return "no change is proposed"
        for node in self.world.honest():
            if node.up and node.notary.validators.epoch < self.world.awaited:
                return (
                    f"node {node.id} is in epoch {node.notary.validators.epoch}, wanted {self.world.awaited}"
                )
        return super().missing()


class EpochOffences(Offences):
    """See Offences: an offence is of one epoch."""

    world: EpochWorld

    def heard(self, node: SimNode, event: Received) -> None:
        if not self.world.twins:
            return
        message, header = event.message, event.header
        if isinstance(message, Vote):
            statement = message.statement
            member, _ = self.world.seats(statement.epoch)[message.voter]
            self._said(node, member, statement.epoch, statement.view, statement.kind.name, statement.block)
        elif isinstance(message, Propose) and header is not None:
            member = self.world.number_of[header.proposer]
            self._said(node, member, header.epoch, header.view, "PROPOSAL", header.hash)

    def _said(self, node: SimNode, member: int, epoch: int, view: int, kind: str, block: bytes) -> None:
        if not -EVIDENCE_VIEWS <= view - node.core.frontier <= VIEW_WINDOW:
            return
        self._keep(node, member, (epoch << 40) + view, kind, block)


class EpochMemory(Memory):
    """See Memory. Who follows has a core that takes no part: there is nothing to bound."""

    def committed(self, node: SimNode, block: Block) -> None:
        if not node.is_waiting:
            super().committed(node, block)
