"""Signers to places: the search behind `ledger.policy`. Pure, counted in steps, deterministic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ledger.manifest_types import Rule


class Goal(NamedTuple):
    """A rule to satisfy and where it stands, such as "all[0]". `start`, `need`: what is left of an `any`."""

    rule: Rule
    path: str
    start: int
    need: int


def goal_of(rule: Rule, path: str = "") -> Goal:
    """The whole rule as a goal."""
    return Goal(rule, path, 0, rule.count)


def child_goal(rule: Rule, path: str, step: str, index: int) -> Goal:
    """A child's goal, with its place below `path`."""
    return goal_of(rule, f"{path}.{step}[{index}]" if path else f"{step}[{index}]")


class TooComplex(Exception):
    """The step bound was reached."""


@dataclass(frozen=True, slots=True)
class Group:
    """Signers that hold exactly the same roles."""

    roles: frozenset[str]
    signers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    role: str


class _Steps:
    """Steps left, shared by all copies of one search."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooComplex


class Match:
    """Places filled so far. `solve` returns a new Match; a Match itself never changes once returned."""

    def __init__(self, groups: tuple[Group, ...], steps_max: int) -> None:
        self._groups = groups
        self._by_role: dict[str, tuple[int, ...]] = {}
        for name in {name for group in groups for name in group.roles}:
            self._by_role[name] = tuple(i for i, group in enumerate(groups) if name in group.roles)
        self._filled: list[list[_Place]] = [[] for _ in groups]
        self._steps = _Steps(steps_max)

    def _copy(self) -> Match:
        out = object.__new__(Match)
        out._groups, out._by_role, out._steps = self._groups, self._by_role, self._steps
        out._filled = [list(places) for places in self._filled]
        return out

    def used(self) -> tuple[tuple[str, bytes], ...]:
        """(place, signer) for each filled place, in the order of places."""
        pairs = [
            (f"{place.path} {place.role}".strip(), signer)
            for group, places in zip(self._groups, self._filled, strict=True)
            for place, signer in zip(places, group.signers, strict=False)
        ]
        return tuple(sorted(pairs))

    def flatten(self, goals: tuple[Goal, ...]) -> tuple[Goal, ...]:
        """Goals without `all`: first the roles that are wanted in any case, then each `any`."""
        roles: list[Goal] = []
        choices: list[Goal] = []
        pending = list(reversed(goals))
        while pending:
            goal = pending.pop()
            if goal.rule.role is not None:
                roles.append(goal)
            elif goal.rule.all:
                children = [child_goal(child, goal.path, "all", i) for i, child in enumerate(goal.rule.all)]
                pending.extend(reversed(children))
            else:
                choices.append(goal)
        return (*roles, *choices)

    def solve(self, goals: tuple[Goal, ...]) -> Match | None:
        """This match with all goals filled too, or None when that cannot be. Raises TooComplex."""
        match = self
        choices: list[Goal] = []
        for goal in self.flatten(goals):
            if goal.rule.role is None:
                choices.append(goal)
                continue
            match, missing = match.fill(goal)
            if missing:
                return None
        if not choices:
            return match
        return match._choose(choices[0], tuple(choices[1:]))

    def fill(self, goal: Goal) -> tuple[Match, int]:
        """As many places of a role rule as can be filled, and how many are missing. Raises TooComplex."""
        rule = goal.rule
        assert rule.role is not None, "fill takes a role rule"
        match = self._copy()
        for number in range(rule.count):
            if not match._augment(_Place(goal.path, rule.role), set()):
                return match, rule.count - number
        return match, 0

    def _augment(self, place: _Place, seen: set[int]) -> bool:
        """Kuhn's augmenting path: fill `place`, moving others along where that makes room."""
        for index in self._by_role.get(place.role, ()):
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
        children, need = goal.rule.any, goal.need
        if self._bound(children[goal.start :]) < need:
            return None
        failed: list[Rule] = []
        for index in range(goal.start, len(children) - need + 1):
            child = children[index]
            if child in failed:  # an equal sibling can do no better
                continue
            self._steps.take()
            goals: tuple[Goal, ...] = (child_goal(child, goal.path, "any", index),)
            if need > 1:
                goals += (goal._replace(start=index + 1, need=need - 1),)
            done = self.solve(goals + rest)
            if done is not None:
                return done
            failed.append(child)
        return None

    def _bound(self, children: tuple[Rule, ...]) -> int:
        """At most this many of `children` can be filled together: exact for single places (the rank of
        a matroid), one each for the others that can be filled alone."""
        match = self._copy()
        count = 0
        for child in children:
            if child.role is not None and child.count == 1:
                count += match._augment(_Place("", child.role), set())
            else:
                count += self.solve((goal_of(child),)) is not None
        return count
