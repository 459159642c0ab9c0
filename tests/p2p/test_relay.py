"""Relays in the open, targets that listen nowhere, and who reaches them: our protocols over a circuit."""

import pytest
import trio

from p2p import relay as relay_module
from p2p import relayed as relayed_module
from p2p.circuit import HOP_PROTOCOL
from p2p.errors import ConnectFailed
from p2p.ids import relay_of_address
from p2p.limits import READ_BYTES, RELAY_CIRCUITS_OF_PEER_MAX
from p2p.network import Lane
from tests.p2p.conftest import CALM, Peer, World, until

NOWHERE: tuple[str, ...] = ()


async def start(world: World, number: int, **options) -> Peer:
    return await world.start(number, pace=CALM, **options)


def link(one: Peer, other: Peer):
    return next((n for n in one.net.neighbours() if n.peer_id == other.id), None)


def is_relayed(one: Peer, other: Peer) -> bool:
    found = link(one, other)
    return found is not None and relay_of_address(found.address) is not None


async def hidden(world: World, number: int, *relays: Peer) -> Peer:
    """A peer that listens nowhere, with a place at each of those relays."""
    made = await start(
        world, number, listen=NOWHERE, bootstrap=tuple(r.address for r in relays), wants_relays=True
    )
    await until(lambda: len(made.net.relayed.addresses()) >= min(2, len(relays)))
    return made


async def test_a_hidden_peer_is_reached_and_both_know_whom_they_talk_to(hosts):
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    assert target.net.addresses() == (f"{relay.address}/p2p-circuit/p2p/{target.id}",)
    source = await start(hosts, 3, listen=NOWHERE, bootstrap=target.net.addresses())
    await until(lambda: is_relayed(source, target) and is_relayed(target, source))
    assert link(target, source).address == f"{relay.address}/p2p-circuit/p2p/{source.id}"
    assert link(target, source).inbound
    # Ours over it, both ways: requests, messages, gossip; more than one window of yamux.
    body = bytes(range(256)) * 4_000
    assert await source.net.request(target.id, "echo", body, 30.0) == body
    assert await target.net.request(source.id, "echo", body, 30.0) == body
    assert source.net.send(target.id, Lane.CONSENSUS, b"vote")
    assert target.net.send(source.id, Lane.BULK, b"bytes")
    await until(lambda: (source.id, Lane.CONSENSUS, b"vote") in target.seen.messages)
    await until(lambda: (target.id, Lane.BULK, b"bytes") in source.seen.messages)
    await until(lambda: source.net.publish("approvals", b"by a circuit") and target.seen.gossip)
    # The relay is no neighbour of the source: it carried bytes for a stranger.
    assert relay.net.stats()["relay.circuits"] == 1


async def test_addresses_spread_and_a_direct_way_takes_the_place_of_the_relayed_one(hosts):
    """Who was told of the hidden peer by the relay reaches it; it dials back, because it can."""
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    source = await start(hosts, 3, bootstrap=(relay.address,))
    await until(lambda: link(target, source) is not None and not is_relayed(target, source))
    await until(lambda: link(source, target) is not None and not is_relayed(source, target))
    assert link(source, target).inbound  # the hidden one dialled
    await until(
        lambda: target.net.stats().get("direct.connected", 0) + target.net.stats()["dial.connected"] >= 2
    )


async def test_a_reservation_is_renewed(hosts, monkeypatch):
    monkeypatch.setattr(relayed_module, "RELAY_RESERVATION_S", 0.2)
    monkeypatch.setattr(relayed_module, "RELAY_LOOK_S", 0.1)
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    target.net.relayed.look()
    await until(lambda: relay.net.stats().get("relay.reserved", 0) >= 2)
    assert len(target.net.addresses()) == 1


async def test_when_its_relay_dies_another_takes_its_place(hosts):
    one = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, one)
    other = await start(hosts, 4, serves_relay=True)
    source = await start(hosts, 3, listen=NOWHERE, bootstrap=(other.address, target.net.addresses()[0]))
    await until(lambda: is_relayed(source, target))
    target.net.add_peer(other.address, keep=False)
    await until(lambda: target.knows(other) and len(target.net.relayed.addresses()) == 2)
    await one.stop()
    await until(lambda: len(target.net.relayed.addresses()) == 1)
    await until(lambda: (found := link(source, target)) and relay_of_address(found.address) == other.address)
    assert await source.net.request(target.id, "echo", b"still there", 10.0) == b"still there"


