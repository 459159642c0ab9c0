"""A policy made ready for the search: which approval counts in which place, at which time.

Exclusions, expiry, waits and order add up on the way down the tree, so a leaf alone tells which
approvals fill it: its ask. That a rule was met for a while (`wait`) is the same as that it is met by
the approvals that stood that long already; that it comes after others (`ordered`) is that its approvals
stand since a later time than the one at which those others were met first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from ledger.limits import POLICY_STEPS_MAX
from ledger.policies.match import Group, Match, Node, Steps, goal_of
from ledger.policies.people import EACH_KEY_ONE_PERSON, People
from ledger.policies.types import Auto, Role, Rule, Weight

_PAIRS_A_STEP: Final = 8  # looking at so many costs about as much as a step of the search


class About(msgspec.Struct, frozen=True):
    """What a policy may ask of the deployment itself. Times in ms; `budget` in micro-credits.

    `precedent_ms`: when the same manifest was approved by signatures before this order; 0: never.
    """

    author: bytes = b""
    consumer: bytes = b""
    budget: int = 0
    ordered_ms: int = 0
    precedent_ms: int = 0


class Grant(NamedTuple):
    """A standing approval. `names`: "role NAME" and "key HEX" for which it may count.

    `since_ms`: since when the signer approves without a break; `time_ms`: when this was accepted.
    """

    names: frozenset[str]
    since_ms: int
    time_ms: int


class Ask(NamedTuple):
    """Who fills a place, and which of their approvals: not `exclude`, since later than `after_ms` (None:
    since any time), for `wait_ms` already, accepted less than `expires_ms` ago (0: any)."""

    name: str
    exclude: frozenset[bytes]
    after_ms: int | None
    wait_ms: int
    expires_ms: int

    def waits(self, signer: bytes, grant: Grant, now_ms: int) -> bool:
        """[G3]–[G5] True when the grant fills this ask once it has stood for long enough."""
        return (
            self.name in grant.names
            and signer not in self.exclude
            and (self.after_ms is None or grant.since_ms > self.after_ms)
            and (not self.expires_ms or grant.time_ms + self.expires_ms > now_ms)
        )


class _Scope(NamedTuple):
    """What the rules above a rule ask of each approval."""

    exclude: frozenset[bytes] = frozenset()
    after_ms: int | None = None
    wait_ms: int = 0
    expires_ms: int = 0

    def inside(self, rule: Rule, excluded: frozenset[bytes]) -> _Scope:
        expires_ms = rule.expires_s * 1000
        shortest = min(x for x in (expires_ms, self.expires_ms) if x) if expires_ms or self.expires_ms else 0
        return self._replace(
            exclude=self.exclude | excluded,
            wait_ms=self.wait_ms + rule.wait_s * 1000,
            expires_ms=shortest,
        )


class Plan:
    """`root` is the tree to solve. `rejecting`: roles in which each signer rejects, for vetoes.

    `grants` and `rejecting` by signer: the key that stands for all keys of a person, as `people` knows them.
    With `ever` it is the plan of what the grants could come to in time: no order, wait or expiry.
    """

    def __init__(
        self,
        rule: Rule,
        roles: Sequence[Role],
        grants: Mapping[bytes, Grant],
        rejecting: Mapping[bytes, Iterable[str]],
        about: About,
        now_ms: int,
        people: People = EACH_KEY_ONE_PERSON,
        *,
        ever: bool = False,
    ) -> None:
        self.grants = grants
        self.asks: list[Ask] = []
        self.steps = Steps(POLICY_STEPS_MAX)
        self.vetoes: list[str] = []
        self._index: dict[Ask, int] = {}
        self._ready: list[list[tuple[int, bytes]]] = []  # by ask: from when on whose grant fills it
        self._pairs = 0  # of asks and grants that fill them
        self._shapes: dict[object, int] = {}
        self._people = people
        self._keys = {
            role.name: frozenset(people.one(bytes.fromhex(key)) for key in role.keys) for role in roles
        }
        self._against = {name for names in rejecting.values() for name in names}
        self._about = about
        self._now_ms = now_ms
        self._ever = ever
        self._turns: list[int] = []  # times at which an automatic rule begins to hold
        self.root = self._node(rule, "", _Scope())

    def match(self, at_ms: int) -> Match:
        """Nobody placed yet: those who count at `at_ms`, in groups of the same asks."""
        asks_of: dict[bytes, set[int]] = {}
        for index, ready in enumerate(self._ready):
            for ready_ms, signer in ready:
                if ready_ms <= at_ms:
                    asks_of.setdefault(signer, set()).add(index)
        self.steps.take(self._pairs // _PAIRS_A_STEP)
        by_asks: dict[frozenset[int], list[bytes]] = {}
        for signer in self.grants:
            if signer in asks_of:
                by_asks.setdefault(frozenset(asks_of[signer]), []).append(signer)
        ordered = sorted(by_asks.items(), key=lambda item: (len(item[0]), sorted(item[0])))
        return Match(tuple(Group(asks, tuple(signers)) for asks, signers in ordered), self.steps)

    def waiting(self, ask: int) -> int:
        """How many grants will fill an ask when they have stood for long enough."""
        return sum(ready_ms > self._now_ms for ready_ms, _ in self._ready[ask])

    def next_ms(self) -> int:
        """When a wait or an expiry that the policy itself asks for is over next; 0: none to come."""
        times = list(self._turns)
        for ask, ready in zip(self.asks, self._ready, strict=True):
            for ready_ms, signer in ready:
                times.append(ready_ms)
                if ask.expires_ms:
                    times.append(self.grants[signer].time_ms + ask.expires_ms)
        return min((time for time in times if time > self._now_ms), default=0)

    # ------------------------------------------------------------------ from rule to node

    def _node(self, rule: Rule, path: str, above: _Scope) -> Node:
        node = self._unshaped(rule, path, above)
        inside = tuple(child.shape for child in node.children)
        shape = (node.form, node.ask, node.need, node.holds, node.weights, inside)
        return replace(node, shape=self._shapes.setdefault(shape, len(self._shapes)))

    def _unshaped(self, rule: Rule, path: str, above: _Scope) -> Node:
        """[G2] [G7]"""
        scope = above.inside(rule, self._excluded(rule.exclude))
        vetoed = sorted(self._against.intersection(rule.veto))
        if vetoed:
            self.vetoes += [name for name in vetoed if name not in self.vetoes]
            return Node("fixed", path, f"vetoed by role {', '.join(vetoed)}")
        if rule.role is not None:
            return Node("leaf", path, rule.role, self._ask(f"role {rule.role}", scope), rule.count)
        if rule.key is not None:
            return Node("leaf", path, f"key:{rule.key}", self._ask(f"key {rule.key}", scope))
        if rule.auto is not None:
            return Node("fixed", path, "auto", holds=self._holds(rule.auto, scope))
        if rule.weigh:
            return Node("weigh", path, "", need=rule.count, weights=self._weights(rule.weigh, scope))
        if rule.any:
            children = [self._node(child, _at(path, "any", i), scope) for i, child in enumerate(rule.any)]
            return Node("any", path, "", need=rule.count, children=tuple(children))
        if rule.ordered and not self._ever:
            return Node("all", path, "", children=self._in_order(rule.all, path, scope))
        children = [self._node(child, _at(path, "all", i), scope) for i, child in enumerate(rule.all)]
        return Node("all", path, "", children=tuple(children))

    def _in_order(self, rules: Sequence[Rule], path: str, scope: _Scope) -> tuple[Node, ...]:
        """[G5]"""
        done: list[Node] = []
        for index, rule in enumerate(rules):
            where = _at(path, "all", index)
            if done:
                met_ms = self._first_met(Node("all", path, "", children=tuple(done)))
                if met_ms is None:
                    done.append(Node("fixed", where, "what comes before it in order"))
                    continue
                after = met_ms if scope.after_ms is None else max(met_ms, scope.after_ms)
                scope = scope._replace(after_ms=after)
            done.append(self._node(rule, where, scope))
        return tuple(done)

    def _first_met(self, node: Node) -> int | None:
        """The first time at which the standing approvals met a node; None: not yet. More time never undoes
        it, so halving finds it."""
        waits = {ask.wait_ms for ask in self.asks} | {0}
        moments = {grant.since_ms + wait for grant in self.grants.values() for wait in waits}
        self.steps.take(len(moments) // _PAIRS_A_STEP)
        times = sorted(time for time in moments if time <= self._now_ms)
        if not times or self.match(times[-1]).solve((goal_of(node),)) is None:
            return None
        low, high = 0, len(times) - 1
        while low < high:
            middle = (low + high) // 2
            if self.match(times[middle]).solve((goal_of(node),)) is None:
                low = middle + 1
            else:
                high = middle
        return times[low]

    def _ask(self, name: str, scope: _Scope) -> int:
        if self._ever:
            ask = Ask(name, scope.exclude, None, 0, 0)
        else:
            ask = Ask(name, scope.exclude, scope.after_ms, scope.wait_ms, scope.expires_ms)
        found = self._index.setdefault(ask, len(self.asks))
        if found == len(self.asks):
            self.asks.append(ask)
            kind, _, holder = name.partition(" ")
            by_key = kind == "key"
            holders = (self._people.one(bytes.fromhex(holder)),) if by_key else self._keys.get(holder, ())
            mine = [(signer, self.grants[signer]) for signer in holders if signer in self.grants]
            ready = [
                (grant.since_ms + ask.wait_ms, signer)  # [G6]
                for signer, grant in mine
                if ask.waits(signer, grant, self._now_ms)
            ]
            self._ready.append(ready)
            self._pairs += len(ready)
        return found

    def _weights(self, entries: Sequence[Weight], scope: _Scope) -> tuple[tuple[int, int, str], ...]:
        out = []
        for entry in entries:
            who = f"role {entry.role}" if entry.role is not None else f"key {entry.key}"
            name = entry.role if entry.role is not None else f"key:{entry.key}"
            out.append((self._ask(who, scope), entry.weight, name))
        return tuple(sorted(out, key=lambda item: -item[1]))

    def _holds(self, auto: Auto, scope: _Scope) -> bool:
        """[G8]"""
        about = self._about
        if auto.budget is not None and about.budget > auto.budget:
            return False
        if auto.approved_within_s is not None:
            age_ms = about.ordered_ms - about.precedent_ms
            if not about.precedent_ms or age_ms > auto.approved_within_s * 1000:
                return False
        holds_ms = about.ordered_ms + scope.wait_ms
        if not self._ever and scope.wait_ms:
            self._turns.append(holds_ms)
        return self._ever or holds_ms <= self._now_ms

    def _excluded(self, words: Sequence[str]) -> frozenset[bytes]:
        out: set[bytes] = set()
        for word in words:
            kind, _, name = word.partition(":")
            if kind == "role":
                out |= self._keys.get(name, frozenset())
            elif kind == "key":
                out.add(bytes.fromhex(name))
            else:
                out.add(self._about.author if kind == "author" else self._about.consumer)
        return self._people.kept_out(out)


def _at(path: str, step: str, index: int) -> str:
    return f"{path}.{step}[{index}]" if path else f"{step}[{index}]"
