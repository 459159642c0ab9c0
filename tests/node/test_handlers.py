"""What a peer answers: foreign bytes end in named faults only; links of validators come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import encode
from ledger.proofs.certificate import VOTE_DOMAIN, Ed25519Scheme, vote_message
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from ledger.transactions import Body, Decide, PublishContract, SignedTx, Tx, decode_tx, sign_tx
from node import waiters as waiters_module
from node.limits import ANNOUNCE_RELAY_BLOCKS, RANGE_BYTES_MAX
from node.peer import Identity, Peer
from node.seam import Overloaded
from node.voting import mempool
from node.voting.safety_store import SafetyStore
from node.wire import (
    HELLO_DOMAIN,
    PROTOCOL,
    TOPIC_KINDS,
    Announcement,
    BatchPush,
    Hello,
    RangeRequest,
    TipNote,
    TxPush,
    hello_message,
    topic,
)
from p2p.errors import PeerFault
from p2p.errors import Refused as RequestRefused
from p2p.ids import peer_id_of
from p2p.network import Lane, Neighbour, Verdict
from tests.node.final_chain import batch_of, certificate, extend, new_notary, transfer_tx
from tests.node.network_fixture import CHAIN_ID, RICH, genesis, key
from tests.node.scripted_network import ScriptedNetwork

GENESIS = genesis(4)
ME = peer_id_of(key("node-me").public)
TOPICS = {kind: topic(CHAIN_ID, kind) for kind in TOPIC_KINDS}


def make(voter: int | None = 0) -> Peer:
    """A peer that is not running; by default validator 0."""
    network = ScriptedNetwork(peer_id=ME)
    store = Store(MemoryKv(), CHAIN_ID)
    safety = None if voter is None else SafetyStore(MemoryKv())
    voting = None if voter is None else key(f"validator{voter}")
    identity = Identity("me", (), key("node-me"), voting)
    return Peer.assemble(Path(), GENESIS, identity, store, safety, network)


def up(peer: Peer, name: str, voter: int | None = None, height: int = 0) -> str:
    """A neighbour comes up; with `voter` it proves that validator's key."""
    peer_id = peer_id_of(key(f"node-{name}").public)
    public, proof = b"", b""
    if voter is not None:
        voting = key(f"validator{voter}")
        public = voting.public
        proof = voting.sign(HELLO_DOMAIN, CHAIN_ID, hello_message(peer_id, ME))
    hello = encode(Hello(PROTOCOL, CHAIN_ID, GENESIS.hash, name, (), height, public, proof))
    peer.handlers.check_hello(peer_id, hello)
    peer.handlers.on_up(Neighbour(peer_id, "", True, hello, 0, None, 0, 0, 0, 0))
    return peer_id


def unsigned(raw: bytes) -> bytes:
    return encode(SignedTx(decode_tx(raw, CHAIN_ID).payload, bytes(64)))


# ---------------------------------------------------------------------- foreign bytes

foreign = st.one_of(
    st.binary(max_size=100),
    st.builds(lambda data: encode(BatchPush(data)), st.binary(max_size=60)),
    st.builds(lambda data: encode(TxPush(data)), st.binary(max_size=60)),
    st.builds(lambda h, ms: encode(TipNote(h, ms)), st.integers(-(2**63), 2**64 - 1), st.integers(0, 9)),
    st.builds(
        lambda a, b, c: encode(RangeRequest(a, b, c)),
        st.integers(-9, 2**64 - 1),
        st.integers(-9, 2**63),
        st.integers(-9, 2**63),
    ),
    st.builds(lambda a, b: encode(Announcement(a, b)), st.binary(max_size=60), st.binary(max_size=60)),
)


@settings(max_examples=150)
@given(foreign, st.sampled_from([Lane.BULK, Lane.CONSENSUS]), st.booleans())
def test_messages_end_in_peer_faults_only(data: bytes, lane: Lane, of_validator: bool) -> None:
    peer = make()
    sender = up(peer, "x", 1 if of_validator else None)
    try:
        peer.handlers.on_message(sender, lane, data)
    except PeerFault as fault:
        assert fault.peer == sender


@settings(max_examples=150)
@given(foreign, st.sampled_from(["blocks", "batch", "tx", "", "no such", "x" * 300]))
def test_requests_end_in_answers_or_refusals_only(data: bytes, method: str) -> None:
    async def ask() -> None:
        peer = make()
        try:
            await peer.handlers.serve(up(peer, "x"), method, data)
        except RequestRefused as error:
            assert ": " in error.reason
            assert len(error.reason) <= 200

    trio.run(ask)


@settings(max_examples=100)
@given(foreign, st.sampled_from(sorted(TOPICS)))
def test_gossip_ends_in_verdicts_only(data: bytes, kind: str) -> None:
    async def judge() -> Verdict:
        peer = make()
        return await peer.handlers.on_gossip(TOPICS[kind], up(peer, "x"), data)

    assert trio.run(judge) in (Verdict.REJECT, Verdict.IGNORE)


