"""`python -m tests.sim.twins`: every small scenario with one Byzantine twin, none left to chance.

A scenario is a leader for each of the first views and, for each round, a partition of each of its three
hops (proposals; Notar votes; Final and Skip votes) and when timeouts come. After the rounds all is healed,
and all must go on. Every scenario of a shape is run, but those that only rename honest members or swap the
twins; scenarios with the same beginning share it. A shape is a letter for each round: n (narrow: one
partition), w (wide: it may change once within the round).
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
from bench.common import machine, save
from consensus.core import Core
from ledger.proofs.certificate import ValidatorSet
from tests.sim.twins_net import TIMING, TOGETHER, Groups, Net, Violation, validators

VIOLATIONS_MAX: Final = 5


class Round(NamedTuple):
    """What the network does in one round: a partition for each hop. `timeouts`: "early" before Notar votes
    arrive, "late" after Final votes did, "none"."""

    hops: tuple[Groups, Groups, Groups]
    timeouts: str


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


TIMEOUTS: Final = ("none", "early", "late")


def narrow(groups_max: int = 2) -> list[Round]:
    """Rounds with one partition."""
    return [Round((p, p, p), t) for p in partitions(groups_max) for t in TIMEOUTS]


def wide(groups_max: int = 2) -> list[Round]:
    """Rounds that may change their partition before or after Notar votes arrive."""
    split = partitions(groups_max)
    changes = [(p, p, q) for p in split for q in split] + [(p, q, q) for p in split for q in split if p != q]
    return [Round(hops, t) for hops in changes for t in TIMEOUTS]


def shaped(shape: str, groups_max: int = 2) -> list[list[Round]]:
    """The kinds of each round of a shape."""
    kinds = {"n": narrow(groups_max), "w": wide(groups_max)}
    return [kinds[letter] for letter in shape]


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
        images = [tuple(renamed(groups, by) for groups in one.hops) for by in alike]
        if one.hops == min(images):
            yield one, [by for by, image in zip(alike, images, strict=True) if image == one.hops]


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
    """Of a search: scenarios run to their end, rounds run for them, seconds of CPU."""

    scenarios: int = 0
    rounds: int = 0
    cpu_s: float = 0.0
    violations: list[tuple[str, str, Script]] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.scenarios += other.scenarios
        self.rounds += other.rounds
        self.cpu_s += other.cpu_s
        self.violations += other.violations


def play(net: Net, one: Round) -> None:
    """A round: whoever leads proposes, then three hops, with timeouts where the round has them."""
    proposals, notars, finals = one.hops
    net.tick(TIMING.idle_ms)
    net.deliver(proposals)
    if one.timeouts == "early":
        net.tick(TIMING.view_timeout_ms + TIMING.idle_ms)
    net.deliver(notars)
    net.deliver(finals)
    if one.timeouts == "late":
        net.tick(TIMING.view_timeout_ms + TIMING.idle_ms)
        net.deliver(finals)


class Search:
    """All scenarios with these leaders."""

    def __init__(
        self, cast: Cast, leaders: tuple[int, ...], kinds: list[list[Round]], stop_at: int = VIOLATIONS_MAX
    ) -> None:
        self.cast, self.leaders, self.kinds, self.stop_at = cast, leaders, kinds, stop_at
        self.found = Found()

    def run(self, part: int = 0, parts: int = 1) -> Found:
        """Search; with `parts`, each part-th of the first rounds only."""
        began_s = time.process_time()
        with led_by(self.leaders):
            net = Net(self.cast.core, self.cast.twin, validators(self.cast.validators))
            firsts = list(one_of_each(self.kinds[0], renamings(self.leaders)))
            for one, alike in firsts[part::parts]:
                self._after(net, (), one, alike)
        self.found.cpu_s = time.process_time() - began_s
        return self.found

    def _after(self, net: Net, before: tuple[Round, ...], one: Round, alike: list[Renaming]) -> None:
        if len(self.found.violations) >= self.stop_at:
            return
        script = (*before, one)
        net = net.clone()
        self.found.rounds += 1
        try:
            play(net, one)
            if len(script) < len(self.kinds):
                for following, left in one_of_each(self.kinds[len(script)], alike):
                    self._after(net, script, following, left)
                return
            net.heal()
        except Violation as violation:
            self.found.violations.append((*violation.args, (self.leaders, script)))
        except AssertionError as error:  # an invariant of the core
            self.found.violations.append(("Assertion", str(error), (self.leaders, script)))
        self.found.scenarios += 1


def replay(script: Script, cast: Cast = Cast()) -> Net:
    """Run one script again and heal. Raises Violation as the search saw it."""
    leaders, rounds = script
    with led_by(leaders):
        net = Net(cast.core, cast.twin, validators(cast.validators))
        for one in rounds:
            play(net, one)
        net.heal()
    return net


def _job(job: tuple[tuple[int, ...], str, int, int, int]) -> Found:
    leaders, shape, groups, part, parts = job
    return Search(Cast(), leaders, shaped(shape, groups)).run(part, parts)


def _report(shapes: list[str], groups: int, total: Found, passed_s: float, processes: int) -> None:
    per_core = total.scenarios / total.cpu_s
    cores = os.cpu_count() or 1
    print(f"shapes               {', '.join(shapes)}; partitions into at most {groups} groups")
    print(f"scenarios            {total.scenarios:,} ({total.rounds:,} rounds; equal scenarios left out)")
    print(f"wall time            {passed_s:.1f} s, {processes} processes, {total.cpu_s:.0f} s of CPU")
    print(f"scenarios per second {total.scenarios / passed_s:,.0f}; {per_core:,.0f} on a free core")
    print(f"scenarios per day    {per_core * cores * 86_400 / 1e6:,.1f} million on {cores} free cores")
    print(f"violations           {len(total.violations)}")
    for check, what, (leaders, rounds) in total.violations[:VIOLATIONS_MAX]:
        print(f"\n{check}: {what}\n  leaders {leaders}")
        for one in rounds:
            print(f"  {one}")


def main(argv: list[str]) -> int:
    """Exit code: 0 clean, 1 violations (printed with their scripts)."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.twins", description=__doc__)
    parser.add_argument(
        "--shapes", default="wn,nw", help="wn,nw: two rounds, one of them wide; nnn: three; …"
    )
    parser.add_argument("--groups", type=int, default=2, help="groups that a partition may have")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--save", action="store_true", help="write the result to bench/results")
    asked = parser.parse_args(argv)
    parts, shapes = 8, asked.shapes.split(",")
    jobs = [
        (order, shape, asked.groups, part, parts)
        for shape in shapes
        for order in leader_orders(len(shape))
        for part in range(parts)
    ]
    total, shape_of_machine, began_s = Found(), machine(), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for found in pool.imap_unordered(_job, jobs):
            total.add(found)
    passed_s = time.monotonic() - began_s
    _report(shapes, asked.groups, total, passed_s, asked.jobs)
    if asked.save:
        figures = {
            "scenarios": total.scenarios,
            "rounds": total.rounds,
            "violations": len(total.violations),
            "wall_s": round(passed_s),
            "processor_s": round(total.cpu_s),
            "scenarios_a_second_and_core": round(total.scenarios / total.cpu_s),
        }
        command = f"python -m tests.sim.twins --shapes {asked.shapes} --groups {asked.groups}"
        print(f"written: {save('twins', command, shape_of_machine, figures).name}")
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
