"""Examples, built, expanded and run by real drivers exactly as their manifests say."""

import dataclasses
import json
from pathlib import Path

import pytest
import trio
from wasmtime import wat2wasm

from ledger.keys import Key
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Workload
from node.client.build import Built, build
from node.executor.doors import probe
from node.executor.drivers.base import FileSpec, ImageSpec, PortSpec, Resources, TaskSpec, TreeSpec
from node.executor.drivers.sandbox import SandboxDriver

from .conftest import Bench, usable
from .oci_images import site_image
from .wasm_bench import wasm_driver

AUTHOR, CONSUMER, IT, LEGAL, BUDGET = (Key(bytes([n]) * 32).public for n in range(1, 6))
ROLES = {"it-expert": [IT.hex()], "legal": [LEGAL.hex()], "budget": [BUDGET.hex()]}


def task(built: Built, workload: Workload) -> TaskSpec:
    files = {item.artifact.path: item.file for item in built.artifacts}
    images = [
        ImageSpec(a.sha256, a.size_bytes, files[a.path]) for a in workload.artifacts if a.kind == "image"
    ]
    need = workload.resources
    return TaskSpec(
        task_id=f"example.{workload.name}.1",
        command=workload.command,
        env=workload.environment,
        files=tuple(
            FileSpec(a.path, a.sha256, a.size_bytes, 0o555 if a.executable else 0o444, files[a.path])
            for a in workload.artifacts
            if a.kind == "file"
        ),
        trees=tuple(
            TreeSpec(a.path, a.sha256, a.size_bytes, files[a.path])
            for a in workload.artifacts
            if a.kind == "tree"
        ),
        ports=tuple(PortSpec(port.name, port.port) for port in workload.ports),
        resources=Resources(need.cpu_millis, need.memory_bytes, need.disk_bytes, need.pids),
        results=workload.results,
        runtime=workload.runtime,
        image=images[0] if images else None,
        working_dir=workload.working_dir,
        user=workload.user,
    )


def expanded(source: Path, out: Path) -> tuple[Built, Workload]:
    built = build(source, out)
    roles = {role.name: ROLES[role.name] for role in built.contract.roles}
    manifest = decode_manifest(expand(built.contract, b"c" * 32, AUTHOR, CONSUMER, {}, roles))
    return built, manifest.workloads[0]


@pytest.fixture
def driver(tmp_path: Path) -> SandboxDriver:
    return usable(SandboxDriver(tmp_path / "run"))


async def test_site_becomes_healthy(driver: SandboxDriver, checkout: Path, tmp_path: Path) -> None:
    built, workload = expanded(checkout / "examples/site", tmp_path / "out")
    handle = await driver.start(await driver.prepare(task(built, workload)))
    try:
        assert workload.health is not None
        path = workload.health.http_path or "/"
        with trio.fail_after(60):
            while not (await probe.http_get(*handle.ports[workload.health.port], path, 2.0)).healthy:
                await trio.sleep(0.05)
        assert (await driver.attest(handle)).ok
    finally:
        await driver.stop(handle, 0)


async def test_the_site_in_an_image_is_well_and_serves_its_pages(
    oci: Bench, checkout: Path, tmp_path: Path
) -> None:
    """What it runs, where and as whom the image says, and the built contract after it."""
    built, workload = expanded(site_image(checkout, tmp_path), tmp_path / "out")
    assert workload.command == ("/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www")
    assert (workload.user, workload.working_dir) == ("1000:1000", "/www")
    assert workload.health is not None
    assert workload.health.command[:2] == ("/bin/busybox", "wget")
    async with oci.running(task(built, workload)) as handle:
        command, timeout_s = workload.health.command, float(workload.health.timeout_s)
        with trio.fail_after(60):
            while await oci.driver.check(handle, command, timeout_s) != 0:
                await trio.sleep(0.05)
        for page in ("/index.html", "/about.html", "/robots.txt"):
            found = await probe.http_get(*handle.ports["http"], page, 2.0)
            assert found.healthy, (page, found.reason)
        assert not (await probe.http_get(*handle.ports["http"], "/none.html", 2.0)).healthy
        nowhere = (*command[:-1], "http://127.0.0.1:8080/none.html")
        assert await oci.driver.check(handle, nowhere, timeout_s) == 1
        attested = await oci.driver.attest(handle)
        assert attested.ok, attested.drifts


async def test_mining_gives_its_results(driver: SandboxDriver, checkout: Path, tmp_path: Path) -> None:
    built, workload = expanded(checkout / "examples/mining", tmp_path / "out")
    handle = await driver.start(await driver.prepare(task(built, workload)))
    try:
        with trio.fail_after(60):
            end = await driver.wait(handle)
        assert end.ok, driver.logs(handle, 4_096).decode()
        results = {result.path: result.data for result in await driver.collect(handle)}
    finally:
        await driver.stop(handle, 0)
    assert set(results) == set(workload.results)
    assert len(results["/result/words.tsv"].splitlines()) == 1 + int(workload.environment["TOP"])
    assert json.loads(results["/result/summary.json"])["total"]["texts"] > 10


async def test_primes_are_counted_within_their_fuel(checkout: Path, tmp_path: Path) -> None:
    source = (checkout / "examples/primes/primes.wat").read_text(encoding="utf-8")
    assert bytes(wat2wasm(source)) == (checkout / "examples/primes/primes.wasm").read_bytes()
    wasm = wasm_driver(tmp_path)
    built = build(checkout / "examples/primes", tmp_path / "out")
    roles = {name: ROLES[name] for name in ("it-expert", "budget")}
    for upto, wanted in ((2, b"1 2\n"), (10, b"4 7\n"), (1_000_000, b"78498 999983\n")):
        order = {"upto": upto}
        manifest = decode_manifest(expand(built.contract, b"c" * 32, AUTHOR, CONSUMER, order, roles))
        workload = manifest.workloads[0]
        spec = dataclasses.replace(
            task(built, workload), task_id=f"primes.{upto}.1", runtime="wasm", fuel=workload.fuel
        )
        found, said, results = await wasm.run(spec)
        assert found.ok, (found, said)
        assert [result.data for result in results] == [wanted]
    refused = dataclasses.replace(spec, task_id="primes.x.1", command=("/primes.wasm", "many"))
    assert (await wasm.run(refused))[0].code == 2
