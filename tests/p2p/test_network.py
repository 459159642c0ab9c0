"""The seam's promises, held by both implementations."""

import pytest
import trio
import trio.testing

from p2p.errors import LocalError, PeerGone, Refused, RequestTimeout, TooManyRequests
from p2p.ids import peer_id_of
from p2p.limits import BULK_QUEUE_BYTES, CREDIT_BYTES, PAYLOAD_BYTES_MAX, REQUESTS_OUT_MAX
from p2p.network import Lane, Verdict


async def test_two_peers_meet_and_say_hello(world, wait_until):
    one, other = await world.pair()
    assert one.seen.ups[0].peer_id == other.id
    assert one.seen.ups[0].hello == b"chain-1"
    assert one.seen.ups[0].inbound
    assert not other.seen.ups[0].inbound
    assert one.address.endswith("/p2p/" + one.id)
    await wait_until(lambda: one.net.neighbours()[0].rtt_ms is not None)


async def test_messages_arrive_in_order_on_both_lanes(world, wait_until):
    one, other = await world.pair()
    for number in range(500):
        assert one.net.send(other.id, Lane.CONSENSUS, b"vote %d" % number)
        assert one.net.send(other.id, Lane.BULK, b"batch %d" % number)
    await wait_until(lambda: len(other.seen.messages) == 1_000)
    votes = [
        payload for peer, lane, payload in other.seen.messages if lane is Lane.CONSENSUS and peer == one.id
    ]
    assert votes == [b"vote %d" % number for number in range(500)]
    batches = [payload for _, lane, payload in other.seen.messages if lane is Lane.BULK]
    assert batches == [b"batch %d" % number for number in range(500)]


@pytest.mark.parametrize("size", [0, 1, 65_490, 65_495, 65_496, 200_000, PAYLOAD_BYTES_MAX])
async def test_every_size_up_to_the_limit_arrives(world, wait_until, size):
    one, other = await world.pair()
    payload = bytes(size)
    assert other.net.send(one.id, Lane.BULK, payload)
    await wait_until(lambda: one.seen.messages)
    assert one.seen.messages == [(other.id, Lane.BULK, payload)]


async def test_a_payload_above_the_limit_is_our_own_fault(world):
    one, other = await world.pair()
    with pytest.raises(LocalError, match="at most"):
        one.net.send(other.id, Lane.BULK, bytes(PAYLOAD_BYTES_MAX + 1))
    with pytest.raises(LocalError, match="at most"):
        await one.net.request(other.id, "echo", bytes(PAYLOAD_BYTES_MAX + 1), 1.0)


async def test_send_to_a_stranger_is_shed_and_counted(world):
    one, other = await world.pair()
    await other.stop()
    await trio.testing.wait_all_tasks_blocked()
    stranger = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
    assert not one.net.send(stranger, Lane.CONSENSUS, b"vote")
    assert one.net.stats()["shed.no_neighbour"] == 1


async def test_a_full_queue_sheds_and_shows_it(world):
    one, other = await world.pair()
    # No checkpoint in between: the writer cannot run, so the queue must fill up.
    taken = 0
    while one.net.send(other.id, Lane.BULK, bytes(PAYLOAD_BYTES_MAX)):
        taken += 1
        assert taken < 100
    assert taken > 0
    assert one.net.stats()["shed.bulk"] == 1
    assert one.net.neighbours()[0].dropped == 1
    assert one.net.send(other.id, Lane.CONSENSUS, b"vote"), "votes have their own queue"


async def test_requests_are_answered_refused_timed_out(world):
    one, other = await world.pair()
    assert await one.net.request(other.id, "echo", b"hi", 30.0) == b"hi"
    big = bytes(range(256)) * 4_096
    assert await other.net.request(one.id, "echo", big, 30.0) == big
    with pytest.raises(Refused, match="no such method: sing"):
        await one.net.request(other.id, "sing", b"", 30.0)
    with pytest.raises(RequestTimeout):
        await one.net.request(other.id, "wait", b"", 0.05)
    other.seen.release.set()
    assert await one.net.request(other.id, "wait", b"", 30.0) == b"released"
    with pytest.raises(PeerGone):
        await one.net.request(one.id, "echo", b"", 30.0)
    assert one.net.stats()["request.Refused"] == 1
    assert one.net.stats()["request.RequestTimeout"] == 1


async def test_outstanding_requests_are_bounded(world, wait_until):
    one, other = await world.pair()
    answers = []
    # At the start our address exchange holds one place; it is answered before this one.
    await one.net.request(other.id, "echo", b"", 30.0)

    async def ask() -> None:
        answers.append(await one.net.request(other.id, "wait", b"", 30.0))

    async with trio.open_nursery() as nursery:
        for _ in range(REQUESTS_OUT_MAX):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(TooManyRequests):
            await one.net.request(other.id, "echo", b"", 30.0)
        other.seen.release.set()
    assert answers == [b"released"] * REQUESTS_OUT_MAX


