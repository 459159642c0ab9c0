"""Publishing, ordering, cancelling, and how a deployment's term runs: rules K1-K4, D1-D7."""

import hashlib
import random
from typing import Any

import pytest
from msgspec.structs import replace
from nacl import bindings

from ledger.documents import sign_contract
from ledger.errors import Refused
from ledger.keys import Key, verify_raw
from ledger.limits import DETAIL_CHARS_MAX
from ledger.manifests.types import Policies
from ledger.records import (
    ContractMark,
    ContractOwner,
    ContractRecord,
    due_parts,
    key_contract,
    key_contract_mark,
    key_contract_name,
    key_contract_owner,
)
from ledger.state import read
from ledger.transactions import CancelDeployment, Claim, MarkContract, PublishContract, Transfer
from ledger.transition.contracts import version_order
from node.sealed.sealing import seal
from tests.ledger.world import (
    AUTHOR,
    BOT,
    BUDGET,
    CONSUMER,
    EXPERT,
    NODES,
    POLICIES,
    STRANGER,
    World,
    contract,
    job,
)

DAY_MS = 24 * 3_600_000


def test_published_contract_is_found_by_name() -> None:
    world = World()
    contract_id = world.publish(contract())
    record = read(world.state, ContractRecord, key_contract(contract_id))
    assert record is not None
    assert (record.name, record.version, record.author) == ("site", "1.0.0", AUTHOR.public)
    assert world.state.get(key_contract_name("site", "1.0.0")) == contract_id
    assert read(world.state, ContractOwner, key_contract_owner("site")) == ContractOwner(
        AUTHOR.public, "1.0.0"
    )


def test_publishing_rules() -> None:
    world = World()
    world.publish(contract(version="1.1.0"))
    signed = sign_contract(AUTHOR, contract(version="1.1.0"))
    assert world.refused(AUTHOR, PublishContract(signed)) == "contract.exists"
    assert world.refused(STRANGER, PublishContract(signed)) == "contract.not_author"
    stolen = sign_contract(STRANGER, contract(version="2.0.0"))
    assert world.refused(STRANGER, PublishContract(stolen)) == "contract.name_taken"
    for version in ("1.0.9", "1.1.0-rc.1"):
        older = sign_contract(AUTHOR, contract(version=version))
        assert world.refused(AUTHOR, PublishContract(older)) == "contract.version_not_newer"
    same = sign_contract(AUTHOR, replace(contract(version="1.1.0"), summary="other text"))
    assert world.refused(AUTHOR, PublishContract(same)) == "contract.version_not_newer"
    world.publish(contract(version="1.2.0-rc.1"))
    world.publish(contract(version="1.2.0"))
    broken = sign_contract(AUTHOR, replace(contract(version="1.3.0"), title="\x1b[2J"))
    assert world.refused(AUTHOR, PublishContract(broken)) == "contract.character"


def test_a_revoked_version_is_ordered_no_more_and_what_was_ordered_goes_on() -> None:
    """[K4]"""
    world = World()
    world.add_nodes()
    source = contract()
    first = world.running(source)
    id_ = world.deployment(first).contract
    waiting = world.order(source, id_)
    world.ok(AUTHOR, MarkContract(id_, "deprecated", "take 1.1.0"))
    world.order(source, id_)  # only a warning
    world.ok(AUTHOR, MarkContract(id_, "revoked", "serves a wrong tree"))
    mark = read(world.state, ContractMark, key_contract_mark(id_))
    assert mark == ContractMark("revoked", "serves a wrong tree", world.height, world.now_ms)
    assert world.refused(CONSUMER, world.order_body(source, id_)) == "order.revoked"
    assert world.slot(first, "web/0").status == "running"
    world.approve(waiting)
    assert world.deployment(waiting).status == "approved"
    assert world.kinds().count("contract.deprecated") == world.kinds().count("contract.revoked") == 1
    newer = contract(version="1.1.0")
    world.order(newer, world.publish(newer))


def test_marking_rules() -> None:
    """[K4]"""
    world = World()
    id_ = world.publish(contract())
    for sender, body, rule in (
        (AUTHOR, MarkContract(bytes(32), "revoked", "x"), "mark.unknown_contract"),
        (STRANGER, MarkContract(id_, "revoked", "x"), "mark.not_author"),
        (AUTHOR, MarkContract(id_, "", "x"), "mark.kind"),
        (AUTHOR, MarkContract(id_, "revoked", ""), "mark.reason"),
        (AUTHOR, MarkContract(id_, "revoked", "x" * (DETAIL_CHARS_MAX + 1)), "mark.reason"),
        (AUTHOR, MarkContract(id_, "revoked", "a\nb"), "mark.reason"),
    ):
        assert world.refused(sender, body) == rule
    world.ok(AUTHOR, MarkContract(id_, "deprecated", "x"))
    assert world.refused(AUTHOR, MarkContract(id_, "deprecated", "y")) == "mark.done"
    world.ok(AUTHOR, MarkContract(id_, "revoked", "x"))
    for mark in ("deprecated", "revoked"):
        assert world.refused(AUTHOR, MarkContract(id_, mark, "y")) == "mark.done"


