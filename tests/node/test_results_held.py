"""Results: opened by the consumer alone; and out of everybody's reach where they are held until a release."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from ledger.codec import decode, encode
from ledger.documents import sign_approval
from ledger.errors import Refused
from ledger.keys import Key
from ledger.manifests.types import Placement, Policies, Rule, Workload
from ledger.predicates import ApprovalPredicate, ResultFile
from ledger.records import (
    ApprovalRecord,
    Deployment,
    Slot,
    key_approval,
    key_deployment,
    key_slot,
)
from ledger.transactions import CancelDeployment
from node.executor.errors import ResultRefused
from node.executor.held import HeldResults
from node.executor.verify import Case, Verdict
from node.executor.verify_release import verify_release
from node.files.exchange import Wanted
from node.sealed.sealed_results import SALT_BYTES, open_result, salt_for, seal_result
from node.sealed.sealing import unseal
from tests.executor.conftest import found_below
from tests.ledger import world as people
from tests.ledger.test_release import HELD, mining, work
from tests.ledger.world import BUDGET, CHAIN_ID, CONSUMER, LEGAL, STRANGER, World
from tests.node.executor_fixture import Fleet, fleet, job, read_result, receipts_of
from tests.node.network_fixture import until

SAID = b"the patient's name\t42\n"
PATH = "/result/words.tsv"


async def finished(net: Fleet, policies: Policies = HELD) -> tuple[bytes, ResultFile]:
    """A job that ended, and what its receipt tells of its result."""
    deployment = await net.approved(job(), policies=policies)
    await until(lambda: bool(net.drivers["node1"].running))
    task = net.drivers["node1"].running[0]
    task.results[PATH] = SAID
    task.end(0)
    await net.until_statuses(deployment, "succeeded")
    return deployment, receipts_of(net, deployment, "mine/0")[-1].results[PATH]


async def release(net: Fleet, deployment: bytes) -> None:
    for who, role in ((LEGAL, "legal"), (BUDGET, "budget")):
        await net.decide(deployment, who, role, act="release")
    assert net.deployment(deployment).released_ms


async def nobody_has(net: Fleet, digest: str, size_bytes: int) -> None:
    """No peer gives bytes of this digest to another."""
    with trio.move_on_after(1) as waiting:
        await net.exchanges["validator0"].fetch(Wanted(digest, size_bytes, None))
    assert waiting.cancelled_caught, "somebody had it"


async def test_what_anybody_fetches_by_its_digest_the_consumer_alone_opens(tmp_path: Path) -> None:
    """[Y6] Without a policy of release: the sealed form is there at once, the content nowhere."""
    async with fleet(tmp_path, "node1") as net:
        deployment, told = await finished(net, people.POLICIES)
        box = (
            await net.exchanges["validator0"].fetch(Wanted(told.sealed, told.sealed_bytes, None))
        ).read_bytes()
        assert SAID not in box
        node = net.net.peers["node1"].node_key
        for other in (STRANGER, people.BOT, people.AUTHOR, people.EXPERT, people.FARMERS[0], node):
            with pytest.raises(Refused, match=r"seal\.not_ours"):
                open_result(other, told, box)
        for digest in (told.sha256, hashlib.sha256(SAID).hexdigest()):
            await nobody_has(net, digest, told.size_bytes)
        assert told.sha256 != hashlib.sha256(SAID).hexdigest(), "what can be guessed could be confirmed"
        assert not found_below(tmp_path, SAID), "in the clear"
        assert not HeldResults(net.net.peers["node1"].home / "held").deployments()
        assert kept_as_result(net, told)
        assert await read_result(net, deployment, "mine/0") == SAID


def kept_as_result(net: Fleet, told: ResultFile) -> bool:
    """Marked as a result: it makes room after its time, as no file does that somebody gave."""
    return (net.exchanges["node1"].store.folder / f"{told.sealed}.result").exists()


async def test_nobody_gets_them_before_the_release_and_the_consumer_alone_after_it(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment, told = await finished(net)
        store, asker = net.exchanges["node1"].store, net.exchanges["validator0"]
        home = net.net.peers["node1"].home
        for digest, size in ((told.sha256, told.size_bytes), (told.sealed, told.sealed_bytes)):
            assert not store.has(digest)
            await nobody_has(net, digest, size)
        assert told.sha256 != hashlib.sha256(SAID).hexdigest(), "what can be guessed could be confirmed"
        assert not found_below(tmp_path, SAID) + found_below(home, SAID), "in the clear"
        await net.decide(deployment, LEGAL, "legal", act="release")
        (held,) = HeldResults(home / "held").files(deployment)
        assert (held.slot, held.term, held.sha256) == ("mine/0", 1, told.sealed)
        assert not store.has(told.sealed)
        await net.decide(deployment, BUDGET, "budget", act="release")
        await until(lambda: store.has(told.sealed))
        await until(lambda: not HeldResults(home / "held").deployments())
        box = (await asker.fetch(Wanted(told.sealed, told.sealed_bytes, None))).read_bytes()
        assert open_result(CONSUMER, told, box) == SAID
        with pytest.raises(Refused, match=r"seal\.not_ours"):
            open_result(STRANGER, told, box)
        assert kept_as_result(net, told)
        assert not store.has(told.sha256)


async def test_a_node_that_restarts_holds_them_still_and_hands_them_over(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment, told = await finished(net)
        net.scopes.pop("node1").cancel()
        await net.gone["node1"].wait()
        await release(net, deployment)
        assert not net.exchanges["node1"].store.has(told.sealed)
        net.execute("node1")
        await until(lambda: net.exchanges["node1"].store.has(told.sealed))


async def test_a_release_that_only_the_ledger_claims_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the node itself can't prove stays where it is."""
    seen: list[str] = []

    def false(case: Case) -> Verdict:
        seen.append("asked")
        return Verdict(False, ("not proved",))

    monkeypatch.setattr("node.executor.workshop.verify_release", false)
    async with fleet(tmp_path, "node1") as net:
        deployment, told = await finished(net)
        await release(net, deployment)
        await until(lambda: len(seen) >= 2)
        assert not net.exchanges["node1"].store.has(told.sealed)
        assert HeldResults(net.net.peers["node1"].home / "held").deployments() == [deployment]