# ---------------------------------------------------------------------- gossip


async def test_gossip_of_good_bad_and_late_transactions() -> None:
    peer = make()
    sender = up(peer, "x")
    good = transfer_tx(1)
    judge = peer.handlers.on_gossip
    assert await judge(TOPICS["transactions"], sender, good) is Verdict.ACCEPT
    assert peer.mempool.tx_count == 1
    assert await judge(TOPICS["approvals"], sender, good) is Verdict.REJECT  # not its topic
    # A known id does not vouch for a copy with another signature: passed on, it would cost us our standing.
    assert await judge(TOPICS["transactions"], sender, unsigned(good)) is Verdict.REJECT
    final = transfer_tx(2)
    extend(peer.notary, batch_of(final))
    assert await judge(TOPICS["transactions"], sender, final) is Verdict.IGNORE
    assert await judge(TOPICS["transactions"], sender, transfer_tx(3, expires=0)) is Verdict.IGNORE
    assert await judge(TOPICS["transactions"], sender, transfer_tx(3, expires=9_999)) is Verdict.IGNORE


async def test_announcements_count_with_the_certificate_of_their_header_only() -> None:
    source = new_notary()
    first, second = extend(source), extend(source)
    peer = make(None)
    sender = up(peer, "x")

    async def announce(header: bytes, proof: bytes) -> Verdict:
        return await peer.handlers.on_gossip(TOPICS["blocks"], sender, encode(Announcement(header, proof)))

    other = encode(certificate(first))
    assert await announce(second.encode(), other) is Verdict.REJECT
    broken = encode(certificate(second))
    assert await announce(second.encode(), broken[:-1] + b"\0") is Verdict.REJECT
    assert peer.follower.best_height == 0
    assert await announce(second.encode(), encode(certificate(second))) is Verdict.ACCEPT
    assert peer.follower.best_height == 2
    extend(peer.notary)
    extend(peer.notary)
    assert await announce(second.encode(), encode(certificate(second))) is Verdict.IGNORE


async def test_a_held_block_is_announced_on_to_strangers_once() -> None:
    """A stranger hears of blocks through one neighbour, which holds each block long before its announcement
    comes: it must pass it on all the same."""
    peer = make(None)
    headers = [extend(peer.notary) for _ in range(ANNOUNCE_RELAY_BLOCKS + 1)]
    sender = up(peer, "x")

    async def announce(number: int, proof: bytes) -> Verdict:
        announcement = encode(Announcement(headers[number].encode(), proof))
        return await peer.handlers.on_gossip(TOPICS["blocks"], sender, announcement)

    def proof(number: int) -> bytes:
        return encode(certificate(headers[number]))

    broken = proof(-1)[:-1] + b"\0"
    assert await announce(-1, broken) is Verdict.REJECT  # held or not, what is passed on is proved
    assert await announce(-1, proof(-1)) is Verdict.ACCEPT
    statement = certificate(headers[-1]).statement
    fourth = key("validator3").sign(VOTE_DOMAIN, CHAIN_ID, vote_message(statement))
    votes = dict(enumerate(certificate(headers[-1]).signatures)) | {3: fourth}
    others = encode(Ed25519Scheme().assemble(statement, votes, 4))
    assert await announce(-1, others) is Verdict.IGNORE  # of one block there are many certificates
    assert await announce(1, proof(1)) is Verdict.ACCEPT
    assert await announce(0, proof(0)) is Verdict.IGNORE  # old
    other = make(None)
    extend(other.notary, batch_of(transfer_tx(9)))
    foreign = encode(Announcement(headers[0].encode(), proof(0)))
    assert await other.handlers.on_gossip(TOPICS["blocks"], up(other, "x"), foreign) is Verdict.IGNORE


# ---------------------------------------------------------------------- transactions


async def test_late_transactions_are_nobodys_fault_but_forged_ones_are() -> None:
    peer = make()
    sender = up(peer, "x")
    final = transfer_tx(1)
    extend(peer.notary, batch_of(final))
    for late in (final, transfer_tx(2, expires=0), transfer_tx(2, expires=9_999)):
        peer.handlers.on_message(sender, Lane.BULK, encode(TxPush(late)))
    assert peer.handlers.refused == {"tx.duplicate": 1, "tx.expired": 1, "tx.expires_too_far": 1}
    with pytest.raises(PeerFault, match=r"tx\.signature"):
        peer.handlers.on_message(sender, Lane.BULK, encode(TxPush(unsigned(transfer_tx(3)))))
    assert await peer.handlers.serve(sender, "tx", final) == b""  # told again: all is well


async def test_a_validator_gossips_contracts_and_approvals_that_are_submitted_to_it() -> None:
    """Strangers follow these topics and hear of no batches. Other transactions would be a flood."""
    peer = make()
    network: Any = peer.network
    bodies: dict[str, Body] = {"approvals": Decide(b"signed"), "contracts": PublishContract(b"signed")}
    for kind, body in bodies.items():
        raw = sign_tx(RICH, Tx(CHAIN_ID, RICH.public, 50, bytes(8), body))
        await peer.submit(raw)
        assert network.published.pop() == (TOPICS[kind], raw)
    await peer.submit(transfer_tx(1))
    assert network.published == []