def test_semver_precedence() -> None:
    """The example of semver.org, item 11, and numbers that are not text."""
    early = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1"
    versions = [*early.split(), "1.0.0", "1.0.1", "1.9.0", "1.10.0", "2.0.0"]
    shuffled = random.Random(0).sample(versions, len(versions))
    assert sorted(shuffled, key=version_order) == versions


def test_an_order_moves_the_budget_and_waits() -> None:
    world = World()
    world.add_nodes()
    before = world.balance(CONSUMER)
    deployment = world.ordered(contract(budget=2_000_000))
    record = world.deployment(deployment)
    assert (record.status, record.desired, record.escrow) == ("awaiting_approval", "run", 2_000_000)
    assert world.balance(CONSUMER) == before - 2_000_000
    assert record.slots == ("web/0", "web/1")
    assert (record.consumer, record.bot) == (CONSUMER.public, BOT.public)
    assert {world.slot(deployment, name).status for name in record.slots} == {"open"}
    assert not list(world.state.scan(b"open/"))
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.not_open"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"escrow": 1_999_999}, "order.escrow"),
        ({"escrow": 2_000_001}, "order.escrow"),
        ({"manifest": bytes(32)}, "order.manifest_mismatch"),
        ({"contract": bytes(32)}, "order.unknown_contract"),
        ({"parameters": {"nonsense": 1}}, "parameter.unknown"),
        ({"roles": {"legal": (STRANGER.public.hex(),)}}, "role.fixed"),
        ({"bot": b"short"}, "order.bot"),
    ],
)
def test_bad_orders(changes: dict[str, Any], rule: str) -> None:
    world = World()
    source = contract()
    body = world.order_body(source, world.publish(source))
    assert world.refused(CONSUMER, replace(body, **changes)) == rule


class CrookedKey(Key):
    """A good public key and a point of order 8, added: signatures hold, and nothing can be sealed to it."""

    ORDER_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        scalar = bytearray(hashlib.sha512(seed).digest()[:32])
        scalar[0] &= 248
        scalar[31] = scalar[31] & 63 | 64
        self.scalar = bindings.crypto_core_ed25519_scalar_reduce(bytes(scalar) + bytes(32))
        self.public = bindings.crypto_core_ed25519_add(self.public, self.ORDER_8)

    def sign_raw(self, message: bytes) -> bytes:
        """Tries until the hash is a multiple of 8: then the added point falls out of the equation."""
        for salt in range(1_000):
            secret = hashlib.sha512(self.scalar + salt.to_bytes(4, "big") + message).digest()
            nonce = bindings.crypto_core_ed25519_scalar_reduce(secret)
            point = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce)
            whole = hashlib.sha512(point + self.public + message).digest()
            reduced = bindings.crypto_core_ed25519_scalar_reduce(whole)
            if reduced[0] % 8 == 0:
                more = bindings.crypto_core_ed25519_scalar_mul(reduced, self.scalar)
                return point + bindings.crypto_core_ed25519_scalar_add(nonce, more)
        raise AssertionError("never a multiple of 8")


def test_who_can_be_sealed_nothing_to_orders_nothing() -> None:
    """[D1] A node that ran the job could not hand over the result, and would be blamed."""
    world, crooked = World(), CrookedKey(bytes(32))
    assert verify_raw(crooked.public, b"word", crooked.sign_raw(b"word"))
    with pytest.raises(Refused, match=r"seal\.key"):
        seal(crooked.public, b"a result")
    source = contract(job())
    body = world.order_body(source, world.publish(source), consumer=crooked)
    world.ok(CONSUMER, Transfer(crooked.public, body.escrow))
    assert world.refused(crooked, body) == "order.consumer"


def test_an_order_that_cannot_be_paid() -> None:
    world = World()
    source = contract(budget=10**11)
    body = world.order_body(source, world.publish(source))
    assert world.refused(CONSUMER, body) == "money.insufficient"


def test_another_consumer_gets_another_manifest() -> None:
    world = World()
    source = contract()
    body = world.order_body(source, world.publish(source))
    assert world.refused(STRANGER, body) == "order.manifest_mismatch"


def test_no_policy_approves_at_once() -> None:
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(policies=Policies(deploy=None, signoff=None)))
    assert world.deployment(deployment).status == "approved"
    assert len(list(world.state.scan(b"open/"))) == 2


