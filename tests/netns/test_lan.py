"""mDNS between machines of one site: who knows nobody finds the others; who is elsewhere is not found."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.net import ROOT, until
from tests.netns.lab import Lab, Machine


@dataclass
class Seen:
    """What a peer has told: its id, then its neighbours and counters of now."""

    peer_id: str = ""
    neighbours: dict[str, str] = field(default_factory=dict)
    stats: dict[str, int] = field(default_factory=dict)


@contextmanager
def peer(machine: Machine, number: int, mode: str = "mdns") -> Iterator[Seen]:
    """A host in a process of its own on that machine."""
    seen = Seen()
    with machine.inside():
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.netns.lan_peer", str(number), mode],
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
                seen.neighbours, seen.stats = found["neighbours"], found["stats"]

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        process.stdin.close()
        code = process.wait(30)
        thread.join(10)
        lines.close()
    assert code == 0


def test_peers_of_one_local_network_find_each_other(lab: Lab, figures: dict[str, Any]) -> None:
    places = (("m1", "a", "7.1", "mdns"), ("m2", "a", "7.2", "mdns"), ("m3", "a", "7.3", "quiet"))
    with ExitStack() as running:
        one, two, silent, far = (
            running.enter_context(peer(lab.machine(name, site, host), 41 + i, mode))
            for i, (name, site, host, mode) in enumerate((*places, ("m4", "b", "7.4", "mdns")))
        )
        until("all run", lambda: all(seen.peer_id for seen in (one, two, silent, far)), 60)
        until("m1 and m2 are neighbours", lambda: two.peer_id in one.neighbours, 60)
        until("both know it", lambda: one.peer_id in two.neighbours, 20)
        address = one.neighbours[two.peer_id] + two.neighbours[one.peer_id]
        assert "/ip4/10.1.7." in address  # one dialled what mDNS told
        assert set(one.neighbours) == {two.peer_id}
        assert not silent.neighbours
        assert not far.neighbours
        figures["mdns"] = {"found": one.stats["mdns.found"] + two.stats["mdns.found"]}
