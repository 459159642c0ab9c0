"""Volumes that outlive their node, in whole networks: copied, kept by others, restored by the next holder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from bot.agent import Agent
from ledger import transactions as t
from ledger.codec import encode
from ledger.contracts.types import VolumeTemplate
from ledger.copy_records import Copies, key_copies, key_keeper
from ledger.manifests.types import Placement
from ledger.predicates import ReceiptPredicate
from ledger.records import Node, key_node
from ledger.state import read
from node.executor.drivers.still import data_extents
from node.executor.host.filesystem import find_mkfs
from node.executor.volumes.copier import Copier
from node.executor.volumes.keeper import Keeper
from node.executor.volumes.rooms import Room
from node.executor.volumes.volumes import VolumeShelf
from node.sealed.copy_wire import KEEP, Keep
from node.sealed.secret_wire import ASK, Ask
from p2p.errors import Refused as RequestRefused
from tests.ledger import world as people
from tests.node.executor_fixture import Fleet, fleet, receipts_of, service
from tests.node.network_fixture import key, until

MIB = 1 << 20
NODES = ("node1", "node2", "node3")
SLOT = "web/0"
DATA = VolumeTemplate(name="data", path="/data", size_bytes=16 * MIB, rpo_s=10)
ENFORCES = ("volumes", "volume-copies", "secrets")
WORD = b"what must not be lost"

pytestmark = pytest.mark.skipif(
    find_mkfs() is None or shutil.which("debugfs", path="/usr/sbin:/sbin") is None,
    reason="e2fsprogs are not installed",
)


def debugfs(image: Path, *command: str) -> str:
    """What debugfs says of a file system in a file."""
    program = shutil.which("debugfs", path="/usr/sbin:/sbin")
    assert program is not None
    done = subprocess.run(
        [program, "-w", "-R", " ".join(command), str(image)], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are made every half second, be the rpo what it is, and looked after as often."""
    real = Copier.__init__

    def init(self: Copier, *args: object) -> None:
        real(self, *args)  # type: ignore[arg-type]
        self._every_s = 0.5

    monkeypatch.setattr(Copier, "__init__", init)
    monkeypatch.setattr("node.executor.volumes.keeper.COPIES_LOOK_S", 0.1)
    monkeypatch.setattr("node.executor.volumes.copier.COPY_RETRY_S", 0.2)


class Farm:
    """A fleet with volumes, the bot, and what is in the volumes."""

    def __init__(self, net: Fleet, agent: Agent, folder: Path) -> None:
        self.net = net
        self.agent = agent
        self.folder = folder

    def start(self, name: str) -> None:
        shelf = VolumeShelf({"ssd": Room(self.folder / f"volumes-{name}", 64 * MIB)})
        self.net.execute(name, enforces=ENFORCES, volumes=shelf)

    def holder(self, deployment: bytes) -> str:
        return self.net.name_of(self.net.slot(deployment, SLOT).holder)

    def image(self, deployment: bytes, name: str) -> Path:
        return self.folder / f"volumes-{name}" / f"{deployment.hex()}.web.0.data.ext4"

    def write(self, deployment: bytes, file: str, data: bytes = WORD) -> None:
        """As the workload would, where it runs now."""
        source = self.folder / "source"
        source.write_bytes(data)
        debugfs(self.image(deployment, self.holder(deployment)), "write", str(source), file)

    def names(self, deployment: bytes, name: str) -> str:
        return debugfs(self.image(deployment, name), "ls", "-p")

    def copies(self, deployment: bytes) -> Copies | None:
        return read(self.net.first.state, Copies, key_copies(deployment, SLOT))

    async def copied_anew(self, deployment: bytes) -> Copies:
        """Once what is in the volume now has been recorded, by a copy that was begun after this call."""
        tenure = self.net.executors[self.holder(deployment)]._tenures[deployment, SLOT]
        since_s = trio.current_time()
        await until(lambda: (tenure.copier._newest_s or 0) > since_s)
        found = self.copies(deployment)
        assert found is not None
        return found

    async def running(self, **changes: object) -> bytes:
        placed = {"replicas": 1, "volumes": (DATA,), "placement": Placement(distinct="none")}
        deployment = await self.net.approved(service(**(placed | changes)))
        await self.net.until_statuses(deployment, "running")
        return deployment


@asynccontextmanager
async def farm(folder: Path, *nodes: str) -> AsyncIterator[Farm]:
    async with fleet(folder, *nodes, executors=False) as net:
        peer = await net.net.start("bot")
        agent = Agent(peer, people.BOT, folder / "secrets")
        peer.handlers.methods.update(agent.methods())
        with trio.fail_after(60):
            await net.net.nursery.start(agent.run)
        made = Farm(net, agent, folder)
        for name in nodes:
            made.start(name)
        yield made


