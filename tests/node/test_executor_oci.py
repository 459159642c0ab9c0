"""The executor with the real oci driver: services that answer, or say themselves that they are well, and a
job whose result counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ledger.contracts.types import ResourcesTemplate
from ledger.limits import MIB
from ledger.manifests.services import ISOLATION, NEVER_ENFORCED
from ledger.manifests.types import Health, Restart
from node.executor.drivers.embedded import drivers
from node.executor.drivers.several import Several
from tests.executor.conftest import usable
from tests.executor.oci_images import busybox_layer, image
from tests.ledger import world as people
from tests.node.executor_fixture import artifact_of, fleet, job, receipts_of, service
from tests.node.network_fixture import until
from tests.node.served import HEALTH, HTTPD, PAGE, serve_and_count

NEED = ResourcesTemplate(cpu_millis=500, memory_bytes=64 * MIB, disk_bytes=16 * MIB, pids=16)
ROOT = image(busybox_layer())
SHELL = ("/bin/sh", "-c")


@pytest.fixture
def driver(tmp_path: Path) -> Several:
    return usable(drivers(tmp_path / "drivers"), "oci")


async def test_an_image_serves_and_a_job_in_it_gives_its_result(tmp_path: Path, driver: Several) -> None:
    page = artifact_of(PAGE, "/www/index.html", executable=False)
    root = artifact_of(ROOT, "/", kind="image", executable=False)
    both = {"runtime": "oci", "artifacts": (root, page), "user": "1000:1000", "resources": NEED}
    walls = ("sealed-image", "limit-memory")
    site = service(replicas=1, command=HTTPD, health=HEALTH, isolation=walls, **both)
    count = job(command=(*SHELL, "busybox wc -c < /www/index.html > /result/words.tsv"), **both)
    last, _ = await serve_and_count(tmp_path, driver, site, count, ROOT, PAGE)
    assert (last.driver, last.level, last.exit_code) == ("oci", "container", 0)
    assert last.isolation["sealed-image"] == "enforced" and set(ISOLATION) <= set(last.isolation)
    assert {name: last.isolation[name] for name in NEVER_ENFORCED["oci"]} == NEVER_ENFORCED["oci"]


async def test_a_container_whose_own_check_fails_is_started_anew(tmp_path: Path, driver: Several) -> None:
    """[E8] It runs only when its check ends with 0, and not much longer than it does."""
    if not (await trio.to_thread.run_sync(driver.fingerprint)).of("oci").enforces("health-exec"):
        pytest.skip("no checks are run in containers here")
    # Well for three seconds, each time that it begins.
    script = "IFS=. read now rest < /proc/uptime; echo $now > /tmp/began; while true; do sleep 1; done"
    check = "IFS=. read now rest < /proc/uptime; read began < /tmp/began; [ $((now - began)) -lt 3 ]"
    health = Health(command=(*SHELL, check), interval_s=1, timeout_s=5, failures=1)
    web = service(
        replicas=1,
        runtime="oci",
        artifacts=(artifact_of(ROOT, "/", kind="image", executable=False),),
        user="1000:1000",
        resources=NEED,
        command=(*SHELL, script),
        health=health,
        restart=Restart(attempts=1),
    )
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.share("validator0", ROOT)
        net.execute("node1", driver)
        deployment = await net.approved(web)
        told = lambda: receipts_of(net, deployment, "web/0")  # noqa: E731 - read anew each time
        await until(lambda: any(r.status == "running" for r in told()), 60)
        await until(lambda: any(r.status == "failed" for r in told()), 90)
        last = next(r for r in told() if r.status == "failed")
        assert "its check ended with 1" in last.detail
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        net.scopes["node1"].cancel()
        await net.gone["node1"].wait()
