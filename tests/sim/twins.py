"""`python -m tests.sim.twins`: every small scenario with one Byzantine twin, none left to chance.

A scenario is a leader for each of the first views and, for each round, (partition of the first two hops, when
timeouts come, partition of the hops after). All of them are run, but those that only rename honest members or
swap the twins. Scenarios with the same beginning share it; when a beginning leads to a state that another led to
already, all that can follow was run, and is counted as such.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import consensus.core
import consensus.state
from consensus.core import Core
from ledger.certificate import ValidatorSet
from tests.sim.twins_net import TIMING, TOGETHER, Groups, Net, Violation, validators

VIOLATIONS_MAX: Final = 5
SEEN_MAX: Final = 300_000  # states remembered per process: bounds its memory


class Round(NamedTuple):
    """What the network does in one round. `timeouts`: "early" before Notar votes arrive, "late" after Final
    votes did, "none"."""

    first: Groups
    timeouts: str
    then: Groups


Script = tuple[tuple[int, ...], tuple[Round, ...]]  # leaders of views 1.., rounds
Renaming = tuple[int, ...]  # instance -> instance


def partitions(groups_max: int) -> list[Groups]:
    """All ways to split five instances into at most so many groups; the first of each group names it."""
    found: list[Groups] = []

    def grow(made: Groups) -> None:
        if len(made) == len(TOGETHER):
            found.append(made)
            return
        for group in range(min(max(made, default=-1) + 2, groups_max)):
            grow((*made, group))

    grow(())
    return found


def narrow(groups_max: int = 2) -> list[Round]:
    """Rounds with one partition."""
    return [Round(p, t, p) for p in partitions(groups_max) for t in ("none", "early", "late")]


def wide(groups_max: int = 2) -> list[Round]:
    """Rounds that may change their partition in the middle."""
    split = partitions(groups_max)
    return [Round(p, t, q) for p in split for t in ("none", "early", "late") for q in split]


# ---------------------------------------------------------------------- symmetry


def renamings(leaders: tuple[int, ...]) -> list[Renaming]:
    """Those that leave the leaders as they are: of honest members that never lead, and of the twins."""
    free = [m for m in (1, 2, 3) if m not in leaders]
    found = []
    for order in itertools.permutations(free):
        to = dict(zip(free, order, strict=True))
        honest = tuple(to.get(m, m) + 1 for m in (1, 2, 3))
        found += [(0, 1, *honest), (1, 0, *honest)]
    return found


def _named(groups: Iterable[int]) -> Groups:
    names: dict[int, int] = {}
    return tuple(names.setdefault(group, len(names)) for group in groups)


@functools.cache
def renamed(groups: Groups, by: Renaming) -> Groups:
    """The partition with instance i called by[i]."""
    moved = [0] * len(groups)
    for instance, group in enumerate(groups):
        moved[by[instance]] = group
    return _named(moved)


def one_of_each(rounds: Iterable[Round], alike: list[Renaming]) -> Iterator[tuple[Round, list[Renaming]]]:
    """One round of those that a renaming turns into each other, with the renamings that it leaves."""
    for one in rounds:
        images = [(renamed(one.first, by), renamed(one.then, by)) for by in alike]
        here = (one.first, one.then)
        if here == min(images):
            yield one, [by for by, image in zip(alike, images, strict=True) if image == here]


def leader_orders(count: int) -> list[tuple[int, ...]]:
    """Leaders of the first views; honest members come in the order of their names."""
    found = []
    for order in itertools.product(range(4), repeat=count):
        honest = list(dict.fromkeys(m for m in order if m))
        if honest == sorted(honest) == list(range(1, len(honest) + 1)):
            found.append(order)
    return found


@contextmanager
def led_by(leaders: tuple[int, ...]) -> Iterator[None]:
    """Within the block these lead the first views, and all in turn after."""
    real: Callable[[ValidatorSet, int], int] = consensus.core.leader  # type: ignore[attr-defined]

    def chosen(members: ValidatorSet, view: int) -> int:
        return leaders[view - 1] if 1 <= view <= len(leaders) else real(members, view)

    places = (consensus.core, consensus.state)
    for place in places:
        place.leader = chosen  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for place in places:
            place.leader = real  # type: ignore[attr-defined]


# ---------------------------------------------------------------------- running


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays."""

    core: type[Core] = Core
    twin: type[Core] = Core
    validators: type[ValidatorSet] = ValidatorSet


@dataclass(slots=True)
class Found:
    """Of a search. `scenarios` were covered by running `rounds` rounds and healing `healed` states."""

    scenarios: int = 0
    rounds: int = 0
    healed: int = 0
    violations: list[tuple[str, str, Script]] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.scenarios += other.scenarios
        self.rounds += other.rounds
        self.healed += other.healed
        self.violations += other.violations


