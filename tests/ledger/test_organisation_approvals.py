"""Approvals by members of organisations: who counts when, and what a change does. G9, G10, N7, N8."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ledger.contracts.check import check_contract
from ledger.contracts.types import ContractRole
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import ORGANISATION_DEALS_PER_STEP_MAX
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Policies, Rule, manifest_digest
from ledger.organisations.organisation import charter_of
from ledger.organisations.records import key_organisation_turn, organisation_uses
from ledger.policies.people import People, Roll, role_of, words_of
from ledger.policies.types import Role, Weight
from ledger.records import Deployment
from ledger.transactions import CancelDeployment, Claim, OpenDispute, OrderDeployment
from tests.ledger.invariants import check
from tests.ledger.organisation_fixture import (
    ANNA,
    BEN,
    CARL,
    DORA,
    EVE,
    THREE,
    Office,
    held_contract,
    member,
    signed,
)
from tests.ledger.world import AUTHOR, BUDGET, CONSUMER, EXPERT, NODES, STRANGER, World, contract

BOARD = Rule(role="board", count=2)


class Play:
    """A deployment that two of the board approve; the board is an organisation's."""

    def __init__(self, rule: Rule = BOARD, *, part: str = "board", running: bool = False, **changes: object):
        self.world = World()
        self.world.add_nodes()
        self.office = Office(self.world, *THREE, member("Dora", DORA, "board"))
        self.world.run()
        self.source = held_contract(self.office.role("board", part), deploy=rule, **changes)
        self.contract_id = self.world.publish(self.source)
        self.id = self.world.order(self.source, self.contract_id)
        if running:
            for key in (ANNA, BEN):
                assert self.sign(key) == ""
            for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
                self.world.claimed(self.id, name, [node])
                self.world.report(self.id, name, node, "fetching", "verified", "running")

    def sign(self, key: Key, decision: str = "granted", role: str = "board", act: str = "deploy") -> str:
        receipt = self.world.do(STRANGER, self.world.decide(self.id, key, role, decision, act))
        check(self.world.state, self.world.now_ms)
        return receipt.rule

    @property
    def record(self) -> Deployment:
        return self.world.deployment(self.id)

    @property
    def status(self) -> str:
        return self.record.status

    def without(self, *names: str) -> None:
        """These leave; the others decide it."""
        now = [m for m in (*THREE, member("Dora", DORA, "board")) if m.name not in names]
        keys = {"Anna": ANNA, "Ben": BEN, "Carl": CARL, "Dora": DORA}
        by = tuple(keys[m.name] for m in now[:2])
        assert self.office.change(*now, by=by) == ""
        check(self.world.state, self.world.now_ms)


def test_members_approve_in_the_role_that_their_organisation_holds() -> None:
    """[A2] [G9]"""
    play = Play()
    assert play.sign(STRANGER) == "approval.not_a_stakeholder"
    assert play.sign(ANNA) == ""
    assert play.status == "awaiting_approval"
    assert play.sign(BEN) == ""
    assert play.status == "approved"


def test_of_a_role_and_of_all_members() -> None:
    legal = Play(Rule(role="board"), part="legal")
    assert legal.sign(ANNA) == "approval.not_a_stakeholder"
    assert legal.sign(CARL) == ""
    assert legal.status == "approved"
    anybody = Play(Rule(role="board", count=4), part="")
    for key in (ANNA, BEN, CARL, DORA):
        assert anybody.sign(key) == ""
    assert anybody.status == "approved"


def test_who_leaves_takes_the_approval_along_before_it_runs() -> None:
    """[G9] [N8]"""
    play = Play()
    play.sign(ANNA)
    play.without("Anna")
    assert play.sign(BEN) == ""
    assert play.status == "awaiting_approval"
    assert play.sign(ANNA) == "approval.not_a_stakeholder"
    play.sign(CARL)
    assert play.status == "approved"
    play.without("Anna", "Carl")
    assert play.status == "awaiting_approval", "approved, but nothing had begun"
    assert play.world.do(NODES[0], Claim(play.id, "web/0", 1)).rule == "claim.not_open"


def test_who_leaves_stops_what_runs() -> None:
    """[D4] [N8]"""
    play = Play(running=True)
    play.without("Ben")
    assert play.status == "awaiting_approval"
    assert play.world.slot(play.id, "web/0").status == "released"
    assert "2 of role board" in play.record.reason or "1 more of role board" in play.record.reason
    play.sign(CARL)
    assert play.status == "approved"