async def test_what_can_never_be_released_goes(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        service = people.service(replicas=1, placement=Placement(countries=("FR",)), health=None)
        deployment = await net.approved(job(), service, policies=HELD)
        await until(lambda: bool(net.drivers["node1"].running))
        task = net.drivers["node1"].running[0]
        task.results[PATH] = SAID
        task.end(0)
        shelf = HeldResults(net.net.peers["node1"].home / "held")
        await until(lambda: net.slot(deployment, "mine/0").status == "succeeded")
        assert len(shelf.files(deployment)) == 1
        await net.do(CONSUMER, CancelDeployment(deployment, "no more"))
        await until(lambda: not shelf.deployments())


def test_the_shelf_is_bounded_and_keeps_what_it_has(tmp_path: Path) -> None:
    shelf = HeldResults(tmp_path / "held", 100)
    assert shelf.deployments() == []
    shelf.keep(bytes(32), "a-b_c/1", 3, "ab" * 32, bytes(60))
    with pytest.raises(ResultRefused, match="100 bytes"):
        shelf.keep(bytes(32), "mine/0", 1, "cd" * 32, bytes(41))
    shelf.keep(b"\1" * 32, "mine/0", 1, "cd" * 32, bytes(40))
    assert shelf.deployments() == [bytes(32), b"\1" * 32]
    (held,) = shelf.files(bytes(32))
    assert (held.slot, held.term, held.sha256) == ("a-b_c/1", 3, "ab" * 32)
    shelf.drop(bytes(32))
    assert (shelf.used_bytes(), shelf.deployments()) == (40, [b"\1" * 32])


# ---------------------------------------------------------------------- the sealed form


def workload(agree: int) -> Workload:
    data = World()
    data.add_nodes()
    source = mining(agree=agree, replicas=max(agree, 1), placement=Placement())
    return data.manifest(data.ordered(source)).workloads[0]


def test_the_digest_of_a_result_tells_nothing_unless_replicas_must_agree() -> None:
    alone, together = workload(0), workload(2)
    assert salt_for(bytes(32), alone, PATH) != salt_for(bytes(32), alone, PATH)
    salts = {salt_for(id_, together, path) for id_ in (bytes(32), b"\1" * 32) for path in (PATH, "/result/b")}
    assert len(salts) == 4
    one, box = seal_result(CONSUMER.public, salt_for(bytes(32), together, PATH), SAID)
    other, another = seal_result(CONSUMER.public, salt_for(bytes(32), together, PATH), SAID)
    assert (one.sha256, one.size_bytes) == (other.sha256, len(SAID))
    assert one.sealed != other.sealed
    assert box != another


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda told, box: (told, box[:-1] + bytes([box[-1] ^ 1])), "result.box"),
        (lambda told, box: (replace(told, sha256="00" * 32), box), "result.content"),
        (lambda told, box: (replace(told, size_bytes=1), box), "result.content"),
        (lambda told, box: (replace(told, sealed=hashlib.sha256(b"x").hexdigest()), b"x"), "seal.not_ours"),
    ],
)
def test_another_box_or_content_is_refused(change: Callable[..., Any], rule: str) -> None:
    told, box = seal_result(CONSUMER.public, bytes(SALT_BYTES), SAID)
    assert unseal(CONSUMER, box)[SALT_BYTES:] == open_result(CONSUMER, told, box) == SAID
    with pytest.raises(Refused) as caught:
        open_result(CONSUMER, *change(told, box))
    assert caught.value.rule == rule


# ---------------------------------------------------------------------- the node's own proof


