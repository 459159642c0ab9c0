"""The operator's orders: they hold against what the peer finds out by itself, and after a restart."""

import pytest

from p2p.errors import LocalError
from p2p.ids import peer_id_of
from p2p.limits import OPERATOR_BANS_MAX, SCORE_MIN


def an_id(number: int) -> str:
    return peer_id_of(number.to_bytes(32, "big"))


async def test_a_banned_peer_is_dropped_refused_and_welcome_again(world, wait_until):
    one, other = await world.pair()
    assert one.net.operator.ban(other.id, "sells my logs")
    assert not one.net.operator.ban(other.id, "sells my logs")
    await wait_until(lambda: not one.knows(other) and not other.knows(one))
    assert [(ban.peer_id, ban.rule, ban.left_s) for ban in one.net.banned()] == [
        (other.id, "sells my logs", None)
    ]
    await wait_until(lambda: one.net.stats().get("refused.banned", 0) >= 1)
    with pytest.raises(LocalError, match="banned"):
        one.net.operator.add(other.address)
    assert one.net.operator.unban(other.id)
    assert not one.net.operator.unban(other.id)
    await wait_until(lambda: one.knows(other))


async def test_orders_hold_after_a_restart(world, wait_until, tmp_path):
    path = tmp_path / "peers.json"
    friend = await world.start(1)
    one = await world.start(2, book_path=path)
    assert one.net.operator.add(friend.address)
    assert not one.net.operator.add(friend.address)
    one.net.operator.ban(an_id(7), "why")
    await wait_until(lambda: one.knows(friend))
    await one.stop()
    again = await world.start(2, book_path=path)
    await wait_until(lambda: again.knows(friend))
    assert [ban.rule for ban in again.net.banned()] == ["why"]
    known = {peer.peer_id: peer for peer in again.net.operator.known()}
    assert known[friend.id].added and known[friend.id].keep
    again.net.operator.remove(friend.id)
    await wait_until(lambda: again.seen.downs)
    await again.stop()
    third = await world.start(2, book_path=path)
    assert friend.id not in {peer.peer_id for peer in third.net.operator.known()}


async def test_faults_are_shown_and_forgiven(world, wait_until):
    one, other = await world.pair()
    one.net.penalise(other.id, "test.rule", 5)
    shown = one.net.neighbours()[0]
    assert (shown.score, shown.fault) == (-5, "test.rule")
    one.net.penalise(other.id, "test.worse", -SCORE_MIN)
    await wait_until(lambda: not one.knows(other))
    assert one.net.banned()[0].rule == "test.worse"
    assert one.net.operator.unban(other.id)
    await wait_until(lambda: one.knows(other))
    assert one.net.neighbours()[0].fault == ""


async def test_wrong_orders_change_nothing(world):
    one = await world.start(1)
    orders = one.net.operator
    for wrong in (
        lambda: orders.add("/ip4/127.0.0.1/tcp/1"),
        lambda: orders.add(one.address),
        lambda: orders.ban(one.id, ""),
        lambda: orders.ban("nobody", ""),
        lambda: orders.ban(an_id(1), "x" * 1_000),
        lambda: orders.ban(an_id(1), "two\nlines"),
        lambda: orders.remove("nobody"),
        lambda: orders.unban("nobody"),
    ):
        with pytest.raises(LocalError):
            wrong()
    assert not orders.known()
    assert not one.net.banned()


async def test_bans_by_hand_are_bounded_and_no_flood_ends_them(world):
    one = await world.start(1)
    for number in range(OPERATOR_BANS_MAX):
        one.net.operator.ban(an_id(number), "")
    with pytest.raises(LocalError, match="at most"):
        one.net.operator.ban(an_id(OPERATOR_BANS_MAX), "")
    for number in range(5_000):
        one.net.penalise(an_id(100_000 + number), "test.flood", 100)
    assert {an_id(number) for number in range(OPERATOR_BANS_MAX)} <= {b.peer_id for b in one.net.banned()}
