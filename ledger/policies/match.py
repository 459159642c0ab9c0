"""Signers to places: the search behind `ledger.policies.decision`. Pure, counted in steps, deterministic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ledger.errors import LocalError


@dataclass(frozen=True, slots=True)
class Node:
    """A rule made ready for the search. `ask`: which approvals fill its places; -1: no single place.

    `need`: signers of a leaf, children of an `any`, weight of a `weigh`. `weights`: (ask, weight, name),
    heaviest first. `fixed`: decided without signers. `name`: for people.
    """

    form: Literal["leaf", "all", "any", "weigh", "fixed"]
    path: str
    name: str = ""
    ask: int = -1
    need: int = 1
    children: tuple[Node, ...] = ()
    weights: tuple[tuple[int, int, str], ...] = ()
    holds: bool = False
    shape: int = -1  # equal for nodes that ask for the same


class Goal(NamedTuple):
    """A node to satisfy. `start`, `need`: what is left of an `any`, and of a `weigh` from an entry on."""

    node: Node
    start: int
    need: int


def goal_of(node: Node) -> Goal:
    """The whole node as a goal."""
    return Goal(node, 0, node.need)


class TooComplex(Exception):
    """The step bound was reached."""


@dataclass(frozen=True, slots=True)
class Group:
    """Signers that fill exactly the same asks."""

    asks: frozenset[int]
    signers: tuple[bytes, ...]


class _Place(NamedTuple):
    path: str
    name: str
    ask: int


class Steps:
    """Steps left, shared by all searches of one evaluation."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int = 1) -> None:
        """So many steps. Raises TooComplex when none is left."""
        self.left -= count
        if self.left < 0:
            raise TooComplex


class Match:
    """Places filled so far. `solve` returns a new Match; a Match itself never changes once returned."""

    def __init__(self, groups: tuple[Group, ...], steps: Steps) -> None:
        self._groups = groups
        self._by_ask: dict[int, tuple[int, ...]] = {}
        for ask in {ask for group in groups for ask in group.asks}:
            self._by_ask[ask] = tuple(i for i, group in enumerate(groups) if ask in group.asks)
        self._filled: list[list[_Place]] = [[] for _ in groups]
        self._steps = steps

    def _copy(self) -> Match:
        out = object.__new__(Match)
        out._groups, out._by_ask, out._steps = self._groups, self._by_ask, self._steps
        out._filled = [list(places) for places in self._filled]
        return out

    def used(self) -> tuple[tuple[str, bytes], ...]:
        """(place, signer) for each filled place, in the order of places."""
        pairs = [
            (f"{place.path} {place.name}".strip(), signer)
            for group, places in zip(self._groups, self._filled, strict=True)
            for place, signer in zip(places, group.signers, strict=False)
        ]
        return tuple(sorted(pairs))

    def flatten(self, goals: tuple[Goal, ...]) -> tuple[Goal, ...]:
        """Goals without `all`: first what is decided or wanted in any case, then each `any`, then weights."""
        sure: list[Goal] = []
        choices: list[Goal] = []
        weights: list[Goal] = []
        pending = list(reversed(goals))
        while pending:
            goal = pending.pop()
            form = goal.node.form
            if form == "all":
                pending.extend(goal_of(child) for child in reversed(goal.node.children))
            elif form == "any":
                choices.append(goal)
            elif form == "weigh":
                weights.append(goal)
            else:
                sure.append(goal)
        return (*sure, *choices, *weights)

    def solve(self, goals: tuple[Goal, ...]) -> Match | None:
        """This match with all goals filled too, or None when that cannot be. Raises TooComplex."""
        match = self
        rest: list[Goal] = []
        for goal in self.flatten(goals):
            if goal.node.form == "fixed":
                if not goal.node.holds:
                    return None
            elif goal.node.form == "leaf":
                match, missing = match.fill(goal.node)
                if missing:
                    return None
            else:
                rest.append(goal)
        if not rest:
            return match
        if rest[0].node.form == "any":
            return match._choose(rest[0], tuple(rest[1:]))
        return match._weigh(rest[0], tuple(rest[1:]))

    def fill(self, node: Node) -> tuple[Match, int]:
        """As many places of a leaf as can be filled, and how many are missing. Raises TooComplex."""
        if node.form != "leaf":
            raise LocalError(f"fill takes a leaf, not {node.form}")
        match = self._copy()
        for number in range(node.need):
            if not match._augment(_Place(node.path, node.name, node.ask), set()):
                return match, node.need - number
        return match, 0

    def _augment(self, place: _Place, seen: set[int]) -> bool:
        """[G1] Kuhn's augmenting path: fill `place`, moving others along where that makes room."""
        for index in self._by_ask.get(place.ask, ()):
            if index in seen:
                continue
            self._steps.take()
            seen.add(index)
            filled = self._filled[index]
            if len(filled) < len(self._groups[index].signers):
                filled.append(place)
                return True
            for position, other in enumerate(filled):
                if self._augment(other, seen):
                    filled[position] = place
                    return True
        return False

    def _choose(self, goal: Goal, rest: tuple[Goal, ...]) -> Match | None:
        """Fill what an `any` still needs, in one of all the ways that leave room for the rest."""
        children, need = goal.node.children, goal.need
        if self._bound(children[goal.start :]) < need:
            return None
        failed: set[int] = set()
        for index in range(goal.start, len(children) - need + 1):
            child = children[index]
            if child.shape in failed:  # an equal sibling can do no better
                continue
            self._steps.take()
            goals: tuple[Goal, ...] = (goal_of(child),)
            if need > 1:
                goals += (goal._replace(start=index + 1, need=need - 1),)
            done = self.solve(goals + rest)
            if done is not None:
                return done
            failed.add(child.shape)
        return None

    def _bound(self, children: tuple[Node, ...]) -> int:
        """At most this many of `children` can be filled together: exact for single places (the rank of
        a matroid), one each for the others that can be filled alone."""
        match = self._copy()
        count = 0
        for child in children:
            if child.form == "leaf" and child.need == 1:
                count += match._augment(_Place("", "", child.ask), set())
            else:
                count += self.solve((goal_of(child),)) is not None
        return count

    def heaviest(self, node: Node, start: int = 0, need: int | None = None) -> tuple[Match, int]:
        """The most weight that can be filled, heaviest first, and the match that has it; not more than
        `need` asks for. Places that can be filled together form a matroid, so greed is exact here."""
        match, total = self._copy(), 0
        for ask, weight, name in node.weights[start:]:
            while (need is None or total < need) and match._augment(_Place(node.path, name, ask), set()):
                total += weight
        return match, total

    def _weigh(self, goal: Goal, rest: tuple[Goal, ...]) -> Match | None:
        """Fill what a `weigh` still needs. Where other weights want the same signers, try each number of
        places of each entry, most first."""
        if goal.need <= 0:
            return self.solve(rest)
        match, total = self.heaviest(goal.node, goal.start, goal.need)
        if total < goal.need:
            return None
        if not rest:
            return match
        ask, weight, name = goal.node.weights[goal.start]
        ladder = [self]
        while len(ladder) - 1 < -(-goal.need // weight):
            step = ladder[-1]._copy()
            if not step._augment(_Place(goal.node.path, name, ask), set()):
                break
            ladder.append(step)
        for taken in range(len(ladder) - 1, -1, -1):
            self._steps.take()
            left = goal._replace(start=goal.start + 1, need=goal.need - taken * weight)
            done = ladder[taken]._weigh(left, rest)
            if done is not None:
                return done
        return None
