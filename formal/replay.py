"""Recorded steps of production cores, each checked against the model: may it happen here?

The model remembers every vote for ever, so a vote that contradicts a forgotten one is found too. What a step
may use is what the model says its member may know: every vote that another member kept and sent, and its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from consensus.messages import Record
from formal.instances import Instance
from formal.model import Block, Model, Slot, State, Vote, block, chain
from ledger.blocks import Header, decode_header, header_hash
from ledger.proofs.certificate import Certificate, Statement, VoteKind

KINDS = {VoteKind.NOTAR: "notar", VoteKind.SKIP: "skip", VoteKind.FINAL: "final"}
Complain = Callable[[str], None]


class _Replayed(Model):
    """The leaders of a real run are known: an honest one signs one block a view."""

    def __init__(self, instance: Instance) -> None:
        self.leaders: dict[int, list[str]] = {}
        super().__init__(instance)

    def seat(self, epoch: int, weights: Mapping[str, int]) -> None:
        """In order of place: they take turns."""
        super().seat(epoch, weights)
        self.leaders[epoch] = list(weights)

    def one_block(self, state: State, slot: Slot, b: Block) -> bool:
        """An honest leader signs one block."""
        places = self.leaders[slot[0]]
        is_honest = places[slot[1] % len(places)] in self.honest
        return not is_honest or super().one_block(state, slot, b)


class Replay:
    """One run. `honest` are numbers of members; `seats` tells who has what weight in an epoch (from 0), in
    order of place."""

    def __init__(
        self,
        honest: Iterable[int],
        seats: Callable[[int], Mapping[int, int]],
        genesis_hash: bytes,
        complain: Complain,
    ) -> None:
        self.names = {number: f"h{number:03}" for number in honest}
        everybody = frozenset(self.names.values())
        self.model = _Replayed(Instance("replay", (everybody,), None, frozenset(), in_steps=True))
        self.model.total.clear()  # epochs are seated as they come
        self._seats, self._complain = seats, complain
        self.state: State = self.model.start()
        self.blocks: dict[bytes, Block | None] = {genesis_hash: None}
        self.in_doubt: dict[int, frozenset[Vote]] = {}  # kept or not when power failed
        self.steps = {"notar": 0, "final": 0, "skip": 0, "send": 0, "certificate": 0, "commit": 0, "crash": 0}

    # ------------------------------------------------------------------ words

    def _slot(self, epoch: int, view: int) -> Slot:
        if epoch + 1 not in self.model.total:
            seats = self._seats(epoch)
            named = {self.names.get(member, f"b{member:03}"): weight for member, weight in seats.items()}
            self.model.seat(epoch + 1, named)
        return epoch + 1, view

    def _block(self, header: Header, digest: bytes) -> Block | None:
        """The model's block of a header that an honest member voted for; None for one that cannot be."""
        known = self.blocks.get(digest)
        if known is not None:
            return known
        if header.parent_hash not in self.blocks:
            return None
        parent, slot = self.blocks[header.parent_hash], self._slot(header.epoch, header.view)
        if (parent.slot[1] if parent else 0) != header.parent_view:
            return None
        is_above_end = parent is not None and parent.slot[0] == slot[0]
        in_tail = is_above_end and parent is not None and (parent.is_last or parent.tail_from is not None)
        ends = header.next_validators != header.validators
        if in_tail and (header.batches or not ends):
            return None  # [12] a tail block carries nothing
        made = block(parent, slot, digest.hex(), ends and not in_tail)
        self.blocks[digest] = made
        return made

    def _vote(self, statement: Statement) -> Vote | None:
        slot = self._slot(statement.epoch, statement.view)
        if statement.kind is VoteKind.SKIP:
            return Vote("skip", slot, None)
        found = self.blocks.get(statement.block)
        return None if found is None or found.slot != slot else Vote(KINDS[statement.kind], slot, found)

    def _votes(self, member: int, of: str = "votes") -> frozenset[Vote]:
        votes: frozenset[Vote] = getattr(self.state, of)[self.model.number[self.names[member]]]
        return votes

    # ------------------------------------------------------------------ steps

    def cast(self, member: int, record: Record) -> None:
        """Steps Notar, Final, Skip."""
        i, model, state = self.names[member], self.model, self.state
        digest = header_hash(record.header) if record.header else record.block
        if record.header:
            self._block(decode_header(record.header), digest)
        vote = self._vote(Statement(record.kind, record.epoch, record.view, record.block))
        what = f"member {member} cast {record.kind.name} in epoch {record.epoch}, view {record.view}"
        if vote is None or digest != record.block:
            self._complain(f"{what} for a block that cannot be there")
            return
        if vote.kind == "notar" and vote.block is not None:
            allowed = model.can_notar(state, i, vote.block)
            allowed = allowed and model.is_parent(state, i, vote.slot, vote.block.parent)
        elif vote.kind == "final" and vote.block is not None:
            allowed = model.can_final(state, i, vote.block)
        else:
            allowed = model.can_skip(state, i, vote.slot) and model.entered(state, i, vote.slot)
        if not allowed or i not in model.voters[vote.slot[0]]:
            self._complain(f"{what}: the model forbids it")
        self.state = model.cast(state, i, vote)
        self.steps[vote.kind] += 1

    def keep(self, member: int) -> None:
        """Step Keep: what was cast is on disk, synced."""
        self.in_doubt.pop(member, None)
        self.state = self.model.keep(self.state, self.names[member])

    def doubt(self, member: int) -> None:
        """Power fails within Keep: what was cast may be on disk or not."""
        self.in_doubt[member] = self._votes(member)

    def send(self, member: int, statement: Statement) -> None:
        """Step Send."""
        vote, i = self._vote(statement), self.names[member]
        what = f"member {member} sent {statement.kind.name} in view {statement.view}"
        if vote is None or vote not in self._votes(member):
            self._complain(f"{what}, never cast")
        elif vote not in self._votes(member, "disk"):
            self._complain(f"{what}, not kept")
        if vote is not None and vote not in self._votes(member, "sent"):
            self.state = self.model.send(self.state, i, vote)
            self.steps["send"] += 1

    def crash(self, member: int) -> None:
        """Step Crash."""
        self.state = self.model.crash(self.state, self.names[member])
        self.steps["crash"] += 1

    def restored(self, member: int, epoch: int, above: int, own: Iterable[Statement]) -> None:
        """A core began anew with these own votes of an epoch, above its tip: those that the disk holds."""
        votes = {vote for statement in own if (vote := self._vote(statement)) is not None}
        slot = self._slot(epoch, above)

        def here(kept: Iterable[Vote]) -> set[Vote]:
            return {v for v in kept if v.slot[0] == slot[0] and v.slot[1] > above}

        doubted = self.in_doubt.pop(member, None)
        if doubted is not None and votes == here(doubted) != here(self._votes(member)):
            i = self.names[member]
            n = self.model.number[i]
            kept = (*self.state.votes[:n], doubted, *self.state.votes[n + 1 :])
            self.state = self.model.keep(self.state._replace(votes=kept), i)
        if votes != here(self._votes(member)):
            self._complain(f"member {member} began with other votes above view {above} than it had kept")

    # ------------------------------------------------------------------ what a core concludes

    def holds(self, member: int, certificate: Certificate) -> None:
        """A core made or took a certificate: the votes for it must be there."""
        vote = self._vote(certificate.statement)
        if vote is None or not self.model.reached(self.state, self.names[member], vote):
            self._complain(f"member {member} holds {certificate.statement}, for which there are no votes")
        self.steps["certificate"] += 1

    def commits(self, member: int, digest: bytes, certificate: Certificate) -> None:
        """A core commits: its certificate's block is final, this one is in its chain, at or below the cut."""
        found, final = self.blocks.get(digest), self.blocks.get(certificate.statement.block)
        who = self.names[member]
        if found is None or final is None or not self.model.final_reached(self.state, who, final):
            self._complain(f"member {member} commits {digest.hex()[:8]}, which is not final")
        elif found not in chain(self.model.cut(final)):
            self._complain(
                f"member {member} commits {digest.hex()[:8]}, which the final block does not settle"
            )
        self.steps["commit"] += 1