def test_who_leaves_lets_run_on_what_may() -> None:
    """[D8] [N8]"""
    play = Play(running=True, run_on_s=600)
    play.without("Ben")
    assert play.status == "active"
    assert play.record.lost_ms
    play.sign(DORA)
    assert not play.record.lost_ms
    play.without("Ben", "Dora")
    assert play.record.lost_ms
    play.world.run(step_ms=700_000)
    assert play.status == "awaiting_approval"


def test_who_comes_back_brings_no_old_approval() -> None:
    """[G9]"""
    play = Play(running=True)
    play.without("Ben")
    again = (*THREE, member("Dora", DORA, "board"))
    assert play.office.change(*again, by=(ANNA, CARL)) == ""
    assert play.status == "awaiting_approval", "what Ben signed before he left is gone"
    assert play.sign(BEN) == ""
    assert play.status == "approved"


def test_who_loses_the_role_alone_and_who_gets_another_beside_it() -> None:
    """[G9]"""
    play = Play(running=True)
    anna, ben, *others = (*THREE, member("Dora", DORA, "board"))
    more = (anna, member("Ben", BEN, "board", "legal"), *others)
    assert play.office.change(*more, by=(ANNA, CARL)) == ""
    assert play.status == "active", "another role beside it changes nothing"
    other = (anna, member("Ben", BEN, "legal"), *others)
    assert play.office.change(*other, by=(ANNA, CARL)) == ""
    assert play.status == "awaiting_approval"
    assert ben.roles == ("board",)


def test_a_rotated_key_is_the_same_signer() -> None:
    """[N3] [G10]"""
    play = Play(running=True)
    assert play.office.rotate("Ben", BEN, EVE) == ""
    assert play.status == "active"
    assert play.sign(BEN) == "approval.not_a_stakeholder", "the old key signs nothing more"
    assert play.sign(EVE) == "", "a second word of the same member"
    assert play.status == "active"
    assert play.sign(EVE, "revoked") == "", "it takes back what the old key had granted"
    assert play.status == "awaiting_approval"


def test_the_new_key_revokes_what_the_old_one_granted() -> None:
    """[A3] [G10]"""
    play = Play(running=True)
    play.office.rotate("Ben", BEN, EVE)
    assert play.sign(EVE, "revoked") == ""
    assert play.status == "awaiting_approval"


def test_two_keys_of_one_member_fill_one_place() -> None:
    """[G10]"""
    play = Play()
    play.sign(ANNA)
    play.office.rotate("Anna", ANNA, EVE)
    assert play.sign(EVE) == ""
    assert play.status == "awaiting_approval"
    play.sign(BEN)
    assert play.status == "approved"


def test_two_keys_of_one_member_in_two_roles_fill_one_place() -> None:
    """[G10] Also when the contract itself names the old key."""
    world = World()
    office = Office(world)
    world.run()
    legal = ContractRole(name="legal", bind="author", keys=(ANNA.public.hex(), BUDGET.public.hex()))
    rule = Rule(all=(Rule(role="board"), Rule(role="legal")))
    source = held_contract(office.role("board"), legal, deploy=rule)
    deployment = world.order(source, world.publish(source))
    assert office.rotate("Anna", ANNA, EVE) == ""
    world.ok(STRANGER, world.decide(deployment, ANNA, "legal"))
    world.ok(STRANGER, world.decide(deployment, EVE, "board"))
    assert world.deployment(deployment).status == "awaiting_approval"
    world.ok(STRANGER, world.decide(deployment, BUDGET, "legal"))
    assert world.deployment(deployment).status == "approved"


def test_the_last_word_counts_also_of_two_keys_in_one_block() -> None:
    """[A3] [G10] Whichever key is the smaller one."""
    for old, new in ((ANNA, EVE), (EVE, ANNA)):
        world = World()
        office = Office(world, member("Anna", old, "board"), member("Ben", BEN, "board"), by=(old, BEN))
        world.run()
        source = held_contract(office.role("board"), deploy=Rule(role="board"))
        source = replace(source, policies=replace(source.policies, deploy=Rule(role="board", count=2)))
        deployment = world.order(source, world.publish(source))
        world.run(world.tx(STRANGER, world.decide(deployment, old, "board")), step_ms=0)
        world.run(world.tx(STRANGER, signed(office.rotation("Anna", new), old, new)), step_ms=0)
        world.run(world.tx(STRANGER, world.decide(deployment, new, "board", "rejected")), step_ms=0)
        assert world.deployment(deployment).status == "rejected"


