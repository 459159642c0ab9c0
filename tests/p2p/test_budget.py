"""Budgets: who brings too much is slowed down, who goes on is banned, and everybody else goes on."""

import math

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX

from p2p import budget as module
from p2p.budget import Budget, Slowed
from p2p.limits import PAUSE_S_MAX
from p2p.network import Lane


def test_a_burst_passes_and_a_debt_is_paid_in_time() -> None:
    budget = Budget(100, 50, 0.0)
    assert [budget.spend(0.0) for _ in range(51)] == [True] * 50 + [False]
    assert math.isclose(budget.debt_s(0.0), 0.01)
    assert budget.debt_s(0.02) == 0
    for _ in range(10_000):
        budget.spend(1.0)
    assert math.isclose(budget.debt_s(1.0), PAUSE_S_MAX)
    assert budget.debt_s(1.0 + PAUSE_S_MAX) == 0
    assert [budget.spend(1_000.0) for _ in range(51)] == [True] * 50 + [False]


async def test_pauses_add_up_to_a_fault(autojump_clock: trio.testing.MockClock) -> None:
    heard: list[str] = []
    slowed = Slowed(lambda: heard.append("slowed"), lambda: heard.append("flood"))
    await slowed.pause(0.0)
    assert heard == []
    before = trio.current_time()
    for _ in range(5):
        await slowed.pause(1.0)
    assert trio.current_time() - before == 5.0
    assert heard == ["slowed"] * 5 + ["flood"]
    for _ in range(4):
        await slowed.pause(1.0)
    assert heard.count("flood") == 1


