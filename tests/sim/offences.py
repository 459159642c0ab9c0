"""Checkers of rule 11: who visibly voted twice is recorded by all, and nobody else ever is. Also its mutants.

What is visible is counted here from the messages that reach honest nodes, with no code of what is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from consensus.limits import EVIDENCE_VIEWS, VIEW_WINDOW
from consensus.messages import Propose, Ready, Received, Vote
from ledger import evidence
from ledger.blocks import Batch
from ledger.codec import encode
from ledger.evidence import SignedVote, TwoVotes
from ledger.proofs.certificate import Statement, VoteKind
from ledger.transactions import ReportEvidence, Tx, sign_tx
from tests.sim.checkers import Checker, Report
from tests.sim.node import Block, SimNode

if TYPE_CHECKING:
    from tests.sim.world import World

PREFIX = b"offence/"


class NoFalseEvidence(Checker):
    """No honest validator is ever recorded as an offender."""

    def committed(self, node: SimNode, block: Block) -> None:
        if not any(receipt.ok for receipt in block.receipts):
            return
        members = self.world.validators.members
        honest = {m.key: i for i, m in enumerate(members) if self.world.is_honest(i)}
        for key, _ in node.store.state.scan(PREFIX):
            if key[len(PREFIX) :] in honest:
                self.complain(f"node {node.id} records honest member {honest[key[len(PREFIX) :]]}")


class Offences(Checker):
    """Two statements of a member that no honest one makes, heard by one honest node in one life within the
    window: then every honest node that is up records the member. Asked by the world after the faults."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.heard_by: dict[int, dict[tuple[int, int], set[tuple[str, bytes]]]] = {}
        self.seen: dict[int, set[int]] = {}

    def heard(self, node: SimNode, event: Received) -> None:
        """A checked message reaches a core."""
        message, header = event.message, event.header
        if isinstance(message, Vote):
            statement = message.statement
            self._note(node, message.voter, statement.view, statement.kind.name, statement.block)
        elif isinstance(message, Propose) and header is not None:
            proposers = [m.key for m in self.world.validators.members]
            self._note(node, proposers.index(header.proposer), header.view, "PROPOSAL", header.hash)

    def _note(self, node: SimNode, member: int, view: int, kind: str, block: bytes) -> None:
        if not -EVIDENCE_VIEWS <= view - node.core.frontier <= VIEW_WINDOW:
            return
        self._keep(node, member, view, kind, block)

    def _keep(self, node: SimNode, member: int, view: int, kind: str, block: bytes) -> None:
        said = self.heard_by.setdefault(node.id, {}).setdefault((member, view), set())
        said.add((kind, block))
        kinds = [kind for kind, _ in said]
        voted = {block for kind, block in said if kind in ("NOTAR", "FINAL")}
        if len(voted) > 1 or kinds.count("PROPOSAL") > 1 or {"SKIP", "FINAL"} <= set(kinds):
            self.seen.setdefault(node.id, set()).add(member)

    def crashed(self, node: SimNode) -> None:
        """What it alone had seen may be gone with its memory."""
        self.heard_by.pop(node.id, None)
        self.seen.pop(node.id, None)

    def missing(self) -> str | None:
        """What is still awaited, or None."""
        members = self.world.validators.members
        for offender in set().union(*self.seen.values()):
            for node in self.world.honest():
                if node.up and node.store.state.get(PREFIX + members[offender].key) is None:
                    return f"node {node.id} does not record member {offender}"
        return None


# ---------------------------------------------------------------------- who lies about it


class Forger(SimNode):
    """The Byzantine member accuses the others: with their real votes, of which an honest one casts both, and
    with votes that they never signed."""

    def boot(self) -> None:
        self.finals: dict[tuple[int, int], SignedVote] = {}
        super().boot()
        if not self.world.is_honest(self.member):
            for member in range(len(self.world.validators.members)):
                self._accuse(
                    member, self._unsigned(VoteKind.NOTAR, b"1"), self._unsigned(VoteKind.NOTAR, b"2")
                )

    def _unsigned(self, kind: VoteKind, block: bytes) -> SignedVote:
        return SignedVote(Statement(kind, 0, 1, block * 32), bytes(64))

    def handle(self, event: Received) -> None:
        message = event.message
        if isinstance(message, Vote) and not self.world.is_honest(self.member) and len(self.finals) < 20:
            vote = SignedVote(message.statement, message.signature)
            other = self.finals.setdefault((message.voter, message.statement.view), vote)
            if other.statement != vote.statement:
                self._accuse(message.voter, other, vote)
        super().handle(event)

    def _accuse(self, member: int, first: SignedVote, second: SignedVote) -> None:
        body = ReportEvidence(TwoVotes(self.world.validators.members[member].key, first, second))
        salt = encode((member, first.statement.view)).ljust(8, b".")
        tx = Tx(self.world.chain_id, self.key.public, self.height + 1_000, salt, body)
        self.world.at(self.world.now_us, self, self.hand_in, encode(Batch((sign_tx(self.key, tx),))))


@contextmanager
def broken(name: str, by: Callable[..., Any]) -> Iterator[None]:
    """Within the block, a function of ledger.evidence is replaced."""
    real = getattr(evidence, name)
    setattr(evidence, name, by)
    try:
        yield
    finally:
        setattr(evidence, name, real)


class AnyTwoVotes(SimNode):
    """Takes any two different votes of a view for an offence, in the core and on the ledger."""

    def step(self, event: Any) -> None:
        with broken("conflict", lambda first, second: first != second):
            super().step(event)

    def apply(self, *block: Any) -> None:
        with broken("conflict", lambda first, second: first != second):
            super().apply(*block)


class BelievesUnsigned(Forger):
    """The ledger does not check the signatures in evidence."""

    def apply(self, *block: Any) -> None:
        with broken("_check_signature", lambda *_: None):
            super().apply(*block)


class NeverReports(SimNode):
    """Finds evidence, and keeps it to itself."""

    def carry_out(self, ready: Ready) -> None:
        ready.evidence.clear()
        super().carry_out(ready)
