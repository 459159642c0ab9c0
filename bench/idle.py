"""Processor time of idle peers: no transactions, blocks once a second."""

from __future__ import annotations

import time
from typing import Any

from bench.common import cpu_s
from node.testnet import Testnet


def measure(net: Testnet, seconds: int) -> dict[str, Any]:
    """Per cent of one core for each peer over `seconds`."""
    before = {peer.name: cpu_s(peer.pid) for peer in net.peers}
    begin = time.perf_counter()
    time.sleep(seconds)
    spent = time.perf_counter() - begin
    used = {peer.name: (cpu_s(peer.pid) - before[peer.name]) / spent * 100 for peer in net.peers}
    return {
        "seconds": round(spent, 1),
        "cpu_percent": {name: round(value, 2) for name, value in used.items()},
    }
