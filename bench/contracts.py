"""What contracts cost who reads, plans and judges them: `python -m bench.contracts`, half a minute.

CPU milliseconds of one core (`thread_time`), p50 and p99 of ROUNDS calls each, after one that warms up: what
`contract validate`, an order's expansion, a plan over a market of nodes, and policies with 100 signers take.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.common import machine, percentile, save, show
from bot.planner import make_plan
from bot.view import Template
from ledger.contracts.check import decode_contract
from ledger.contracts.language import parse_contract
from ledger.limits import MIB
from ledger.records import Node
from ledger.transactions import Price
from node.api.bot_seam import PlanRequest
from tests.ledger.approval_scenario import hundred_signers
from tests.ledger.contract_fuzz import EXAMPLES, built, manifest_of
from tests.ledger.world import AUTHOR, CONSUMER, key_of

ROUNDS: Final = 100
MARKETS: Final = (24, 1_000)  # nodes
NAMES: Final = ("archive", "crm", "bank", "ai-mining")
COUNTRIES: Final = ("BE", "CH", "DE", "LU", "NL", "FR")


@dataclass(frozen=True, slots=True)
class Figure:
    """CPU milliseconds of one kind of work."""

    name: str
    p50: float
    p99: float


def market(count: int) -> list[Node]:
    """Nodes in six countries, four to a farm, with different prices."""
    nodes = []
    for n in range(count):
        country, farm = COUNTRIES[n % len(COUNTRIES)], f"farm-{n // 4}"
        price = Price(36_000 + 100 * (n % 97), 8_000 + 10 * (n % 89), 900, 200)
        capacity = (16_000, 65_536 * MIB, 512 * 1024 * MIB, 4096 * 1024 * MIB)
        key = key_of(f"bench {n}").public
        address = "/ip4/127.0.0.1/tcp/1"
        used, runs = (0, 0, 0, 0), ("sandbox",)
        nodes.append(Node(key, farm, country, *capacity, *used, price, runs, {}, address, 1 << 52, 0, 0))
    return nodes


def works() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each kind of work by name."""
    for name in NAMES:
        text = (EXAMPLES / name / "contract.yaml").read_text(encoding="utf-8")
        contract = built(text)
        data = contract.encode()
        yield f"{name}: validate the source", lambda text=text: parse_contract(text, "contract.yaml")
        yield f"{name}: check the built form", lambda data=data: decode_contract(data)
        yield f"{name}: expand", lambda contract=contract: manifest_of(contract, {})
        roles = {role.name: (key_of(role.name).public.hex(),) for role in contract.roles}
        request = PlanRequest(contract=name, roles=roles)
        template = Template(bytes(32), AUTHOR.public, contract)
        for count in MARKETS:
            nodes = market(count)
            yield (
                f"{name}: plan over {count:,} nodes",
                lambda t=template, r=request, n=nodes: make_plan(t, r, CONSUMER.public, 10**12, n, 0),
            )
    for name, evaluate in hundred_signers():
        yield f"policy, {name}", evaluate


def measured(name: str, work: Callable[[], Any], rounds: int) -> Figure:
    """So many calls of one kind of work."""
    work()
    times = []
    for _ in range(rounds):
        started_s = time.thread_time()
        work()
        times.append((time.thread_time() - started_s) * 1_000)
    return Figure(name, round(percentile(times, 0.5), 2), round(percentile(times, 0.99), 2))


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and save when asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.contracts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="calls of each kind of work")
    parser.add_argument("--save", action="store_true", help="write the result to bench/results")
    asked = parser.parse_args(argv)
    shape = machine()
    found = [measured(name, work, asked.rounds) for name, work in works()]
    show(
        f"contracts: CPU ms of one core, p50 / p99 of {asked.rounds}",
        [(figure.name, f"{figure.p50:,.2f} / {figure.p99:,.2f}") for figure in found],
    )
    if asked.save:
        figures = {figure.name: {"p50_ms": figure.p50, "p99_ms": figure.p99} for figure in found}
        command = f"python -m bench.contracts --rounds {asked.rounds}"
        file: Path = save("contracts", command, shape, {"rounds": asked.rounds, "cpu": figures})
        print(f"saved {file.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
