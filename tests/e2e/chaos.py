"""`make e2e`: seven validators, each a process, under random kill, freeze and restart, while clients write.

Must hold: no fork at any height on any peer; each write that a client was told to be final is final on every
peer, at that height; nothing becomes final while no quorum is up, and it goes on when one is; no honest
validator is suspended; no peer logs an error; all processes end, all ports are free. `--soak` leaves out the
monkey and looks for growth of memory and open files. Exit code 1 when anything of it does not hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.common import machine, percentile, save, show
from ledger.blocks import Header
from node.testnet import init_testnet
from tests.e2e import chaos_checks as checks
from tests.e2e.chaos_logs import Logs, speak_json
from tests.e2e.chaos_monkey import Monkey, Outage
from tests.e2e.chaos_usage import Usage
from tests.e2e.chaos_writers import Writers
from tests.e2e.net import Net, until

GOAL_VOTES_AFTER_S: Final = 2.0
GAP_MAX_S: Final = 20.0  # without a final block, while no more than f are down: a fault
EQUAL_S: Final = 90.0


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What to do."""

    seconds: float
    seed: int
    validators: int = 7
    writers: int = 4
    rate: float = 10.0
    storm_every_s: float = 90.0
    soak: bool = False


@dataclasses.dataclass(slots=True)
class Outcome:
    """`faults` empty: all that must hold holds."""

    figures: dict[str, Any]
    faults: list[str]


def run(folder: Path, asked: Asked) -> Outcome:
    """One campaign in a folder of its own. All processes are gone when it returns."""
    net = Net(folder, init_testnet(folder, "chaos", validators=asked.validators, nodes=0, bots=0))
    speak_json(net)
    names = tuple(peer.name for peer in net.net.peers)
    logs = Logs(net)
    writers = Writers(net, names, asked.rate, asked.writers, asked.seed)
    faulty_max = 0 if asked.soak else (asked.validators - 1) // 3
    storm_every_s = 2 * asked.seconds if asked.soak else asked.storm_every_s
    monkey = Monkey(net, logs, names, asked.seed, faulty_max, storm_every_s)
    usage = Usage(net, names)
    try:
        net.start(*names)
        writers.start()
        until("ten writes are final", lambda: len(writers.final) >= 10, EQUAL_S)
        began_s = time.time()
        monkey.run(asked.seconds, usage.sample if asked.soak else lambda: None)
        ended_s = time.time()
        writers.stop()
        net.until_equal(*names, timeout_s=EQUAL_S)
        usage.sample(now=True)
        net.stop(*names)
    finally:
        writers.stop()
        monkey.release()
        net.down()
    logs.read()
    faults = [*monkey.faults, *writers.wrong, *checks.errors(logs), *checks.busy_ports(net)]
    with checks.opened(net, names) as stores:
        headers, forked = checks.forks(net, stores)
        faults += forked
        faults += checks.lost(stores, writers.final)
        faults += checks.counted(stores, writers.to.public, len(writers.final), writers.unanswered)
        faults += checks.suspended(stores, net)
    gaps = _gaps(headers, monkey, began_s, ended_s)
    if max(gaps, default=0.0) > GAP_MAX_S:
        faults.append(f"{max(gaps):.1f} s without a final block while at most {faulty_max} were down")
    figures = {
        "validators": asked.validators,
        "seconds": round(ended_s - began_s, 1),
        "seed": asked.seed,
        "heights_compared": len(headers),
        "writes": _writes(writers),
        "block_gap_s": _spread(gaps),
        **(usage.figures() if asked.soak else _chaos(monkey)),
        "faults": len(faults),
    }
    return Outcome(figures, faults)


def _gaps(headers: Mapping[int, Header], monkey: Monkey, began_s: float, ended_s: float) -> list[float]:
    """Seconds between two final blocks, by the time in their headers, storms apart."""
    storms = [(storm.began_s, storm.over_s) for storm in monkey.storms]
    times = [header.time_ms / 1000 for _, header in sorted(headers.items())]
    return [
        after - before
        for before, after in itertools.pairwise(times)
        if before >= began_s
        and after <= ended_s
        and not any(begin <= after and before <= over for begin, over in storms)
    ]


