"""Rule 12 in whole peers: the set changes while transactions flow, and none of them is lost."""

from __future__ import annotations

import trio

from ledger.blocks import Header
from ledger.codec import decode
from ledger.epochs import is_ending
from ledger.evidence import SignedVote, TwoVotes
from ledger.proofs.certificate import (
    VOTE_DOMAIN,
    Certificate,
    Statement,
    ValidatorSet,
    VoteKind,
    certificate_signers,
    vote_message,
)
from ledger.records import Account, key_account
from ledger.state import read
from ledger.transactions import Body, ReportEvidence, Tx, sign_tx
from node.notary import Committed
from node.peer import Peer
from tests.node.epochs_fixture import Writer, change, change_tx, name, network, same_chains, set_of, walk
from tests.node.network_fixture import CHAIN_ID, POOR, RICH, World, key, until


def signers(peer: Peer, epoch: int) -> set[int]:
    """Places of the members whose votes stand in certificates of an epoch."""
    found: set[int] = set()
    size = len(peer.notary.validators_of(epoch).members)
    for height in range(1, peer.height + 1):
        header, stored = peer.store.header(height), peer.store.certificate(height)
        if header is not None and stored is not None and decode(Header, header).epoch == epoch:
            certificate = decode(Certificate, stored)
            assert certificate.statement.epoch == epoch
            found.update(certificate_signers(certificate, size))
    return found


async def test_four_seven_four_while_transactions_flow() -> None:
    """Four validators, then seven, then four of which three were none at the beginning."""
    joiners = [name(i) for i in range(4, 7)]
    async with network(4, [*joiners, "observer"]) as net:
        observer = net.peers["observer"]
        at = [net.peers[peer] for peer in (name(0), name(3), name(5), "observer")]
        writers = [Writer(peer, 1_000_000 * (i + 1)) for i, peer in enumerate(at)]
        async with trio.open_nursery() as clients:
            for writer in writers:
                clients.start_soon(writer.run)
            await until(lambda: all(len(w.final) >= 3 for w in writers))
            seven = await change(net, set_of(1, range(7)), "observer")
            before = [len(w.final) for w in writers]
            await until(lambda: signers(observer, 1) == set(range(7)))
            await until(lambda: all(len(w.final) >= b + 5 for w, b in zip(writers, before, strict=True)))
            four = await change(net, set_of(2, range(3, 7)), "observer")
            before = [len(w.final) for w in writers]
            await until(lambda: signers(observer, 2) == set(range(4)))
            await until(lambda: all(len(w.final) >= b + 5 for w, b in zip(writers, before, strict=True)))
            for writer in writers:
                writer.is_done = True
        submitted = {id_ for w in writers for id_ in w.submitted}
        await until(lambda: all(p.store.tx(i) is not None for p in net.peers.values() for i in submitted))
        height = min(p.height for p in net.peers.values())
        same_chains(net, height)
        for boundary, epoch in ((seven, 0), (four, 1)):
            above = observer.store.header(boundary + 1)
            assert above is not None
            assert decode(Header, above).epoch == epoch + 1
        votes = {n: p.engine is not None for n, p in net.peers.items()}
        assert votes == {name(i): i >= 3 for i in range(7)} | {"observer": False}
        account = read(observer.state, Account, key_account(POOR.public))
        assert account is not None
        assert account.balance == len(submitted)
        assert walk(net, observer).latest == set_of(2, range(3, 7))
        assert max(w.longest_s for w in writers) < 20, "neither change held anybody up"
        assert all(not p.engine.counters.faults for p in net.peers.values() if p.engine is not None)
        refused = {rule for p in net.peers.values() for rule in p.handlers.refused}
        elsewhere = {"bulk.other_epoch", "consensus.other_epoch", "tx.not_a_validator"}
        assert refused <= elsewhere | {"tx.duplicate", "gossip.announce.late"}


async def test_a_suspended_validator_leaves_at_the_change_and_cannot_come_back() -> None:
    """Its evidence is on the ledger; the set without it is refused only when it is kept in."""
    async with network(4, ["observer"]) as net:
        peer = net.peers["observer"]
        evidence = two_votes(net.genesis.validator_set, 3)
        id_ = await peer.submit(signed(peer, ReportEvidence(evidence), b"evidence"))
        assert (await peer.wait_final(id_, 10)).receipt.ok
        kept = set_of(1, range(4), {0: 2})
        id_ = await peer.submit(change_tx(peer.validators, kept, range(3), peer.height))
        assert (await peer.wait_final(id_, 10)).receipt.rule == "change.suspended"
        await change(net, set_of(1, range(3)), "observer")
        await until(lambda: net.peers[name(3)].engine is None)
        before = peer.height
        await until(lambda: net.peers[name(3)].height >= before + 3)
        id_ = await peer.submit(change_tx(peer.validators, set_of(2, range(4)), range(3), peer.height))
        assert (await peer.wait_final(id_, 10)).receipt.rule == "change.suspended"


async def test_a_validator_that_slept_through_two_changes_votes_again() -> None:
    """It comes back in epoch 0, is told where that ended, fetches the rest, and takes its seat."""
    async with network(4, [name(4), "observer"]) as net:
        net.stop(name(3))
        await change(net, set_of(1, range(5)), "observer")
        await change(net, set_of(2, range(5), {0: 2}), "observer")
        back = await net.start(name(3))
        assert back.validators.epoch == 0
        await until(lambda: back.validators.epoch == 2 and back.engine is not None)
        await until(lambda: 3 in signers(net.peers["observer"], 2))
        assert "not_in_validator_set" not in back.status().alarms
        assert all(not p.engine.counters.faults for p in net.peers.values() if p.engine is not None)


async def test_all_validators_crash_at_the_boundary_and_go_on() -> None:
    """Each is stopped as soon as it has committed the boundary, before its first vote of the next epoch."""
    async with network(4, ["observer"]) as net:
        peer, doomed = net.peers["observer"], [name(i) for i in range(4)]
        next_ = set_of(1, [2, 1, 0, 3], {2: 2})
        for validator in doomed:
            stop_at_boundary(net, validator)
        ids = [net.peers[validator].network.peer_id for validator in doomed]
        await peer.submit(change_tx(peer.validators, next_, range(3), peer.height))
        await until(lambda: all(net.hub.find(id_) is None for id_ in ids))
        for validator in doomed:
            await net.start(validator)
        await until(lambda: all(p.validators == next_ for p in net.peers.values()))
        await until(lambda: signers(peer, 1) == set(range(4)))
        same_chains(net, min(p.height for p in net.peers.values()))


def stop_at_boundary(net: World, validator: str) -> None:
    """Stop a peer in the very call that tells of its commit of a boundary."""
    peer = net.peers[validator]

    def committed(done: Committed) -> None:
        if is_ending(done.header):
            net.stop(validator)

    peer.notary.on_commit.append(committed)


def signed(peer: Peer, body: Body, salt: bytes) -> bytes:
    """A transaction of RICH."""
    return sign_tx(RICH, Tx(CHAIN_ID, RICH.public, peer.height + 500, salt[:8], body))


def two_votes(members: ValidatorSet, offender: int) -> TwoVotes:
    """Two Notar votes of a validator for one view."""
    voter = key(members.members[offender].moniker)
    statements = [Statement(VoteKind.NOTAR, members.epoch, 1, bytes([i]) * 32) for i in (1, 2)]
    votes = [SignedVote(s, voter.sign(VOTE_DOMAIN, CHAIN_ID, vote_message(s))) for s in statements]
    return TwoVotes(voter.public, votes[0], votes[1])
