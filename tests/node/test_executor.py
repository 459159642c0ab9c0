"""The executor in whole networks, with a driver in memory: claims, receipts, stops, what it refuses."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from ledger import transactions as t
from ledger.codec import decode
from ledger.documents import open_document, sign_receipt
from ledger.limits import CHUNK_BYTES
from ledger.manifests.types import Restart
from ledger.predicates import ReceiptPredicate, Usage
from ledger.records import Deployment, Node, ReceiptRecord, key_deployment, key_node, key_open
from ledger.state import Overlay, read, write
from node.errors import ArtifactFull
from node.executor.decide import backoff_s
from node.executor.drivers.base import Usage as DriverUsage
from node.executor.verify import Verdict
from node.executor.watch import Watch
from node.executor.workshop import Workshop
from node.files.artifact_wire import CHUNK
from node.peer import Peer
from tests.ledger import world as people
from tests.node.executor_fixture import PROGRAM, Fleet, artifact_of, fleet, job, read_result, service
from tests.node.network_fixture import until


def receipts(net: Fleet, deployment: bytes, slot: str) -> list[ReceiptPredicate]:
    found = net.first.state.scan(b"receipt/" + deployment + b"/" + slot.encode() + b"/")
    records = [decode(ReceiptRecord, data) for _, data in list(found)]
    return [open_document(record.envelope, "receipt").predicate for record in records]


async def no_recheck(watch: Watch) -> None:
    """In place of a watch's re-checks: a job that ends before the first."""
    await trio.sleep_forever()