async def test_pauses_are_forgotten_and_those_for_others_are_no_fault(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A burst a minute, for days, is no flood; nor is what a neighbour passes on, however much."""
    heard: list[str] = []
    slowed = Slowed(lambda: None, lambda: heard.append("flood"))
    for _ in range(100):
        await slowed.pause(2.0)
        await trio.sleep(60)
    for _ in range(100):
        await slowed.pause(2.0, is_fault=False)
    assert heard == []


@pytest.mark.parametrize("lane", list(Lane))
async def test_a_flood_on_a_lane_is_slowed_and_others_go_on(hosts, wait_until, lane, monkeypatch) -> None:
    """Well-formed messages over real sockets: none of them is lost, and a third peer's come in between."""
    monkeypatch.setattr("p2p.link.BULK_QUEUE_FRAMES", 200)
    monkeypatch.setattr("p2p.link.CONSENSUS_QUEUE_FRAMES", 200)
    monkeypatch.setattr("p2p.link.BULK_RATE_PER_S", 500)
    monkeypatch.setattr("p2p.link.CONSENSUS_RATE_PER_S", 500)
    one, other = await hosts.pair()
    third = await hosts.start(3, bootstrap=(one.address,))
    await wait_until(lambda: one.knows(other, third) and third.knows(one))
    loud = [b"loud %d" % number + bytes(1_000) for number in range(1_500)]
    begin = trio.current_time()
    waits: list[float] = []

    async def flood() -> None:
        for payload in loud:
            while not other.net.send(one.id, lane, payload):
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        for number in range(10):
            payload, sent_at = b"quiet %d" % number, trio.current_time()
            assert third.net.send(one.id, lane, payload)
            await wait_until(lambda p=payload: any(data == p for _, _, data in one.seen.messages))
            waits.append(trio.current_time() - sent_at)
    await wait_until(lambda: sum(peer == other.id for peer, _, _ in one.seen.messages) == len(loud))
    assert trio.current_time() - begin > (1_500 - 200) / 500 - 0.5
    assert one.net.stats()[f"slowed.{lane.value}"] > 0
    assert sorted(waits)[len(waits) // 2] < 1.0  # a machine may stand still once
    assert [data for peer, _, data in one.seen.messages if peer == other.id] == loud


async def test_who_floods_without_end_is_banned(hosts, wait_until, monkeypatch) -> None:
    monkeypatch.setattr("p2p.link.BULK_QUEUE_FRAMES", 100)
    monkeypatch.setattr("p2p.link.BULK_RATE_PER_S", 500)
    monkeypatch.setattr(module, "SLOWED_FAULT_S", 0.3)
    one, other = await hosts.pair()
    with trio.fail_after(60):
        while not one.net.banned():
            for _ in range(200):
                other.net.send(one.id, Lane.BULK, bytes(100))
            await trio.sleep(0.01)
    assert [(ban.peer_id, ban.rule) for ban in one.net.banned()] == [(other.id, "flood.bulk")]


async def test_honest_work_at_production_rates_is_no_flood(hosts, wait_until) -> None:
    """Catching up, a state in chunks and artifacts at once (as many asked for as `node` asks for at most),
    beside votes and batches: as fast as it goes for two seconds, with the real budgets."""
    one, other = await hosts.pair()
    chunk = bytes(262_144)
    asked, sent = 0, 0

    async def ask() -> None:
        nonlocal asked
        while True:
            await other.net.request(one.id, "echo", chunk, 30.0)
            asked += 1

    async def send(lane: Lane, size_bytes: int, pause_s: float) -> None:
        nonlocal sent
        while True:
            sent += other.net.send(one.id, lane, bytes(size_bytes))
            await trio.sleep(pause_s)

    with trio.move_on_after(2.0):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
            nursery.start_soon(send, Lane.BULK, 16_384, 0.004)  # batches, as often as they go out
            nursery.start_soon(send, Lane.CONSENSUS, 200, 0.002)  # votes of a hundred, five views a second
    await wait_until(lambda: len(one.seen.messages) == sent)
    assert asked > 8 and sent > 50
    for peer in (one, other):
        marks = {name for name in peer.net.stats() if name.startswith(("slowed.", "fault."))}
        assert not marks
        assert all(link.score == 0 for link in peer.net.neighbours())


async def meet(hosts, wait_until):
    """Three hosts; the second and the third know the first alone, and each has heard its topics."""
    one, other = await hosts.pair()
    third = await hosts.start(3, bootstrap=(one.address,))
    await wait_until(lambda: one.knows(other, third) and third.knows(one))
    for peer in (other, third):
        pubsub = peer.net._gossip._pubsub
        await wait_until(lambda pubsub=pubsub: pubsub.peer_topics.get("approvals"))
    return one, other, third


def signed(pubsub, number: int) -> rpc_pb2.Message:
    """A good message of the host's own."""
    message = rpc_pb2.Message(
        from_id=pubsub.my_id.to_bytes(),
        data=b"loud %d" % number,
        topicIDs=["transactions"],
        seqno=number.to_bytes(8, "big"),
    )
    message.signature = pubsub.sign_key.sign(PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString())
    message.key = pubsub.sign_key.get_public_key().serialize()
    return message


async def test_a_flood_of_valid_gossip_is_slowed_and_others_are_heard(hosts, wait_until, monkeypatch) -> None:
    """One neighbour brings ten bursts at once, past its own bounds; a third one's approvals are judged
    meanwhile, and nobody is banned for what came before it was slowed down."""
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_BURST", 40)
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_RATE_PER_S", 40)
    one, other, third = await meet(hosts, wait_until)
    pubsub = other.net._gossip._pubsub
    (stream,) = pubsub.peers.values()
    flood = [signed(pubsub, number) for number in range(400)]
    for at in range(0, len(flood), 20):
        assert await pubsub.write_msg(stream, rpc_pb2.RPC(publish=flood[at : at + 20]))
    waits: list[float] = []
    for number in range(5):
        payload, sent_at = b"quiet %d" % number, trio.current_time()
        assert third.net.publish("approvals", payload)
        await wait_until(lambda p=payload: any(data == p for _, _, data in one.seen.gossip))
        waits.append(trio.current_time() - sent_at)
    await wait_until(lambda: one.net.stats().get("shed.gossip_rate", 0) > 0)
    judged = sum(topic == "transactions" for topic, _, _ in one.seen.gossip)
    assert 40 <= judged < len(flood)
    assert one.net.stats()["slowed.gossip"] > 0
    assert not one.net.banned()
    assert sorted(waits)[len(waits) // 2] < 3.0


async def test_who_floods_gossip_without_end_is_banned(hosts, wait_until, monkeypatch) -> None:
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_BURST", 40)
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_RATE_PER_S", 40)
    monkeypatch.setattr(module, "SLOWED_FAULT_S", 0.3)
    one, other, _ = await meet(hosts, wait_until)
    pubsub = other.net._gossip._pubsub
    (stream,) = pubsub.peers.values()
    with trio.fail_after(60):
        for at in range(0, 10_000, 20):
            if one.net.banned():
                break
            messages = [signed(pubsub, number) for number in range(at, at + 20)]
            if not await pubsub.write_msg(stream, rpc_pb2.RPC(publish=messages)):
                break
        await wait_until(one.net.banned)
    assert [(ban.peer_id, ban.rule) for ban in one.net.banned()] == [(other.id, "flood.gossip")]


async def test_who_passes_on_anothers_flood_breaks_no_rule(hosts, wait_until, monkeypatch) -> None:
    """What is above the budget is not judged, but its bringer is not its maker."""
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_BURST", 40)
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_RATE_PER_S", 40)
    one, other, third = await meet(hosts, wait_until)
    makers, pubsub = third.net._gossip._pubsub, other.net._gossip._pubsub
    (stream,) = pubsub.peers.values()
    flood = [signed(makers, number) for number in range(200)]
    assert await pubsub.write_msg(stream, rpc_pb2.RPC(publish=flood))
    await wait_until(lambda: one.net.stats().get("shed.gossip_rate", 0) > 0)
    await wait_until(lambda: sum(peer == other.id for _, peer, _ in one.seen.gossip) >= 40)
    assert one.net.stats().get("slowed.gossip", 0) == 0
    assert one.net.stats().get("fault.flood.gossip", 0) == 0


async def test_nobody_gets_an_honest_neighbour_banned_through_it(hosts, wait_until, monkeypatch) -> None:
    """More than a neighbour may bring in all, made by others: it is read more slowly, no more (Q8)."""
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_BURST", 40)
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_RATE_PER_S", 40)
    monkeypatch.setattr("p2p.intake.GOSSIP_RATE_PER_S", 40)
    monkeypatch.setattr("p2p.intake.TOPICS_MAX", 2)
    monkeypatch.setattr(module, "SLOWED_FAULT_S", 0.1)
    one, other, third = await meet(hosts, wait_until)
    makers, pubsub = third.net._gossip._pubsub, other.net._gossip._pubsub
    (stream,) = pubsub.peers.values()
    for at in range(0, 300, 20):
        flood = [signed(makers, number) for number in range(at, at + 20)]
        assert await pubsub.write_msg(stream, rpc_pb2.RPC(publish=flood))
    await wait_until(lambda: one.net.stats().get("slowed.gossip", 0) >= 3)
    assert one.net.stats().get("fault.flood.gossip", 0) == 0
    assert one.knows(other)


@pytest.mark.parametrize("what", ["repeated", "empty"])
async def test_a_flood_of_what_is_known_or_of_nothing_is_slowed(hosts, wait_until, monkeypatch, what) -> None:
    monkeypatch.setattr("p2p.intake.GOSSIP_RATE_PER_S", 20)
    monkeypatch.setattr("p2p.intake.TOPICS_MAX", 2)
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_BURST", 30)
    one, other, _ = await meet(hosts, wait_until)
    pubsub = other.net._gossip._pubsub
    (stream,) = pubsub.peers.values()
    words = rpc_pb2.RPC(publish=[signed(pubsub, 1)] * 50) if what == "repeated" else rpc_pb2.RPC()
    for _ in range(4 if what == "repeated" else 300):
        await pubsub.write_msg(stream, words)
    await wait_until(lambda: one.net.stats().get("slowed.gossip", 0) > 0)
    assert len(one.seen.gossip) <= 1
    assert one.knows(other)


async def test_talk_about_meshes_counts_too(hosts, wait_until, monkeypatch) -> None:
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_BURST", 50)
    one, other, _ = await meet(hosts, wait_until)
    talk = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave(topicID="approvals")]))
    pubsub = other.net._gossip._pubsub
    (stream,) = pubsub.peers.values()
    for _ in range(400):
        await pubsub.write_msg(stream, talk)
    await wait_until(lambda: one.net.stats().get("slowed.gossip", 0) > 0)


async def test_our_own_gossip_stays_within_what_others_judge(hosts, wait_until, monkeypatch) -> None:
    """A burst larger than what neighbours judge at once: all of it is judged in time, nobody is slowed."""
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_BURST", 40)
    monkeypatch.setattr("p2p.intake.GOSSIP_TOPIC_RATE_PER_S", 40)
    monkeypatch.setattr("p2p.gossip.GOSSIP_PUBLISH_BURST", 30)
    monkeypatch.setattr("p2p.gossip.GOSSIP_PUBLISH_PER_S", 30)
    one, other, _ = await meet(hosts, wait_until)
    sent = [b"burst %d" % number for number in range(120)]
    for payload in sent:
        assert other.net.publish("transactions", payload)
    await wait_until(lambda: {data for _, _, data in one.seen.gossip}.issuperset(sent))
    assert one.net.stats().get("slowed.gossip", 0) == 0
    assert one.net.stats().get("shed.gossip_rate", 0) == 0
