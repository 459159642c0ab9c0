"""Bad bytes on the port and bad peers: refused by name, counted, and the peer that got them goes on."""

from __future__ import annotations

import secrets

import multiaddr
import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport

from ledger.blocks import Batch, Header, header_hash
from ledger.codec import decode, encode
from ledger.keys import Key
from ledger.proofs.certificate import Certificate, Statement, VoteKind
from ledger.storage.stored import StoredBlock
from ledger.transactions import Transfer
from node.api.models import BlockDetail
from node.client.sdk import ApiError
from node.home import read_genesis
from node.wire import BatchPush, RangeRequest, TxPush, topic
from p2p import libp2p_fixes
from p2p.errors import Refused as RequestRefused
from p2p.network import Lane
from tests.e2e.intruder import Intruder, at_work, counted, soon
from tests.e2e.net import Net

EVENTS = "p2p_events_total"


def port_of(net: Net, name: str) -> int:
    return int(net.peer(name).p2p.split("/")[4])


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100_000, b"\x13/multistream/1.0.0\n\x05/abc\n"],
    ids=["http", "noise", "multistream"],
)
async def test_garbage_on_the_port(net: Net, garbage: bytes) -> None:
    async with counted(net, "v1", EVENTS, "fault.connection.handshake"):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(net, "v1"))
        async with stream:
            try:
                await stream.send_all(garbage)
                await stream.send_eof()
            except trio.BrokenResourceError:
                pass  # it has hung up already


async def test_a_plaintext_dial_under_a_validators_name(net: Net) -> None:
    keys = create_new_key_pair(bytes.fromhex(net.home("v2").node_key_file.read_text().strip()))
    impostor = new_host(key_pair=keys, sec_opt={TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(keys)})
    impostor.get_network().retry_config.max_retries = 0
    target = net.peer("v1")
    async with impostor.run(listen_addrs=[]):
        async with counted(net, "v1", EVENTS, "fault.connection.handshake"):
            with pytest.raises(SwarmException):
                await impostor.get_network().dial_addr(
                    multiaddr.Multiaddr(target.p2p), ID.from_string(target.peer_id)
                )
        for connections in list(impostor.get_network().connections.values()):
            for connection in list(connections):
                await libp2p_fixes.close_connection(connection)


async def test_a_too_long_frame(net: Net) -> None:
    async with at_work(Intruder(net)) as intruder:
        stream = await intruder.raw_stream("v1")
        async with counted(net, "v1", EVENTS, "fault.frame.too_long"):
            await stream.write(b"\x7f\xff\xff\xff\x02")


async def test_a_frame_of_no_known_kind(net: Net) -> None:
    async with at_work(Intruder(net)) as intruder:
        stream = await intruder.raw_stream("node1")
        async with counted(net, "node1", EVENTS, "fault.frame.unknown_kind"):
            await stream.write(b"\x00\x00\x00\x02\x7e\x00")


async def test_a_hello_of_another_chain(net: Net) -> None:
    async with at_work(Intruder(net, chain_id="another")) as intruder:
        async with counted(net, "v1", EVENTS, "fault.hello.foreign_chain"):
            await intruder.raw_stream("v1")
        assert net.figure("v1", "refused_total", "hello.foreign_chain") >= 1
    assert intruder.host.peer_id not in {n.peer_id for n in net.api("v1").peers().neighbours}


async def test_a_false_proof_of_a_validator_key(net: Net) -> None:
    """The proof of v2's key, given by somebody whose node key it does not name."""
    intruder = Intruder(net, validator=Key(secrets.token_bytes(32)))
    false = Intruder(net, seed=secrets.token_bytes(32), validator=intruder.validator)
    intruder.hello = false.hello  # type: ignore[method-assign]
    async with at_work(intruder), counted(net, "v1", EVENTS, "fault.hello.proof"):
        await intruder.raw_stream("v1")


async def test_consensus_and_batches_from_a_peer_that_is_no_validator(net: Net) -> None:
    async with at_work(Intruder(net)) as intruder:
        target = await intruder.meet("v1")
        async with counted(net, "v1", EVENTS, "fault.consensus.not_a_validator"):
            assert intruder.host.send(target, Lane.CONSENSUS, b"a vote, says the stranger")
        async with counted(net, "v1", EVENTS, "fault.bulk.not_a_validator"):
            assert intruder.host.send(target, Lane.BULK, encode(BatchPush(encode(Batch((b"x",))))))
        async with counted(net, "v1", "refused_total", "bulk.malformed"):
            assert intruder.host.send(target, Lane.BULK, b"\xc1 garbage")
        async with counted(net, "v1", "refused_total", "tx.malformed"):
            assert intruder.host.send(target, Lane.BULK, encode(TxPush(b"no transaction")))