async def test_a_sender_over_its_share_hears_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool, "MEMPOOL_SENDER_TXS_MAX", 1)
    peer = make()
    sender = up(peer, "x")
    await peer.handlers.serve(sender, "tx", transfer_tx(1))
    with pytest.raises(RequestRefused, match="overloaded: retry in 1000 ms"):
        await peer.handlers.serve(sender, "tx", transfer_tx(2))
    with pytest.raises(Overloaded):
        await peer.submit(transfer_tx(2))
    assert await peer.handlers.serve(sender, "tx", transfer_tx(1))  # held already: no more of its share
    assert peer.handlers.refused == {"overloaded": 1}


async def test_refusals_of_a_submission_are_counted_by_rule() -> None:
    peer = make()
    with pytest.raises(Exception, match=r"tx\.signature"):
        await peer.submit(unsigned(transfer_tx(1)))
    assert peer.handlers.refused == {"tx.signature": 1}


async def test_a_peer_that_does_not_vote_takes_no_transactions_of_others() -> None:
    peer = make(None)
    with pytest.raises(RequestRefused, match=r"tx\.not_a_validator"):
        await peer.handlers.serve(up(peer, "x"), "tx", transfer_tx(1))


# ---------------------------------------------------------------------- links of validators


def test_only_proved_validators_reach_the_engine() -> None:
    peer = make()
    stranger = up(peer, "stranger")
    for lane, payload in ((Lane.CONSENSUS, b"vote"), (Lane.BULK, encode(BatchPush(b"batch")))):
        with pytest.raises(PeerFault, match="not_a_validator"):
            peer.handlers.on_message(stranger, lane, payload)


def test_our_own_key_at_another_peer_is_an_alarm_and_no_validator() -> None:
    peer = make(0)
    twin = up(peer, "twin", 0)
    assert peer.handlers.members == {}
    assert peer.status().alarms == ("validator_key_twice",)
    with pytest.raises(PeerFault, match="not_a_validator"):
        peer.handlers.on_message(twin, Lane.CONSENSUS, b"a vote in our name")


def test_a_validator_with_two_links_stays_reachable_when_one_ends() -> None:
    peer = make(0)
    assert peer.engine is not None
    old, new = up(peer, "old", 2), up(peer, "new", 2)
    assert peer.engine.peers == {2: new}
    peer.handlers.on_down(new, "gone")
    assert peer.engine.peers == {2: old}
    peer.handlers.on_down(old, "gone")
    assert peer.engine.peers == {}
    assert peer.handlers.members == peer.handlers.hellos == {}


def test_what_is_kept_of_neighbours_goes_with_them() -> None:
    peer = make(0)
    for n in range(50):
        peer_id = up(peer, f"guest{n}", n % 4, height=n)
        peer.handlers.on_down(peer_id, "gone")
        peer.follower.told(peer_id, 99)
    assert peer.handlers.hellos == peer.handlers.members == peer.follower.plan.sources == {}


async def test_ranges_start_at_one_and_are_bounded() -> None:
    peer = make(None)
    sender = up(peer, "x")
    extend(peer.notary, batch_of(transfer_tx(1)))
    with pytest.raises(RequestRefused, match=r"range\.first"):
        await peer.handlers.serve(sender, "blocks", encode(RangeRequest(0, 10, 0)))
    assert await peer.handlers.serve(sender, "blocks", encode(RangeRequest(2**63, 10, 0))) == encode(())
    one = await peer.handlers.serve(sender, "blocks", encode(RangeRequest(1, -5, 0)))
    assert len(one) < len(
        await peer.handlers.serve(sender, "blocks", encode(RangeRequest(1, RANGE_BYTES_MAX, 0)))
    )
    with pytest.raises(RequestRefused, match=r"range\.batch"):
        await peer.handlers.serve(sender, "batch", bytes(32))


# ---------------------------------------------------------------------- waiting


async def test_waiters_are_bounded_in_all_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiters_module, "WAITERS_MAX", 3)
    peer = make()
    full: list[Any] = []

    async def wait(tx: bytes) -> None:
        with trio.move_on_after(0.05):
            await peer.wait_final(tx, 10)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait, bytes(32))  # one id, many waiters
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded) as refusal:
            await peer.wait_final(bytes(32), 10)
        full.append(refusal.value.retry_s)
    assert full[0] > 0
    assert not list(peer.waiters.ids())
    assert peer.waiters.count == 0


async def test_a_waiter_is_told_at_the_commit() -> None:
    peer = make()
    raw = transfer_tx(1)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            outcome = await peer.wait_final(decode_tx(raw, CHAIN_ID).id, 10)
            assert (outcome.height, outcome.receipt.ok) == (1, True)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        extend(peer.notary, batch_of(raw))
    assert not list(peer.waiters.ids())
    assert peer.waiters.count == 0
