"""The executor with the real wasm driver: two nodes run the same program and agree on every byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.contracts.types import ResourcesTemplate
from ledger.limits import MIB, WASM_ENGINE_BYTES
from ledger.manifests.types import Placement, Restart
from ledger.records import Node, key_node
from ledger.state import read
from node.executor.drivers.embedded import drivers
from node.executor.drivers.several import Several
from tests.executor.conftest import needs_sandbox
from tests.executor.test_wasm import WORLD_DIGEST
from tests.executor.wasm_programs import LOOP, WORLD
from tests.node.executor_fixture import artifact_of, fleet, job, read_result, receipts_of
from tests.node.network_fixture import until

ROOM = ResourcesTemplate(cpu_millis=500, memory_bytes=WASM_ENGINE_BYTES + 10 * MIB, disk_bytes=MIB, pids=16)
FILES = {"/data/one": b"1", "/data/b": b"", "/z": b"", "/a": b""}


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], Several]:
    needs_sandbox()

    def make(name: str) -> Several:
        found = drivers(tmp_path / f"drivers-{name}")
        fingerprint = found.fingerprint()
        if not fingerprint.usable:
            pytest.skip(f"the sandbox driver is not usable here: {fingerprint.reason}")
        assert "wasm" in fingerprint.runtimes
        return found

    return make


async def test_nodes_agree_on_what_a_program_computes(tmp_path: Path, made: Callable[[str], Several]) -> None:
    files = [artifact_of(data, path, executable=False) for path, data in FILES.items()]
    sums = job(
        runtime="wasm",
        replicas=2,
        agree=2,
        fuel=10_000_000,
        resources=ROOM,
        placement=Placement(distinct="node"),
        artifacts=(artifact_of(WORLD, "/program"), *files),
        command=("/program", "a"),
        results=("/result/out",),
    )
    endless = job(
        name="endless",
        runtime="wasm",
        fuel=1_000_000,
        resources=ROOM,
        restart=Restart(attempts=0),
        artifacts=(artifact_of(LOOP, "/program"),),
        command=("/program",),
        results=(),
    )
    async with fleet(tmp_path, "node1", "node2", executors=False) as net:
        net.share("validator0", WORLD, LOOP, *FILES.values())
        for name in ("node1", "node2"):
            net.execute(name, made(name))
        both = await net.approved(sums)
        await until(lambda: net.statuses(both) == ["succeeded", "succeeded"], 60)
        for slot in ("mine/0", "mine/1"):
            data = await read_result(net, both, slot, "/result/out")
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (WORLD_DIGEST, 1100)
            told = receipts_of(net, both, slot)
            last = told[-1]
            assert (last.driver, last.level, last.exit_code) == ("wasm", "wasm", 0)
            assert last.isolation["fuel"] == last.isolation["deterministic"] == "enforced"
            assert max(each.checks for each in told) >= 1
        assert len({receipts_of(net, both, slot)[-1].node for slot in ("mine/0", "mine/1")}) == 2
        assert net.slot(both, "mine/0").results == net.slot(both, "mine/1").results
        offer = read(net.first.state, Node, key_node(net.net.peers["node1"].node_key.public))
        assert offer is not None
        assert "wasm" in offer.runtimes
        assert "wasm.egress" not in offer.attributes
        never = await net.approved(endless, version="2.0.0")
        await until(lambda: net.deployment(never).status == "failed", 60)
        last = receipts_of(net, never, "endless/0")[-1]
        assert (last.status, last.exit_code) == ("failed", None)
        assert "its fuel is used up: 1000000" in last.detail
