"""Messages of another epoch: between honest peers of which one is behind, and from others."""

from __future__ import annotations

import pytest

from consensus.limits import ANSWER_EVERY_MS
from consensus.messages import Certified, Fetch, Message, Status, Vote, decode_message, encode_message
from ledger.blocks import Header
from ledger.codec import encode
from ledger.proofs.certificate import VOTE_DOMAIN, Statement, VoteKind, vote_message
from node.peer import Peer
from node.wire import Announcement, BatchPush, TipNote, decode_bulk
from p2p.errors import PeerFault
from p2p.network import Lane, Verdict
from tests.node.epochs_fixture import change_tx, set_of
from tests.node.final_chain import batch_of, certificate, extend, next_header, transfer_tx
from tests.node.network_fixture import CHAIN_ID, key
from tests.node.test_handlers import TOPICS, make, up

NEXT = set_of(1, [0, 1, 2, 5])  # validator 3 leaves, 5 joins


def ended(voter: int | None = 0, tail: int = 0) -> tuple[Peer, Header]:
    """A peer that has committed the boundary of epoch 0, by a certificate of that many headers above."""
    peer = make(voter)
    notary = peer.notary
    extend(notary, batch_of(change_tx(notary.validators, NEXT, [0, 1, 2], 0, notary.store.tip.time_ms)))
    boundary = next_header(
        notary, (), state_height=1, state_root=notary.store.root(1), next_validators=NEXT.hash
    )
    last, path = boundary, []
    for _ in range(tail):
        last = next_header(
            notary,
            (),
            height=last.height + 1,
            view=last.view + 1,
            parent_view=last.view,
            parent_hash=last.hash,
            state_height=1,
            state_root=notary.store.root(1),
            next_validators=NEXT.hash,
        )
        path.append(last.encode())
    notary.commit(boundary, certificate(last), (), {}, tuple(path))
    peer.handlers.now_ms = lambda: 0
    if peer.seat.has_turned:
        peer._turn()  # as the task does that runs the engine
    return peer, boundary


def end_epoch_one(peer: Peer) -> None:
    """Validator 6 takes the place of 5."""
    notary, after = peer.notary, set_of(2, [0, 1, 2, 6])
    change = change_tx(notary.validators, after, [0, 1, 2], notary.store.tip.height, notary.store.tip.time_ms)
    height = extend(notary, batch_of(change), epoch=1).height
    root = notary.store.root(height)
    extend(notary, epoch=1, state_height=height, state_root=root, next_validators=after.hash)
    peer._turn()


def vote(epoch: int, member: int) -> bytes:
    statement = Statement(VoteKind.SKIP, epoch, 9, bytes(32))
    signature = key(f"validator{member}").sign(VOTE_DOMAIN, CHAIN_ID, vote_message(statement))
    return encode_message(Vote(statement, member, signature))


def sent_to(peer: Peer, peer_id: str) -> list[Message | TipNote]:
    """What went to one neighbour since the last look."""
    sent = peer.network.sent  # type: ignore[attr-defined]
    found = [(lane, data) for to, lane, data in sent if to == peer_id]
    sent.clear()
    return [
        decode_message("", data) if lane is Lane.CONSENSUS else decode_bulk(data)  # type: ignore[misc]
        for lane, data in found
    ]


def clock(peer: Peer) -> list[int]:
    """A clock in hand for the answers."""
    now = [1_000_000]
    peer.handlers.other_epochs.now_ms = lambda: now[0]
    return now


def test_who_left_and_does_not_know_is_told_how_its_epoch_ended() -> None:
    """The certificate and a hint of the height; again only after a while; never a penalty."""
    peer, boundary = ended(tail=1)
    now = clock(peer)
    late = up(peer, "v3", 3)
    peer.handlers.on_message(late, Lane.CONSENSUS, vote(0, 3))
    certified, note = sent_to(peer, late)
    assert isinstance(certified, Certified)
    assert certified.certificate.statement.view == boundary.view + 1
    assert isinstance(note, TipNote)
    assert note.height == 2
    peer.handlers.on_message(late, Lane.CONSENSUS, encode_message(Fetch("header", bytes(32))))
    assert sent_to(peer, late) == []
    assert peer.handlers.refused == {"consensus.other_epoch": 1}, "not read so soon"
    now[0] += ANSWER_EVERY_MS
    peer.handlers.on_message(late, Lane.CONSENSUS, encode_message(Status(0, None, 0, 3, b"", b"")))
    assert len(sent_to(peer, late)) == 2
    peer.handlers.on_message(late, Lane.BULK, encode(BatchPush(batch_of(transfer_tx(1)))))
    assert peer.handlers.refused == {"consensus.other_epoch": 1, "bulk.other_epoch": 1}