def test_what_a_lost_key_signed_counts_no_more() -> None:
    """[N4] [G9]"""
    play = Play(running=True)
    new = (*THREE[:1], member("Ben", EVE, "board"), *THREE[2:], member("Dora", DORA, "board"))
    assert play.office.change(*new, by=(ANNA, CARL)) == ""
    assert play.status == "awaiting_approval"
    assert play.sign(BEN) == "approval.not_a_stakeholder"
    assert play.sign(EVE) == ""
    assert play.status == "approved"


@pytest.mark.parametrize("lost", [False, True], ids=["rotated", "lost"])
def test_the_author_does_not_approve_by_another_key(lost: bool) -> None:
    """[G10] Excluded is who is, whatever keys they had."""
    world = World()
    members = (member("Author", AUTHOR, "board"), member("Ben", BEN, "board"), member("Carl", CARL, "board"))
    office = Office(world, *members, by=(BEN, CARL))
    world.run()
    if lost:
        changed = (member("Author", EVE, "board"), *members[1:])
        assert office.change(*changed, by=(BEN, CARL)) == ""
    else:
        assert office.rotate("Author", AUTHOR, EVE) == ""
    source = held_contract(office.role("board"), deploy=Rule(role="board"))
    deployment = world.order(source, world.publish(source))
    assert world.refused(STRANGER, world.decide(deployment, EVE, "board")) == "approval.excluded"
    world.ok(STRANGER, world.decide(deployment, BEN, "board"))
    assert world.deployment(deployment).status == "approved"


def test_exclusions_of_a_rule_follow_the_member() -> None:
    """[G3] [G10]"""
    world = World()
    office = Office(world)
    world.run()
    rule = Rule(role="board", count=2, exclude=(f"key:{ANNA.public.hex()}",))
    source = held_contract(office.role("board"), deploy=rule)
    deployment = world.order(source, world.publish(source))
    office.rotate("Anna", ANNA, EVE)
    for key in (EVE, BEN):
        world.ok(STRANGER, world.decide(deployment, key, "board"))
    assert world.deployment(deployment).status == "awaiting_approval"
    world.ok(STRANGER, world.decide(deployment, CARL, "board"))
    assert world.deployment(deployment).status == "approved"


def test_a_rule_that_names_a_key_means_that_key() -> None:
    """[G2]"""
    world = World()
    office = Office(world)
    world.run()
    rule = Rule(any=(Rule(key=ANNA.public.hex()), Rule(role="board", count=3)))
    source = held_contract(office.role("board"), deploy=rule)
    deployment = world.order(source, world.publish(source))
    office.rotate("Anna", ANNA, EVE)
    world.ok(STRANGER, world.decide(deployment, EVE, "board"))
    assert world.deployment(deployment).status == "awaiting_approval", "the policy does not name Eve's key"
    world.ok(STRANGER, world.decide(deployment, ANNA, ""))
    assert world.deployment(deployment).status == "approved"


def test_a_new_key_keeps_its_members_turn() -> None:
    """[G5] [G6]"""
    play = Play(Rule(all=(Rule(role="board", wait_s=3_600), Rule(role="it-expert")), ordered=True))
    play.sign(ANNA)
    play.world.run(step_ms=3_600_000)
    play.sign(EXPERT, role="it-expert")
    assert play.status == "approved"
    play.office.rotate("Anna", ANNA, EVE)
    assert play.sign(EVE) == ""
    assert play.status == "approved", "granted without a break: neither the wait nor the turn begins anew"


def test_members_who_leave_reject_nothing_for_good() -> None:
    """[A5] [N8] Ben has rejected, and then Carl and Dora, who could have approved without him, leave."""
    play = Play(Rule(role="board", count=2), running=True)
    play.sign(CARL, "rejected")
    assert play.status == "active"
    play.without("Ben", "Dora")
    assert play.status == "awaiting_approval"
    assert play.office.change(*THREE, member("Dora", DORA, "board"), by=(ANNA, CARL)) == ""
    play.sign(DORA)
    assert play.status == "approved"