def play(net: Net, one: Round) -> None:
    """A round: whoever leads proposes, then three hops, with timeouts where the round has them."""
    net.tick(TIMING.idle_ms)
    net.deliver(one.first)
    if one.timeouts == "early":
        net.tick(TIMING.view_timeout_ms + TIMING.idle_ms)
    net.deliver(one.first)
    net.deliver(one.then)
    if one.timeouts == "late":
        net.tick(TIMING.view_timeout_ms + TIMING.idle_ms)
        net.deliver(one.then)


class Search:
    """All scenarios with these leaders."""

    def __init__(self, cast: Cast, leaders: tuple[int, ...], rounds: list[Round], stop_at: int = VIOLATIONS_MAX):
        self.cast, self.leaders, self.rounds, self.stop_at = cast, leaders, rounds, stop_at
        self.found = Found()
        self.seen: dict[object, int] = {}  # state and depth -> scenarios below it

    def run(self, part: int = 0, parts: int = 1) -> Found:
        """Search; with `parts`, each part-th of the first rounds only."""
        with led_by(self.leaders):
            net = Net(self.cast.core, self.cast.twin, validators(self.cast.validators))
            firsts = list(one_of_each(self.rounds, renamings(self.leaders)))
            for one, alike in firsts[part::parts]:
                self.found.scenarios += self._after(net, (), one, alike)
        return self.found

    def _after(self, net: Net, before: tuple[Round, ...], one: Round, alike: list[Renaming]) -> int:
        if len(self.found.violations) >= self.stop_at:
            return 0
        script = (*before, one)
        net = net.clone()
        self.found.rounds += 1
        try:
            play(net, one)
            key = (len(script), len(alike), net.key())
            known = self.seen.get(key) if len(alike) == 1 else None
            if known is not None:
                return known
            if len(script) == len(self.leaders):
                self.found.healed += 1
                net.heal()
                count = 1
            else:
                nexts = one_of_each(self.rounds, alike)
                count = sum(self._after(net, script, following, left) for following, left in nexts)
        except Violation as violation:
            self._complain(*violation.args, script)
            return 1
        except AssertionError as error:  # an invariant of the core
            self._complain("Assertion", str(error), script)
            return 1
        if len(self.seen) < SEEN_MAX:
            self.seen[key] = count
        return count

    def _complain(self, check: str, what: str, script: tuple[Round, ...]) -> None:
        self.found.violations.append((check, what, (self.leaders, script)))


def replay(script: Script, cast: Cast = Cast()) -> Net:
    """Run one script again and heal. Raises Violation as the search saw it."""
    leaders, rounds = script
    with led_by(leaders):
        net = Net(cast.core, cast.twin, validators(cast.validators))
        for one in rounds:
            play(net, one)
        net.heal()
    return net


def _job(job: tuple[tuple[int, ...], bool, int, int, int]) -> Found:
    leaders, is_wide, groups, part, parts = job
    return Search(Cast(), leaders, wide(groups) if is_wide else narrow(groups)).run(part, parts)


def main(argv: list[str]) -> int:
    """Exit code: 0 clean, 1 violations (printed with their scripts)."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.twins", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, and leaders, enumerated")
    parser.add_argument("--groups", type=int, default=2, help="groups that a partition may have")
    parser.add_argument("--wide", action="store_true", help="partitions may change within a round")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    asked = parser.parse_args(argv)
    parts = 8
    orders = leader_orders(asked.rounds)
    jobs = [(order, asked.wide, asked.groups, part, parts) for order in orders for part in range(parts)]
    total, began_s = Found(), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for found in pool.imap_unordered(_job, jobs):
            total.add(found)
    passed_s = time.monotonic() - began_s
    kinds = len(wide(asked.groups) if asked.wide else narrow(asked.groups))
    print(f"leaders x rounds     {len(orders)} orders of leaders, {kinds} kinds of round, {asked.rounds} rounds")
    print(f"scenarios            {total.scenarios:,} (equal ones left out)")
    print(f"run                  {total.rounds:,} rounds; {total.healed:,} end states healed until all went on")
    print(f"wall time            {passed_s:.1f} s, {asked.jobs} processes")
    print(f"scenarios per second {total.scenarios / passed_s:,.0f}")
    print(f"scenarios per day    {total.scenarios / passed_s * 86_400 / 1e6:,.1f} million")
    print(f"violations           {len(total.violations)}")
    for check, what, (leaders, rounds) in total.violations[:VIOLATIONS_MAX]:
        print(f"\n{check}: {what}\n  leaders {leaders}")
        for one in rounds:
            print(f"  {one}")
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
