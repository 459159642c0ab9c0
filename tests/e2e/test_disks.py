"""A slot keeps bytes on the hard disk of its node and others on its SSD: real processes, from the plan to the
bytes given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.testnet_market import sandbox_fingerprint
from tests.e2e.net import ROOT, Net, page, until

MIB = 1 << 20
SOURCE = ROOT / "tests" / "e2e" / "disks"
HELD_S = 60.0


@pytest.fixture(scope="module")
def contract(sandbox: None, net: Net, tmp_path_factory: pytest.TempPathFactory) -> str:
    """On the network, where nodes can keep volumes."""
    if not sandbox_fingerprint().enforces("volumes"):
        pytest.skip("the sandbox driver cannot keep volumes here")
    net.publish(SOURCE, tmp_path_factory.mktemp("build") / "disks")
    return "e2e-disks"


def used(net: Net, name: str) -> tuple[int, int]:
    """SSD and hard disk of a node that slots have, as the market shows them."""
    key = net.peer(name).node_key
    return next((node.used_ssd_bytes, node.used_hdd_bytes) for node in net.api().nodes() if node.key == key)


def kept(folder: Path, deployment: str) -> dict[str, int]:
    """What a folder has of a deployment's volumes: sizes by name."""
    found = folder.rglob(f"{deployment}.*") if folder.exists() else ()
    return {file.name.split(".")[-2]: file.stat().st_size for file in found}


def test_each_volume_is_on_the_disk_that_was_bought(net: Net, contract: str) -> None:
    before = {name: used(net, name) for name in ("node1", "node2", "node3")}
    deployment = net.deploy(contract)
    net.decide("approve", deployment, "it-expert")
    slot = net.until_running(deployment)
    name = net.name_of(slot["holder"])
    assert page(slot["endpoints"]["http"]) == "started\n"
    hard_disk, ssd = net.hard_disk(name), net.home(name).data_dir / "volumes"
    assert kept(hard_disk, deployment) == {"kept": 32 * MIB}
    assert kept(ssd, deployment) == {"fast": 16 * MIB}
    was = before[name]
    until("both are taken of the offer", lambda: used(net, name) == (was[0] + 32 * MIB, was[1] + 32 * MIB))

    net.decide("revoke", deployment, "it-expert")
    until("the slot has stopped", lambda: not net.slot(deployment)["holder"], HELD_S)
    until("both are given back", lambda: used(net, name) == was)
    net.decide("approve", deployment, "it-expert")
    again = net.until_running(deployment, term=slot["term"])
    assert net.name_of(again["holder"]) == name, "its volumes are nowhere else"
    assert page(again["endpoints"]["http"]) == "started\nstarted\n", (
        "what was on the hard disk is still there"
    )

    net.data("deployment", "cancel", deployment, "--yes")
    until("both are given back", lambda: used(net, name) == was)


def test_the_plan_says_which_kind_no_node_has(net: Net, contract: str) -> None:
    roles = [word for name in ("it-expert", "legal", "budget") for word in ("--role", f"{name}={name}")]
    words = ("deploy", contract, "--budget", "1", "--param", "room=21GiB", *roles, "--plan-only")
    plan: dict[str, Any] = net.data(*words)
    assert plan["missing"] == ["capacity: no node for web/0 (3 nodes: claim.capacity: hdd_bytes)"]
    reasons = {node["node"]: node["reasons"] for node in plan["excluded"]}
    assert set(reasons) == {net.peer(name).node_key for name in ("node1", "node2", "node3")}
    for told in reasons.values():
        assert any("claim.capacity" in why and "hdd_bytes" in why for why in told), told
        assert not any("ssd_bytes" in why for why in told), told
    assert "hdd_bytes" in net.run(*words).out