def test_a_veto_leaves_with_its_member() -> None:
    """[G7] [G9]"""
    play = Play(Rule(all=(Rule(role="budget"),), wait_s=60, veto=("board",)), run_on_s=0)
    play.sign(BUDGET, role="budget")
    play.sign(ANNA, "rejected")
    assert play.status == "rejected"
    waiting = Play(Rule(any=(Rule(role="it-expert"), Rule(role="budget", veto=("board",)))))
    waiting.sign(BUDGET, role="budget")
    waiting.sign(EXPERT, "revoked", role="it-expert")
    assert waiting.status == "approved"
    waiting.sign(ANNA, "rejected")
    assert waiting.status == "awaiting_approval"
    waiting.without("Anna")
    assert waiting.status == "approved"


def test_sign_off_is_judged_again_too() -> None:
    """[N8]"""
    play = Play(running=True, signoff=Rule(any=(Rule(role="budget", veto=("board",)),)))
    play.sign(ANNA, "rejected", act="signoff")
    play.sign(BUDGET, role="budget", act="signoff")
    assert not play.record.signed_off_ms
    play.sign(DORA)
    play.without("Anna")
    assert play.record.signed_off_ms


def test_consent_to_the_end_is_the_members_of_now() -> None:
    """[D7] [G9]"""
    play = Play(running=True, delete=Rule(role="board", count=2))
    play.sign(ANNA, act="delete")
    play.sign(DORA, act="delete")
    play.without("Dora")
    assert play.world.do(CONSUMER, CancelDeployment(play.id, "")).rule == "cancel.not_approved"
    play.sign(CARL, act="delete")
    play.world.ok(CONSUMER, CancelDeployment(play.id, ""))


def test_a_member_is_a_party_while_it_is_one() -> None:
    """[D12]"""
    play = Play()
    play.world.ok(ANNA, OpenDispute(play.id, "", 0, "late"))
    play.without("Anna")
    assert play.world.refused(ANNA, OpenDispute(play.id, "", 0, "late")) == "dispute.not_a_party"


def test_a_change_counts_from_the_next_block_on() -> None:
    """[N6]"""
    world = World()
    office = Office(world, *THREE[:2])
    world.run()
    source = held_contract(office.role("board"), deploy=Rule(role="board"))
    deployment = world.order(source, world.publish(source))
    deed = office.charter(*THREE)
    early = world.run(
        world.tx(STRANGER, signed(deed, ANNA, BEN)),
        world.tx(STRANGER, world.decide(deployment, CARL, "board")),
        world.tx(STRANGER, world.decide(deployment, BEN, "board", "rejected")),
    )
    assert [receipt.rule for receipt in early.receipts] == ["", "approval.not_a_stakeholder", ""]
    world.ok(STRANGER, world.decide(deployment, CARL, "board"))
    assert world.deployment(deployment).status == "approved"


def test_many_deployments_are_judged_some_at_a_time() -> None:
    """[N8] [W1]"""
    play = Play(Rule(role="board"))
    ids = [play.id]
    for _ in range(ORGANISATION_DEALS_PER_STEP_MAX + 3):
        ids.append(play.world.order(play.source, play.contract_id))
    for deployment in ids:
        play.world.ok(STRANGER, play.world.decide(deployment, ANNA, "board"))
    play.world.ok(CONSUMER, CancelDeployment(ids[3], ""))
    now = (*THREE[1:], member("Dora", DORA, "board"))
    assert play.office.act(play.office.charter(*now), BEN, CARL, step_ms=1_000) == ""
    waiting = [d for d in ids if play.world.deployment(d).status == "awaiting_approval"]
    assert len(waiting) in (ORGANISATION_DEALS_PER_STEP_MAX - 1, ORGANISATION_DEALS_PER_STEP_MAX)
    check(play.world.state, play.world.now_ms)
    play.world.run()
    waiting = [d for d in ids if play.world.deployment(d).status == "awaiting_approval"]
    assert len(waiting) == len(ids) - 1
    uses = [key[-32:] for key, _ in play.world.state.scan(organisation_uses(play.office.id))]
    assert set(uses) == set(ids) - {ids[3]}, "what has ended is judged no more"
    check(play.world.state, play.world.now_ms)


