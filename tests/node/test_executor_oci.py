"""The executor with the real oci driver: a service that answers, and a job whose result counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.contract_types import ResourcesTemplate
from ledger.limits import MIB
from node.exchange import Wanted
from node.executor.drivers.embedded import drivers
from node.executor.drivers.several import Several
from tests.executor.conftest import needs_sandbox
from tests.executor.oci_images import busybox_layer, image
from tests.ledger import world as people
from tests.node.executor_fixture import artifact_of, fleet, job, service
from tests.node.network_fixture import until
from tests.node.test_executor import receipts
from tests.node.test_executor_sandbox import get

PAGE = b"<!doctype html><title>site</title><p>from an image</p>"
NEED = ResourcesTemplate(cpu_millis=500, memory_bytes=64 * MIB, disk_bytes=16 * MIB, pids=16)


@pytest.fixture
def driver(tmp_path: Path) -> Several:
    needs_sandbox()
    made = drivers(tmp_path / "drivers")
    fingerprint = made.fingerprint()
    found = fingerprint.of("oci")
    if "oci" not in fingerprint.runtimes:
        pytest.skip(f"the oci driver is not usable here: {found.reason}")
    return made


async def test_an_image_serves_and_a_job_in_it_gives_its_result(tmp_path: Path, driver: Several) -> None:
    data = image(busybox_layer())
    root = artifact_of(data, "/", kind="image", executable=False)
    page = artifact_of(PAGE, "/www/index.html", executable=False)
    both = {"runtime": "oci", "artifacts": (root, page), "user": "1000:1000", "resources": NEED}
    site = service(
        replicas=1,
        command=("/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"),
        health=people.Health(port="http", http_path="/index.html", interval_s=1),
        isolation=("sealed-image", "limit-memory"),
        **both,
    )
    count = job(command=("/bin/sh", "-c", "busybox wc -c < /www/index.html > /result/words.tsv"), **both)
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.share("validator0", data, PAGE)
        net.execute("node1", driver)
        deployment = await net.approved(site, count)
        await until(lambda: net.statuses(deployment)[1] == "succeeded", 60)
        await until(lambda: net.statuses(deployment)[0] == "running", 60)
        endpoint = net.slot(deployment, "web/0").endpoints["http"]
        assert (await get(endpoint, "/index.html")).endswith(PAGE)
        executor = net.executors["node1"]
        await until(lambda: bool(executor.status().slots) and executor.status().slots[0].checks >= 2, 30)
        digest = net.slot(deployment, "mine/0").results["/result/words.tsv"]
        text = f"{len(PAGE)}\n".encode()
        path = await net.exchanges["validator0"].fetch(Wanted(digest, len(text), None))
        assert path.read_bytes() == text
        last = receipts(net, deployment, "mine/0")[-1]
        assert (last.driver, last.level, last.exit_code) == ("oci", "container", 0)
        assert last.isolation["sealed-image"] == "enforced" and last.isolation["landlock"] != "enforced"
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: net.slot(deployment, "web/0").holder == b"", 20)
        with pytest.raises(OSError):
            await get(endpoint, "/index.html")
        net.scopes["node1"].cancel()
        await net.gone["node1"].wait()
    assert await driver.recover() == []