def rests(at: Farm, name: str) -> None:
    """It claims nothing any more; it offers still, and keeps copies."""
    at.net.executors[name]._claim_some = lambda _: None  # type: ignore[method-assign]


async def stopped(at: Farm, deployment: bytes) -> None:
    """Its slot is stopped by a withdrawn approval, and open again."""
    rests(at, at.holder(deployment))
    await at.net.decide(deployment, people.BUDGET, "budget", "revoked")
    await until(lambda: at.net.slot(deployment, SLOT).holder == b"")
    await at.net.decide(deployment, people.BUDGET, "budget")


async def test_a_slot_that_moves_loses_nothing(tmp_path: Path) -> None:
    """[C16] [C17] [C18] What was written just before the stop is in the last copy; the next one has it."""
    async with farm(tmp_path, *NODES) as at:
        deployment = await at.running()
        first = at.holder(deployment)
        await at.copied_anew(deployment)
        tenure = at.net.executors[first]._tenures[deployment, SLOT]
        tenure.copier._every_s = 1000  # from here on only the last copy is made
        await at.copied_anew(deployment)
        at.write(deployment, "kept")
        newest = at.copies(deployment)
        await stopped(at, deployment)
        await at.net.until_statuses(deployment, "running")
        second = at.holder(deployment)
        assert second != first
        assert "/kept/" in at.names(deployment, second)
        assert WORD in at.image(deployment, second).read_bytes()
        slot = at.net.slot(deployment, SLOT)
        assert slot.home == slot.holder
        assert at.copies(deployment) != newest
        # Back again: what the first node still has is older, and is never used.
        at.write(deployment, "later")
        await at.copied_anew(deployment)
        assert "/kept/" in at.names(deployment, first) and "/later/" not in at.names(deployment, first)
        (third,) = set(NODES) - {first, second}
        rests(at, third)
        del at.net.executors[first]._claim_some
        await stopped(at, deployment)
        await at.net.until_statuses(deployment, "running")
        assert at.holder(deployment) == first
        assert "/later/" in at.names(deployment, first)
        assert not at.net.drivers[second].running


