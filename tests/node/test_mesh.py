"""Validators have links to each other, also those that joined later and have no places left."""

from __future__ import annotations

import pytest
import trio

from ledger.codec import decode, encode
from ledger.errors import Refused
from node.peer import Peer
from node.voting.mesh import METHOD, MemberAt, Mesh
from node.wire import PROTOCOL, Hello
from p2p.ids import peer_id_of
from p2p.switchboard import Policy
from tests.node.epochs_fixture import change, name, network, set_of
from tests.node.network_fixture import CHAIN_ID, key, until
from tests.node.scripted_network import ScriptedNetwork

JOINERS = [name(i) for i in range(4, 7)]


def has_all(peer: Peer) -> bool:
    """Has it a link to each other member?"""
    members = len(peer.validators.members)
    return len(set(peer.handlers.members.values())) == members - 1


async def test_joiners_without_places_get_links_to_all_members() -> None:
    """Each joiner knows one address and has one place, which that one takes: the mesh comes on top."""
    async with network(4, []) as net:
        first = net.peers[name(0)].network.peer_id
        policy = Policy(bootstrap=(f"/memory/0/p2p/{first}",), neighbours_max=1)
        for joiner in JOINERS:
            await net.start(joiner, policy=policy)
        await until(lambda: all(len(net.peers[j].network.neighbours()) == 1 for j in JOINERS))
        await change(net, set_of(1, range(7)), name(0))
        await until(lambda: all(has_all(peer) for peer in net.peers.values()))
        # None of the first four's votes is enough without the joiners', nor these without each other's.
        net.stop(name(0))
        net.stop(name(1))
        await change(net, set_of(2, range(2, 7)), name(5), 30)


async def test_a_peer_without_a_seat_holds_nothing_and_is_told_nothing() -> None:
    async with network(4, [name(4)]) as net:
        out, member = net.peers[name(4)], net.peers[name(0)]
        assert out.network._board.book.held == frozenset()  # type: ignore[attr-defined]
        with pytest.raises(Refused, match=r"members\.not_a_validator"):
            await member.mesh.answer(out.network.peer_id, b"")
        asker = net.peers[name(1)].network.peer_id
        others = {key(name(i)).public for i in (2, 3)}
        with trio.fail_after(60):  # links come up, addresses are learned
            while {
                one.key for one in decode(tuple[MemberAt, ...], await member.mesh.answer(asker, b""))
            } != others:
                await trio.sleep(0.005)
        await change(net, set_of(1, range(1, 5)), name(0))
        ids = {net.peers[name(i)].network.peer_id for i in range(1, 4)}
        await until(lambda: out.network._board.book.held == ids)  # type: ignore[attr-defined]
        await until(lambda: member.network._board.book.held == frozenset())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (b"\xff", "members.malformed"),
        (bytes(200_000), "members.too_long"),
        (encode((MemberAt(key(name(2)).public, "nowhere"),)), "members.address"),
    ],
)
async def test_a_malformed_answer_is_a_fault_and_changes_nothing(answer: bytes, rule: str) -> None:
    async with network(4, []) as net:
        peer = net.peers[name(0)]
        script = ScriptedNetwork()

        async def say(method: str, body: bytes) -> bytes:
            assert (method, body) == (METHOD, b"")
            await trio.lowlevel.checkpoint()
            return answer

        teller = peer_id_of(key("node-" + name(1)).public)
        script.answers[teller] = say
        hello = Hello(PROTOCOL, CHAIN_ID, peer.genesis.hash, "", (), 0, key(name(1)).public, b"")
        mesh = Mesh(peer.notary, script, key(name(0)).public, {teller: hello})  # type: ignore[arg-type]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mesh.run)
                await until(lambda: bool(script.penalties))
                nursery.cancel_scope.cancel()
        assert script.penalties == [(teller, rule)]
        assert script.held == {teller}
