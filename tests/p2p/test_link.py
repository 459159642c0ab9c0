"""A peer that breaks the wire format, played by hand over a memory connection, against a real link."""

import hashlib

import pytest
import trio
import trio.testing
from nacl.signing import SigningKey

from p2p import frames
from p2p.errors import StreamClosed
from p2p.frames import BULK_PROTOCOL, CONSENSUS_PROTOCOL, Decoder, Kind
from p2p.ids import peer_id_of
from p2p.link import Pace
from p2p.memory import MemoryNetwork
from p2p.memory_hub import MemoryHub, MemoryTransport
from p2p.network import Lane
from p2p.switchboard import Policy

PATIENT = Pace(heartbeat_s=30.0, handshake_s=20.0)
HELLO = frames.encode(Kind.HELLO, frames.hello_body(bytes(16), b"chain-1"))


class ByHand:
    """One connection to ``target``; reads what comes into ``got``."""

    def __init__(self, hub, target, nursery) -> None:
        self.id = peer_id_of(SigningKey(hashlib.sha256(b"by hand").digest()).verify_key.encode())
        self.got: list[tuple[Kind, bytes]] = []
        self.at_end = trio.Event()
        self._hub, self._target, self._nursery = hub, target, nursery

    async def connect(self, *, bulk: bool = True) -> None:
        self.connection = await MemoryTransport(self._hub, self.id).dial(self._target.addresses()[0])
        self.consensus = await self.connection.stream(CONSENSUS_PROTOCOL)
        self._nursery.start_soon(self._read, self.consensus)
        if bulk:
            await self.consensus.write(HELLO)
            self.bulk = await self.connection.stream(BULK_PROTOCOL)
            self._nursery.start_soon(self._read, self.bulk)

    async def _read(self, stream) -> None:
        decoder = Decoder("them")
        try:
            while chunk := await stream.read():
                self.got += decoder.feed(chunk)
        except StreamClosed:
            pass
        self.at_end.set()

    def reasons(self) -> list[str]:
        return [frames.parse_reason(body) for kind, body in self.got if kind is Kind.GOODBYE]


