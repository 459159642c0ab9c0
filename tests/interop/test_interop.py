"""js-libp2p and go-libp2p peers on a real network (`make interop`): they prove, and are heard."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from ledger.codec import decode, encode
from ledger.documents import open_document
from ledger.errors import Refused
from ledger.keys import Key
from ledger.proofs.light import FinalityProof, verify_final
from ledger.storage.stored import StoredBlock
from ledger.transactions import Decide, Tx, sign_tx
from node.api.models import BlockDetail
from node.home import load_key, read_genesis
from node.wire import TOPIC_KINDS, Announcement, RangeRequest, topic
from tests.e2e.intruder import Intruder, at_work, counted
from tests.e2e.net import until
from tests.interop import tamper
from tests.interop.conftest import ROLES, World, tx_of
from tests.interop.foreign import Foreign, No
from tests.interop.tamper import Proved

PROTOCOLS = {
    "/ipfs/id/1.0.0",
    "/ipfs/ping/1.0.0",
    "/meshsub/1.1.0",
    "/gridpact/consensus/1",
    "/gridpact/bulk/1",
}
RECEIVERS = {"js": b"\x0a" * 32, "go": b"\x0b" * 32}


def block_hash(world: World, height: int, name: str = "v1") -> str:
    return world.net.api(name).get(f"/v1/blocks/{height}", BlockDetail).hash


def blocks_of(world: World, foreign: Foreign, first: int) -> tuple[StoredBlock, ...]:
    """Blocks as v1 gave them to the foreign peer."""
    body = encode(RangeRequest(first, 100_000, 0))
    peer = world.net.peer("v1").peer_id
    answer = foreign.ask("request", peer=peer, method="blocks", body=body.hex())["body"]
    return decode(tuple[StoredBlock, ...], bytes.fromhex(answer))


def proved(world: World, foreign: Foreign) -> Proved:
    """A block of the network with its certificate."""
    until("some blocks", lambda: world.net.api().status().height > 3)
    found = next(block for block in blocks_of(world, foreign, 2) if block.certificate)
    return Proved(found.header, found.certificate)


# ---------------------------------------------------------------------- joining


def test_it_joins_by_noise_yamux_identify_and_ping(
    world: World, joined: dict[str, dict[str, Any]], foreign: Foreign
) -> None:
    report, v1 = joined[foreign.language], world.net.peer("v1")
    assert report["peer"] == v1.peer_id
    assert report["security"] == "/noise" and report["muxer"] == "/yamux/1.0.0"
    assert report["agent"].startswith("py-libp2p/") and set(report["protocols"]) >= PROTOCOLS
    assert 0 <= report["ping_ms"] < 20_000
    hello = report["hello"]
    assert (hello["moniker"], hello["roles"], hello["is_validator"]) == ("v1", ["validator"], True)
    assert foreign.first["genesis"] == read_genesis(world.net.folder / "genesis.json").hash.hex()
    assert is_neighbour(world, foreign)


def test_it_outlives_our_heartbeat(world: World, foreign: Foreign) -> None:
    """We ping who is quiet and drop who is silent for three beats of 2.5 s."""
    since_ms = links(world)[foreign.first["peer"]]
    until("four beats", lambda: tip_ms(world) > since_ms + 10_000, 40)
    assert links(world)[foreign.first["peer"]] == since_ms


def is_neighbour(world: World, foreign: Foreign, name: str = "v1") -> bool:
    return foreign.first["peer"] in {n.peer_id for n in world.net.api(name).peers().neighbours}


def links(world: World) -> dict[str, int]:
    """Since when v1 has had each neighbour."""
    return {n.peer_id: n.since_ms for n in world.net.api().peers().neighbours}


def tip_ms(world: World) -> int:
    """The time of v1's tip: of the network's clock."""
    return world.net.api().get("/v1/blocks/latest", BlockDetail).time_ms


# ---------------------------------------------------------------------- proving what it gets


def test_it_proves_announced_blocks(world: World, foreign: Foreign) -> None:
    """Those of other validators, too: v1 holds their blocks already, and passes the news on to strangers."""
    foreign.saw("blocks", verdict="accept")
    monikers = until("blocks of two validators", lambda: proposers(world, foreign), 60)
    assert monikers - {"v1"}
    for event in announced(foreign):
        assert event["weight"] >= 3 and event["hash"] == block_hash(world, event["height"])


def announced(foreign: Foreign) -> list[dict[str, Any]]:
    return [e for e in foreign.events if e["kind"] == "blocks" and e["verdict"] == "accept"]


def proposers(world: World, foreign: Foreign) -> set[str]:
    """Names of those whose blocks were announced, when there are two or more."""
    blocks = (world.net.api().get(f"/v1/blocks/{e['height']}", BlockDetail) for e in announced(foreign))
    found = {block.moniker for block in blocks}
    return found if len(found) > 1 else set()


def test_it_fetches_and_proves_the_chain_from_genesis(world: World, foreign: Foreign) -> None:
    height = world.net.api().status().height
    report = world.caught_up(foreign, height)
    assert report["height"] >= height and report["hash"] == block_hash(world, report["height"])
    assert report["txs"] >= 4  # those that opened the market


def test_it_checks_a_contract_that_is_gossiped(world: World, foreign: Foreign) -> None:
    assert world.contract == foreign.saw("contracts", verdict="accept")["document"]


def test_it_fetches_an_artifact_by_ranges(world: World, foreign: Foreign) -> None:
    artifacts = world.built["workloads"][0]["artifacts"]
    world.caught_up(foreign, world.net.api().status().height)
    for artifact in artifacts:
        report = foreign.ask("artifact", peer=world.net.peer("v1").peer_id, sha256=artifact["sha256"])
        assert report["sha256"] == artifact["sha256"] and report["size_bytes"] == artifact["size_bytes"]
    assert (
        max(a["size_bytes"] for a in artifacts) > 3 * 262_144
    )  # more than one chunk, and more than one frame


@pytest.mark.parametrize("name", tamper.CERTIFICATES)
def test_it_refuses_a_tampered_certificate(world: World, foreign: Foreign, name: str) -> None:
    keys = tuple(load_key(world.net.home(f"v{n}").validator_key_file) for n in range(1, 5))
    good = proved(world, foreign)
    genesis = read_genesis(world.net.folder / "genesis.json")
    rule, broken = tamper.certificates(keys)[name]
    bad = broken(good)
    assert foreign.ask("check_certificate", header=good.header.hex(), certificate=good.certificate.hex())
    with pytest.raises(No) as refused:
        foreign.ask("check_certificate", header=bad.header.hex(), certificate=bad.certificate.hex())
    proof = FinalityProof(bad.header, (), bad.certificate)
    with pytest.raises(Refused) as ours:
        verify_final(genesis.chain_id, genesis.validator_set, proof)
    assert refused.value.rule == ours.value.rule == rule


def key_seed(world: World, name: str) -> str:
    return world.net.net.key_file(name).read_text().strip()


@pytest.mark.parametrize("name", tamper.APPROVALS)
def test_it_checks_approvals_by_itself(world: World, foreign: Foreign, name: str) -> None:
    rule, envelope = tamper.approvals(world.net.net.chain_id)[name]
    if not rule:
        report, document = (
            foreign.ask("check_approval", envelope=envelope.hex()),
            open_document(envelope, "approval"),
        )
        assert report["document"] == document.id.hex() and report["signer"] == document.signer.hex()
        assert report["subject"] == document.subject.hex()
        assert report["predicate"]["comment"] == document.predicate.comment
        return
    with pytest.raises(No) as refused:
        foreign.ask("check_approval", envelope=envelope.hex())
    assert refused.value.rule == rule
    if rule != "approval.foreign_chain":  # which the ledger says when it executes
        with pytest.raises(Refused) as ours:
            open_document(envelope, "approval")
        assert ours.value.rule == rule


async def test_it_refuses_a_liars_gossip_and_blocks(world: World, foreign: Foreign) -> None:
    """A peer of our own build lies to it: by gossip, and in an answer."""
    chain_id = world.net.net.chain_id
    good, break_it = proved(world, foreign), tamper.certificates(())["a flipped bit"][1]
    tip = world.caught_up(foreign, 3)["height"]
    until("newer blocks", lambda: world.net.api().status().height > tip + 1)
    *before, last = blocks_of(world, foreign, tip + 1)
    lie = break_it(Proved(last.header, last.certificate))
    answer = encode((*before, StoredBlock(last.header, last.batches, lie.certificate)))
    liar = Intruder(world.net, topics=tuple(topic(chain_id, kind) for kind in TOPIC_KINDS))
    liar.answers["blocks"] = lambda body: answer
    async with at_work(liar):
        address = liar.host.addresses()[0]
        report = await trio.to_thread.run_sync(partial(foreign.ask, "join", address=address))
        assert report["peer"] == liar.host.peer_id and report["hello"]["is_validator"] is False
        bad = break_it(good)
        liar.host.publish(topic(chain_id, "blocks"), encode(Announcement(bad.header, bad.certificate)))
        wait = partial(foreign.saw, "blocks", verdict="reject", rule="certificate.signature")
        await trio.to_thread.run_sync(wait)
        forged = Decide(tamper.approvals(chain_id)["a changed word"][1])
        carrier = sign_tx(tamper.STRANGERS[0], Tx(chain_id, tamper.STRANGERS[0].public, 99, bytes(8), forged))
        liar.host.publish(topic(chain_id, "approvals"), carrier)
        wait = partial(foreign.saw, "approvals", verdict="reject", rule="document.signature")
        await trio.to_thread.run_sync(wait)
        with pytest.raises(No) as refused:
            await trio.to_thread.run_sync(partial(foreign.ask, "follow", peer=liar.host.peer_id))
        assert refused.value.rule == "certificate.signature" and liar.asked[-1] == "blocks"
    assert world.caught_up(foreign, tip + 2)["height"] >= tip + 2  # and believes the honest one


# ---------------------------------------------------------------------- being heard


def test_its_transaction_is_final(world: World, foreign: Foreign) -> None:
    world.caught_up(foreign, world.net.api().status().height)
    author, receiver = world.net.key("author"), Key(RECEIVERS[foreign.language])
    before = world.net.api().account(receiver.public).balance
    seed = key_seed(world, "author")
    sent = foreign.ask("transfer", seed=seed, to=receiver.public.hex(), amount=70_000)
    height = world.final_height(sent["tx"])
    view = world.net.api("v3").tx(sent["tx"])
    assert (view.kind, view.sender) == ("transfer", author.public.hex())
    assert world.net.api().account(receiver.public).balance == before + 70_000
    world.caught_up(foreign, height)
    assert foreign.ask("final", tx=sent["tx"])["height"] == height


def test_its_approval_counts(world: World, foreign: Foreign) -> None:
    """Each foreign peer signs in one role; with both of them the deployment is approved."""
    deployment, role = world.deployment, ROLES[foreign.language]
    world.caught_up(foreign, world.final_height(deployment))
    sent = foreign.ask("approve", seed=key_seed(world, role), deployment=deployment, role=role)
    height = world.final_height(sent["tx"])
    decisions = world.net.show(deployment, at="v1")["approvals"]
    assert [d["decision"] for d in decisions if d["document"] == sent["document"]] == ["granted"]
    world.caught_up(foreign, height)
    assert foreign.ask("final", tx=sent["tx"])["height"] == height
    for other in world.peers.values():
        if other is not foreign:
            assert other.saw("approvals", verdict="accept", tx=sent["tx"])["document"] == sent["document"]


def test_two_foreign_approvals_are_an_approval_quorum(
    world: World, joined: dict[str, dict[str, Any]]
) -> None:
    missing = [name for name in ROLES if name not in world.peers]
    if missing:
        pytest.skip("; ".join(world.why[name] for name in missing))
    shown = until("approved", lambda: approved(world), 20)
    signers = {d["signer"] for d in shown["approvals"] if d["decision"] == "granted"}
    assert signers == {world.net.key(role).public.hex() for role in ROLES.values()}


def approved(world: World) -> dict[str, Any] | None:
    shown = world.net.show(world.deployment, at="v2")
    return None if shown["status"] == "awaiting_approval" else shown


# ---------------------------------------------------------------------- being refused


@pytest.mark.parametrize(("spoil", "rule"), [("signature", "tx.signature"), ("chain", "tx.foreign_chain")])
async def test_we_refuse_what_it_signed_wrongly(
    world: World, foreign: Foreign, spoil: str, rule: str
) -> None:
    await trio.to_thread.run_sync(world.caught_up, foreign, 3)
    ask = partial(
        foreign.ask, "transfer", seed=key_seed(world, "author"), to="0c" * 32, amount=1, spoil=spoil
    )
    async with counted(world.net, "v1", "refused_total", f"gossip.{rule}"):
        sent = await trio.to_thread.run_sync(ask)
    v1 = world.net.peer("v1").peer_id
    request = partial(foreign.ask, "request", peer=v1, method="tx", body=sent["raw"])
    async with counted(world.net, "v1", "refused_total", rule):
        with pytest.raises(No) as refused:
            await trio.to_thread.run_sync(request)
    assert refused.value.rule == rule
    assert world.net.api().account(bytes.fromhex("0c" * 32)).balance == 0


async def test_we_refuse_gossip_that_it_does_not_sign(world: World, foreign: Foreign) -> None:
    """The transaction inside is good, but the message names nobody as its origin."""
    net, command = world.net, world.commands[foreign.language]
    log = world.folder / f"{foreign.language}-unsigned.log"
    other = Foreign(foreign.language, command, net.folder / "genesis.json", log, "unsigned")
    try:
        v3 = net.peer("v3")
        await trio.to_thread.run_sync(partial(other.ask, "join", address=v3.p2p))
        await trio.to_thread.run_sync(partial(other.ask, "follow", peer=v3.peer_id))
        ask = partial(other.ask, "transfer", seed=key_seed(world, "author"), to="0d" * 32, amount=1)
        async with counted(net, "v3", "p2p_events_total", "fault.gossip.signature"):
            await trio.to_thread.run_sync(ask)
    finally:
        other.stop()
    assert net.api().account(bytes.fromhex("0d" * 32)).balance == 0


def test_a_wrongly_signed_approval_is_final_and_refused(world: World, foreign: Foreign) -> None:
    """Its transaction is in order, so it is executed; the document inside counts for nothing."""
    deployment, role = world.deployment, "legal"
    world.caught_up(foreign, world.final_height(deployment))
    sent = foreign.ask(
        "approve", seed=key_seed(world, role), deployment=deployment, role=role, spoil="document"
    )
    view = until("final", lambda: tx_of(world, sent["tx"]), 20)
    assert (view.ok, view.rule) == (False, "document.signature")
    decisions = world.net.show(deployment, at="v1")["approvals"]
    assert all(d["document"] != sent["document"] for d in decisions)


async def test_we_refuse_its_hello_of_another_chain(world: World, foreign: Foreign) -> None:
    join = partial(foreign.ask, "join", address=world.net.peer("v4").p2p, chain_id="elsewhere")
    async with counted(world.net, "v4", "refused_total", "hello.foreign_chain"):
        with pytest.raises(No) as refused:
            await trio.to_thread.run_sync(join)
    assert refused.value.rule == "hello.foreign_chain"
    assert not is_neighbour(world, foreign, "v4")


def test_we_say_why_a_range_is_refused(world: World, foreign: Foreign) -> None:
    asked = {"blocks": (encode(RangeRequest(0, 1_000, 0)), "range.first")}
    asked["batch"] = (bytes(32), "range.batch")
    asked["artifact/info"] = (encode((bytes(32), 0)), "artifact.unknown")
    asked["no/method"] = (b"", "request.method")
    for method, (body, rule) in asked.items():
        with pytest.raises(No) as refused:
            foreign.ask("request", peer=world.net.peer("v1").peer_id, method=method, body=body.hex())
        assert refused.value.rule == rule


# ---------------------------------------------------------------------- another validator set


def test_they_follow_into_the_next_epoch(world: World, joined: dict[str, dict[str, Any]]) -> None:
    """The voters agree on other weights: who holds genesis alone learns it from the blocks that say so."""
    file = str(world.folder / "change.json")
    world.net.run("validators", "propose", "--file", file, "--weight", "v1:2", home="v1")
    for name in ("v1", "v2", "v3"):
        world.net.run("validators", "sign", file, "--yes", home=name)
    world.net.run("validators", "submit", file, "--key", "author", home="v1")
    until("the next epoch", lambda: world.net.api().get("/v1/blocks/latest", BlockDetail).epoch == 1, 30)
    height = world.net.api().status().height
    for foreign in world.peers.values():
        report = world.caught_up(foreign, height)
        assert report["epoch"] == 1 and report["hash"] == block_hash(world, report["height"])
    for foreign in world.peers.values():
        event = foreign.saw("blocks", timeout_s=60, verdict="accept", epoch=1)
        assert event["weight"] >= 4  # a quorum of five, where three of four were one before
        assert event["hash"] == block_hash(world, event["height"])