async def test_five_faults_and_the_peer_is_banned(net: Net) -> None:
    async with at_work(Intruder(net)) as intruder:
        target = await intruder.meet("v2")
        async with counted(net, "v2", EVENTS, "banned"):
            for _ in range(5):
                intruder.host.send(target, Lane.CONSENSUS, b"x")
        await soon("the link ends", lambda: intruder.downs)
        banned = {ban.peer_id: ban.rule for ban in net.api("v2").peers().banned}
        assert banned[intruder.host.peer_id] == "consensus.not_a_validator"


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("range.malformed", b"no blocks"),
        ("header.malformed", encode((StoredBlock(b"no header", (), b""),))),
    ],
)
@pytest.mark.parametrize("name", ["v3", "node2"])
async def test_a_lying_range_answer(net: Net, name: str, rule: str, answer: bytes) -> None:
    liar = Intruder(net, height=1_000_000, answers={"blocks": lambda body: answer})
    async with at_work(liar):
        async with counted(net, name, EVENTS, f"fault.{rule}"):
            lies = net.figure(name, "sync_lies_total")
            await liar.meet(name)
            await soon("the lie is told", lambda: "blocks" in liar.asked)
        assert net.figure(name, "sync_lies_total") > lies
    root = net.until_equal(name, "v1")
    assert root[0] < 1_000_000


async def test_a_forged_block(net: Net) -> None:
    """A child of the tip, well formed in all, whose certificate nobody signed."""
    genesis = read_genesis(net.folder / "genesis.json")
    members = genesis.validator_set

    def forge(body: bytes) -> bytes:
        first = decode(RangeRequest, body).first
        try:
            parent = net.api().get(f"/v1/blocks/{first - 1}", BlockDetail)
        except ApiError:  # of the heights that it boasts of: not even made up
            raise RequestRefused(f"no block {first}") from None
        header = encode(
            Header(
                chain_id=genesis.chain_id,
                epoch=0,
                height=parent.height + 1,
                view=parent.view + 1,
                parent_view=parent.view,
                parent_hash=bytes.fromhex(parent.hash),
                time_ms=parent.time_ms + 1,
                proposer=members.members[0].key,
                state_height=parent.state_height,
                state_root=bytes.fromhex(parent.state_root),
                validators=members.hash,
                next_validators=members.hash,
                batches=(),
            )
        )
        final = Statement(VoteKind.FINAL, 0, parent.view + 1, header_hash(header))
        return encode((StoredBlock(header, (), encode(Certificate(final, b"\x0f", (bytes(64),) * 4))),))

    liar = Intruder(net, height=1_000_000, answers={"blocks": forge})
    async with at_work(liar), counted(net, "node3", EVENTS, "fault.certificate.signature"):
        await liar.meet("node3")
    net.until_equal("node3", "v1")


async def test_a_validator_that_sends_garbage(net: Net) -> None:
    """v4's keys in other hands: its batches and messages are refused, the other three go on without it."""
    net.stop("v4")
    home = net.home("v4")
    twin = Intruder(
        net,
        seed=bytes.fromhex(home.node_key_file.read_text().strip()),
        validator=home.validator_key(),
        height=0,
    )
    try:
        async with at_work(twin):
            target = await twin.meet("v1")
            good = net.api().sign(net.key("author"), Transfer(net.key("legal").public, 1))
            entries = encode(Batch((b"no transaction", good[:-1] + b"\0")))
            async with counted(net, "v1", "consensus_faults_total", "batch.entries"):
                assert twin.host.send(target, Lane.BULK, encode(BatchPush(entries)))
            async with counted(net, "v1", "consensus_faults_total", "batch.malformed"):
                assert twin.host.send(target, Lane.BULK, encode(BatchPush(b"\xc1 no batch")))
            async with counted(net, "v1", "consensus_faults_total", "consensus.message.malformed"):
                assert twin.host.send(target, Lane.CONSENSUS, b"\xc1 no message")
    finally:
        net.start("v4")
    net.until_equal("v1", "v2", "v3", "v4")
    assert net.api().account(net.key("legal").public).balance == 0


async def test_gossip_that_no_honest_peer_passes_on(net: Net) -> None:
    genesis = read_genesis(net.folder / "genesis.json")
    name = topic(genesis.chain_id, "transactions")
    async with at_work(Intruder(net, topics=(name,))) as intruder:
        await intruder.meet("node2")
        async with counted(net, "node2", "refused_total", "gossip.tx.malformed"):
            with trio.fail_after(60):
                number = 0
                while not net.figure("node2", "refused_total", "gossip.tx.malformed"):
                    number += 1  # published before the topic's mesh stands, it reaches nobody
                    intruder.host.publish(name, b"no transaction %d" % number)
                    await trio.sleep(0.2)
        assert net.figure("node2", EVENTS, f"fault.gossip.{name}") >= 1