@pytest.fixture
async def scene(nursery, world_parts):
    hub = MemoryHub()
    recorder = world_parts.Recorder()
    net = MemoryNetwork(hub, bytes(range(32)), Policy(pace=PATIENT))
    await nursery.start(net.run, recorder)
    yield net, recorder, ByHand(hub, net, nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
async def quick_scene(nursery, world_parts):
    hub = MemoryHub()
    recorder = world_parts.Recorder()
    pace = Pace(heartbeat_s=0.05, handshake_s=0.3)
    net = MemoryNetwork(hub, bytes(range(32)), Policy(pace=pace))
    await nursery.start(net.run, recorder)
    yield net, recorder, ByHand(hub, net, nursery)
    nursery.cancel_scope.cancel()


def request(number: int, method: str) -> bytes:
    return frames.encode(Kind.REQUEST, frames.request_body(number, method, b""))


@pytest.mark.parametrize(
    ("lane", "wire", "rule"),
    [
        ("consensus", b"\xff\xff\xff\xff\x02", "frame.too_long"),
        ("bulk", b"\x00\x01\x00\x00\x02", "frame.too_long"),
        ("consensus", b"GET / HTTP/1.1\r\n\r\n", "frame.too_long"),
        ("consensus", frames.encode(Kind.DATA, b"")[:4] + b"\x63", "frame.unknown_kind"),
        ("consensus", HELLO, "hello.twice"),
        ("bulk", HELLO, "frame.wrong_stream"),
        ("consensus", request(1, "echo"), "frame.wrong_stream"),
        ("bulk", frames.encode(Kind.REQUEST, b"\0\0\0\1\xff"), "request.malformed"),
        ("bulk", frames.encode(Kind.RESPONSE, b"\0\0\0\1\x09"), "response.malformed"),
        ("consensus", frames.encode(Kind.ACK, frames.number_body(10**9)), "ack.out_of_range"),
        ("consensus", frames.encode(Kind.PING, b"123"), "frame.malformed"),
        ("consensus", frames.encode(Kind.PING, bytes(8)) * 1_000, "ping.flood"),
    ],
)
async def test_a_broken_rule_ends_the_link_and_is_counted(scene, wait_until, lane, wire, rule) -> None:
    net, recorder, peer = scene
    await peer.connect()
    await wait_until(lambda: recorder.ups)
    await (peer.consensus if lane == "consensus" else peer.bulk).write(wire)
    await wait_until(lambda: recorder.downs)
    assert recorder.downs == [(peer.id, rule)]
    assert net.stats()["fault." + rule] == 1
    assert net.neighbours() == ()
    await peer.at_end.wait()
    assert peer.reasons() == [rule]


@pytest.mark.parametrize(
    ("hello", "rule"),
    [
        (frames.encode(Kind.HELLO, b"\x02" + bytes(16)), "hello.version"),
        (frames.encode(Kind.HELLO, b"\x01"), "hello.malformed"),
        (frames.encode(Kind.HELLO, frames.hello_body(bytes(16), b"chain-9")), "hello.chain"),
    ],
)
async def test_a_bad_hello_never_comes_up(scene, wait_until, hello, rule) -> None:
    net, recorder, peer = scene
    await peer.connect(bulk=False)
    await peer.consensus.write(hello)
    await wait_until(lambda: net.stats().get("fault." + rule))
    await peer.at_end.wait()
    assert peer.reasons() == [rule]
    assert not recorder.ups


async def test_no_hello_in_time_ends_the_connection(quick_scene, wait_until) -> None:
    net, recorder, peer = quick_scene
    await peer.connect(bulk=False)
    with trio.fail_after(60):
        await peer.at_end.wait()
    assert not recorder.ups


async def test_a_silent_peer_is_dropped(quick_scene, wait_until) -> None:
    net, recorder, peer = quick_scene
    await peer.connect()
    await wait_until(lambda: recorder.downs)
    assert recorder.downs == [(peer.id, "silent")]
    pings = [body for kind, body in peer.got if kind is Kind.PING]
    assert len(pings) == 3


async def test_messages_before_the_link_is_up_wait_for_it(scene, wait_until) -> None:
    net, recorder, peer = scene
    await peer.connect(bulk=False)
    await peer.consensus.write(HELLO + frames.encode(Kind.DATA, b"early"))
    await wait_until(lambda: peer.got)
    assert not recorder.messages
    await peer.connection.stream(BULK_PROTOCOL)
    await wait_until(lambda: recorder.messages)
    assert recorder.ups
    assert recorder.messages == [(peer.id, Lane.CONSENSUS, b"early")]


async def test_without_acknowledgement_no_more_than_the_credit_is_sent(scene, wait_until) -> None:
    net, recorder, peer = scene
    await peer.connect()
    await wait_until(lambda: recorder.ups)
    for _ in range(8):
        assert net.send(peer.id, Lane.BULK, bytes(200_000))
    await trio.testing.wait_all_tasks_blocked()
    got = sum(len(body) for kind, body in peer.got if kind is Kind.DATA)
    assert got == 600_000, "786,432 B of credit hold three whole messages of 200,000 B and a part"
    await peer.bulk.write(frames.encode(Kind.ACK, frames.number_body(600_000)))
    await wait_until(lambda: sum(len(body) for kind, body in peer.got if kind is Kind.DATA) >= 1_200_000)


async def test_too_many_requests_hear_busy(scene, wait_until) -> None:
    net, recorder, peer = scene
    await peer.connect()
    await wait_until(lambda: recorder.ups)
    await peer.bulk.write(b"".join(request(number, "wait") for number in range(70)))

    def busy() -> list[int]:
        parsed = [frames.parse_response("", body) for kind, body in peer.got if kind is Kind.RESPONSE]
        return [number for number, status, _ in parsed if status is frames.Status.BUSY]

    await wait_until(lambda: len(busy()) >= 6)
    assert busy() == list(range(64, 70))
    assert net.neighbours(), "asking too much is no fault"


async def test_an_unasked_answer_is_ignored(scene, wait_until) -> None:
    net, recorder, peer = scene
    await peer.connect()
    await wait_until(lambda: recorder.ups)
    await peer.bulk.write(frames.encode(Kind.RESPONSE, frames.response_head(77, frames.Status.OK) + b"x"))
    await peer.consensus.write(frames.encode(Kind.DATA, b"still here"))
    await wait_until(lambda: recorder.messages)
    assert not recorder.downs


async def test_goodbye_gives_its_reason(scene, wait_until) -> None:
    net, recorder, peer = scene
    await peer.connect()
    await wait_until(lambda: recorder.ups)
    await peer.consensus.write(frames.encode(Kind.GOODBYE, b"moving house"))
    await wait_until(lambda: recorder.downs)
    assert recorder.downs == [(peer.id, "goodbye: moving house")]


async def test_five_faults_ban(scene, wait_until) -> None:
    net, recorder, peer = scene
    for count in range(5):
        await peer.connect()
        await wait_until(lambda count=count: len(recorder.ups) == count + 1)
        await peer.consensus.write(b"\xff\xff\xff\xff\x02")
        await wait_until(lambda count=count: len(recorder.downs) == count + 1)
    assert [ban.peer_id for ban in net.banned()] == [peer.id]
    await peer.connect(bulk=False)
    await wait_until(lambda: net.stats().get("refused.banned"))
    assert len(recorder.ups) == 5


async def test_a_failing_handler_is_our_own_fault_and_loud(world_parts) -> None:
    hub = MemoryHub()
    recorder = world_parts.Recorder()

    def explode(peer_id: str, lane: Lane, payload: bytes) -> None:
        raise ZeroDivisionError("a bug of ours")

    recorder.on_data = explode
    net = MemoryNetwork(hub, bytes(range(32)), Policy(pace=PATIENT))
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(net.run, recorder)
            peer = ByHand(hub, net, nursery)
            await peer.connect()
            await peer.consensus.write(frames.encode(Kind.DATA, b"boom"))


async def test_partition_and_heal(nursery, world_parts, wait_until) -> None:
    hub = MemoryHub(seed=3, delay_s=(0.001, 0.004))
    recorders, nets = [], []
    for number in range(3):
        recorders.append(world_parts.Recorder())
        nets.append(MemoryNetwork(hub, bytes([number]) * 32, Policy(pace=world_parts.FAST)))
        await nursery.start(nets[-1].run, recorders[-1])
    for net in nets:
        for other in nets:
            net.add_peer(other.addresses()[0], keep=True)
    await wait_until(lambda: all(len(net.neighbours()) == 2 for net in nets))
    hub.partition([nets[0].peer_id], [nets[1].peer_id, nets[2].peer_id])
    await wait_until(lambda: [len(net.neighbours()) for net in nets] == [0, 1, 1])
    assert dict(recorders[0].downs) == {nets[1].peer_id: "silent", nets[2].peer_id: "silent"}
    hub.heal()
    await wait_until(lambda: all(len(net.neighbours()) == 2 for net in nets))
    nursery.cancel_scope.cancel()


async def test_loss_drops_what_send_took(nursery, world_parts, wait_until) -> None:
    hub = MemoryHub(seed=5, loss=0.5)
    recorders = [world_parts.Recorder(), world_parts.Recorder()]
    nets = [MemoryNetwork(hub, bytes([n]) * 32, Policy(pace=world_parts.FAST)) for n in range(2)]
    for net, recorder in zip(nets, recorders, strict=True):
        await nursery.start(net.run, recorder)
    nets[0].add_peer(nets[1].addresses()[0], keep=True)
    await wait_until(lambda: nets[0].neighbours() and nets[1].neighbours())
    assert all(nets[0].send(nets[1].peer_id, Lane.BULK, b"%d" % n) for n in range(400))
    lost = nets[0].stats()["memory.lost"]
    assert 100 < lost < 300
    await wait_until(lambda: len(recorders[1].messages) == 400 - lost)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("closes", [True, False])
async def test_after_its_last_words_it_waits_a_little_for_the_peer_to_close(
    scene, wait_until, monkeypatch, closes
):
    """A peer may lose what it has not read when the connection closes: js-libp2p does."""
    monkeypatch.setattr("p2p.link.FLUSH_S", 20.0)
    monkeypatch.setattr("p2p.link.LINGER_S", 20.0 if closes else 1.0)
    net, recorder, them = scene
    await them.connect()
    await wait_until(lambda: recorder.ups)
    await them.bulk.write(frames.encode(Kind.HELLO, b""))
    await wait_until(them.reasons)
    said = trio.current_time()
    assert not them.at_end.is_set() and not recorder.downs
    if closes:
        await them.connection.close()
    await wait_until(lambda: recorder.downs)
    assert closes or trio.current_time() - said > 0.5
    assert not closes or trio.current_time() - said < 15