async def test_a_request_ends_when_its_peer_does(world):
    one, other = await world.pair()
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(PeerGone):
                await one.net.request(other.id, "wait", b"", 60.0)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await other.stop()


async def test_a_wrong_hello_is_refused_and_counted(world, wait_until):
    one = await world.start(1)
    other = await world.start(2, bootstrap=(one.address,), text=b"chain-2")
    await wait_until(lambda: {**one.net.stats(), **other.net.stats()}.get("fault.hello.chain"))
    assert not one.seen.ups
    assert not other.seen.ups


async def test_a_peer_fault_lowers_the_score_until_the_ban(world, wait_until):
    one, other = await world.pair()
    other.net.send(one.id, Lane.CONSENSUS, b"bad")
    await wait_until(lambda: one.net.neighbours()[0].score < 0)
    assert one.net.stats()["fault.test.bad"] == 1
    assert one.knows(other)
    one.net.penalise(other.id, "test.worse", 100)
    await wait_until(lambda: not one.knows(other))
    assert [(ban.peer_id, ban.rule) for ban in one.net.banned()] == [(other.id, "test.worse")]
    assert one.net.banned()[0].left_s > 0
    await wait_until(lambda: one.net.stats().get("refused.banned", 0) >= 1)
    assert not one.knows(other)


async def test_a_restarted_peer_is_found_again(world, wait_until, tmp_path):
    one = await world.start(1)
    other = await world.start(2)
    other.net.add_peer(one.address, keep=True)
    await wait_until(lambda: one.knows(other) and other.knows(one))
    listen = one.address.rpartition("/p2p/")[0]
    await one.stop()
    await wait_until(lambda: not other.knows(one))
    assert [peer for peer, _ in other.seen.downs] == [one.id]
    again = await world.start(1, listen=(listen,))
    await wait_until(lambda: other.knows(again) and again.knows(other))
    assert len(other.seen.ups) == 2
    assert other.net.send(again.id, Lane.CONSENSUS, b"welcome back")
    await wait_until(lambda: again.seen.messages)


async def test_crossed_dials_leave_one_link(world, wait_until):
    peers = [await world.start(number) for number in range(4)]
    for peer in peers:
        for other in peers:
            if other is not peer:
                peer.net.add_peer(other.address, keep=True)
    await wait_until(lambda: all(p.knows(*(o for o in peers if o is not p)) for p in peers))

    def is_settled() -> bool:
        for one in peers:
            for other in peers:
                sides = {n.peer_id: n.inbound for n in one.net.neighbours()}
                theirs = {n.peer_id: n.inbound for n in other.net.neighbours()}
                if one is not other and sides.get(other.id) is theirs.get(one.id):
                    return False  # not both there, or not two ends of the same connection
        return True

    def all_heard() -> bool:
        # A message may go down with the link that loses, so say it again until it is heard.
        missing = [
            (one, other)
            for one in peers
            for other in peers
            if one is not other and all(sender != one.id for sender, _, _ in other.seen.messages)
        ]
        for one, other in missing:
            one.net.send(other.id, Lane.CONSENSUS, b"hello")
        return not missing

    await wait_until(all_heard)
    await wait_until(is_settled)
    for peer in peers:
        assert len(peer.seen.ups) - len(peer.seen.downs) == 3


async def test_one_bootstrap_address_finds_the_others(world, wait_until):
    first = await world.start(1)
    others = [await world.start(number, bootstrap=(first.address,)) for number in (2, 3, 4)]
    everyone = [first, *others]
    await wait_until(lambda: all(p.knows(*(o for o in everyone if o is not p)) for p in everyone))


async def test_neighbours_are_bounded_but_not_kept_ones(world, wait_until):
    hub = await world.start(1, neighbours_max=1)
    second = await world.start(2, bootstrap=(hub.address,))
    await wait_until(lambda: hub.knows(second))
    third = await world.start(3, bootstrap=(hub.address,), neighbours_max=1)
    await wait_until(lambda: hub.net.stats().get("refused.full", 0) >= 1)
    assert not hub.knows(third)
    hub.net.add_peer(third.address, keep=True)
    await wait_until(lambda: hub.knows(second, third))


async def test_in_a_crowd_whom_we_dialled_makes_room_for_who_dials_us(world, wait_until):
    """A peer that filled its places while it knew of few takes a newcomer in later; it keeps those that it
    dialled first, and never redials beyond what it needs."""
    others = [await world.start(number) for number in range(2, 6)]
    one = await world.start(1, bootstrap=tuple(other.address for other in others), neighbours_max=4)
    await wait_until(lambda: one.knows(*others))
    newcomer = await world.start(7, bootstrap=(one.address,))
    await wait_until(lambda: newcomer.net.stats().get("dial.connected", 0) >= 1)
    assert not one.knows(newcomer), "few are known: those that we chose stay"
    for number in range(20, 30):
        one.net.add_peer(f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id_of(bytes([number]) * 32)}", keep=False)
    await wait_until(lambda: one.knows(newcomer))
    assert len(one.net.neighbours()) <= 4
    assert sum(not neighbour.inbound for neighbour in one.net.neighbours()) >= 2
    assert one.net.stats()["link.gave_way"] >= 1


