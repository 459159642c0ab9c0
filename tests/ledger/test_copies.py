"""Copies of volumes on the ledger: who records them, and who may go on with a slot. Rules C12 to C14, C11."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.contracts.check import check_contract
from ledger.contracts.language import parse_contract
from ledger.contracts.types import VolumeTemplate
from ledger.copy_records import Copies, VolumeCopy, copy_bytes_max, keeper_parts, key_copies
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import COPIED_VOLUME_BYTES_MAX, COPY_BOX_BYTES_MAX, COPY_KEEPERS_MAX, RPO_S_MIN
from ledger.manifests.expansion import check_manifest, decode_manifest, expand
from ledger.manifests.services import features_needed
from ledger.manifests.types import Placement, Volume
from ledger.state import read
from ledger.transactions import CancelDeployment, Claim, RecordCopies
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.contract_samples import SOURCE
from tests.ledger.invariants import check
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    CONSUMER,
    NODES,
    STRANGER,
    World,
    contract,
    key_of,
    service,
)

MIB = 1 << 20
A0, A1, B0, B1 = NODES
ANYWHERE = Placement(distinct="none")


def volume(name: str = "data", **changes: Any) -> VolumeTemplate:
    fields: dict[str, Any] = {"name": name, "path": f"/{name}", "size_bytes": 16 * MIB, "rpo_s": 60}
    return VolumeTemplate(**(fields | changes))


def copy(name: str = "data", *keepers: Key, **changes: Any) -> VolumeCopy:
    kept = tuple(key.public for key in keepers or (B0, B1))
    return replace(VolumeCopy(name, b"s" * 32, 1000, b"c" * 32, b"box", kept), **changes)


def world_with(*volumes: VolumeTemplate, nodes: tuple[Key, ...] = NODES) -> tuple[World, bytes]:
    """An approved deployment of one replica with these volumes."""
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(service(replicas=1, placement=ANYWHERE, volumes=volumes)))
    world.approve(deployment)
    said = {"volumes": "enforced", "volume-copies": "enforced"}
    for node in nodes:
        world.ok(node, world.offer(attributes=said))
    return world, deployment


def running(*volumes: VolumeTemplate) -> tuple[World, bytes]:
    world, deployment = world_with(*volumes)
    world.claimed(deployment, "web/0", [A0])
    world.report(deployment, "web/0", A0, "fetching", "verified", "running")
    return world, deployment


def lost(world: World, deployment: bytes) -> None:
    """The holder is gone, and its lease over."""
    while world.slot(deployment, "web/0").holder:
        world.wait(10_000, 5_000)


def may_claim(world: World, deployment: bytes, node: Key) -> str:
    tried = World.__new__(World)
    tried.__dict__ |= world.__dict__
    tried.state = world.state.__class__(world.state.entries())
    return tried.do(node, Claim(deployment, "web/0", world.slot(deployment, "web/0").term + 1)).rule


def test_a_copy_lets_another_node_go_on() -> None:
    """[C11] [C13] Without one the slot waits for its home; the home is taken first when it is there."""
    world, deployment = running(volume())
    lost(world, deployment)
    assert may_claim(world, deployment, B0) == "claim.volume"
    assert may_claim(world, deployment, A0) == ""
    world.claimed(deployment, "web/0", [A0])
    world.report(deployment, "web/0", A0, "fetching", "verified", "running")
    world.ok(A0, RecordCopies(deployment, "web/0", 2, (copy(),)))
    record = read(world.state, Copies, key_copies(deployment, "web/0"))
    assert record is not None
    assert (record.term, record.node, record.copies) == (2, A0.public, (copy(),))
    lost(world, deployment)
    assert may_claim(world, deployment, B0) == ""
    cheap = replace(world.offer().price, cpu_core_hour=1, memory_gib_hour=0, ssd_gib_hour=0, hdd_gib_hour=0)
    said = {"volumes": "enforced", "volume-copies": "enforced"}
    world.ok(B0, world.offer(attributes=said, price=cheap))
    assert world.claimed(deployment, "web/0", [A0, B0]) is A0  # [C6] it has what was written last
    lost(world, deployment)
    assert world.claimed(deployment, "web/0", [A1, B0]) is B0
    world.report(deployment, "web/0", B0, "fetching", "verified")
    assert world.slot(deployment, "web/0").home == B0.public
    check(world.state, world.now_ms)


def test_each_volume_that_waits_needs_a_copy() -> None:
    world, deployment = running(volume(), volume("more", rpo_s=0))
    world.ok(A0, RecordCopies(deployment, "web/0", 1, (copy(),)))
    lost(world, deployment)
    assert may_claim(world, deployment, B0) == "claim.volume"
    world, deployment = running(volume(), volume("more", rpo_s=0, if_lost="empty"))
    world.ok(A0, RecordCopies(deployment, "web/0", 1, (copy(),)))
    lost(world, deployment)
    assert may_claim(world, deployment, B0) == ""


def test_a_stale_holder_records_nothing() -> None:
    """[C13] Neither a former holder nor a former term, whatever it still runs."""
    world, deployment = running(volume())
    world.ok(A0, RecordCopies(deployment, "web/0", 1, (copy(),)))
    lost(world, deployment)
    assert world.refused(A0, RecordCopies(deployment, "web/0", 1, (copy(),))) == "copies.not_holder"
    world.claimed(deployment, "web/0", [B0])
    mine = copy("data", A1, sha256=b"n" * 32)
    assert world.refused(A0, RecordCopies(deployment, "web/0", 1, (mine,))) == "copies.stale_term"
    assert world.refused(A0, RecordCopies(deployment, "web/0", 2, (mine,))) == "copies.not_holder"
    assert world.refused(B0, RecordCopies(deployment, "web/0", 1, (mine,))) == "copies.stale_term"
    assert world.refused(B0, RecordCopies(deployment, "web/0", 2, (mine,))) == "copies.status"  # fetches yet
    world.report(deployment, "web/0", B0, "fetching")
    assert world.refused(B0, RecordCopies(deployment, "web/0", 2, (mine,))) == "copies.status"
    world.report(deployment, "web/0", B0, "verified")
    world.ok(B0, RecordCopies(deployment, "web/0", 2, (mine,)))
    found = world.records(b"copies/", Copies)
    assert [(c.term, c.node, c.copies) for c in found] == [(2, B0.public, (mine,))]
    check(world.state, world.now_ms)


@pytest.mark.parametrize(
    ("copies", "rule"),
    [
        ((), "copies.volumes"),
        ((copy(), copy()), "copies.volumes"),
        ((copy("other"),), "copies.volumes"),
        ((copy(size_bytes=0),), "copies.shape"),
        ((copy(size_bytes=copy_bytes_max(16 * MIB) + 1),), "copies.shape"),
        ((copy(sha256=b"s" * 31),), "copies.shape"),
        ((copy(chunks=b""),), "copies.shape"),
        ((copy(box=b""),), "copies.shape"),
        ((copy(box=bytes(COPY_BOX_BYTES_MAX + 1)),), "copies.shape"),
        ((copy(keepers=()),), "copies.keepers"),
        ((copy("data", A0),), "copies.keepers"),  # the holder itself
        ((copy("data", B0, B0),), "copies.keepers"),
        ((copy("data", STRANGER),), "copies.keepers"),
        ((copy("data", *(key_of(f"k{n}") for n in range(COPY_KEEPERS_MAX + 1))),), "copies.keepers"),
    ],
)
def test_what_is_no_copy(copies: tuple[VolumeCopy, ...], rule: str) -> None:
    world, deployment = running(volume())
    assert world.refused(A0, RecordCopies(deployment, "web/0", 1, copies)) == rule
    assert not list(world.state.scan(b"copies/"))


def test_who_is_asked_for_no_copies_records_none() -> None:
    world, deployment = running(volume(rpo_s=0))
    assert world.refused(A0, RecordCopies(deployment, "web/0", 1, ())) == "copies.volumes"
    assert world.refused(A0, RecordCopies(deployment, "web/7", 1, ())) == "copies.unknown_slot"
    assert world.refused(A0, RecordCopies(bytes(32), "web/0", 1, ())) == "copies.unknown_deployment"


def test_a_released_slot_makes_its_last_copies_and_an_ended_deployment_has_none() -> None:
    """[C13] [C14]"""
    world, deployment = running(volume())
    world.ok(A0, RecordCopies(deployment, "web/0", 1, (copy(),)))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    assert world.slot(deployment, "web/0").status == "released"
    last = copy("data", B1, sha256=b"l" * 32)
    world.ok(A0, RecordCopies(deployment, "web/0", 1, (last,)))
    assert [keeper_parts(key) for key, _ in world.state.scan(b"keeper/")] == [(deployment, "web/0")]
    check(world.state, world.now_ms)
    world.ok(A0, world.receipt(deployment, "web/0", A0, "released"))
    assert world.refused(A0, RecordCopies(deployment, "web/0", 1, (copy(),))) == "copies.not_holder"
    assert world.records(b"copies/", Copies)[0].copies == (last,)
    world.ok(CONSUMER, CancelDeployment(deployment, "enough"))
    assert not list(world.state.scan(b"copies/")) and not list(world.state.scan(b"keeper/"))
    check(world.state, world.now_ms)
    world, deployment = running(volume())
    world.ok(CONSUMER, CancelDeployment(deployment, "enough"))
    assert world.slot(deployment, "web/0").holder == A0.public
    assert world.refused(A0, RecordCopies(deployment, "web/0", 1, (copy(),))) == "copies.ended"


def test_a_life_with_copies_passes_the_audit() -> None:
    world = ChainWorld()
    world.add_nodes()
    source = contract(service(replicas=1, placement=ANYWHERE, volumes=(volume(),)))
    deployment = world.ordered(source)
    world.approve(deployment)
    for node in (A0, B0):
        world.ok(node, world.offer(attributes={"volumes": "enforced", "volume-copies": "enforced"}))
    for holder, keepers in ((A0, (B0, B1)), (B0, (A0, A1))):
        world.claimed(deployment, "web/0", [holder])
        world.report(deployment, "web/0", holder, "fetching", "verified", "running")
        term = world.slot(deployment, "web/0").term
        world.ok(holder, RecordCopies(deployment, "web/0", term, (copy("data", *keepers),)))
        world.ok(holder, world.receipt(deployment, "web/0", holder, "released"))
    world.ok(CONSUMER, CancelDeployment(deployment, "enough"))
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)


def test_only_nodes_that_make_copies_get_such_a_slot() -> None:
    """[C10]"""
    world, deployment = world_with(volume(), nodes=(A0,))
    world.ok(A1, world.offer(attributes={"volumes": "enforced"}))
    assert may_claim(world, deployment, A0) == ""
    assert may_claim(world, deployment, A1) == "claim.feature"


@pytest.mark.parametrize(
    ("changes", "rule", "where"),
    [
        ({"rpo_s": RPO_S_MIN - 1}, "contract.rpo", "rpo"),
        ({"rpo_s": -1}, "contract.range", "rpo"),
        ({"rpo_s": 86_401}, "contract.range", "rpo"),
        ({"rpo_s": "${missing}"}, "contract.unknown_parameter", "rpo"),
        ({"size_bytes": COPIED_VOLUME_BYTES_MAX + 1}, "contract.rpo", "size"),
    ],
)
def test_an_rpo_that_cannot_be_kept_is_refused(changes: dict[str, object], rule: str, where: str) -> None:
    """[C12] In contracts, and, where it is known by then, in manifests."""
    with pytest.raises(Refused) as caught:
        check_contract(contract(service(volumes=(volume(**changes),))))
    assert (caught.value.rule, caught.value.field) == (rule, f"workloads.web.volumes.data.{where}")
    if any(isinstance(value, str) for value in changes.values()):
        return
    made = contract(service(volumes=(volume(),)))
    sound = decode_manifest(expand(made, bytes(32), AUTHOR.public, CONSUMER.public, {}, {}))
    (kept,) = sound.workloads[0].volumes
    assert kept == Volume(name="data", path="/data", size_bytes=16 * MIB, rpo_s=60)
    assert features_needed(sound.workloads[0]) == ("volumes", "volume-copies")
    web = replace(sound.workloads[0], volumes=(replace(kept, **changes),))
    with pytest.raises(Refused) as caught:
        check_manifest(replace(sound, workloads=(web, *sound.workloads[1:])))
    assert caught.value.rule == rule


def test_a_source_says_an_rpo() -> None:
    line = "volumes: {data: {path: /data, size: 1GiB, rpo: 5m}}"
    source = parse_contract(SOURCE.replace("recheck: 10s", f"recheck: 10s\n    {line}"), "contract.yaml")
    assert source.contract.workloads[0].volumes[0].rpo_s == 300
