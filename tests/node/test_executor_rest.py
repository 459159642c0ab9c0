"""Bytes that changed on a node's disk before they ran: that node does not run them, and another does."""

from __future__ import annotations

from pathlib import Path

from tests.ledger import world as people
from tests.node.executor_fixture import PROGRAM, fleet, receipts_of, service
from tests.node.network_fixture import until


async def test_an_image_changed_at_rest_runs_nowhere(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", "node2", executors=False) as net:
        executor = net.execute("node1")
        store = net.exchanges["node1"].store
        name = store.add_bytes(PROGRAM).sha256  # it has all of it before it claims
        with store.path(name).open("r+b") as file:
            file.seek(len(PROGRAM) // 2)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
        source = service(replicas=1, placement=people.Placement(distinct="none"))
        deployment = await net.approved(source)
        await until(lambda: any(r.status == "failed" for r in receipts_of(net, deployment, "web/0")))
        assert net.drivers["node1"].tasks == []
        told = [r for r in receipts_of(net, deployment, "web/0") if r.status == "failed"]
        assert "other bytes" in told[0].detail
        assert {r.status for r in receipts_of(net, deployment, "web/0")} <= {"fetching", "failed"}
        net.scopes["node1"].cancel()
        await net.gone["node1"].wait()
        assert not executor.status().slots
        net.execute("node2")  # the control: the same bytes, unchanged
        await net.until_statuses(deployment, "running")
        assert net.name_of(net.slot(deployment, "web/0").holder) == "node2"
