"""Hosts without a chain above them, a process each, on the machines of a lab: cheap where the network layer
alone is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.net import ROOT, until
from tests.netns.lab import Machine


@dataclass
class Seen:
    """What a peer has told: its id, then its neighbours, addresses and counters of now."""

    peer_id: str = ""
    neighbours: dict[str, str] = field(default_factory=dict)
    addresses: list[str] = field(default_factory=list)
    stats: dict[str, int] = field(default_factory=dict)


@contextmanager
def peer(machine: Machine, number: int, **options: object) -> Iterator[Seen]:
    """A host in a process of its own on that machine."""
    seen = Seen()
    with machine.inside():
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.netns.single_peer", str(number), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = process.stdout

    def read() -> None:
        for line in lines:
            found: Any = json.loads(line)
            if isinstance(found, str):
                seen.peer_id = found
            else:
                seen.neighbours, seen.addresses = found["neighbours"], found["addresses"]
                seen.stats = found["stats"]

    thread = threading.Thread(target=read)
    thread.start()
    try:
        until(f"peer {number} runs", lambda: seen.addresses, 60)
        yield seen
    finally:
        if process.poll() is None:
            process.stdin.close()
        code = process.wait(60)
        thread.join(60)
        lines.close()
    assert code == 0