def test_a_change_within_a_turn_lets_it_begin_anew() -> None:
    """[N8] Members that change in every block keep nobody from the turn, and make it no longer."""
    play = Play(Rule(role="board"))
    ids = [play.id]
    for _ in range(2 * ORGANISATION_DEALS_PER_STEP_MAX):
        ids.append(play.world.order(play.source, play.contract_id))
    for deployment in ids:
        play.world.ok(STRANGER, play.world.decide(deployment, ANNA, "board"))
    world, office = play.world, play.office
    without = (*THREE[1:], member("Dora", DORA, "board"))
    for name in ("a", "b", "c", "d"):
        charter = replace(charter_of(office.now), members=without, name=name)
        deed = office.deed("change", charter=charter)
        world.run(world.tx(STRANGER, signed(deed, BEN, CARL)))
        check(world.state, world.now_ms)
        assert len([key for key, _ in world.state.scan(b"due/") if b"members/" in key]) == 1
    assert all(world.deployment(d).status == "awaiting_approval" for d in ids)
    assert world.state.get(key_organisation_turn(office.id)) == b"again"
    for _ in range(9):
        world.run()
    assert world.state.get(key_organisation_turn(office.id)) is None
    check(world.state, world.now_ms)


def test_strangers_do_not_lengthen_the_turn() -> None:
    """[N8] An order alone stands in no index; a member's decision comes first, an exclusion after it."""
    world = World()
    office = Office(world)
    world.run()
    plain = held_contract(office.role("board"), deploy=Rule(role="board"))
    rule = Rule(role="budget", exclude=("role:board",))
    apart = replace(held_contract(office.role("board"), deploy=rule), name="apart")
    first = world.order(plain, world.publish(plain))
    assert not list(world.state.scan(organisation_uses(office.id)))
    second = world.order(apart, world.publish(apart))
    world.ok(STRANGER, world.decide(first, ANNA, "board", "rejected", "deploy"))
    uses = [
        key[len(organisation_uses(office.id)) :] for key, _ in world.state.scan(organisation_uses(office.id))
    ]
    assert uses == [b"0" + first, b"1" + second]


def test_who_joins_an_excluded_role_fills_no_place_any_more() -> None:
    """[G3] [N8]"""
    world = World()
    office = Office(world)
    world.run()
    rule = Rule(role="budget", exclude=("role:board",))
    source = held_contract(office.role("board", "board"), deploy=rule)
    deployment = world.order(source, world.publish(source))
    world.ok(STRANGER, world.decide(deployment, BUDGET, "budget"))
    assert world.deployment(deployment).status == "approved"
    assert office.change(*THREE, member("Budget", BUDGET, "board"), by=(ANNA, BEN)) == ""
    assert world.deployment(deployment).status == "awaiting_approval"
    assert office.change(*THREE, by=(ANNA, BEN)) == ""
    assert world.deployment(deployment).status == "approved"


# --- N7: orders


def test_orders_that_no_organisation_could_approve() -> None:
    """[N7]"""
    world = World()
    world.add_nodes()
    office = Office(world)
    world.run()
    strange = ContractRole(name="board", bind="author", organisation="ab" * 32)
    cases = [
        (strange, BOARD, "order.organisation"),
        (office.role("board", "auditors"), BOARD, "order.organisation"),
        (office.role("board", "legal"), Rule(role="board", count=2), "manifest.policy_unreachable"),
        (office.role("board"), Rule(role="board", count=4), "manifest.policy_unreachable"),
    ]
    for number, (role, rule, wanted) in enumerate(cases):
        source = replace(held_contract(role, deploy=rule), name=f"site-{number}")
        body = world.order_body(source, world.publish(source))
        assert world.refused(CONSUMER, body) == wanted
    source = replace(held_contract(office.role("board"), deploy=BOARD), name="good")
    id_ = world.publish(source)
    assert world.order(source, id_)
    assert office.act(office.deed("dissolve"), ANNA, BEN) == ""
    assert world.refused(CONSUMER, world.order_body(source, id_)) == "order.organisation"


def test_dissolved_what_it_approved_stops() -> None:
    """[N5] [N8]"""
    play = Play(running=True)
    assert play.office.act(play.office.deed("dissolve"), ANNA, BEN) == ""
    assert play.status == "awaiting_approval"
    assert play.sign(CARL) == "approval.not_a_stakeholder"


