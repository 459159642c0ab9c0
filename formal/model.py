"""The transition relation of Simplex.tla in Python: the same names, guards and steps.

It replays recorded runs of the production core and counts the states of small instances. It is written by
hand; that it says what Simplex.tla says is shown by both finding the same number of states, with all rules
and with one or another left out (tests/consensus/test_model.py). Where the two differ on purpose: members may
have weights here, and `last` may be without bound. Epochs are not counted, only replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from formal.instances import Instance

Slot = tuple[int, int]  # epoch, view


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A block is the chain that ends in it. Made by `block` alone, so that the same one is one object."""

    parent: Block | None
    slot: Slot
    content: str
    is_last: bool  # [12] a boundary block
    tail_from: Block | None  # the boundary of its own epoch below it


@cache
def block(parent: Block | None, slot: Slot, content: str, is_last: bool = False) -> Block:
    """The block of these fields."""
    tail_from = None
    if parent is not None:
        in_tail = parent.is_last and parent.slot[0] == slot[0]
        tail_from = parent if in_tail and parent.tail_from is None else parent.tail_from
    return Block(parent, slot, content, is_last, tail_from)


class Vote(NamedTuple):
    """`kind` is notar, final or skip; a skip names no block."""

    kind: str
    slot: Slot
    block: Block | None


Votes = frozenset[Vote]


class State(NamedTuple):
    """One tuple entry for each honest member, in the instance's order."""

    votes: tuple[Votes, ...]
    disk: tuple[Votes, ...]
    sent: tuple[Votes, ...]
    floor: tuple[Slot, ...]


def chain(tip: Block | None) -> list[Block]:
    """All blocks up to `tip`, the oldest first."""
    found = []
    while tip is not None:
        found.append(tip)
        tip = tip.parent
    return found[::-1]


def stands_on(upper: Block, lower: Block) -> bool:
    """Is `lower` in the chain of `upper`?"""
    return any(b is lower for b in chain(upper))


def is_settled(slot: Slot, at: Slot) -> bool:
    """At or below a floor."""
    return slot[0] < at[0] or (slot[0] == at[0] and slot[1] <= at[1])


