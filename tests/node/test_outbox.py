"""The outbox: an accepted transaction is told again until final, whatever one validator says or withholds."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from ledger.errors import Refused
from ledger.transactions import VerifiedTx, decode_tx, verified
from node import outbox as module
from node.limits import OVERLOAD_RETRY_S
from node.outbox import Outbox
from node.seam import Overloaded
from p2p.errors import Refused as PeerRefused
from p2p.errors import RequestTimeout
from tests.node.final_chain import transfer_tx
from tests.node.network_fixture import CHAIN_ID, POOR, RICH, until
from tests.node.scripted_network import Answer, ScriptedNetwork

FOUR = ["v0", "v1", "v2", "v3"]


def tx(salt: int = 1, **options: int) -> VerifiedTx:
    return verified(decode_tx(transfer_tx(salt, **options), CHAIN_ID))


def refusing(reason: str) -> Answer:
    async def answer(method: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        raise PeerRefused(reason)

    return answer


async def accepting(method: str, body: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return b""


async def silent(method: str, body: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    raise RequestTimeout("no answer")


def outbox(answers: dict[str, Answer], height: int = 0) -> tuple[Outbox, ScriptedNetwork]:
    network = ScriptedNetwork(answers=answers)
    return Outbox(network, lambda: sorted(answers), network.publish, lambda: height, lambda: 1), network


async def test_one_lying_validator_cannot_refuse_for_all() -> None:
    for first in FOUR:
        answers = {name: refusing("tx.expired: no") if name == first else accepting for name in FOUR}
        box, _ = outbox(answers)
        for salt in range(8):
            await box.submit(tx(salt))
        assert len(box.entries) == 8


async def test_more_refusals_than_may_lie_are_believed() -> None:
    box, network = outbox(dict.fromkeys(FOUR, refusing("tx.expired: at height 9")))
    with pytest.raises(Refused, match=r"tx\.expired") as refusal:
        await box.submit(tx())
    assert refusal.value.detail == "at height 9"
    assert len(network.asked) == 2
    assert not box.entries
    assert not box._senders


async def test_a_refusal_of_foreign_make_gets_a_rule_of_ours() -> None:
    box, _ = outbox(dict.fromkeys(FOUR, refusing("<script>" * 100)))
    with pytest.raises(Refused) as refusal:
        await box.submit(tx())
    assert refusal.value.rule == "tx.refused"


async def test_overloaded_is_told_when_all_who_answer_are() -> None:
    box, _ = outbox({"v0": silent, "v1": refusing("overloaded: retry in 1 s")})
    with pytest.raises(Overloaded):
        await box.submit(tx())
    assert not box.entries
    box, _ = outbox({"v0": accepting, "v1": refusing("overloaded: retry in 1 s")})
    for salt in range(8):
        await box.submit(tx(salt))
    assert len(box.entries) == 8


async def test_with_nobody_in_reach_it_is_gossiped_and_kept() -> None:
    for answers in ({}, dict.fromkeys(FOUR, silent)):
        box, network = outbox(answers)
        await box.submit(tx())
        assert network.published == [("transactions", tx().raw)]
        assert list(box.entries) == [tx().id]


async def test_what_a_validator_took_is_gossiped_only_when_strangers_wait_for_it() -> None:
    """A batch brings it to all validators; gossip costs each peer a hundred times as much."""
    box, network = outbox(dict.fromkeys(FOUR, accepting))
    await box.submit(tx())
    assert network.published == []


async def test_the_hint_is_the_earliest_of_those_who_answer_and_within_our_bounds() -> None:
    for hints, told_s in (((700, 300), 0.3), ((1, 5), 0.1), ((999_999, 999_999), 10.0)):
        answers = {f"v{n}": refusing(f"overloaded: retry in {ms} ms") for n, ms in enumerate(hints)}
        box, _ = outbox(answers)
        with pytest.raises(Overloaded) as refusal:
            await box.submit(tx())
        assert refusal.value.retry_s == told_s
    box, _ = outbox({"v0": refusing("overloaded: " + "9" * 90)})
    with pytest.raises(Overloaded) as refusal:
        await box.submit(tx())
    assert refusal.value.retry_s == OVERLOAD_RETRY_S


async def test_one_client_cannot_fill_the_outbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTBOX_SOURCE_TXS_MAX", 2)
    box, _ = outbox(dict.fromkeys(FOUR, accepting))
    for salt in range(2):
        await box.submit(tx(salt), "http:a")
    with pytest.raises(Overloaded):
        await box.submit(tx(2), "http:a")
    await box.submit(tx(2), "http:b")
    box.final((tx(0).id,))
    await box.submit(tx(3), "http:a")
    box.final(tuple(box.entries))
    assert not box._sources


async def test_no_validator_is_everybodys_first() -> None:
    box, network = outbox(dict.fromkeys(FOUR, accepting))
    for salt in range(64):
        await box.submit(tx(salt))
    first = Counter(peer for peer, _, _ in network.asked)
    assert first.keys() == set(FOUR)


async def test_a_transaction_is_under_way_once() -> None:
    box, network = outbox(dict.fromkeys(FOUR, accepting))
    await box.submit(tx())
    await box.submit(tx())
    assert len(network.asked) == 1


async def test_one_account_cannot_fill_the_outbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTBOX_SENDER_TXS_MAX", 2)
    box, _ = outbox(dict.fromkeys(FOUR, accepting))
    for salt in range(2):
        await box.submit(tx(salt))
    with pytest.raises(Overloaded):
        await box.submit(tx(2))
    other = verified(decode_tx(transfer_tx(2, sender=POOR), CHAIN_ID))
    await box.submit(other)
    box.final((tx(0).id,))
    await box.submit(tx(2))
    assert box._senders == {RICH.public: 2, POOR.public: 1}


async def test_it_is_resent_to_others_until_final_and_dropped_when_expired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OUTBOX_RESEND_S", 0.005)
    box, network = outbox(dict.fromkeys(FOUR, silent))
    await box.submit(tx(1))
    first = len(network.asked)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.run)
        await until(lambda: len(network.asked) >= first + 8)
        assert {peer for peer, _, _ in network.asked[first:]} == set(FOUR)
        box.final((tx(1).id,))
        assert not box.entries
        box.height = lambda: 500
        await box.submit(tx(2))
        await until(lambda: not box.entries)
        nursery.cancel_scope.cancel()


async def test_a_stalling_validator_does_not_hold_up_what_others_would_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OUTBOX_RESEND_S", 0.005)
    monkeypatch.setattr(module, "OUTBOX_ASKED_MAX", 0)  # nobody has them yet

    async def stalling(method: str, body: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    box, network = outbox({"v0": stalling, "v1": accepting})
    for salt in range(12):
        await box.submit(tx(salt))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.run)
        wanted = {entry.tx.raw for entry in box.entries.values() if entry.tx.id[0] % 2 == 1}
        await until(lambda: wanted <= {raw for peer, _, raw in network.asked if peer == "v1"})
        nursery.cancel_scope.cancel()


async def test_who_has_no_seat_is_no_refusal_and_another_is_asked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Around a change of validators: three left their seat, or do not know of it yet."""
    monkeypatch.setattr(module, "OUTBOX_RESEND_S", 600.0)
    gone = refusing("tx.not_a_validator: this peer does not vote")
    for seated in FOUR:
        box, network = outbox({name: accepting if name == seated else gone for name in FOUR})
        await box.submit(tx())
        assert (len(box.entries), network.asked[-1][0]) == (1, seated)
        box.adopt(tx(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.run)
            taken = (seated, "tx", tx(2).raw)
            await until(lambda n=network, t=taken: t in n.asked)  # type: ignore[misc]
            nursery.cancel_scope.cancel()
