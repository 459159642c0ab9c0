"""Volumes and egress as the executor handles them: pinned for a term, kept between terms, refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import pytest
import trio
from msgspec.structs import replace

from ledger import transactions as t
from ledger.contracts.types import VolumeTemplate
from ledger.records import Node, Slot, key_deployment, key_node, key_slot
from ledger.state import read, write
from ledger.statuses import DeploymentStatus
from node.config import Node as NodeSettings
from node.executor import gather
from node.executor.drivers.base import EgressSpec, Fingerprint, Isolation
from node.executor.errors import VolumeRefused
from node.executor.host.filesystem import find_mkfs
from node.executor.volumes.rooms import Room
from node.executor.volumes.volumes import VolumeShelf
from node.offer import make_offer
from tests.ledger import world as people
from tests.node.executor_fixture import FakeDriver, FakeTask, Fleet, fleet, receipts_of, service
from tests.node.network_fixture import until

MIB = 1 << 20
DATA = VolumeTemplate(name="data", path="/data", size_bytes=16 * MIB)


@pytest.fixture(autouse=True)
def known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is asked of the machine's own resolver."""

    async def resolve(name: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        if name != "a.example":
            raise OSError("no such name")
        return ["93.184.216.34", "10.0.0.1"]

    monkeypatch.setattr("node.executor.doors.egress.resolve", resolve)


async def again(net: Fleet, deployment: bytes) -> None:
    """A new term, by a withdrawn and a new approval."""
    await net.decide(deployment, people.BUDGET, "budget", "revoked")
    await until(lambda: net.slot(deployment, "web/0").holder == b"")
    await net.decide(deployment, people.BUDGET, "budget")
    await net.until_statuses(deployment, "running")


async def test_a_volume_is_the_same_in_each_term_and_goes_with_its_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_mkfs() is None:
        pytest.skip("mkfs.ext4 is not installed")
    monkeypatch.setattr("node.executor.gather.VOLUME_SWEEP_S", 0.05)
    shelf = VolumeShelf({"ssd": Room(tmp_path / "volumes", 64 * MIB)})
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.execute("node1", enforces=("volumes",), volumes=shelf)
        deployment = await net.approved(service(replicas=1, volumes=(DATA,)))
        await net.until_statuses(deployment, "running")
        await again(net, deployment)
        first, second = (task.spec.volumes for task in net.drivers["node1"].tasks)
        assert first == second
        assert (first[0].path, first[0].size_bytes) == ("/data", 16 * MIB)
        assert shelf.deployments() == {deployment}
        assert net.slot(deployment, "web/0").home == net.net.peers["node1"].node_key.public
        node = read(net.first.state, Node, key_node(net.net.peers["node1"].node_key.public))
        assert node is not None and node.used_ssd_bytes >= 16 * MIB
        await net.do(people.CONSUMER, t.CancelDeployment(deployment, "enough"))
        await until(lambda: not shelf.deployments())
        assert not net.drivers["node1"].running


async def test_nothing_is_written_to_a_volume_before_the_ledger_knows_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[C11] Or who holds the slot next begins without it, and nobody says so."""
    if find_mkfs() is None:
        pytest.skip("mkfs.ext4 is not installed")
    homes, start = [], FakeDriver.start
    async with fleet(tmp_path, "node1", executors=False) as net:
        peer = net.net.peers["node1"]

        async def starts(driver: FakeDriver, prepared: Any, kill_at_ms: int | None = None) -> FakeTask:
            slot = read(peer.state, Slot, key_slot(deployment, "web/0"))
            homes.append(slot and slot.home)
            return await start(driver, prepared, kill_at_ms)

        monkeypatch.setattr(FakeDriver, "start", starts)
        shelf = VolumeShelf({"ssd": Room(tmp_path / "volumes", 64 * MIB)})
        net.execute("node1", enforces=("volumes",), volumes=shelf)
        deployment = await net.approved(service(replicas=1, volumes=(DATA,)))
        await net.until_statuses(deployment, "running")
        assert homes == [peer.node_key.public]


@pytest.mark.parametrize("if_lost", ["wait", "empty"])
async def test_a_lost_volume_begins_anew_only_where_the_contract_says_so(
    tmp_path: Path, if_lost: Literal["wait", "empty"]
) -> None:
    """A disk that was changed must not look like a database that was always empty."""
    if find_mkfs() is None:
        pytest.skip("mkfs.ext4 is not installed")
    shelf = VolumeShelf({"ssd": Room(tmp_path / "volumes", 64 * MIB)})
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.execute("node1", enforces=("volumes",), volumes=shelf)
        deployment = await net.approved(service(replicas=1, volumes=(replace(DATA, if_lost=if_lost),)))
        await net.until_statuses(deployment, "running")
        (file,) = (tmp_path / "volumes").iterdir()
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        away = file.rename(tmp_path / "away")
        await net.decide(deployment, people.BUDGET, "budget")
        if if_lost == "wait":
            slot = f"{deployment.hex()}/web/0"
            refused = net.executors["node1"].status
            await until(lambda: "was here and is gone" in refused().refused.get(slot, ""))
            with pytest.raises(VolumeRefused, match="is gone"):
                shelf.ensure(deployment, "web/0", DATA, were_here=True)
            assert not file.exists()
            away.rename(file)
        await net.until_statuses(deployment, "running")
        assert file.exists()


async def test_a_node_without_room_for_a_volume_does_not_claim(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        shelf = VolumeShelf({"ssd": Room(tmp_path / "volumes", 15 * MIB)})
        net.execute("node1", enforces=("volumes",), volumes=shelf)
        deployment = await net.approved(service(replicas=1, volumes=(DATA,)))
        slot = f"{deployment.hex()}/web/0"
        refused = net.executors["node1"].status
        await until(lambda: "do not fit" in refused().refused.get(slot, ""))
        assert net.slot(deployment, "web/0").term == 0


async def test_where_a_workload_may_connect_to_is_pinned_told_and_in_its_hosts_file(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.execute("node1", enforces=("egress",), egress=True)
        deployment = await net.approved(service(replicas=1, egress=("a.example:443", "8.8.8.8:53")))
        await net.until_statuses(deployment, "running")
        spec = net.drivers["node1"].running[0].spec
        assert spec.egress == (EgressSpec("93.184.216.34", 443), EgressSpec("8.8.8.8", 53))
        (hosts,) = [file for file in spec.files if file.path == "/etc/hosts"]
        held = {entry.sha256: entry.kept for entry in net.exchanges["node1"].store.entries()}
        assert not held[hosts.digest]  # made anew when it is wanted: it needs not be kept
        assert hosts.source.read_text() == "127.0.0.1\tlocalhost\n93.184.216.34\ta.example\n"
        told = receipts_of(net, deployment, "web/0")[-1]
        assert told.egress == {"a.example:443": "93.184.216.34", "8.8.8.8:53": "8.8.8.8"}
        assert "/etc/hosts" not in told.artifacts


@pytest.mark.parametrize(
    ("egress", "why"),
    [
        (("127.0.0.1:80",), "no address of the wide world"),
        (("169.254.169.254:80",), "no address of the wide world"),
        (("8.8.8.8:53", "10.0.0.1:22"), "no address of the wide world"),
    ],
)
async def test_what_no_contract_opens_is_not_claimed(
    tmp_path: Path, egress: tuple[str, ...], why: str
) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.execute("node1", enforces=("egress",), egress=True)
        deployment = await net.approved(service(replicas=1, egress=egress))
        slot = f"{deployment.hex()}/web/0"
        await until(lambda: why in net.executors["node1"].status().refused.get(slot, ""))
        assert net.slot(deployment, "web/0").term == 0


async def test_a_name_that_cannot_be_had_gives_the_slot_back(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.execute("node1", enforces=("egress",), egress=True)
        deployment = await net.approved(service(replicas=1, egress=("b.example:443",)))
        await until(lambda: any(r.status == "released" for r in receipts_of(net, deployment, "web/0")))
        told = next(r for r in receipts_of(net, deployment, "web/0") if r.status == "released")
        assert told.detail == "egress b.example: cannot be resolved: no such name"
        assert not net.drivers["node1"].tasks


async def test_egress_is_offered_only_when_the_nodes_owner_says_so(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.execute("node1", enforces=("egress",))
        deployment = await net.approved(service(replicas=1, egress=("8.8.8.8:53",)))
        slot = f"{deployment.hex()}/web/0"
        refused = net.executors["node1"].status
        await until(lambda: refused().refused.get(slot, "").startswith("claim.feature"))


def test_an_offer_has_both_kinds_of_disk_and_their_prices() -> None:
    settings = NodeSettings(ssd="3GiB", hdd="2TiB", price_ssd="0.002", price_hdd="0.0005")
    offer = make_offer(settings, Fingerprint("sandbox", Isolation.SANDBOX, True, "", ()), "/a", 0)
    assert (offer.ssd_bytes, offer.hdd_bytes) == (3 << 30, 2 << 40)
    assert (offer.price.ssd_gib_hour, offer.price.hdd_gib_hour) == (2_000, 500)


@pytest.mark.parametrize("status", get_args(DeploymentStatus))
@pytest.mark.parametrize("held", [False, True], ids=["idle", "held"])
async def test_what_is_paused_keeps_its_volumes_and_what_has_ended_loses_them(
    monkeypatch: pytest.MonkeyPatch, status: DeploymentStatus, held: bool
) -> None:
    """Pause before wipe: without money, time or approval nothing is removed, nor while a term holds it."""
    world = people.World()
    world.add_nodes()
    deployment = world.running(people.contract())
    write(world.state, key_deployment(deployment), replace(world.deployment(deployment), status=status))
    looks, dropped = [0], []

    class Shelf:
        def deployments(self) -> set[bytes]:
            looks[0] += 1
            return {deployment, b"\x01" * 32}  # one whose record is not here: who knows

        def drop(self, which: bytes) -> int:
            dropped.append(which)
            return 1

    shop: Any = SimpleNamespace(volumes=Shelf(), peer=SimpleNamespace(state=world.state))
    monkeypatch.setattr(gather, "VOLUME_SWEEP_S", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather.sweep_volumes, shop, lambda: {deployment} if held else set())
        await until(lambda: looks[0] > 3)
        nursery.cancel_scope.cancel()
    ended = status in ("rejected", "expired", "completed", "cancelled", "failed")
    assert set(dropped) == ({deployment} if ended and not held else set())