def test_the_next_core_begins_on_the_boundary_with_nothing_final_of_its_own() -> None:
    """The certificate that ended the epoch is of the other set; the headers that it names stay at hand."""
    peer, boundary = ended(tail=2)
    assert peer.engine is not None
    core = peer.engine.core
    assert (core.final, core.frontier, core.final_view) == (None, boundary.view + 1, boundary.view)
    assert core.chain.tip == boundary
    assert [header.view for header in core.chain.recent.values()] == [boundary.view + 1, boundary.view + 2]
    assert core._status().base == boundary.view


def test_the_next_core_knows_when_timed_work_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a core that began, at an epoch's end or after a restart, let due work wait for the idle
    block."""
    monkeypatch.setattr("node.voting.voter.next_due_ms", lambda state: 1_234)
    peer, _ = ended()
    assert peer.engine is not None
    assert peer.engine.core.due_ms == 1_234


def test_a_member_of_both_epochs_that_lags_is_told_by_the_engine() -> None:
    """Its link is a member's; the engine sorts by epoch before it checks anything."""
    peer, _ = ended()
    now = clock(peer)
    assert peer.engine is not None
    late = up(peer, "v1", 1)
    assert peer.handlers.members == {late: 1}
    sent_to(peer, late)
    peer.engine._message(1, vote(0, 1))
    assert [type(m).__name__ for m in sent_to(peer, late)] == ["Certified", "TipNote"]
    peer.engine._message(1, vote(0, 1))
    assert sent_to(peer, late) == [], "not answered each time: many votes of it are on their way"
    now[0] += ANSWER_EVERY_MS
    peer.engine._message(1, vote(0, 1))
    assert len(sent_to(peer, late)) == 2
    assert peer.engine.counters.faults == {}


def test_who_never_voted_in_that_epoch_gives_a_hint_only() -> None:
    """From one that is no member of its set the other would not take a certificate."""
    peer, _ = ended(voter=5)
    clock(peer)
    late = up(peer, "v3", 3)
    peer.handlers.on_message(late, Lane.CONSENSUS, vote(0, 3))
    assert [type(m).__name__ for m in sent_to(peer, late)] == ["TipNote"]


def test_who_is_ahead_of_us_is_asked_for_blocks() -> None:
    """A joiner that we do not know yet: its epoch is later than ours, so it is not at fault."""
    peer = make(0)
    joiner = up(peer, "v5", 5)
    assert peer.follower.best_height == 0
    peer.handlers.on_message(joiner, Lane.CONSENSUS, vote(1, 3))
    assert peer.follower.best_height == 1
    peer.handlers.on_message(joiner, Lane.BULK, encode(BatchPush(batch_of(transfer_tx(1)))))
    assert peer.handlers.refused == {"bulk.other_epoch": 1}


def test_a_hint_of_a_later_epoch_does_not_shorten_what_a_peer_holds() -> None:
    """Regression: each vote of a later epoch made the voter's height our next one, so that who was far behind
    asked for one block at a time, and waited for consensus between them."""
    peer = make(0)
    ahead = up(peer, "v5", 5, height=1_000)
    peer.handlers.on_message(ahead, Lane.CONSENSUS, vote(1, 3))
    assert peer.follower.best_height == 1_000


def test_a_joiner_hears_of_its_seat_from_those_that_have_theirs() -> None:
    """Regression: while it follows, members' consensus messages were dropped; tips came seconds later."""
    joiner = make(5)
    assert joiner.engine is None
    member = up(joiner, "v1", 1)
    joiner.handlers.on_message(member, Lane.CONSENSUS, vote(0, 1))
    assert joiner.follower.best_height == 0, "of our epoch, in which we have no part"
    joiner.handlers.other_epochs.gone(member)
    joiner.handlers.on_message(member, Lane.CONSENSUS, vote(1, 1))
    assert joiner.follower.best_height == 1


@pytest.mark.parametrize(
    ("voter", "message"),
    [
        (None, vote(0, 3)),
        (None, vote(7, 3)),
        (5, vote(0, 3)),
        (9, vote(1, 3)),
        (9, vote(0, 3)),
        (9, encode_message(Fetch("header", bytes(32)))),
        (3, vote(1, 3)),
        (3, b"garbage"),
    ],
    ids=[
        "no key",
        "no key, a later epoch",
        "a joiner in an epoch before its own",
        "a stranger's key in our epoch",
        "a stranger's key in an epoch before",
        "a stranger asks for bytes",
        "who left votes in our epoch",
        "no message",
    ],
)
def test_others_are_at_fault(voter: int | None, message: bytes) -> None:
    """No seat in the epoch that they speak of."""
    peer, _ = ended()
    if voter == 5:
        peer.handlers.hellos.clear()
    sender = up(peer, "x", voter)
    peer.handlers.members.pop(sender, None)  # as if its seat were not known
    with pytest.raises(PeerFault, match=r"consensus\.not_a_validator"):
        peer.handlers.on_message(sender, Lane.CONSENSUS, message)


