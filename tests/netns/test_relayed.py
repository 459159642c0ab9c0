"""Relays of ours between hosts behind NATs of their own: reached, by another when one dies, and directly when
one end is in the open."""

from __future__ import annotations

import time
from typing import Any

from p2p.ids import relay_of_address
from tests.e2e.net import until
from tests.netns.lab import Lab
from tests.netns.single import Seen, peer


def relay_between(one: Seen, other: Seen) -> str | None:
    """The id of the relay over which they are linked; "" for a direct link, None without one."""
    address = one.neighbours.get(other.peer_id)
    if address is None:
        return None
    return (relay_of_address(address) or "").rpartition("/")[2]


def test_behind_two_nats_by_a_relay_and_by_another_when_it_dies(lab: Lab, figures: dict[str, Any]) -> None:
    machines = [lab.machine("r1", "a", "8.1"), lab.machine("r2", "b", "9.1")]
    hidden = lab.behind_nat("h1", "c", "8.3")
    source = lab.behind_nat("h2", "b", "8.2")
    found: dict[str, Any] = {}
    with peer(machines[0], 61, serves_relay=True) as one:
        at = [f"/ip4/{m.address}/tcp/27656/p2p/" for m in machines]
        with peer(machines[1], 62, serves_relay=True, bootstrap=[at[0] + one.peer_id]) as two:
            ways = [at[0] + one.peer_id, at[1] + two.peer_id]
            with peer(hidden, 63, wants_relays=True, bootstrap=ways) as target:
                until("two places", lambda: sum("/p2p-circuit/" in a for a in target.addresses) == 2, 90)
                begun = time.monotonic()
                with peer(source, 64, bootstrap=sorted(target.addresses)) as asker:
                    until("linked by a relay", lambda: relay_between(asker, target), 90)
                    found["linked_s"] = round(time.monotonic() - begun, 1)
                    assert relay_between(asker, target) in {one.peer_id, two.peer_id}
                    until("the target says the same", lambda: relay_between(target, asker))
                    for seen, machine in ((one, machines[0]), (two, machines[1])):
                        if relay_between(asker, target) == seen.peer_id:
                            dead, cut = seen, machine
                    begun = time.monotonic()
                    cut.wall("in iifname eth0", "out oifname eth0")
                    until(
                        "linked by the other",
                        lambda: relay_between(asker, target) not in (None, dead.peer_id),
                        120,
                    )
                    found["other_relay_s"] = round(time.monotonic() - begun, 1)
                    cut.wall()
    figures["relayed"] = found


def test_who_is_in_the_open_gets_a_direct_link(lab: Lab, figures: dict[str, Any]) -> None:
    """It cannot dial who is hidden; it calls by a relay, and the hidden one dials back."""
    machine = lab.machine("r3", "a", "8.5")
    hidden = lab.behind_nat("h3", "c", "8.6")
    with peer(machine, 65, serves_relay=True) as relay:
        way = f"/ip4/{machine.address}/tcp/27656/p2p/{relay.peer_id}"
        with peer(hidden, 66, wants_relays=True, bootstrap=[way]) as target:
            until("a place", lambda: any("/p2p-circuit/" in a for a in target.addresses), 90)
            begun = time.monotonic()
            with peer(lab.machine("o3", "b", "8.7"), 67, bootstrap=list(target.addresses)) as source:
                until("a direct link", lambda: relay_between(source, target) == "", 90)
                assert source.neighbours[target.peer_id].startswith(f"/ip4/{lab.machines['h3-nat'].address}/")
                figures["direct_after_relayed_s"] = round(time.monotonic() - begun, 1)