def test_an_order_binds_a_role_to_an_organisation() -> None:
    """[D1]"""
    world = World()
    world.add_nodes()
    office = Office(world)
    world.run()
    source = held_contract(ContractRole(name="board", bind="order"), deploy=Rule(role="board"))
    id_ = world.publish(source)
    roles = {"board": (f"organisation:{office.id.hex()}/legal",)}
    data = expand(source, id_, AUTHOR.public, CONSUMER.public, {}, roles)
    manifest = decode_manifest(data)
    held = next(role for role in manifest.roles if role.name == "board")
    assert (held.keys, held.organisation, held.organisation_role) == ((), office.id.hex(), "legal")
    budget = manifest.terms.budget
    body = OrderDeployment(id_, {}, roles, manifest_digest(data), budget, CONSUMER.public)
    deployment = world.ok(CONSUMER, body).id
    world.ok(STRANGER, world.decide(deployment, CARL, "board"))
    assert world.deployment(deployment).status == "approved"
    for words in (("organisation:xyz",), ("organisation:",), (f"organisation:{'ab' * 32}/Board",)):
        with pytest.raises(Refused, match=r"contract\.(role_organisation|name|role_keys)"):
            expand(source, id_, AUTHOR.public, CONSUMER.public, {}, {"board": words})


def test_roles_as_an_order_says_them() -> None:
    for words in (("aa" * 32, "bb" * 32), (f"organisation:{'ab' * 32}",), (f"organisation:{'ab' * 32}/x",)):
        assert words_of(role_of("r", words)) == words


# --- the language


def refused_contract(change: Callable[[ContractRole], ContractRole]) -> str:
    role = ContractRole(name="board", bind="author", organisation="ab" * 32, organisation_role="directors")
    source = held_contract(change(role), deploy=Rule(role="board"))
    try:
        check_contract(source)
    except Refused as error:
        return error.rule
    return ""


def test_contracts_name_organisations_by_id() -> None:
    assert refused_contract(lambda role: role) == ""
    assert refused_contract(lambda role: replace(role, organisation_role="")) == ""
    for change in (
        lambda role: replace(role, organisation="ab"),
        lambda role: replace(role, organisation="AB" * 32),
        lambda role: replace(role, organisation=""),
        lambda role: replace(role, keys=("ab" * 32,)),
    ):
        assert refused_contract(change) == "contract.role_organisation"
    assert refused_contract(lambda role: replace(role, organisation_role="The Board")) == "contract.name"
    assert refused_contract(lambda role: replace(role, bind="order")) == "contract.role_keys"
    assert Policies(deploy=None, signoff=None).of("deploy") is None
    assert contract().roles[0].organisation == ""


# --- people


def test_people_are_groups_of_keys() -> None:
    world = World()
    office = Office(world)
    office.rotate("Anna", ANNA, DORA)
    office.rotate("Anna", DORA, EVE)
    people = People(office.now.seats)
    one = {people.one(key.public) for key in (ANNA, DORA, EVE)}
    assert len(one) == 1
    assert people.group(EVE.public) == {ANNA.public, DORA.public, EVE.public}
    assert people.group(BEN.public) == {BEN.public}
    assert people.kept_out((DORA.public,)) == one
    assert people.kept_out((BEN.public,)) == {BEN.public}
    roll = Roll(
        (Role(name="board", organisation=office.id.hex(), organisation_role="board"),), lambda _: office.now
    )
    assert roll.current["board"] == {EVE.public, BEN.public, CARL.public}
    held = roll.seat("board", ANNA.public)
    assert held == roll.seat("board", EVE.public) == (office.now.seats[0].number, 1)
    assert roll.counts("board", ANNA.public, held)
    assert not roll.counts("board", ANNA.public, (0, 0))
    assert not roll.counts("board", ANNA.public, (held[0], 2))
    assert not roll.counts("board", ANNA.public, roll.seat("board", BEN.public))
    nobody = Roll((Role(name="board", organisation=office.id.hex()),))
    assert nobody.current["board"] == frozenset()
    assert not nobody.counts("board", ANNA.public, held)
    assert Weight(weight=1, role="board").role == "board"