class Site:
    """A finished job whose results wait, in a world whose state may be forged."""

    def __init__(self) -> None:
        self.world = World()
        self.world.add_nodes()
        source = mining()
        order = self.world.tx(people.CONSUMER, self.world.order_body(source, self.world.publish(source)))
        assert self.world.run(order).receipts[0].ok
        self.id, self.order = order.id, order.raw
        self.world.approve(self.id)
        work(self.world, self.id)

    def release(self) -> None:
        for key, role in ((LEGAL, "legal"), (BUDGET, "budget")):
            self.world.ok(key, self.world.decide(self.id, key, role, "granted", "release"))

    def verdict(self) -> Verdict:
        return verify_release(Case(self.world.state, CHAIN_ID, self.id, self.order, self.world.now_ms))

    def edit(self, **changes: Any) -> None:
        record = self.world.deployment(self.id)
        self.world.state.put(key_deployment(self.id), encode(replace(record, **changes)))

    def put(self, signer: Key, role: str, *, recorded: str = "", **changes: Any) -> None:
        """An approval that no block ever judged."""
        record = self.world.deployment(self.id)
        fields: dict[str, Any] = {
            "chain_id": CHAIN_ID,
            "deployment": self.id.hex(),
            "act": "release",
            "role": role,
            "decision": "granted",
            "results": record.results.hex(),
        }
        predicate = ApprovalPredicate(**(fields | changes))
        envelope = sign_approval(signer, predicate, record.manifest)
        held = ApprovalRecord(
            signer.public, role, "release", "granted", bytes(32), envelope, 2**50, 1, self.world.now_ms,
            results=bytes.fromhex(recorded or record.results.hex()),
        )  # fmt: skip
        self.world.state.put(key_approval(self.id, "release", signer.public), encode(held))


def test_what_was_signed_for_is_proved_and_named_also_when_it_expired_since() -> None:
    site = Site()
    assert not site.verdict().ok
    site.release()
    verdict = site.verdict()
    assert verdict.ok, verdict.reasons
    assert len(verdict.approvals) == 2
    site.world.wait(100 * 3_600_000, step_ms=10 * 3_600_000)
    assert site.verdict().ok


FORGERIES: dict[str, tuple[Callable[[Site], None], str]] = {
    "nobody signed": (lambda s: None, "needs 1 of role legal"),
    "one signed": (lambda s: s.put(LEGAL, "legal"), "needs 1 of role budget"),
    "for other results": (
        lambda s: (s.put(LEGAL, "legal"), s.put(BUDGET, "budget", results="44" * 32))[0],
        "the record names other results",
    ),
    "for other results, and so recorded": (
        lambda s: (s.put(LEGAL, "legal"), s.put(BUDGET, "budget", results="44" * 32, recorded="44" * 32))[0],
        "needs 1 of role budget",
    ),
    "to deploy": (
        lambda s: (s.put(LEGAL, "legal"), s.put(BUDGET, "budget", act="deploy"))[0],
        "something else than the document",
    ),
    "by a stranger": (
        lambda s: (s.put(LEGAL, "legal"), s.put(STRANGER, "budget"))[0],
        "needs 1 of role budget",
    ),
    "for another deployment": (
        lambda s: (s.put(LEGAL, "legal"), s.put(BUDGET, "budget", deployment="00" * 32))[0],
        "another chain or deployment",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_release_is_refused_with_its_reason(name: str) -> None:
    forge, reason = FORGERIES[name]
    site = Site()
    forge(site)
    site.edit(released_ms=site.world.now_ms)
    verdict = site.verdict()
    assert not verdict.ok
    assert any(reason in found for found in verdict.reasons), verdict.reasons


def test_the_forgeries_above_differ_from_what_is_accepted_in_one_thing_each() -> None:
    site = Site()
    site.put(LEGAL, "legal")
    site.put(BUDGET, "budget")
    assert not site.verdict().ok, "not released"
    site.edit(released_ms=site.world.now_ms)
    assert site.verdict().ok
    site.edit(released_ms=site.world.now_ms + 1)
    assert not site.verdict().ok, "released in the future"


def test_other_results_than_those_that_were_signed_for_are_refused() -> None:
    site = Site()
    site.release()
    slot = decode(Slot, site.world.state.get(key_slot(site.id, "mine/0")) or b"")
    site.world.state.put(key_slot(site.id, "mine/0"), encode(replace(slot, results={PATH: "66" * 32})))
    assert "not those of the slots" in site.verdict().reasons[0]


def test_a_contract_without_the_policy_releases_nothing() -> None:
    assert Policies(deploy=None, signoff=None).release is None
    assert Rule(role="legal") != HELD.release
    site = Site()
    site.release()
    record = decode(Deployment, site.world.state.get(key_deployment(site.id)) or b"")
    site.world.state.put(key_deployment(site.id), encode(replace(record, manifest=bytes(32))))
    assert not site.verdict().ok