async def test_the_book_brings_back_neighbours_without_bootstrap(world, wait_until, tmp_path):
    path = tmp_path / "data" / "peers.json"
    one = await world.start(1)
    other = await world.start(2, bootstrap=(one.address,), book_path=path)
    await wait_until(lambda: other.knows(one))
    await other.stop()
    assert path.exists()
    again = await world.start(2, book_path=path)
    await wait_until(lambda: again.knows(one))


async def test_credit_bounds_what_is_under_way(world, wait_until):
    one, other = await world.pair()
    received = 0

    def count(peer_id: str, lane: Lane, payload: bytes) -> None:
        nonlocal received
        received += len(payload)

    other.seen.on_data = count
    link = one.net._board.links[other.id]
    size, total, sent = 250_000, 40, 0
    while sent < total:
        if one.net.send(other.id, Lane.BULK, bytes(size)):
            sent += 1
        assert link.unacknowledged_bytes(Lane.BULK) <= CREDIT_BYTES
        await trio.lowlevel.checkpoint()
    await wait_until(lambda: received == size * total)
    peak = link._channels[Lane.BULK].unacknowledged_bytes_peak
    assert CREDIT_BYTES / 8 < peak <= CREDIT_BYTES


async def test_votes_stay_quick_beside_fifty_megabytes(world, wait_until):
    one, other = await world.pair()
    received = 0
    arrived: list[int] = []  # of each vote: how much of the bulk was there before it

    def take(peer_id: str, lane: Lane, payload: bytes) -> None:
        nonlocal received
        if lane is Lane.BULK:
            received += len(payload)
        else:
            arrived.append(received)

    other.seen.on_data = take
    overtaken_by: list[int] = []
    chunk, total = bytes(250_000), 200

    async def feed() -> None:
        sent = 0
        while sent < total:
            if one.net.send(other.id, Lane.BULK, chunk):
                sent += 1
            else:
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        while received < len(chunk) * total:
            before, count = received, len(arrived)
            assert one.net.send(other.id, Lane.CONSENSUS, b"vote")
            await wait_until(lambda count=count: len(arrived) > count)
            overtaken_by.append(arrived[-1] - before)
    overtaken_by.sort()
    assert received == 50_000_000
    # Behind the bulk queue, which is full, a vote would come after all that is in it.
    assert overtaken_by[len(overtaken_by) // 2] < BULK_QUEUE_BYTES / 4


async def test_gossip_reaches_everyone_once(world, wait_until):
    first = await world.start(1)
    peers = [first, *[await world.start(number, bootstrap=(first.address,)) for number in (2, 3, 4)]]
    await wait_until(lambda: all(p.knows(*(o for o in peers if o is not p)) for p in peers))
    sent = []
    # The library learns topics a moment after the link is up: publish until each has heard each.
    with trio.fail_after(60):
        while not all({topic for topic, _, _ in p.seen.gossip} for p in peers[1:]):
            sent.append(b"first %d" % len(sent))
            assert first.net.publish("approvals", sent[-1])
            await trio.sleep(0.2)
    for peer in peers:
        peer.seen.gossip.clear()
    burst = [b"burst %d" % number for number in range(100)]
    for payload in burst:
        assert first.net.publish("transactions", payload)
    for peer in peers[1:]:
        await wait_until(lambda peer=peer: {data for _, _, data in peer.seen.gossip}.issuperset(burst))
    for peer in peers:
        heard = [data for topic, _, data in peer.seen.gossip if topic == "transactions"]
        assert len(heard) == len(set(heard)), "one content is judged once"
    assert not first.seen.gossip, "own messages do not come back"


async def test_rejected_gossip_costs_the_sender(world, wait_until):
    one, other = await world.pair()
    one.seen.verdict = Verdict.REJECT
    count = 0
    with trio.fail_after(60):
        while one.net.neighbours() and one.net.neighbours()[0].score == 0:
            other.net.publish("approvals", b"forged %d" % count)
            count += 1
            await trio.sleep(0.1)
    assert one.net.stats()["gossip.reject"] >= 1
    one.seen.verdict = Verdict.IGNORE


async def test_gossip_has_limits(world):
    one, _ = await world.pair()
    with pytest.raises(LocalError, match="not configured"):
        one.net.publish("gossip about nobody", b"")
    with pytest.raises(LocalError, match="at most"):
        one.net.publish("approvals", bytes(1_048_576))
    taken = 0
    while one.net.publish("approvals", b"%d" % taken):
        taken += 1
        assert taken < 10_000
    assert one.net.stats()["shed.gossip"] == 1


async def test_a_bad_address_is_refused_at_once(world):
    one = await world.start(1)
    for address in (
        "",
        "/ip4/127.0.0.1/tcp/1",
        "127.0.0.1:1",
        "/ip4/127.0.0.1/tcp/1/p2p/abc",
        "/p2p/" + one.id,
    ):
        with pytest.raises(LocalError):
            one.net.add_peer(address, keep=True)
