"""A site and a job on a node with a real driver: what is the same of each driver, looked at once."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from ledger.contracts.types import WorkloadTemplate
from ledger.predicates import ReceiptPredicate
from node.executor.drivers.base import Driver
from node.executor.status import ExecutorStatus
from tests.ledger import world as people
from tests.node.executor_fixture import fleet, read_result, receipts_of
from tests.node.network_fixture import until

PAGE = b"<!doctype html><title>site</title><p>it works</p>"
HTTPD = ("/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www")
HEALTH = people.Health(port="http", http_path="/index.html", interval_s=1)


async def get(endpoint: str, path: str) -> bytes:
    """One HTTP answer, whole."""
    parts = urlsplit(f"//{endpoint}")
    assert parts.hostname is not None and parts.port is not None
    async with await trio.open_tcp_stream(parts.hostname, parts.port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n".encode())
        return b"".join([piece async for piece in stream])


async def serve_and_count(
    folder: Path, driver: Driver, site: WorkloadTemplate, count: WorkloadTemplate, *shared: bytes
) -> tuple[ReceiptPredicate, ExecutorStatus]:
    """The site serves PAGE until its approval is withdrawn, and the job counts its bytes into its result.

    `shared`: the bytes of their artifacts. Returns the job's last receipt, and what the node said of itself.
    """
    async with fleet(folder, "node1", executors=False) as net:
        net.share("validator0", *shared)
        net.execute("node1", driver)
        deployment = await net.approved(site, count)
        await until(lambda: net.statuses(deployment)[1] == "succeeded", 60)
        await until(lambda: net.statuses(deployment)[0] == "running", 60)
        endpoint = net.slot(deployment, "web/0").endpoints["http"]
        answer = await get(endpoint, "/index.html")
        assert answer.split(b" ")[1] == b"200" and answer.endswith(PAGE)
        executor = net.executors["node1"]
        await until(lambda: bool(executor.status().slots) and executor.status().slots[0].checks >= 2)
        assert await read_result(net, deployment, "mine/0") == f"{len(PAGE)}\n".encode()
        last, said = receipts_of(net, deployment, "mine/0")[-1], executor.status()
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        with pytest.raises(OSError):
            await get(endpoint, "/index.html")
        net.scopes["node1"].cancel()
        await net.gone["node1"].wait()
    assert await driver.recover() == []
    return last, said
