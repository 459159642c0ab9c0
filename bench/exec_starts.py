"""From a claim to a running workload, per driver, beside bare bubblewrap and podman. See bench.exec."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import trio

from bench.common import percentile
from bench.exec_tasks import BUSYBOX, Sample
from ledger.manifests.types import Placement
from ledger.records import Slot
from ledger.transactions import CancelDeployment
from node.executor.drivers.base import Driver
from node.executor.drivers.embedded import drivers
from tests.ledger import world as people
from tests.node.executor_fixture import Fleet, fleet, service
from tests.node.network_fixture import until

_WORD: Final = b"up"


def told(times_s: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    return {
        "p50_ms": round(statistics.median(times_s) * 1000, 1),
        "p99_ms": round(percentile(times_s, 0.99) * 1000, 1),
        "rounds": len(times_s),
    }


# ---------------------------------------------------------------------- without a ledger


async def driver_starts(driver: Driver, sample: Sample, folder: Path, rounds: int) -> dict[str, Any]:
    """Sealing, and from there until the workload has said its first word; stops, too."""
    spec = sample.spec(folder)
    found: dict[str, list[float]] = {"prepare": [], "start_to_word": [], "stop": []}
    for number in range(rounds + 1):
        begin = time.perf_counter()
        prepared = await driver.prepare(replace(spec, task_id=f"bench.start.{number}"))
        sealed = time.perf_counter()
        handle = await driver.start(prepared)
        with trio.fail_after(60):
            while _WORD not in driver.logs(handle, 1 << 12):  # noqa: ASYNC110 - a log is no event
                await trio.sleep(0.0005)
        spoke = time.perf_counter()
        await driver.stop(handle, 0)
        stopped = time.perf_counter()
        if number:  # the first one warms up
            found["prepare"].append(sealed - begin)
            found["start_to_word"].append(spoke - sealed)
            found["stop"].append(stopped - spoke)
    return {name: told(times) for name, times in found.items()}


def bare_bwrap(rounds: int) -> dict[str, Any]:
    """The same program in bubblewrap alone: namespaces and a bind mount; nothing sealed or bounded."""
    tool = shutil.which("bwrap")
    if tool is None:
        return {"skipped": "bubblewrap is not installed"}
    command = [tool, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--proc", "/proc"]
    command += ["--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", str(BUSYBOX), "/bin/busybox"]
    return _first_words([*command, "/bin/busybox", "echo", "up"], rounds)


def podman(rounds: int) -> dict[str, Any]:
    """`podman run` of the same program in a root folder; nothing is pulled from anywhere."""
    tool = shutil.which("podman")
    if tool is None:
        return {"skipped": "podman is not installed"}
    # What podman began in the background for --rm may still tidy up when we do.
    with tempfile.TemporaryDirectory(prefix="gridpact-podman-", ignore_cleanup_errors=True) as name:
        root = Path(name) / "rootfs"
        for folder in ("bin", "proc", "dev", "tmp", "sys", "etc", "run"):
            (root / folder).mkdir(parents=True)
        shutil.copy(BUSYBOX, root / "bin" / "busybox")
        base = [tool, "--root", f"{name}/storage", "--runroot", f"{name}/run", "--storage-driver", "vfs"]
        runtime = next((name for name in ("runc", "crun") if shutil.which(name)), "runc")
        command = [*base, "--runtime", runtime, "run", "--rm"]
        command += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        command += ["--network", "none", "--cap-drop", "all", "--read-only", "--rootfs", str(root)]
        found = _first_words([*command, "/bin/busybox", "echo", "up"], rounds)
        subprocess.run([*base, "rm", "--all", "--force"], capture_output=True, timeout=60)
        return found


def _first_words(command: list[str], rounds: int) -> dict[str, Any]:
    """From the start of a command until its first byte."""
    times = []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.read(2)
            spoke = time.perf_counter()
            problem = process.stderr.read().decode(errors="replace").strip()
        if first != _WORD:
            return {
                "skipped": f"does not run here: {problem.splitlines()[-1] if problem else 'no word'}"[:300]
            }
        if number:
            times.append(spoke - begin)
    return told(times)


# ---------------------------------------------------------------------- with a ledger


@dataclass
class Seen:
    """When a slot was first seen in each status, seconds."""

    at: dict[str, float]

    def ms(self, first: str, second: str) -> float:
        return round((self.at[second] - self.at[first]) * 1000, 1)


async def claim_to_running(sample: Sample, rounds: int) -> dict[str, Any]:
    """Four validators and a 3node in one process, deployments one after the other: from the block in which
    the approval opens the slot, and from that of the claim, to that of the receipt `running`."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="gridpact-exec-") as name:
        folder = Path(name)
        async with fleet(folder, "node1", executors=False) as net:
            net.share("validator0", *sample.files.values())
            net.execute("node1", drivers(folder / "drivers"))
            for number in range(rounds + 1):
                seen = await _one(net, sample, number)
                if number:
                    runs.append(seen)
            net.scopes["node1"].cancel()
            await net.gone["node1"].wait()
    return {
        "open_to_claimed": _spread([run.ms("open", "claimed") for run in runs]),
        "claimed_to_verified": _spread([run.ms("claimed", "verified") for run in runs]),
        "verified_to_running": _spread([run.ms("verified", "running") for run in runs]),
        "claimed_to_running": _spread([run.ms("claimed", "running") for run in runs]),
        "open_to_running": _spread([run.ms("open", "running") for run in runs]),
    }


def _spread(times_ms: Sequence[float]) -> dict[str, float]:
    return told([ms / 1000 for ms in times_ms])


async def _one(net: Fleet, sample: Sample, number: int) -> Seen:
    template = service(**{"placement": Placement(distinct="none"), **sample.template()})
    source = people.contract(template, budget=50_000_000, name=f"bench-{number}")
    deployment = await net.order(source)
    seen = Seen({})
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while True:
                slot = net.slot(deployment, f"{template.name}/0")
                _note(seen, slot, net.deployment(deployment).status)
                await trio.sleep(0.001)

        nursery.start_soon(watch)
        await net.approve(deployment)
        await until(lambda: "running" in seen.at, 60)
        nursery.cancel_scope.cancel()
    await net.do(people.CONSUMER, CancelDeployment(deployment, "measured"))
    await until(lambda: not net.executors["node1"].status().slots, 60)
    return seen


def _note(seen: Seen, slot: Slot, status: str) -> None:
    """A status that was passed between two looks counts as seen at the later one."""
    now = time.perf_counter()
    if status != "awaiting_approval":
        seen.at.setdefault("open", now)
    order = ("claimed", "fetching", "verified", "running", "succeeded")
    if slot.status in order:
        for passed in order[: order.index(slot.status) + 1]:
            seen.at.setdefault(passed, now)