async def test_two_replicas_run_on_two_farms_and_tell_what_they_verified(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", "node2", "node3") as net:
        deployment = await net.approved(service())
        await net.until_statuses(deployment, "running", "running")
        holders = [net.name_of(slot.holder) for slot in net.slots(deployment)]
        nodes = [read(net.first.state, Node, key_node(slot.holder)) for slot in net.slots(deployment)]
        assert {node.farm for node in nodes if node} == {"farm-a", "farm-b"}
        assert net.deployment(deployment).status == "active"
        for slot, holder in zip(net.slots(deployment), holders, strict=True):
            told = receipts(net, deployment, slot.name)
            assert [r.status for r in told[:3]] == ["fetching", "verified", "running"]
            assert told[1].artifacts == {"/bin/program": artifact_of(PROGRAM).sha256}
            assert len(told[1].approvals) == 2
            assert told[1].isolation == {"landlock": "not tried", "namespaces": "enforced"}
            task = net.drivers[holder].running[0]
            assert slot.endpoints == {"http": f"127.0.0.1:{task.ports['http'][1]}"}
            assert task.task_id == f"{deployment.hex()[:32]}.{slot.name.replace('/', '.')}.1"
            assert net.exchanges[holder].store.has(artifact_of(PROGRAM).sha256)
            status = net.executors[holder].status().slots[0]
            assert (status.phase, status.fetch[0].bytes_done) == ("running", len(PROGRAM))
        await until(
            lambda: all(r[-1].checks >= 1 for s in ("web/0", "web/1") if (r := receipts(net, deployment, s)))
        )


async def test_a_job_ends_with_results_that_its_consumer_fetches_by_digest(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(job())
        await until(lambda: bool(net.drivers["node1"].running))
        task = net.drivers["node1"].running[0]
        task.results["/result/words.tsv"] = b"the\t42\n"
        task.end(0)
        await net.until_statuses(deployment, "succeeded")
        assert net.deployment(deployment).status == "completed"
        last = receipts(net, deployment, "mine/0")[-1]
        assert (last.exit_code, last.results["/result/words.tsv"].size_bytes) == (0, 7)
        assert last.usage == Usage(cpu_ms=100, memory_bytes_max=1 << 20)
        assert await read_result(net, deployment, "mine/0") == b"the\t42\n"
        assert not net.drivers["node1"].running
        await until(lambda: not net.executors["node1"].status().slots)


async def test_a_job_that_ends_at_once_still_tells_of_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.executor.watch.Watch._recheck", no_recheck)
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(job(results=()))
        await until(lambda: bool(net.drivers["node1"].running))
        net.drivers["node1"].running[0].end(0)
        await net.until_statuses(deployment, "succeeded")
        assert receipts(net, deployment, "mine/0")[-1].checks == 1


async def test_a_job_whose_bytes_drifted_before_its_end_gives_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.executor.watch.Watch._recheck", no_recheck)
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(job())
        await until(lambda: bool(net.drivers["node1"].running))
        task = net.drivers["node1"].running[0]
        task.results["/result/words.tsv"] = b"a lie"
        task.drift = "b"
        task.end(0)
        await until(lambda: receipts(net, deployment, "mine/0")[-1].status == "quarantined")
        told = receipts(net, deployment, "mine/0")[-1]
        assert (told.detail, told.results) == ("bytes drifted: /bin/program: b, verified was a", {})


async def test_a_job_that_outlives_its_time_limit_is_stopped_and_has_failed(tmp_path: Path) -> None:
    """[E6] The holder's own side; what is billed, the ledger bounds."""
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(job(time_limit_s=1, restart=Restart(attempts=0)))
        await until(lambda: bool(net.drivers["node1"].running))
        await until(lambda: net.deployment(deployment).status == "failed")
        told = receipts(net, deployment, "mine/0")[-1]
        assert (told.status, told.detail) == ("failed", "its time limit of 1 s is over")
        assert not net.drivers["node1"].running


async def test_usage_of_all_runs_of_a_term_is_told(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1))
        driver = net.drivers["node1"]
        await net.until_statuses(deployment, "running")
        driver.running[0].used = DriverUsage(700, 5 << 20)
        driver.running[0].end(3)
        await until(lambda: len(driver.tasks) == 2 and bool(driver.running))
        await until(lambda: receipts(net, deployment, "web/0")[-1].usage.cpu_ms == 800)
        told = receipts(net, deployment, "web/0")[-1]
        assert (told.status, told.usage.memory_bytes_max) == ("running", 5 << 20)
        status = net.executors["node1"].status().slots[0]
        assert (status.cpu_ms, status.memory_bytes_max) == (800, 5 << 20)
        await net.do(people.CONSUMER, t.CancelDeployment(deployment, "enough"))
        await until(lambda: receipts(net, deployment, "web/0")[-1].status == "released")
        assert receipts(net, deployment, "web/0")[-1].usage == told.usage


async def test_a_withdrawn_approval_stops_what_runs_and_a_new_one_starts_it_again(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1, recheck_s=3_600))  # the block alone tells
        await net.until_statuses(deployment, "running")
        driver = net.drivers["node1"]
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: not driver.running)
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        assert net.deployment(deployment).status == "awaiting_approval"
        assert receipts(net, deployment, "web/0")[-1].status == "released"
        node = read(net.first.state, Node, key_node(net.net.peers["node1"].node_key.public))
        assert node is not None and node.used_cpu_millis == 0
        await net.decide(deployment, people.BUDGET, "budget")
        await net.until_statuses(deployment, "running")
        assert net.slot(deployment, "web/0").term == 2
        assert len(driver.tasks) == 2


async def test_what_lost_its_approval_runs_on_for_as_long_as_the_contract_says(tmp_path: Path) -> None:
    """[D8] Leases are renewed and bytes checked; then it stops. Approved again, it starts anew."""
    async with fleet(tmp_path, "node1") as net:
        policies = msgspec.structs.replace(people.POLICIES, run_on_s=4)
        deployment = await net.approved(service(replicas=1, recheck_s=1), policies=policies)
        await net.until_statuses(deployment, "running")
        driver = net.drivers["node1"]
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        lost_ms = net.deployment(deployment).lost_ms
        await until(lambda: net.first.time_ms >= lost_ms + 2_000)
        assert driver.running
        assert (net.deployment(deployment).status, net.slot(deployment, "web/0").term) == ("active", 1)
        await until(lambda: not driver.running)
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        assert net.deployment(deployment).status == "awaiting_approval"
        assert receipts(net, deployment, "web/0")[-1].status == "released"
        await net.decide(deployment, people.BUDGET, "budget")
        await net.until_statuses(deployment, "running")
        assert net.slot(deployment, "web/0").term == 2