def test_cancel() -> None:
    world = World()
    world.add_nodes()
    first, second = world.ordered(contract()), world.running(contract(version="1.0.1"))
    assert world.refused(STRANGER, CancelDeployment(first, "")) == "cancel.not_yours"
    assert world.refused(CONSUMER, CancelDeployment(bytes(32), "")) == "cancel.unknown_deployment"
    assert world.refused(CONSUMER, CancelDeployment(first, "x" * (DETAIL_CHARS_MAX + 1))) == "cancel.reason"
    world.ok(BOT, CancelDeployment(first, "too dear"))
    record = world.deployment(first)
    assert (record.status, record.reason, record.escrow, record.spent) == ("cancelled", "too dear", 0, 0)
    assert world.refused(CONSUMER, CancelDeployment(first, "")) == "cancel.ended"
    world.ok(CONSUMER, CancelDeployment(second, ""))
    slot = world.slot(second, "web/0")
    assert (slot.status, slot.holder) == ("released", NODES[0].public)
    world.report(second, "web/0", NODES[0], "released")
    assert world.slot(second, "web/0").holder == b""
    assert world.node(NODES[0]).slots_held == 0


def test_an_order_expires_without_approval() -> None:
    """[D2]"""
    world = World()
    before = world.balance(CONSUMER)
    deployment = world.ordered(contract(policies=replace(POLICIES, validity_s=3_600)))
    world.wait(3_599_000, step_ms=3_599_000)
    assert world.deployment(deployment).status == "awaiting_approval"
    world.wait(1_000)
    record = world.deployment(deployment)
    assert (record.status, record.escrow) == ("expired", 0)
    assert world.balance(CONSUMER) == before
    body = world.decide(deployment, BUDGET, "budget")
    assert world.refused(STRANGER, body) == "approval.closed"


def test_an_approved_deployment_that_never_ran_expires() -> None:
    """[D3] [D5] The term runs from the approval."""
    world = World()
    deployment = world.ordered(contract(duration_s=3_600))
    world.approve(deployment)
    world.wait(3_599_000, step_ms=3_599_000)
    assert world.deployment(deployment).status == "approved"
    world.wait(1_000)
    assert world.deployment(deployment).status == "expired"
    assert not list(world.state.scan(b"open/"))
    assert all(due_parts(key)[1] == "offer" for key, _ in world.state.scan(b"due/"))


def test_a_service_completes_with_its_term() -> None:
    """[D5] [D6]"""
    world = World()
    world.add_nodes()
    deployment = world.running(contract(duration_s=60))
    world.wait(60_000, step_ms=5_000)
    record = world.deployment(deployment)
    assert (record.status, record.desired, record.escrow) == ("completed", "stop", 0)
    assert all(bill.to_ms <= record.approved_ms + 60_000 for bill in world.bills(deployment))
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "granted", "signoff"))
    assert world.deployment(deployment).signed_off_ms == world.now_ms


def finished_job(world: World, **changes: Any) -> bytes:
    deployment = world.ordered(contract(job(), name="mining", **changes))
    if changes.get("policies", POLICIES).deploy is not None:
        world.approve(deployment)
    node = world.claimed(deployment, "mine/0", [NODES[0]])
    world.report(deployment, "mine/0", node, "fetching", "verified", "running", "succeeded")
    return deployment


def test_a_job_completes_and_settles_with_its_sign_off() -> None:
    """[D5] [D6] [A6]"""
    world = World()
    world.add_nodes()
    before = world.balance(CONSUMER)
    deployment = finished_job(world)
    record = world.deployment(deployment)
    assert (record.status, record.desired) == ("completed", "stop")
    assert record.escrow == 2_000_000 - record.spent > 0
    slot = world.slot(deployment, "mine/0")
    assert (slot.status, slot.holder, slot.results) == ("succeeded", b"", {"/result/words.tsv": "33" * 32})
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "granted", "signoff"))
    record = world.deployment(deployment)
    assert (record.escrow, record.signed_off_ms) == (0, world.now_ms)
    assert world.balance(CONSUMER) == before - record.spent
    assert all(due_parts(key)[1] == "offer" for key, _ in world.state.scan(b"due/"))


def test_a_job_nobody_signs_off_settles_at_the_end_of_its_term() -> None:
    world = World()
    world.add_nodes()
    deployment = finished_job(world, duration_s=3_600)
    world.wait(3_600_000, step_ms=600_000)
    record = world.deployment(deployment)
    assert (record.status, record.escrow, record.signed_off_ms) == ("completed", 0, 0)


def test_a_job_that_asks_for_no_sign_off_settles_at_once() -> None:
    world = World()
    world.add_nodes()
    deployment = finished_job(world, policies=Policies(deploy=None, signoff=None))
    record = world.deployment(deployment)
    assert (record.status, record.escrow) == ("completed", 0)
    assert record.signed_off_ms == record.ended_ms > 0


def test_a_signed_off_service_goes_on() -> None:
    """[A6] Settled up to now; the rest stays until the end."""
    world = World()
    world.add_nodes()
    deployment = world.running(contract(duration_s=DAY_MS // 1_000))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "granted", "signoff"))
    record = world.deployment(deployment)
    assert record.status == "active"
    assert record.signed_off_ms == world.now_ms
    assert record.escrow > 0
    assert {world.slot(deployment, name).billed_ms for name in record.slots} == {world.now_ms}
