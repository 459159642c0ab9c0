"""Replicas that must agree, on real executors: commit, restart, tell; the odd one out and the silent one."""

from __future__ import annotations

from pathlib import Path

import trio

from ledger.codec import decode
from ledger.commitments import commitment_of
from ledger.manifests.types import Placement
from ledger.predicates import ReceiptPredicate
from ledger.trade_records import Penalty
from node.executor.reveals import Kept, Reveals
from tests.ledger.world import CONSUMER
from tests.node.executor_fixture import Fleet, fleet, job, receipts_of
from tests.node.network_fixture import until

PATH = "/result/words.tsv"
NAMES = ("node1", "node2", "node3")


async def running(net: Fleet, **changes: object) -> bytes:
    """A job on three nodes, two of which must agree."""
    deployment = await net.approved(job(replicas=3, agree=2, placement=Placement(), **changes))
    await until(lambda: all(net.drivers[name].running for name in NAMES))
    return deployment


def end(net: Fleet, name: str, said: bytes) -> None:
    task = net.drivers[name].running[0]
    task.results[PATH] = said
    task.end(0)


def slot_of(net: Fleet, deployment: bytes, name: str) -> str:
    """The slot whose newest term this node had."""
    key = net.net.peers[name].node_key.public.hex()
    return next(
        slot.name
        for slot in net.slots(deployment)
        if any(receipt.node == key for receipt in receipts_of(net, deployment, slot.name))
    )


async def test_three_run_two_agree_and_the_third_pays(tmp_path: Path) -> None:
    async with fleet(tmp_path, *NAMES) as net:
        deployment = await running(net)
        end(net, "node1", b"42")
        odd = slot_of(net, deployment, "node1")
        await until(lambda: net.slot(deployment, odd).status == "committed")
        assert net.slot(deployment, odd).results == {}, "told before the others have committed"
        last = receipts_of(net, deployment, odd)[-1]
        assert (last.status, last.exit_code, last.results, len(last.commitment)) == ("committed", 0, {}, 64)
        end(net, "node2", b"41")
        end(net, "node3", b"41")
        await until(lambda: net.deployment(deployment).status == "completed")
        assert net.statuses(deployment) == ["succeeded"] * 3
        told = receipts_of(net, deployment, odd)[-1]
        results = {path: file.sha256 for path, file in told.results.items()}
        place = (told.chain_id, deployment, odd, told.term, bytes.fromhex(told.node))
        assert commitment_of(*place, bytes.fromhex(told.nonce), results).hex() == last.commitment
        found = [decode(Penalty, data) for _, data in net.first.state.scan(b"penalty/" + deployment)]
        assert [(p.slot, p.payee) for p in found] == [(odd, CONSUMER.public)]
        for name in NAMES:
            shelf = Reveals(net.net.peers[name].home / "reveals")
            await until(lambda shelf=shelf: not shelf.all())  # type: ignore[misc]


async def test_a_node_that_restarts_tells_what_it_committed_to(tmp_path: Path) -> None:
    async with fleet(tmp_path, *NAMES) as net:
        deployment = await running(net)
        end(net, "node1", b"41")
        slot = slot_of(net, deployment, "node1")
        await until(lambda: net.slot(deployment, slot).status == "committed")
        net.scopes.pop("node1").cancel()
        await net.gone["node1"].wait()
        end(net, "node2", b"41")
        end(net, "node3", b"42")
        with trio.move_on_after(3):
            await until(lambda: net.deployment(deployment).status == "completed")
        assert net.slot(deployment, slot).status == "committed"
        net.execute("node1")
        await until(lambda: net.deployment(deployment).status == "completed")
        assert net.slot(deployment, slot).status == "succeeded"


def test_what_waits_is_on_disk_and_a_broken_file_is_passed_over(tmp_path: Path) -> None:
    shelf = Reveals(tmp_path / "reveals")
    assert shelf.all() == []
    fields = {"chain_id": "c", "deployment": "11" * 32, "contract": "22" * 32, "node": "33" * 32}
    kept = [
        Kept("44" * 32, ReceiptPredicate(**fields, slot=slot, term=1, status="succeeded", time_ms=5))  # type: ignore[arg-type]
        for slot in ("a/0", "a/1")
    ]
    for one in kept:
        shelf.keep(one)
    (tmp_path / "reveals" / "x.reveal").write_bytes(b"{")
    assert shelf.all() == kept
    shelf.drop(kept[0])
    shelf.drop(kept[0])
    assert shelf.all() == kept[1:]
