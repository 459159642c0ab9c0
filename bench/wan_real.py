"""Four real validators, each a process in a network namespace of its own, with the round trips of
bench.wan_lines between them: what the model of bench.wan_model is held against. Needs root."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from bench.common import cpu_s, percentile
from bench.wan_lines import REGIONS, rtt_ms
from ledger.transactions import Transfer
from node.client.sdk import Client, ClientError
from tests.netns.grid import API, Grid, Member
from tests.netns.lab import Lab, why_not

SITES: Final = (2, 4, 8, 9)  # Washington, London, Tokyo, Sao Paulo
CLIENTS_PER_SITE: Final = 2

__all__ = ["SITES", "measure", "why_not"]


def measure(rate_per_s: float, seconds: float) -> dict[str, Any]:
    """Finality in ms by site and in all, messages and bytes a view. Raises AssertionError when the network
    does not come up."""
    names = [REGIONS[site].lower().replace(" ", "") for site in SITES]
    with tempfile.TemporaryDirectory(prefix="gridpact-wan-") as folder, Lab(tuple(names)) as lab:
        lines = {
            (one, other): rtt_ms(SITES[i], SITES[k])
            for i, one in enumerate(names)
            for k, other in enumerate(names)
            if i < k
        }
        lab.lines(lines)
        grid = Grid(lab, Path(folder))
        machines = {f"v-{name}": lab.machine(f"v{n}", name, "0.11") for n, name in enumerate(names)}
        grid.found(machines)
        try:
            grid.start(*machines)
            for name in machines:  # the first ones wait for links and imports
                grid.transfer(name)
            return _load(grid, list(machines), rate_per_s, seconds)
        finally:
            grid.down()


def _load(grid: Grid, names: list[str], rate_per_s: float, seconds: float) -> dict[str, Any]:
    found: dict[str, list[float]] = {name: [] for name in names}
    failed: list[str] = []
    clients = len(names) * CLIENTS_PER_SITE
    start, every_s = time.monotonic() + 0.5, clients / rate_per_s
    before = {name: _counters(grid, name) for name in names}
    threads = [
        threading.Thread(
            target=_client,
            args=(
                grid,
                grid.members[name],
                found[name],
                failed,
                start + every_s * k / clients,
                every_s,
                seconds,
            ),
        )
        for k, name in enumerate(names * CLIENTS_PER_SITE)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = {name: _counters(grid, name) for name in names}
    every = [ms for taken in found.values() for ms in taken]
    views = max(after[n]["view"] - before[n]["view"] for n in names)
    spent = {key: sum(after[n][key] - before[n][key] for n in names) for key in after[names[0]]}
    return {
        "sites": [REGIONS[site] for site in SITES],
        "final": len(every),
        "errors": len(failed),
        "first_error": failed[0] if failed else "",
        "tx_p50_ms": round(percentile(every, 0.5)),
        "tx_p99_ms": round(percentile(every, 0.99)),
        "by_site_p50_ms": {n.removeprefix("v-"): round(percentile(t, 0.5)) for n, t in found.items() if t},
        "views": views,
        "messages_per_view": round(spent["messages"] / views, 1),
        "bytes_per_view": round(spent["bytes"] / views),
        "cpu_percent": round(spent["cpu"] / len(names) / seconds * 100, 1),
    }


def _client(
    grid: Grid, at: Member, found: list[float], failed: list[str], due: float, every_s: float, seconds: float
) -> None:
    """Sends one transfer each `every_s` and waits for it; what is late is sent at once."""
    end = due + seconds
    with at.machine.inside():
        client = Client(API, timeout_s=30.0)
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            due += every_s
            try:
                raw = client.sign(grid.money, Transfer(grid.money.public, 1))
                begin = time.monotonic()
                client.submit(raw)
                found.append((time.monotonic() - begin) * 1_000)
            except ClientError as error:
                failed.append(str(error))


def _counters(grid: Grid, name: str) -> dict[str, float]:
    figures = grid.figures(name)
    process = grid.members[name].process
    assert process is not None
    return {
        "view": figures["consensus_view", ""],
        "messages": figures["consensus_messages_sent_total", ""],
        "bytes": float(sum(one.bytes_out for one in grid.neighbours(name).values())),
        "cpu": cpu_s(process.pid),
    }