class Model:
    """Guards and steps of one instance."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.honest = instance, instance.honest
        self.number = {name: n for n, name in enumerate(self.honest)}
        self.weights: dict[int, dict[str, int]] = {}
        self.voters: dict[int, list[str]] = {}
        self.total: dict[int, int] = {}
        self.helpers: dict[int, int] = {}
        self.last = instance.last if instance.last is not None else 10**9
        for epoch, members in enumerate(instance.members, 1):
            self.seat(epoch, dict.fromkeys(members, 1))

    def seat(self, epoch: int, weights: Mapping[str, int]) -> None:
        """The members of an epoch and what they weigh."""
        self.weights[epoch] = dict(weights)
        self.voters[epoch] = [m for m in self.honest if m in weights]
        self.total[epoch] = sum(weights.values())
        self.helpers[epoch] = self.total[epoch] - sum(weights[m] for m in self.voters[epoch])

    def weight_in(self, epoch: int, member: str) -> int:
        return self.weights[epoch][member]

    def quorum(self, epoch: int) -> int:
        """W 1.1: floor(2W/3) + 1."""
        return 2 * self.total[epoch] // 3 + 1 - self.broken("quorum")

    def broken(self, rule: str) -> bool:
        return rule in self.instance.broken

    def start(self) -> State:
        """Nobody has voted."""
        none: tuple[Votes, ...] = tuple(frozenset() for _ in self.honest)
        empty = none if self.instance.in_steps else ()
        return State(none, empty, empty, tuple((0, 0) for _ in self.honest))

    def slots(self) -> list[Slot]:
        """All slots of a bounded instance."""
        return [(e, v) for e in self.total for v in range(1, self.last + 1)]

    # ------------------------------------------------------------------ certificates

    def known(self, state: State, who: str | None, i: str) -> Votes:
        """What `who` (None: no member) may know of the votes of `i`."""
        n = self.number[i]
        if not self.instance.in_steps:
            return state.votes[n]
        return state.votes[n] | state.sent[n] if who == i else state.sent[n]

    def reached(self, state: State, who: str | None, *votes: Vote) -> bool:
        """Do a quorum's votes say one of these, the Byzantine ones given?"""
        epoch = votes[0].slot[0]
        weight = self.helpers[epoch]
        for i in self.voters[epoch]:
            if any(vote in self.known(state, who, i) for vote in votes):
                weight += self.weight_in(epoch, i)
        return weight >= self.quorum(epoch)

    def notar_reached(self, state: State, who: str | None, b: Block) -> bool:
        return self.reached(state, who, Vote("notar", b.slot, b))

    def final_reached(self, state: State, who: str | None, b: Block) -> bool:
        return self.reached(state, who, Vote("final", b.slot, b))

    def skip_reached(self, state: State, who: str | None, slot: Slot) -> bool:
        epochs = self.total if self.broken("epoch_mixed") else (slot[0],)
        votes = [Vote("skip", slot, None)] + [Vote("skip", (e, slot[1]), None) for e in epochs]
        return self.reached(state, who, *votes)

    def voted(self, state: State, who: str | None, slot: Slot) -> set[Block]:
        """Blocks for which an honest member's Notar is known."""
        known = (self.known(state, who, i) for i in self.voters[slot[0]])
        return {v.block for votes in known for v in votes if v.kind == "notar" and v.slot == slot and v.block}

    def notarized(self, state: State, who: str | None, slot: Slot) -> set[Block]:
        return {b for b in self.voted(state, who, slot) if self.notar_reached(state, who, b)}

    def finalized(self, state: State, who: str | None, epoch: int) -> set[Block]:
        """All blocks of an epoch for which a Final certificate is there."""
        weight: dict[Block, int] = {}
        for i in self.voters[epoch]:
            for vote in self.known(state, who, i):
                if vote.kind == "final" and vote.slot[0] == epoch and vote.block is not None:
                    weight[vote.block] = weight.get(vote.block, self.helpers[epoch]) + self.weight_in(
                        epoch, i
                    )
        return {b for b, w in weight.items() if w >= self.quorum(epoch)}

    def cut(self, b: Block) -> Block:
        """[12] The block, or the boundary in its tail of which it is."""
        return b.tail_from if b.tail_from is not None and not self.broken("commit_tail") else b

    def committed(self, state: State, who: str | None) -> set[Block]:
        return {self.cut(b) for epoch in self.total for b in self.finalized(state, who, epoch)}

    # ------------------------------------------------------------------ rules

    def bases(self, state: State, who: str | None, epoch: int) -> set[Block | None]:
        """[12] Where an epoch may begin."""
        if epoch == 1:
            return {None}
        ends = self.committed(state, who)
        if self.broken("epoch_early"):
            ends = {b for s in self.slots() if s[0] == epoch - 1 for b in self.notarized(state, who, s)}
        return {b for b in ends if b.is_last and b.slot[0] == epoch - 1}

    def entered(self, state: State, who: str | None, slot: Slot) -> bool:
        """[1] All views of the epoch before this one are cleared: skipped, notarized, or at or below a
        finalized one."""
        epoch, view = slot
        final = max((b.slot[1] for b in self.finalized(state, who, epoch)), default=0)

        def cleared(v: int) -> bool:
            skipped = self.skip_reached(state, who, (epoch, v))
            return skipped or bool(self.notarized(state, who, (epoch, v)))

        for base in self.bases(state, who, epoch):
            low = base.slot[1] if base else 0
            if view > low and all(cleared(v) for v in range(view - 1, max(low, final), -1)):
                return True
        return False

    def passed(self, state: State, who: str | None, slot: Slot, p: Block | None) -> bool:
        """[12] In the tail of an epoch a notarized block beside lets a view pass, too."""
        if self.skip_reached(state, who, slot):
            return True
        in_tail = p is not None and p.is_last and p.slot[0] == slot[0]
        return in_tail and any(b.parent is p for b in self.notarized(state, who, slot))

    def is_parent(self, state: State, who: str | None, slot: Slot, p: Block | None) -> bool:
        """[2] Notarized or the base, with Skip for every view between. [12] A tail does not grow."""
        view = p.slot[1] if p else 0
        if view >= slot[1] or (p is not None and p.tail_from is not None and p.slot[0] == slot[0]):
            return False
        notarized = p is not None and p.slot[0] == slot[0] and self.notar_reached(state, who, p)
        if not notarized and p not in self.bases(state, who, slot[0]):
            return False
        between = range(view + 1, slot[1])
        return self.broken("no_skips") or all(self.passed(state, who, (slot[0], v), p) for v in between)

    def children(self, slot: Slot, p: Block | None) -> list[Block]:
        """[12] Blocks that may stand on `p`, of the instance's contents."""
        if p is not None and p.slot[0] == slot[0] and p.is_last:
            return [block(p, slot, "none")]
        is_last = slot[0] + 1 in self.total and slot[1] in self.instance.ends_at
        return [block(p, slot, x, is_last) for x in self.instance.contents]

    def blocks(self, state: State, who: str | None, slot: Slot) -> list[Block]:
        earlier = (self.notarized(state, who, (slot[0], v)) for v in range(1, slot[1]))
        parents: set[Block | None] = self.bases(state, who, slot[0]).union(*earlier)
        found = [p for p in parents if self.is_parent(state, who, slot, p)]
        return [b for p in found for b in self.children(slot, p)]

    def one_block(self, state: State, slot: Slot, b: Block) -> bool:
        """An honest leader signs one block."""
        if slot[1] in self.instance.open_views:
            return True
        known = (self.known(state, i, i) for i in self.voters[slot[0]])
        return all(v.block is b for votes in known for v in votes if v.kind == "notar" and v.slot == slot)

    def above_floor(self, state: State, i: str, slot: Slot) -> bool:
        return self.broken("prune_unfloored") or not is_settled(slot, state.floor[self.number[i]])

    def can_notar(self, state: State, i: str, b: Block) -> bool:
        """[3], but for the block's place."""
        own = state.votes[self.number[i]]
        voted = any(v.kind == "notar" and v.slot == b.slot for v in own)
        if voted and (not self.broken("two_notars") or Vote("notar", b.slot, b) in own):
            return False
        return self.above_floor(state, i, b.slot) and self.one_block(state, b.slot, b)

    def can_final(self, state: State, i: str, b: Block) -> bool:
        """[4]"""
        own = state.votes[self.number[i]]
        return (
            not any(v.kind == "final" and v.slot == b.slot for v in own)
            and self.above_floor(state, i, b.slot)
            and (self.broken("final_without_notar") or Vote("notar", b.slot, b) in own)
            and (self.broken("final_without_certificate") or self.notar_reached(state, i, b))
            and (self.broken("final_after_skip") or Vote("skip", b.slot, None) not in own)
        )

    def can_skip(self, state: State, i: str, slot: Slot) -> bool:
        """[5], but for the view being entered."""
        own = state.votes[self.number[i]]
        final = any(v.kind == "final" and v.slot == slot for v in own)
        return (
            Vote("skip", slot, None) not in own
            and self.above_floor(state, i, slot)
            and (self.broken("skip_after_final") or not final)
        )

    # ------------------------------------------------------------------ steps

    def _put(self, of: tuple[Votes, ...], i: str, votes: Votes) -> tuple[Votes, ...]:
        n = self.number[i]
        return (*of[:n], votes, *of[n + 1 :])

    def cast(self, state: State, i: str, vote: Vote) -> State:
        """The state with one more vote of `i`, whose guard holds."""
        return state._replace(votes=self._put(state.votes, i, state.votes[self.number[i]] | {vote}))

    def keep(self, state: State, i: str) -> State:
        """All votes of `i` are on disk."""
        return state._replace(disk=self._put(state.disk, i, state.votes[self.number[i]]))

    def can_send(self, state: State, i: str, vote: Vote) -> bool:
        """Kept first, and Notar before Final."""
        n = self.number[i]
        first = Vote("notar", vote.slot, vote.block)
        in_order = vote.kind != "final" or first in state.sent[n] or first not in state.votes[n]
        return in_order and (self.broken("send_unkept") or state.disk[n] == state.votes[n])

    def send(self, state: State, i: str, vote: Vote) -> State:
        """Others may know this vote of `i`."""
        return state._replace(sent=self._put(state.sent, i, state.sent[self.number[i]] | {vote}))

    def crash(self, state: State, i: str) -> State:
        """Memory is what the disk holds."""
        return state._replace(votes=self._put(state.votes, i, state.disk[self.number[i]]))

    def settles(self, b: Block) -> Slot:
        """The floor that a committed block allows: a boundary settles its epoch."""
        return (b.slot[0], self.last if b.is_last else b.slot[1])

    def prune(self, state: State, i: str, at: Slot) -> State:
        """Votes up to `at` are forgotten."""
        n = self.number[i]
        kept = frozenset(v for v in state.votes[n] if not is_settled(v.slot, at))
        floor = (*state.floor[:n], at, *state.floor[n + 1 :])
        votes, disk = self._put(state.votes, i, kept), self._put(state.disk, i, kept)
        return state._replace(votes=votes, disk=disk, floor=floor)

    def successors(self, state: State) -> Iterator[State]:
        """Every state that one step leads to (Next)."""
        in_steps = self.instance.in_steps
        for slot in self.slots():
            found = {}
            for i in self.voters[slot[0]]:
                who = i if in_steps else None
                if who not in found:
                    voted, entered = self.voted(state, who, slot), self.entered(state, who, slot)
                    found[who] = (self.blocks(state, who, slot), voted, entered)
                blocks, voted, entered = found[who]
                yield from (
                    self.cast(state, i, Vote("notar", slot, b)) for b in blocks if self.can_notar(state, i, b)
                )
                yield from (
                    self.cast(state, i, Vote("final", slot, b)) for b in voted if self.can_final(state, i, b)
                )
                if entered and self.can_skip(state, i, slot):
                    yield self.cast(state, i, Vote("skip", slot, None))
        if in_steps:
            for i in self.honest:
                yield from self._shell(state, i)

    def _shell(self, state: State, i: str) -> Iterator[State]:
        n = self.number[i]
        if state.disk[n] != state.votes[n]:
            yield self.keep(state, i)
            yield self.crash(state, i)
        unsent = (v for v in state.votes[n] - state.sent[n] if self.can_send(state, i, v))
        yield from (self.send(state, i, v) for v in unsent)
        if self.instance.prunes and state.disk[n] == state.votes[n]:
            for b in self.committed(state, i):
                if not is_settled(self.settles(b), state.floor[n]):
                    yield self.prune(state, i, self.settles(b))