def test_batches_of_strangers_are_a_fault() -> None:
    peer, _ = ended()
    for voter in (None, 9):
        sender = up(peer, f"x{voter}", voter)
        with pytest.raises(PeerFault, match=r"bulk\.not_a_validator"):
            peer.handlers.on_message(sender, Lane.BULK, encode(BatchPush(batch_of(transfer_tx(1)))))


async def test_an_announcement_of_a_later_epoch_is_a_hint_and_no_fault() -> None:
    """Who gossips it is ahead; who signs there is not known here."""
    peer = make(None)
    other = up(peer, "x")
    above = next_header(peer.notary, (), height=7, view=9, epoch=3, parent_view=8)
    announced = encode(Announcement(above.encode(), encode(certificate(above))))
    assert await peer.handlers.on_gossip(TOPICS["blocks"], other, announced) is Verdict.IGNORE
    assert peer.handlers.refused == {"gossip.announce.epoch": 1}
    assert peer.follower.best_height == 7


def test_links_are_sorted_anew_at_the_change() -> None:
    """The joiner's link was a follower's, the leaver's becomes one."""
    peer = make(0)
    ids = {i: up(peer, f"v{i}", i) for i in (1, 3, 5)}
    assert peer.engine is not None
    assert peer.engine.peers == {1: ids[1], 3: ids[3]}
    notary = peer.notary
    extend(notary, batch_of(change_tx(notary.validators, NEXT, [0, 1, 2], 0, notary.store.tip.time_ms)))
    extend(notary, state_height=1, state_root=notary.store.root(1), next_validators=NEXT.hash)
    peer._turn()
    assert peer.engine.peers == {1: ids[1], 3: ids[5]}
    assert peer.handlers.members == {ids[1]: 1, ids[5]: 3}
    assert peer.follower.patient


def test_who_left_two_changes_ago_asks_for_bytes_without_fault() -> None:
    """Regression: its Fetch counted as one of the last epoch, in which it had no seat any more."""
    peer, _ = ended()
    end_epoch_one(peer)
    assert peer.notary.validators.epoch == 2
    now = clock(peer)
    late = up(peer, "v3", 3)
    for message in (vote(0, 3), encode_message(Fetch("header", bytes(32)))):
        peer.handlers.on_message(late, Lane.CONSENSUS, message)
        assert [type(m).__name__ for m in sent_to(peer, late)] == ["Certified", "TipNote"]
        now[0] += ANSWER_EVERY_MS
    peer.handlers.on_message(late, Lane.BULK, encode(BatchPush(batch_of(transfer_tx(1)))))
    assert peer.handlers.refused == {"bulk.other_epoch": 1}


async def test_what_stands_above_a_boundary_is_not_announced_on() -> None:
    """Regression: a header of an ended epoch, signed by those that voted then, was believed and passed on:
    a block of the tail, or, once their keys are sold, of any height."""
    peer, boundary = ended(tail=1)
    other = up(peer, "x")
    height = boundary.height + 50
    above = next_header(
        peer.notary, (), epoch=0, height=height, view=60, parent_view=59, validators=boundary.validators
    )
    announced = encode(Announcement(above.encode(), encode(certificate(above))))
    assert await peer.handlers.on_gossip(TOPICS["blocks"], other, announced) is Verdict.IGNORE
    assert peer.handlers.refused == {"gossip.announce.late": 1}
    assert peer.follower.best_height == peer.notary.store.tip.height
    assert peer.handlers.announced == set()


@pytest.mark.parametrize("voter", [1, 3], ids=["a member", "who left"])
def test_the_answer_to_who_was_behind_is_not_answered_in_turn(voter: int) -> None:
    """Regression: who had gone on meanwhile took it for the word of one that is behind; where a message takes
    ANSWER_EVERY_MS there and back, the two went on so for ever."""
    peer, boundary = ended()
    other = up(peer, f"v{voter}", voter)
    clock(peer)
    sent_to(peer, other)
    answer = encode_message(Certified(certificate(boundary)))
    if voter == 1:
        assert peer.engine is not None
        peer.engine._message(1, answer)
    else:
        peer.handlers.on_message(other, Lane.CONSENSUS, answer)
    assert sent_to(peer, other) == []
