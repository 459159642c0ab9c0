"""Nodes follow an update: they prove it themselves, change over one after the other, and go back when it
fails."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from msgspec.structs import replace

from ledger.codec import decode
from ledger.documents import sign_approval
from ledger.manifests.types import Placement, Restart, UpdateStrategy
from ledger.predicates import ApprovalPredicate
from ledger.records import ApprovalRecord, key_approval, key_deployment, key_slot
from ledger.state import Overlay, write
from ledger.trade_records import key_update
from node.executor.decide import standing
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.verify import Case, verify
from tests.executor.conftest import BUSYBOX, make_tar, needs_sandbox
from tests.ledger import world as people
from tests.node.executor_fixture import Fleet, artifact_of, fleet, service
from tests.node.network_fixture import CHAIN_ID, until

CAREFUL = UpdateStrategy(canary=1, min_healthy_s=1, deadline_s=60)


async def get(endpoint: str, path: str) -> bytes:
    """One HTTP answer, whole; empty when nobody answers."""
    parts = urlsplit(f"//{endpoint}")
    assert parts.hostname is not None and parts.port is not None
    try:
        async with await trio.open_tcp_stream(parts.hostname, parts.port) as stream:
            await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n".encode())
            return b"".join([piece async for piece in stream])
    except (OSError, trio.BrokenResourceError):
        return b""


def endpoints(net: Fleet, deployment: bytes) -> list[str]:
    """Where the deployment is served now."""
    return [slot.endpoints["http"] for slot in net.slots(deployment) if "http" in slot.endpoints]


def test_who_stops_for_an_update_says_so() -> None:
    """It said "the deployment is active", which is no reason."""
    world = people.World()
    world.add_nodes()
    deployment, node = world.running(people.contract()), people.NODES[0].public
    slot, record = world.slot(deployment, "web/0"), world.deployment(deployment)
    for next_, status, words in (
        (bytes(32), "active", "update 3 changes it over"),
        (b"", "active", "update 3 leaves it out"),
        (slot.manifest, "active", "the ledger has released it"),
        (bytes(32), "cancelled", "the deployment is cancelled"),
    ):
        state = Overlay(world.state)
        write(state, key_slot(deployment, "web/0"), replace(slot, status="released", next=next_))
        write(state, key_deployment(deployment), replace(record, updates=3, status=status))
        assert standing(state, node, (deployment, "web/0"), 1) == ("stop", words)
    assert standing(world.state, node, (deployment, "web/0"), 1) == ("hold", "")


async def test_requests_flow_while_a_service_is_updated(tmp_path: Path) -> None:
    """Two replicas in real sandboxes: at every moment one of them answers, first with the old page, in the
    end with the new one."""
    needs_sandbox()
    drivers = {name: SandboxDriver(tmp_path / f"run-{name}") for name in ("node1", "node2")}
    if not drivers["node1"].fingerprint().usable:
        pytest.skip("the sandbox driver is not usable here")
    busybox, old, new = BUSYBOX.read_bytes(), b"<p>old page</p>", b"<p>new page</p>"
    trees = {page: make_tar({"index.html": page}) for page in (old, new)}

    def site(page: bytes) -> object:
        return service(
            artifacts=(
                artifact_of(busybox, "/bin/busybox"),
                artifact_of(trees[page], "/www", kind="tree", executable=False),
            ),
            command=("/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"),
            health=people.Health(port="http", http_path="/index.html", interval_s=1),
            update=CAREFUL,
        )

    async with fleet(tmp_path, "node1", "node2", executors=False) as net:
        net.share("validator0", busybox, *trees.values())
        for name, driver in drivers.items():
            net.execute(name, driver)
        deployment = await net.approved(site(old))
        await until(lambda: net.statuses(deployment) == ["running", "running"], 60)
        answers: list[bytes] = []
        gaps = 0

        async def ask() -> None:
            nonlocal gaps
            while True:
                found = [await get(at, "/index.html") for at in endpoints(net, deployment)]
                pages = [page for page in (old, new) for answer in found if answer.endswith(page)]
                answers.extend(pages)
                gaps += not pages
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            source = people.contract(site(new), budget=50_000_000, version="1.1.0")
            await net.update(deployment, source)
            await until(lambda: net.last_update(deployment).status == "done", 120)
            await until(lambda: bool(answers) and answers[-1] == new)
            nursery.cancel_scope.cancel()
        assert net.statuses(deployment) == ["running", "running"]
        assert [slot.term for slot in net.slots(deployment)] == [2, 2]
        assert gaps == 0, f"{gaps} times nobody answered, of {len(answers)}"
        assert old in answers and new in answers
        for at in endpoints(net, deployment):
            assert (await get(at, "/index.html")).endswith(new)
        for name in drivers:
            net.scopes[name].cancel()
            await net.gone[name].wait()


async def test_a_failing_canary_is_reverted_and_the_node_runs_the_former_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.executor.executor.COOL_FAILED_S", 0.5)  # the spare node is the one that failed
    async with fleet(tmp_path, "node1", "node2") as net:
        deployment = await net.approved(service(update=CAREFUL))
        await net.until_statuses(deployment, "running", "running")
        worse = service(command=("/bin/program", "worse"), update=CAREFUL, restart=Restart(attempts=0))
        await net.update(deployment, people.contract(worse, budget=50_000_000, version="1.1.0"))

        def bad() -> list[object]:
            return [
                task
                for driver in net.drivers.values()
                for task in driver.running
                if task.spec.command[1] == "worse"
            ]

        await until(lambda: bool(bad()))
        assert len(bad()) == 1
        bad()[0].end(1)  # type: ignore[attr-defined]
        await until(lambda: net.last_update(deployment).status == "reverted")
        await net.until_statuses(deployment, "running", "running", timeout_s=60)
        assert not bad()
        assert net.deployment(deployment).generation == 0


async def test_what_an_update_leaves_as_it_is_runs_on(tmp_path: Path) -> None:
    """A third replica beside two that run: these keep their terms, and are proved by the new manifest from
    then on."""
    async with fleet(tmp_path, "node1", "node2") as net:
        anywhere = Placement(distinct="none")
        deployment = await net.approved(service(update=CAREFUL, placement=anywhere))
        await net.until_statuses(deployment, "running", "running")
        more = service(update=CAREFUL, placement=anywhere, replicas=3)
        await net.update(deployment, people.contract(more, budget=50_000_000, version="1.1.0"))
        await until(lambda: net.last_update(deployment).status == "done", 60)
        checks = [slot.receipts for slot in net.slots(deployment)[:2]]
        tasks = [task for driver in net.drivers.values() for task in driver.running]
        await trio.lowlevel.checkpoint()
        executors = list(net.executors.values())
        before = {s.slot: s.checks for e in executors for s in e.status().slots}
        await until(
            lambda: all(s.checks >= before.get(s.slot, 0) + 2 for e in executors for s in e.status().slots),
            30,
        )
        assert [slot.term for slot in net.slots(deployment)] == [1, 1, 1]
        assert all(task.stopped_s is None for task in tasks), checks
        # The approvals of the update are what they run by now: without one of them they stop.
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: all(task.stopped_s is not None for task in tasks))


async def test_a_node_proves_the_update_itself(tmp_path: Path) -> None:
    """Of a state that lies about an update the node runs nothing: each lie with the reason it gives."""
    async with fleet(tmp_path, "node1", "node2", executors=False) as net:
        deployment = await net.approved(service(update=CAREFUL))
        source = service(command=("/bin/program", "next"), update=CAREFUL)
        await net.update(deployment, people.contract(source, budget=50_000_000, version="1.1.0"))
        peer, update = net.first, net.last_update(deployment)
        assert update.status == "rolling"
        stored = {id_: peer.store.tx(id_) for id_ in (deployment, update.tx)}
        order, wish = (found.raw for found in stored.values() if found is not None)

        def verdict(state: object = None, **changes: object) -> str:
            fields: dict[str, object] = {
                "state": state or peer.state,
                "chain_id": CHAIN_ID,
                "deployment": deployment,
                "order": order,
                "now_ms": peer.time_ms,
                "manifest": update.manifest,
                "update": wish,
            }
            return "; ".join(verify(Case(**(fields | changes))).reasons)  # type: ignore[arg-type]

        assert verdict() == ""
        assert verdict(manifest=net.deployment(deployment).manifest, update=None) == ""
        assert "verify.update" in verdict(update=None)
        assert "verify.update" in verdict(update=order)
        assert "verify.manifest" in verdict(manifest=bytes(32))
        key = key_approval(deployment, "deploy", people.BUDGET.public, 1)
        held = decode(ApprovalRecord, peer.state.get(key) or b"")
        for number, reason in ((0, "another update"), (2, "another update")):
            predicate = ApprovalPredicate(
                chain_id=CHAIN_ID,
                deployment=deployment.hex(),
                act="update",
                role="budget",
                decision="granted",
                update=number,
            )
            lie = Overlay(peer.state)
            write(lie, key, replace(held, envelope=sign_approval(people.BUDGET, predicate, update.manifest)))
            assert reason in verdict(lie)
        lie = Overlay(peer.state)
        lie.delete(key)
        assert "role budget" in verdict(lie)
        lie = Overlay(peer.state)
        write(lie, key_update(deployment, 1), replace(update, former=update.manifest))
        assert "verify.update" in verdict(lie)