async def test_who_has_a_place_at_a_relay_takes_no_neighbours_place(hosts):
    relay = await start(hosts, 1, serves_relay=True, neighbours_max=1)
    target = await hidden(hosts, 2, relay)
    other = await start(hosts, 3, listen=NOWHERE, bootstrap=(relay.address,))
    await until(lambda: relay.knows(target, other))
    late = await start(hosts, 4, listen=NOWHERE, bootstrap=(relay.address,))
    await until(lambda: relay.net.stats().get("refused.full", 0) >= 1)
    assert relay.knows(target, other)
    assert not relay.knows(late)


async def test_no_place_no_circuit(hosts):
    """Who has not reserved is not reached, and who does not serve is no relay."""
    relay = await start(hosts, 1, serves_relay=True)
    target = await start(hosts, 2, listen=NOWHERE, bootstrap=(relay.address,))
    await until(lambda: relay.knows(target))
    source = await start(hosts, 3, listen=NOWHERE)
    with pytest.raises(ConnectFailed, match="204"):
        await source.net.dial(f"{relay.address}/p2p-circuit/p2p/{target.id}")
    plain = await start(hosts, 4)
    with pytest.raises(ConnectFailed):
        await source.net.dial(f"{plain.address}/p2p-circuit/p2p/{target.id}")
    for nonsense in (
        f"/p2p-circuit/p2p/{target.id}",
        f"{relay.address}/p2p-circuit/p2p-circuit/p2p/{target.id}",
    ):
        with pytest.raises(ConnectFailed):
            await source.net.dial(nonsense)


async def test_the_wrong_peer_at_the_end_of_a_circuit_is_refused(hosts):
    """A relay that leads elsewhere gains nothing: noise proves who is there."""
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    wanted = await start(hosts, 5)  # listens, and is not behind that relay
    source = await start(hosts, 3, listen=NOWHERE)
    # The relay takes every question as one for `target`.
    serving = relay_module.Relay(relay.net, lambda name: None, lambda peer: False)
    serving.reservations = {wanted.id: trio.current_time() + 60}
    reach = relay.net.open_on_link

    async def to_target(peer_id, protocol):
        return await reach(target.id, protocol)

    class Liar:
        connection_of = relay.net.connection_of
        is_stream_of_link = relay.net.is_stream_of_link
        open_on_link = staticmethod(to_target)

        @staticmethod
        def is_link_up(peer_id):
            return True

    serving._host = Liar()
    relay.net.basic_host.set_stream_handler(HOP_PROTOCOL, serving.handle)
    with pytest.raises(ConnectFailed):
        await source.net.dial(f"{relay.address}/p2p-circuit/p2p/{wanted.id}")
    assert not source.net.neighbours()


async def test_circuits_are_bounded(hosts):
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    address = target.net.addresses()[0]
    sources = [
        await start(hosts, 10 + i, listen=NOWHERE, bootstrap=(address,))
        for i in range(RELAY_CIRCUITS_OF_PEER_MAX)
    ]
    await until(lambda: all(is_relayed(one, target) for one in sources))
    late = await start(hosts, 30, listen=NOWHERE)
    with pytest.raises(ConnectFailed, match="201"):
        await late.net.dial(address)
    await sources[0].stop()
    late.net.add_peer(address, keep=True)
    await until(lambda: is_relayed(late, target))


async def test_one_network_does_not_take_all_reservations(hosts, monkeypatch):
    """Loopback is one network: its third peer is refused, who has a place renews it."""
    monkeypatch.setattr(relay_module, "RELAY_RESERVATIONS_OF_GROUP_MAX", 2)
    relay = await start(hosts, 1, serves_relay=True)
    first, _ = await hidden(hosts, 2, relay), await hidden(hosts, 3, relay)
    late = await start(hosts, 4, listen=NOWHERE, bootstrap=(relay.address,), wants_relays=True)
    await until(lambda: late.net.stats().get("relayed.refused", 0) >= 1)
    assert late.net.relayed.addresses() == ()
    assert relay.net.stats()["relay.full"] >= 1
    await first.net.relayed._reserve(relay.id, relay.address)
    assert len(first.net.relayed.addresses()) == 1
    assert len(relay.net.relay.reservations) == 2