async def test_a_drained_node_brings_its_volumes_elsewhere_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[F6] [C16] Until the time that it told it serves; what was written last goes along."""
    monkeypatch.setattr("ledger.transition.standing.DRAIN_NOTICE_MS_MIN", 0)
    async with farm(tmp_path, *NODES) as at:
        deployment = await at.running()
        first = at.holder(deployment)
        await at.copied_anew(deployment)
        tenure = at.net.executors[first]._tenures[deployment, SLOT]
        tenure.copier._every_s = 1000  # from here on only the last copy is made
        await at.copied_anew(deployment)
        node = at.net.net.peers[first].node_key
        await at.net.do(node, t.DrainNode(at.net.first.time_ms + 3_000))
        at.write(deployment, "kept")
        assert at.net.drivers[first].running
        await until(lambda: at.net.slot(deployment, SLOT).holder not in (node.public, b""), 60)
        await at.net.until_statuses(deployment, "running")
        second = at.holder(deployment)
        assert not at.net.drivers[first].running and at.net.drivers[second].running
        assert "/kept/" in at.names(deployment, second)
        assert WORD in at.image(deployment, second).read_bytes()
        found = read(at.net.first.state, Node, key_node(node.public))
        assert found is not None
        assert (found.slots_held, found.broken_leases, found.terms_given_up, found.terms_kept) == (0, 0, 0, 1)
        assert not at.net.executors[first].status().offering


async def test_who_keeps_a_copy_cannot_read_it_and_has_no_more_than_the_newest(tmp_path: Path) -> None:
    """[C14] [C17]"""
    async with farm(tmp_path, *NODES) as at:
        deployment = await at.running()
        holder = at.holder(deployment)
        at.write(deployment, "kept")
        first = await at.copied_anew(deployment)
        (copy,) = first.copies
        others = {at.net.net.peers[name].node_key.public for name in NODES if name != holder}
        assert set(copy.keepers) == others
        keepers = [name for name in NODES if name != holder]
        for name in keepers:
            store = at.net.exchanges[name].store
            data = store.path(copy.sha256.hex()).read_bytes()
            assert len(data) == copy.size_bytes and WORD not in data
            assert at.net.executors[name].keeper.kept_bytes > 0
        assert not at.net.exchanges[holder].store.has(copy.sha256.hex())
        at.write(deployment, "more")
        second = await at.copied_anew(deployment)
        assert second.copies[0].sha256 != copy.sha256
        for name in keepers:
            store = at.net.exchanges[name].store
            await until(lambda store=store: not store.has(copy.sha256.hex()))  # type: ignore[misc]
            assert store.has(second.copies[0].sha256.hex())
        third = await at.copied_anew(deployment)
        assert third == second  # nothing was written: nothing is sent, and nothing recorded
        # A keeper that has lost it fetches it from the other one.
        lost = at.net.exchanges[keepers[0]].store
        lost.drop(second.copies[0].sha256.hex())
        await until(lambda: lost.has(second.copies[0].sha256.hex()))
        await at.net.do(people.CONSUMER, t.CancelDeployment(deployment, "enough"))
        for name in keepers:
            await until(lambda name=name: not at.net.executors[name].keeper.kept_bytes)  # type: ignore[misc]
            assert not at.net.exchanges[name].store.has(second.copies[0].sha256.hex())
        assert not list(at.net.first.state.scan(key_keeper(min(others))))


async def test_of_a_volume_that_changed_a_little_little_travels(tmp_path: Path) -> None:
    """[C19] 1 % of what is in it: a small part of the first copy goes to each keeper, which has all of the
    second one, and nothing more once the ledger names no other."""
    async with farm(tmp_path, *NODES) as at:
        deployment = await at.running()
        holder = at.holder(deployment)
        keepers = [name for name in NODES if name != holder]

        def travelled() -> int:
            return sum(at.net.exchanges[name].fetched_bytes for name in keepers)

        at.write(deployment, "much", os.urandom(10 * MIB))
        first = await at.copied_anew(deployment)
        (copy,) = first.copies
        assert travelled() >= len(keepers) * copy.size_bytes > len(keepers) * 10 * MIB
        tenure = at.net.executors[holder]._tenures[deployment, SLOT]
        keys = dict(tenure.copier._keys)
        before = travelled()
        at.write(deployment, "little", os.urandom(MIB // 10))
        second = await at.copied_anew(deployment)
        (newer,) = second.copies
        assert newer.sha256 != copy.sha256 and newer.box != copy.box and tenure.copier._keys == keys
        part = (travelled() - before) / (len(keepers) * newer.size_bytes)
        print(f"1 % of the volume changed: {part:.1%} of the copy travelled")
        assert 0 < part < 0.15
        for name in keepers:
            store = at.net.exchanges[name].store
            assert hashlib.sha256(store.path(newer.sha256.hex()).read_bytes()).digest() == newer.sha256
            await until(lambda store=store: not store.has(copy.sha256.hex()))  # type: ignore[misc]
            assert at.net.executors[name].keeper.kept_bytes == newer.size_bytes
        await stopped(at, deployment)
        await at.net.until_statuses(deployment, "running")
        assert {"much", "little"} <= set(at.names(deployment, at.holder(deployment)).split("/"))
        # [C17] The next term has a key of its own, and who reads the copies now is not given the one before.
        await at.copied_anew(deployment)
        copier = at.net.executors[at.holder(deployment)]._tenures[deployment, SLOT].copier
        assert len(copier._keys) == 1 and not set(copier._keys.values()) & set(keys.values())
        copier._reader = lambda: people.CONSUMER.public  # type: ignore[method-assign]
        at.write(deployment, "more")
        await at.copied_anew(deployment)
        assert len(set(copier._keys.values())) == 2


async def test_of_an_ended_deployment_no_last_copy_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[C16] Nobody would take it, and the slot is given back at once."""
    tried: list[Copier] = []
    real = Copier.last

    async def last(self: Copier, within_s: float, leased: Callable[[], bool]) -> bool:
        tried.append(self)
        return await real(self, within_s, leased)

    monkeypatch.setattr(Copier, "last", last)
    async with farm(tmp_path, *NODES) as at:
        deployment = await at.running()
        await at.copied_anew(deployment)
        await at.net.do(people.CONSUMER, t.CancelDeployment(deployment, "enough"))
        await until(lambda: at.net.slot(deployment, SLOT).holder == b"")
    assert tried == []


async def refused(at: Farm, asker: str, of: str, method: str, body: bytes) -> str:
    peers = at.net.net.peers
    await until(
        lambda: any(n.peer_id == peers[of].network.peer_id for n in peers[asker].network.neighbours())
    )
    with pytest.raises(RequestRefused) as caught:
        await peers[asker].network.request(peers[of].network.peer_id, method, body, 5)
    return str(caught.value).partition(":")[0]


