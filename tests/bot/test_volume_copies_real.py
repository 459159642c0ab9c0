"""Volumes that outlive their node, with real drivers: what is lost with a node is counted, line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from bot.agent import Agent
from ledger.contracts.types import VolumeTemplate
from ledger.manifests.types import Placement
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.drivers.several import Several
from node.executor.oci.driver import OciDriver
from node.executor.volumes.rooms import Room
from node.executor.volumes.volumes import VolumeShelf
from tests.executor.conftest import BUSYBOX, needs_sandbox
from tests.executor.oci_images import busybox_layer, image
from tests.ledger import world as people
from tests.node.executor_fixture import Fleet, artifact_of, fleet, service
from tests.node.network_fixture import until
from tests.node.test_executor_leases import GENESIS_MS

MIB = 1 << 20
NODES = ("node1", "node2", "node3")
SLOT = "web/0"
RATE = 3.0  # seconds of the network in a second of ours; the workload, its copies and the disk have ours
RPO_S = 30
SCRIPT = (
    "i=$(/bin/busybox tail -n 1 /data/log 2>/dev/null); "
    'echo "began $i"; while true; do '
    'read i rest < /proc/uptime; echo $i >> /data/log; echo "wrote $i"; /bin/busybox usleep 100000; done'
)


@pytest.fixture
def fast(mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """As for leases; later than the host's own clock, by which launchers kill."""
    mock_clock.rate = RATE
    mock_clock.jump(1e8)

    def now() -> int:
        return int(trio.current_time() * 1000)

    for module in ("node.voting.engine", "node.peer"):
        monkeypatch.setattr(f"{module}.now_ms", now)
        monkeypatch.setattr(f"{module}.wall_ms", lambda: GENESIS_MS + now())
    monkeypatch.setattr("bot.secrets.wall_ms", lambda: GENESIS_MS + now())
    return mock_clock


def newest(text: str, word: str) -> float:
    """The time in the last whole line that begins with `word`; 0: none."""
    lines = text.rpartition("\n")[0].splitlines()
    found = [line.split() for line in lines if line.startswith(f"{word} ")]
    return float(found[-1][1]) if found and len(found[-1]) == 2 else 0.0


class Lines:
    """What the workload says of its lines, on whichever node it runs."""

    def __init__(self, net: Fleet, deployment: bytes) -> None:
        self.net = net
        self.deployment = deployment

    @property
    def holder(self) -> str:
        return self.net.name_of(self.net.slot(self.deployment, SLOT).holder)

    def of(self, name: str, word: str) -> float:
        """The newest time (of the host, in seconds) that its log on this node says after `word`; 0: none."""
        executor = self.net.executors[name]
        tenure = executor._tenures.get((self.deployment, SLOT))
        tail = tenure.log_tail(1 << 16).data.decode() if tenure is not None else ""
        return newest(tail, word)

    async def running(self, than: str = "") -> str:
        """The node on which it runs, once it has written; another one `than`."""

        def writes() -> bool:
            runs = self.net.slot(self.deployment, SLOT).status == "running"
            return runs and self.holder != than and self.of(self.holder, "wrote") > 0

        await until(writes, 900)
        return self.holder


def of(runtime: str) -> tuple[bytes, dict[str, Any]]:
    """What the workload is made of, and its words of the contract."""
    if runtime == "sandbox":
        data = BUSYBOX.read_bytes()
        return data, {"artifacts": (artifact_of(data, "/bin/busybox"),)}
    data = image(busybox_layer())
    root = artifact_of(data, "/", kind="image", executable=False)
    return data, {"runtime": runtime, "artifacts": (root,), "user": "1000:1000"}


@pytest.mark.parametrize("runtime", ["sandbox", "oci"])
async def test_what_is_lost_with_a_node_and_nothing_in_a_move(
    tmp_path: Path, fast: trio.testing.MockClock, runtime: str
) -> None:
    """[C15] [C16]"""
    needs_sandbox()
    drivers = {
        name: Several((SandboxDriver(tmp_path / f"run-{name}"), OciDriver(tmp_path / f"oci-{name}")))
        for name in NODES
    }
    for driver in drivers.values():
        found = (await trio.to_thread.run_sync(driver.fingerprint)).of(runtime)
        if not (found.usable and found.enforces("volume-copies")):
            pytest.skip(f"the driver of {runtime} cannot copy volumes here")
    made, words = of(runtime)
    data = VolumeTemplate(name="data", path="/data", size_bytes=16 * MIB, rpo_s=RPO_S)
    writer = service(
        replicas=1,
        command=("/bin/busybox", "sh", "-c", SCRIPT),
        volumes=(data,),
        placement=Placement(distinct="none"),
        recheck_s=60,
        **words,
    )
    async with fleet(tmp_path, *NODES, timeout_ms=4_000, idle_ms=1_000, executors=False) as net:
        peer = await net.net.start("bot")
        agent = Agent(peer, people.BOT, tmp_path / "secrets")
        peer.handlers.methods.update(agent.methods())
        await net.net.nursery.start(agent.run)
        net.share("validator0", made)
        for name in NODES:
            shelf = VolumeShelf({"ssd": Room(tmp_path / f"volumes-{name}", 64 * MIB)})
            net.execute(name, drivers[name], volumes=shelf)
        lines = Lines(net, await net.approved(writer))
        first = await lines.running()
        copier = net.executors[first]._tenures[lines.deployment, SLOT].copier
        since_s = trio.current_time()
        await until(lambda: (copier._newest_s or 0) > since_s + RPO_S, 900)  # some copies, each with more
        assert copier.age_s <= RPO_S, copier.told
        await until(lambda: copier.age_s > RPO_S / 2 - 6, 900)  # a bad moment: the next copy is almost due

        wrote = lines.of(first, "wrote")
        await net.crash(first)
        second = await lines.running(first)
        began = lines.of(second, "began")
        lost_s = (wrote - began) * RATE
        print(f"lost with the node: {lost_s:.0f} s of writing, of an rpo of {RPO_S} s")
        assert began > 0 and lost_s <= RPO_S

        # A move: the last line is in the last copy.
        net.executors[second]._claim_some = lambda _: None  # type: ignore[method-assign]
        tenure = net.executors[second]._tenures[lines.deployment, SLOT]
        await net.decide(lines.deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: net.slot(lines.deployment, SLOT).holder == b"", 900)
        last = newest(tenure.log_tail(1 << 16).data.decode(), "wrote")
        await net.decide(lines.deployment, people.BUDGET, "budget")
        third = await lines.running(second)
        # It may have been stopped between its two echos: then it has one line more than it said.
        assert last <= lines.of(third, "began") <= last + 1
    for driver in drivers.values():
        assert await driver.recover() == []