async def test_no_circuit_over_a_circuit(hosts):
    """Who is seen through a relay is served by none: neither a place nor a way on."""
    relay = await start(hosts, 1, serves_relay=True)
    target = await start(
        hosts, 2, listen=NOWHERE, bootstrap=(relay.address,), wants_relays=True, serves_relay=True
    )
    await until(lambda: target.net.relayed.addresses())
    source = await start(hosts, 3, listen=NOWHERE, bootstrap=target.net.addresses())
    await until(lambda: is_relayed(source, target))
    await source.net.relayed._reserve(target.id, target.net.addresses()[0])
    assert source.net.stats()["relayed.refused"] == 1
    assert not target.net.relay.reservations


async def test_what_a_circuit_carries_is_counted_and_paced(hosts, monkeypatch):
    monkeypatch.setattr(relay_module, "RELAY_CIRCUIT_BYTES_S", 400_000)
    monkeypatch.setattr(relay_module, "RELAY_CIRCUIT_HURRY_S", 0.5)
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    source = await start(hosts, 3, listen=NOWHERE, bootstrap=target.net.addresses())
    await until(lambda: is_relayed(source, target))
    begun = trio.current_time()
    assert source.net.send(target.id, Lane.BULK, bytes(1_000_000))
    await until(lambda: any(len(data) == 1_000_000 for _, _, data in target.seen.messages))
    free = 200_000 + READ_BYTES  # what may hurry, and the last part, after which nobody waits
    assert trio.current_time() - begun > (1_000_000 - free) / 400_000
    assert relay.net.stats()["relay.bytes"] > 1_000_000
    assert is_relayed(source, target)


async def test_a_relay_that_changes_or_leaves_out_bytes_breaks_the_circuit_alone(hosts):
    """Noise numbers and seals what is carried: nothing false arrives, and the relay's link stays."""
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    source = await start(hosts, 3, listen=NOWHERE, bootstrap=target.net.addresses())
    await until(lambda: is_relayed(source, target))
    carried = relay.net.relay._carry
    armed = trio.Event()  # not before the new link stands: what is harmed earlier is the making of one
    harmed = trio.Event()

    class Harmful:
        def __init__(self, stream):
            self._stream = stream

        async def read(self, count):
            data = await self._stream.read(count)
            if armed.is_set() and len(data) > 1_000 and not harmed.is_set():
                harmed.set()
                return data[:500] + data[600:]
            return data

        async def write(self, data):
            await self._stream.write(data)

    async def carry(here, there):
        await carried(Harmful(here), there)

    relay.net.relay._carry = carry
    source.net._board.links[target.id].end("again", goodbye=False)
    await until(lambda: len(source.seen.ups) >= 2 and is_relayed(source, target))
    armed.set()
    sent = bytes(range(250)) * 400
    before = len(source.seen.ups)
    with trio.fail_after(60):
        while not harmed.is_set():  # of two links made at once one is given up, with what was sent on it
            source.net.send(target.id, Lane.BULK, sent)
            with trio.move_on_after(1):
                await harmed.wait()
    await until(lambda: len(source.seen.ups) > before and is_relayed(source, target))
    assert len(source.seen.downs) >= 2
    assert {data for _, _, data in target.seen.messages} <= {sent}
    assert relay.knows(target)


async def test_a_circuit_ends_with_its_bytes(hosts, monkeypatch):
    monkeypatch.setattr(relay_module, "RELAY_CIRCUIT_BYTES", 300_000)
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    source = await start(hosts, 3, listen=NOWHERE, bootstrap=target.net.addresses())
    await until(lambda: is_relayed(source, target))

    def is_spent() -> bool:  # of two links made at once one is given up, with what was sent on it
        source.net.send(target.id, Lane.BULK, bytes(100_000))
        return relay.net.stats().get("relay.spent", 0) >= 1

    await until(is_spent)
    await until(lambda: source.seen.downs)
    await until(lambda: len(source.seen.ups) >= 2)  # and they meet anew


async def test_nonsense_to_a_relay_is_the_streams_end_alone(hosts):
    relay = await start(hosts, 1, serves_relay=True)
    target = await hidden(hosts, 2, relay)
    for words in (b"\xff" * 40, b"\x03\x08\x63\x01", b"\x02\x08\x02", b"\x80\x80\x04"):
        stream = await target.net.open_on_link(relay.id, HOP_PROTOCOL)
        await stream.write(words)
        with trio.fail_after(60):
            try:
                while await stream.read(1_000):
                    pass
            except Exception:  # noqa: BLE001 - its end, however told
                pass
    assert relay.knows(target)
    assert target.net.addresses() == (f"{relay.address}/p2p-circuit/p2p/{target.id}",)