async def test_only_the_holder_has_copies_kept_and_gets_their_keys(tmp_path: Path) -> None:
    """[C13] [C17]"""
    async with farm(tmp_path, *NODES) as at:
        deployment = await at.running(secrets=())
        holder = at.holder(deployment)
        record = await at.copied_anew(deployment)
        (copy,) = record.copies
        keeper, other = (name for name in NODES if name != holder)
        sound = Keep(deployment, SLOT, record.term, "data", b"n" * 32, 1000, b"c" * 32)

        def keep(**changes: object) -> bytes:
            return encode(Keep(**({f: getattr(sound, f) for f in sound.__struct_fields__} | changes)))  # type: ignore[arg-type]

        assert await refused(at, other, keeper, KEEP, keep()) == "copies.not_holder"
        assert await refused(at, "validator0", keeper, KEEP, keep()) == "copies.not_holder"
        wrong = {
            "copies.stale_term": ({"term": record.term - 1}, {"term": record.term + 1}, {"slot": "web/1"}),
            "copies.volumes": ({"volume": "other"},),
            "copies.shape": ({"size_bytes": 0}, {"size_bytes": 17 * MIB}, {"sha256": b"n"}, {"chunks": b""}),
        }
        for rule, many in wrong.items():
            for changes in many:
                assert await refused(at, holder, keeper, KEEP, keep(**changes)) == rule, changes
        assert await refused(at, holder, keeper, KEEP, b"garbage") == "copies.malformed"
        at.net.exchanges[keeper].store.size_bytes_max = 4_000
        assert await refused(at, holder, keeper, KEEP, keep()) == "copies.room"
        at.net.exchanges[keeper].store.size_bytes_max = 1 << 30
        bot = at.agent.peer.network.peer_id
        assert bot == at.net.net.peers["bot"].network.peer_id
        ask = encode(Ask(deployment, SLOT, record.term, ("data",)))
        for name in (keeper, other, "validator0"):
            assert await refused(at, name, "bot", ASK, ask) == "secrets.not_holder"
        stale = encode(Ask(deployment, SLOT, record.term - 1, ("data",)))
        assert await refused(at, holder, "bot", ASK, stale) == "secrets.stale_term"
        unknown = encode(Ask(deployment, SLOT, record.term, ("other",)))
        assert await refused(at, holder, "bot", ASK, unknown) == "copies.key"


async def test_a_copy_that_was_made_up_is_not_mounted(tmp_path: Path) -> None:
    """[C18] A holder that lies records what is no volume, with a key: the next one gives the slot back."""
    async with farm(tmp_path, *NODES) as at:
        deployment = await at.running()
        first = at.holder(deployment)
        await at.copied_anew(deployment)
        image = at.image(deployment, first)
        with image.open("r+b") as file:
            (start, _), *_ = list(data_extents(file.fileno(), 16 * MIB))
            file.seek(start + 1024)
            file.write(b"\xff" * 8192)  # no superblock any more
        await at.copied_anew(deployment)
        await stopped(at, deployment)

        def told() -> list[ReceiptPredicate]:
            return [r for r in receipts_of(at.net, deployment, SLOT) if "e2fsck" in r.detail]

        await until(lambda: bool(told()))
        assert told()[0].status == "released"
        ran = [task for name in NODES if name != first for task in at.net.drivers[name].tasks]
        assert not ran


async def test_without_another_node_there_is_no_copy_and_people_see_it(tmp_path: Path) -> None:
    async with farm(tmp_path, "node1") as at:
        deployment = await at.running()
        executor = at.net.executors["node1"]
        await until(lambda: "no other node keeps a copy" in executor.status().slots[0].copies)
        assert executor.status().slots[0].copies.startswith("no copy yet")
        assert at.copies(deployment) is None
        rows = {name: value for name, _, value, _ in executor.metrics()}
        assert rows["executor_copy_age_seconds"] > 0
        await at.net.do(people.CONSUMER, t.CancelDeployment(deployment, "enough"))
        await until(lambda: at.net.slot(deployment, SLOT).holder == b"")
        assert key("node-node1").public


async def test_a_holder_fills_no_node_with_copies_that_it_does_not_record(tmp_path: Path) -> None:
    """The newest two of a volume, whatever it asks for; and what was recorded stays."""
    async with farm(tmp_path, *NODES) as at:
        deployment = await at.running()
        holder = at.holder(deployment)
        record = await at.copied_anew(deployment)
        keeper = next(name for name in NODES if name != holder)
        kept, mine = at.net.executors[keeper].keeper, at.net.exchanges[holder].store
        peers = at.net.net.peers
        made = []
        for number in range(4):
            info = mine.add_bytes(b"%d" % number * 1000)
            made.append(info.sha256)
            chunks = bytes.fromhex(info.root)
            body = encode(
                Keep(deployment, SLOT, record.term, "data", bytes.fromhex(info.sha256), 1000, chunks)
            )
            await peers[holder].network.request(peers[keeper].network.peer_id, KEEP, body, 5)
            await until(lambda: at.net.exchanges[keeper].store.has(made[-1]) and not busy(kept))
        assert [sha256 for sha256 in made if sha256 in kept._held] == made[-2:]
        assert not any(at.net.exchanges[keeper].store.has(sha256) for sha256 in made[:2])
        assert record.copies[0].sha256.hex() in kept._held


def busy(keeper: Keeper) -> bool:
    return any(held.fetching for held in keeper._held.values())