async def test_what_runs_is_never_dropped_however_short_room_is(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1))
        await net.until_statuses(deployment, "running")
        store, digest = net.exchanges["node1"].store, artifact_of(PROGRAM).sha256
        assert [entry.in_use for entry in store.entries() if entry.sha256 == digest] == [True]
        store.size_bytes_max = len(PROGRAM)
        with pytest.raises(ArtifactFull):
            store.make_room(1)
        assert store.has(digest)
        await net.do(people.CONSUMER, t.CancelDeployment(deployment, "enough"))
        await until(lambda: not net.executors["node1"].status().slots)
        store.make_room(1)
        assert not store.has(digest)


async def test_a_cancelled_deployment_stops(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1))
        await net.until_statuses(deployment, "running")
        await net.do(people.CONSUMER, t.CancelDeployment(deployment, "enough"))
        await until(lambda: not net.drivers["node1"].running)
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        await until(lambda: bool(net.executors["node1"].status().ended))
        assert "cancelled: enough" in net.executors["node1"].status().ended[0].detail


async def test_drifted_bytes_are_stopped_and_the_slot_is_quarantined(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", "node2") as net:
        deployment = await net.approved(service(replicas=1, placement=people.Placement(distinct="none")))
        await net.until_statuses(deployment, "running")
        first = net.name_of(net.slot(deployment, "web/0").holder)
        task = net.drivers[first].running[0]
        task.drift = "b"
        await until(lambda: any(r.status == "quarantined" for r in receipts(net, deployment, "web/0")))
        assert task.stopped_s is not None
        told = next(r for r in receipts(net, deployment, "web/0") if r.status == "quarantined")
        assert told.detail == "bytes drifted: /bin/program: b, verified was a"
        await net.until_statuses(deployment, "running")
        second = net.slot(deployment, "web/0")
        assert (second.term, second.attempts) == (2, 1)
        assert net.name_of(second.holder) != first


async def test_what_drifted_here_is_never_claimed_here_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.executor.executor.COOL_FAILED_S", 0.1)
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1, placement=people.Placement(distinct="none")))
        await net.until_statuses(deployment, "running")
        executor, driver = net.executors["node1"], net.drivers["node1"]
        driver.running[0].drift = "b\udcff"
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        said = executor.status
        await until(lambda: any("in quarantine: bytes drifted" in r for r in said().refused.values()))
        height = net.first.height
        await until(lambda: net.first.height > height + 3)
        assert not driver.running and len(driver.tasks) == 1
        record = executor._quarantine.all()[0]
        assert executor._quarantine.release(record.manifest)
        await net.until_statuses(deployment, "running")


async def test_a_service_that_ends_is_restarted_and_given_up_after_its_attempts(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1))  # one restart per term, one more term
        driver = net.drivers["node1"]
        await net.until_statuses(deployment, "running")
        driver.running[0].end(3)
        await until(lambda: len(driver.tasks) == 2 and bool(driver.running))
        ended, again = driver.tasks
        assert ended.stopped_s is not None and again.started_s - ended.stopped_s >= backoff_s(1)
        assert net.slot(deployment, "web/0").term == 1
        await until(lambda: net.executors["node1"].status().slots[0].phase == "running")
        driver.running[0].end(3)
        await until(lambda: net.slot(deployment, "web/0").attempts == 1)
        last = receipts(net, deployment, "web/0")[-1]
        assert last.status == "failed"
        assert last.detail == "ended with code 3; 2 runs"


def test_each_restart_waits_twice_as_long_as_the_one_before_up_to_half_a_minute() -> None:
    assert [backoff_s(restarts) for restarts in (1, 2, 3, 4, 5, 6, 1_000)] == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("path", ["/index.html", "/é"])
