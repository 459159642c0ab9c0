"""The executor with the real sandbox driver: a web site that answers, and a job whose result is fetched."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from node.exchange import Wanted
from node.executor.drivers.sandbox import SandboxDriver
from tests.executor.conftest import BUSYBOX, make_tar, needs_sandbox
from tests.ledger import world as people
from tests.node.executor_fixture import artifact_of, fleet, job, service
from tests.node.network_fixture import until
from tests.node.test_executor import receipts

PAGE = b"<!doctype html><title>site</title><p>it works</p>"


@pytest.fixture
def driver(tmp_path: Path) -> SandboxDriver:
    needs_sandbox()
    made = SandboxDriver(tmp_path / "run")
    fingerprint = made.fingerprint()
    if not fingerprint.usable:
        pytest.skip(f"the sandbox driver is not usable here: {fingerprint.reason}")
    return made


async def get(endpoint: str, path: str) -> bytes:
    """One HTTP answer, whole."""
    parts = urlsplit(f"//{endpoint}")
    assert parts.hostname is not None and parts.port is not None
    async with await trio.open_tcp_stream(parts.hostname, parts.port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n".encode())
        return b"".join([piece async for piece in stream])


async def test_a_site_answers_and_a_job_gives_its_result(tmp_path: Path, driver: SandboxDriver) -> None:
    busybox = BUSYBOX.read_bytes()
    tree = make_tar({"index.html": PAGE})
    shell = artifact_of(busybox, "/bin/busybox")
    www = artifact_of(tree, "/www", kind="tree", executable=False)
    site = service(
        replicas=1,
        artifacts=(shell, www),
        command=("/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"),
        health=people.Health(port="http", http_path="/index.html", interval_s=1),
    )
    count = job(
        artifacts=(shell, www),
        command=("/bin/busybox", "sh", "-c", "/bin/busybox wc -c < /www/index.html > /result/words.tsv"),
    )
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.share("validator0", busybox, tree)
        net.execute("node1", driver)
        deployment = await net.approved(site, count)
        await until(lambda: net.statuses(deployment)[1] == "succeeded", 40)
        await until(lambda: net.statuses(deployment)[0] == "running", 40)
        endpoint = net.slot(deployment, "web/0").endpoints["http"]
        answer = await get(endpoint, "/index.html")
        assert answer.split(b" ")[1] == b"200"
        assert answer.endswith(PAGE)
        executor = net.executors["node1"]
        await until(lambda: bool(executor.status().slots) and executor.status().slots[0].checks >= 2, 20)
        digest = net.slot(deployment, "mine/0").results["/result/words.tsv"]
        text = f"{len(PAGE)}\n".encode()
        path = await net.exchanges["validator0"].fetch(Wanted(digest, len(text), None))
        assert path.read_bytes() == text
        last = receipts(net, deployment, "mine/0")[-1]
        assert last.checks >= 1
        assert (last.driver, last.level, last.exit_code) == ("sandbox", "sandbox", 0)
        assert last.usage.memory_bytes_max > 0
        assert executor.status().features["seccomp"] == "enforced"
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: net.slot(deployment, "web/0").holder == b"", 20)
        with pytest.raises(OSError):
            await get(endpoint, "/index.html")
        net.scopes["node1"].cancel()
        await net.gone["node1"].wait()
    assert await driver.recover() == []
