"""mDNS between machines of one site: who knows nobody finds the others; who is elsewhere is not found."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from tests.e2e.net import until
from tests.netns.lab import Lab
from tests.netns.single import peer


def test_peers_of_one_local_network_find_each_other(lab: Lab, figures: dict[str, Any]) -> None:
    places = (("m1", "a", "7.1", True), ("m2", "a", "7.2", True), ("m3", "a", "7.3", False))
    with ExitStack() as running:
        one, two, silent, far = (
            running.enter_context(peer(lab.machine(name, site, host), 41 + i, mdns=mdns))
            for i, (name, site, host, mdns) in enumerate((*places, ("m4", "b", "7.4", True)))
        )
        until("m1 and m2 are neighbours", lambda: two.peer_id in one.neighbours)
        until("both know it", lambda: one.peer_id in two.neighbours)
        address = one.neighbours[two.peer_id] + two.neighbours[one.peer_id]
        assert "/ip4/10.1.7." in address  # one dialled what mDNS told
        assert set(one.neighbours) == {two.peer_id}
        assert not silent.neighbours
        assert not far.neighbours
        figures["mdns"] = {"found": sum(seen.stats.get("mdns.found", 0) for seen in (one, two))}