async def test_a_service_that_never_answers_is_never_called_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Also where HTTP cannot even say the path: a contract is no way to end a node."""
    monkeypatch.setattr("node.executor.watch.FIRST_HEALTHY_S", 0.5)
    health = people.Health(port="http", http_path=path, interval_s=1, failures=1)
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1, health=health))
        driver = net.drivers["node1"]
        await until(lambda: len(driver.tasks) == 2)  # restarted once, as it never became healthy
        assert net.statuses(deployment) == ["verified"]
        assert driver.tasks[0].stopped_s is not None
        assert all(told.status != "running" for told in receipts(net, deployment, "web/0"))


async def test_a_workload_whose_names_are_no_text_does_not_end_the_node(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1))
        await net.until_statuses(deployment, "running")
        net.drivers["node1"].running[0].drift = "\udcff"  # how Python shows a byte that is no UTF-8
        await until(lambda: any(r.status == "quarantined" for r in receipts(net, deployment, "web/0")))


async def test_a_node_claims_nothing_that_it_cannot_have_and_says_why(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        needs = people.ResourcesTemplate(
            cpu_millis=8_000, memory_bytes=64 << 20, disk_bytes=16 << 20, pids=16
        )
        big = await net.approved(service(replicas=1, resources=needs))
        refused = net.executors["node1"].status
        await until(lambda: refused().refused.get(f"{big.hex()}/web/0", "").startswith("claim.capacity"))
        far = await net.approved(
            service(replicas=1, placement=people.Placement(countries=("JP",))), version="1.0.1"
        )
        await until(lambda: refused().refused.get(f"{far.hex()}/web/0", "").startswith("claim.country"))
        huge = artifact_of(PROGRAM, size_bytes=2 << 30)
        large = await net.approved(service(replicas=1, artifacts=(huge,)), version="1.0.2")
        await until(lambda: refused().refused.get(f"{large.hex()}/web/0", "").startswith("driver: "))
        assert net.drivers["node1"].tasks == []
        assert {s.term for d in (big, far, large) for s in net.slots(d)} == {0}


async def test_the_offer_is_posted_kept_and_a_withdrawal_is_respected(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        node_key = net.net.peers["node1"].node_key

        def node() -> Node:
            found = read(net.first.state, Node, key_node(node_key.public))
            assert found is not None
            return found

        await until(lambda: node().valid_until_ms > 0)
        assert node().runtimes == ("sandbox",)
        assert node().attributes == {"landlock": "not tried", "namespaces": "enforced"}
        assert node().address.endswith(net.net.peers["node1"].network.peer_id)
        await net.do(node_key, t.WithdrawOffer())
        deployment = await net.approved(service(replicas=1))
        key_text = f"{deployment.hex()}/web/0"
        await until(
            lambda: net.executors["node1"].status().refused.get(key_text, "").startswith("claim.offer")
        )
        assert node().valid_until_ms == 0


async def test_a_stopped_node_ends_its_workloads_and_gives_its_slots_back(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1))
        await net.until_statuses(deployment, "running")
        net.scopes["node1"].cancel()
        await until(lambda: not net.drivers["node1"].running)
        await net.until_statuses(deployment, "open")
        assert receipts(net, deployment, "web/0")[-1].detail == "the node stops"


async def test_after_a_restart_leftovers_are_killed_before_anything_is_claimed(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1))
        await net.until_statuses(deployment, "running")
        driver = net.drivers["node1"]
        await net.crash("node1")
        driver.calls.clear()
        driver.leftovers = [driver.tasks[0].task_id]
        await net.net.start("node1")
        net.execute("node1")
        await until(lambda: "start" in driver.calls)
        assert driver.calls.index("recover") < driver.calls.index("start")
        assert driver.leftovers == []
        await net.until_statuses(deployment, "running")
        assert (
            net.slot(deployment, "web/0").term == 2
        )  # given back at once, claimed anew: no lease was broken
        told = [r for r in receipts(net, deployment, "web/0") if r.status == "released"]
        assert told[0].term == 1


async def test_the_ledger_refuses_a_report_of_a_stale_term(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1))
        await net.until_statuses(deployment, "running")
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        await net.decide(deployment, people.BUDGET, "budget")
        await net.until_statuses(deployment, "running")
        node_key = net.net.peers["node1"].node_key
        stale = receipts(net, deployment, "web/0")[2]
        assert (stale.status, stale.term) == ("running", 1)
        envelope = sign_receipt(node_key, stale, net.deployment(deployment).manifest)
        peer = net.first
        tx = t.Tx(peer.chain_id, node_key.public, peer.height + 100, b"stale...", t.Report(envelope))
        outcome = await peer.wait_final(await peer.submit(t.sign_tx(node_key, tx)), 20)
        assert outcome.receipt.rule == "report.stale_term"


class Deceived:
    """A peer whose committed state says "approved" of a deployment that nobody approved."""

    def __init__(self, peer: Peer, deployment: bytes) -> None:
        self._peer = peer
        self._deployment = deployment

    def __getattr__(self, name: str) -> object:
        return getattr(self._peer, name)

    @property
    def state(self) -> Overlay:
        forged = Overlay(self._peer.state)
        record = read(forged, Deployment, key_deployment(self._deployment))
        assert record is not None
        if record.status == "awaiting_approval":
            approved = msgspec.structs.replace(record, status="approved", approved_ms=1)
            write(forged, key_deployment(self._deployment), approved)
            for name in record.slots:
                forged.put(key_open(self._deployment, name), b"")
        return forged


@pytest.mark.parametrize("proves", [True, False])
async def test_a_forged_status_moves_no_node_that_proves_the_approvals_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proves: bool
) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        peer = net.net.peers["node1"]
        deployment = await net.order(people.contract(service(replicas=1), budget=50_000_000))
        await net.decide(deployment, people.EXPERT, "it-expert")  # one of the two that are asked
        await until(lambda: peer.state.get(key_deployment(deployment)) is not None)
        if not proves:  # the check itself is checked: without it, the node does claim
            monkeypatch.setattr(Workshop, "prove", lambda shop, which, order, **_: Verdict(True, ()))
        net.net.peers["node1"] = Deceived(peer, deployment)  # type: ignore[assignment]
        executor = net.execute("node1")
        key_text = f"{deployment.hex()}/web/0"
        wanted = "not proved: needs 1 of role budget" if proves else "claim.not_open"
        await until(lambda: executor.status().refused.get(key_text, "").startswith(wanted))
        claims = [s for s in peer.store.history(deployment) if isinstance(body_of(peer, s), t.Claim)]
        assert claims == []
        assert net.drivers["node1"].tasks == []


def body_of(peer: Peer, tx: bytes) -> t.Body:
    stored = peer.store.tx(tx)
    assert stored is not None
    return t.decode_tx(stored.raw, peer.chain_id).tx.body


async def test_a_source_that_tampers_is_dropped_and_the_fetch_completes_from_another(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        net.share("validator1", PROGRAM)
        lied = 0

        async def lie(peer_id: str, body: bytes) -> bytes:
            nonlocal lied
            lied += 1
            await trio.lowlevel.checkpoint()
            return bytes(CHUNK_BYTES)

        honest = net.first.handlers.methods[CHUNK]

        async def late(peer_id: str, body: bytes) -> bytes:
            while not lied:
                await trio.sleep(0.01)
            return await honest(peer_id, body)

        net.net.peers["validator1"].handlers.methods[CHUNK] = lie
        net.first.handlers.methods[CHUNK] = late
        deployment = await net.approved(service(replicas=1))
        await net.until_statuses(deployment, "running")
        fetch = net.executors["node1"].status().slots[0].fetch[0]
        assert fetch.dropped == {net.net.peers["validator1"].network.peer_id: "artifact.chunk"}
        assert fetch.bytes_done == len(PROGRAM)
