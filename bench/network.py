"""`python -m bench.network [--short]`: a local network is measured; results go to bench/results/."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import idle, orders, transactions
from bench.common import machine, save, show
from node.testnet import init_testnet, start_peer, stop_peers, wait_ready
from node.testnet_market import open_market

READY_S = 60.0


def main() -> int:
    """0 when all was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.network")
    parser.add_argument("--short", action="store_true", help="a quick look; nothing is written")
    short = parser.parse_args().short
    shape = machine()
    folder = Path(tempfile.mkdtemp(prefix="gridpact-bench-"))
    net = init_testnet(folder / "net", "bench", validators=4, nodes=3, bots=1)
    names = [peer.name for peer in net.peers]
    try:
        begin = time.monotonic()
        for peer in net.peers:
            start_peer(net, peer)
        transactions.first_final(net, READY_S)
        first_final_s = time.monotonic() - begin
        wait_ready(net, names, READY_S, lambda text: None)
        ready_s = time.monotonic() - begin
        open_market(net, READY_S, lambda text: None)
        time.sleep(3)  # let imports and dials of the start settle before the idle measurement
        figures: dict[str, Any] = {"first_final_s": round(first_final_s, 1), "ready_s": round(ready_s, 1)}
        figures["idle"] = idle.measure(net, 10 if short else 60)
        figures["rate_50"] = transactions.measure(net, 50, 5 if short else 30)
        figures["orders"] = orders.measure(net, 2 if short else 20)
    finally:
        stop_peers(net, names)
        shutil.rmtree(folder)
    _print(figures)
    if not short:
        print(f"written: {save('network', 'make bench', shape, figures).name}")
    return 0


def _print(figures: dict[str, Any]) -> None:
    rate, order, cpu = figures["rate_50"], figures["orders"], figures["idle"]["cpu_percent"]
    rows = [("first final transaction after", f"{figures['first_final_s']} s")]
    rows.append(("all 8 peers ready after", f"{figures['ready_s']} s"))
    rows += [(f"idle {name}, of one core", f"{value} %") for name, value in cpu.items()]
    rows.append(("50 tx/s: final, errors", f"{rate['final']}, {rate['errors']}"))
    rows.append(("50 tx/s: p50, p99, most", f"{rate['p50_ms']}, {rate['p99_ms']}, {rate['max_ms']} ms"))
    for name in ("order", "two_approvals", "approved_to_claimed", "claimed_to_running", "order_to_running"):
        text = f"{order[f'{name}_p50_ms']}, {order[f'{name}_p99_ms']} ms"
        rows.append((f"{name.replace('_', ' ')}: p50, p99 of {order['orders']}", text))
    show("4 validators, 3 3nodes, 1 3bot, each a process, all on this machine", rows)


if __name__ == "__main__":
    sys.exit(main())