def _writes(writers: Writers) -> dict[str, Any]:
    took = [told.told_s - told.sent_s for told in writers.final.values()]
    return {
        "acknowledged_final": len(writers.final),
        "unanswered": writers.unanswered,
        "errors": dict(sorted(writers.errors.items())),
        "final_after_s": _spread(took),
    }


def _chaos(monkey: Monkey) -> dict[str, Any]:
    restarts = [o for o in monkey.outages if o.how != "freeze" and o.voted_s]
    alone = [o.votes_after_s for o in restarts if not o.is_storm]
    figures: dict[str, Any] = {
        "outages": {how: sum(o.how == how for o in monkey.outages) for how in ("kill", "restart", "freeze")},
        "votes_after_s": _spread(alone),
        "cpu_until_vote_s": _spread([o.cpu_s for o in restarts if not o.is_storm]),
        "machine_load": _spread(monkey.loads),
        "votes_within_goal_percent": round(100 * sum(s <= GOAL_VOTES_AFTER_S for s in alone) / len(alone), 1)
        if alone
        else None,
        "slowest": slowest([o for o in restarts if not o.is_storm], monkey.logs),
        "votes_after_storm_s": _spread([o.votes_after_s for o in restarts if o.is_storm]),
        "storms": [_storm(storm.down, storm.heights) for storm in monkey.storms],
        "storm_over_after_s": _spread([s.over_s - s.ended_s for s in monkey.storms if s.ended_s]),
    }
    return figures


def slowest(outages: Sequence[Outage], logs: Logs, count: int = 5) -> list[dict[str, Any]]:
    """Where the time of the slowest starts went: until the API was up, the first, the third link, a vote."""
    found = []
    for outage in sorted(outages, key=lambda o: -o.votes_after_s)[:count]:
        said = [
            (line.event, round(line.at_s - outage.again_s, 2))
            for line in logs.lines
            if line.peer == outage.name and outage.again_s <= line.at_s <= outage.voted_s + 1
        ]
        links = [at_s for event, at_s in said if event == "neighbour_up"]
        found.append(
            {
                "votes_after_s": round(outage.votes_after_s, 2),
                "cpu_s": round(outage.cpu_s, 2),
                "api_s": next((at_s for event, at_s in said if event == "peer_up"), None),
                "links_s": links[:3:2],
                "others_down": len({o.name for o in outages if _overlap(o, outage)}) - 1,
            }
        )
    return found


def _overlap(one: Outage, other: Outage) -> bool:
    return one.began_s <= other.voted_s and other.again_s <= one.voted_s


def _storm(down: int, heights: tuple[int, int] | None) -> dict[str, Any]:
    return {"down": down, "heights_final_meanwhile": None if heights is None else heights[1] - heights[0]}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "p50": round(percentile(values, 0.5), 3),
        "p99": round(percentile(values, 0.99), 3),
        "max": round(max(values), 3),
    }


def _table(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Nested figures as rows: a name, a value."""
    rows: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows.append((name, ", ".join(f"{k} {v}" for k, v in value.items()) or "-"))
        elif isinstance(value, list):
            rows.append((name, str(len(value))))
        else:
            rows.append((name, str(value)))
    return rows


def main(argv: list[str]) -> int:
    """0 when all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.chaos")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=10.0, help="writes a second, of all clients together")
    parser.add_argument("--soak", action="store_true", help="no faults; growth of memory and open files")
    parser.add_argument("--save", action="store_true", help="write the result file")
    asked = parser.parse_args(argv)
    shape = machine()
    folder = Path(tempfile.mkdtemp(prefix="gridpact-chaos-"))
    outcome = run(folder / "net", Asked(asked.minutes * 60, asked.seed, rate=asked.rate, soak=asked.soak))
    kind = "soak" if asked.soak else "chaos"
    show(f"{outcome.figures['validators']} validators, each a process: {kind}", _table(outcome.figures))
    for fault in outcome.faults[:50]:
        print(f"FAULT {fault}")
    if asked.save:
        command = f"make {'soak' if asked.soak else 'e2e'} MINUTES={asked.minutes:g} SEED={asked.seed}"
        print(f"written: {save(kind, command, shape, outcome.figures).name}")
    if outcome.faults:
        print(f"{len(outcome.faults)} faults; everything is left in {folder}")
        return 1
    shutil.rmtree(folder)
    print("zero forks, zero lost writes, nobody suspended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
