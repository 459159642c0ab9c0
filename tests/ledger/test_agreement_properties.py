"""Whatever nodes, stakeholders and the consumer do: replicas that must agree never make or lose money,
and only those that agree are paid out of the escrow for what they found."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.keys import Key
from ledger.manifests.types import Placement
from ledger.records import Account
from ledger.results import agreeing
from ledger.transactions import Body, CancelDeployment, Claim, Renew, RenewItem
from ledger.transition.deal import ENDED
from tests.ledger.invariants import check, check_step
from tests.ledger.world import BUDGET, CONSUMER, NODES, World, contract, job

WORDS = "/result/words.tsv"
FOUND = tuple({WORDS: digest * 32} for digest in ("33", "44"))
NAMES = ("mine/0", "mine/1", "mine/2")

Step = tuple[str, int, int, int]
STEPS = st.tuples(
    st.sampled_from(
        ("claim", "start", "commit", "tell", "stop", "wait", "renew", "revoke", "approve", "cancel")
    ),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 1),
)


def work(world: World, deployment: bytes, step: Step) -> list[tuple[Key, Body]]:
    """What a step asks for; the ledger may refuse any of it."""
    what, number, index, which = step
    node, name = NODES[number], NAMES[index]
    slot = world.slot(deployment, name)
    if what == "claim":
        return [(node, Claim(deployment, name, slot.term + 1))]
    if what == "renew":
        return [(node, Renew((RenewItem(deployment, name, slot.term),)))]
    if what == "start":
        states = ("fetching", "verified", "running")
        return [(node, world.receipt(deployment, name, node, state)) for state in states]
    if what == "commit":
        return [(node, world.commit(deployment, name, node, FOUND[which]))]
    if what == "tell":
        return [(node, world.told(deployment, name, node, FOUND[which]))]
    if what == "stop":
        return [(node, world.receipt(deployment, name, node, ("failed", "released")[which]))]
    if what in ("revoke", "approve"):
        said = "revoked" if what == "revoke" else "granted"
        return [(BUDGET, world.decide(deployment, BUDGET, "budget", said))]
    return [(CONSUMER, CancelDeployment(deployment, "enough"))] if what == "cancel" and number == 3 else []


@settings(max_examples=150, deadline=None)
@given(
    st.lists(STEPS, max_size=25),
    st.permutations(range(4)),
    st.lists(st.integers(0, 1), min_size=3, max_size=3),
    st.lists(STEPS, max_size=12),
)
def test_money_is_conserved_and_only_agreement_is_paid(
    before: list[Step], order: list[int], found: list[int], after: list[Step]
) -> None:
    """[R8] [Y1] [Y2] [Y3] [Y4]"""
    world = World()
    world.add_nodes()
    source = contract(job(replicas=3, agree=2, placement=Placement()), budget=100_000_000, fee=0)
    deployment = world.ordered(source)
    world.approve(deployment)
    likely: list[Step] = []
    for index in range(3):  # a way that leads somewhere, with anything in between
        place = (order[index], index, found[index])
        likely += [(what, *place) for what in ("claim", "wait", "start", "commit")]
    likely += [("tell", order[index], index, found[index]) for index in range(3)]
    script = [*before, *likely[:6], *after[:4], *likely[6:], *after[4:]]
    view = check(world.state, world.now_ms)
    for step in script:
        if step[0] == "wait":
            world.wait((2_000, 30_000, 70_000, 130_000)[step[1]], step_ms=10_000)
        for key, body in work(world, deployment, step):
            world.do(key, body)
        now = check(world.state, world.now_ms)
        check_step(view, now)
        view = now
    record = world.deployment(deployment)
    if record.status == "completed":
        slots = {name: world.slot(deployment, name) for name in NAMES}
        winners = {slot.name for slot in agreeing(world.manifest(deployment).workloads[0], slots)}
        assert len(winners) >= 2
        newest = {name: slots[name].term for name in NAMES}
        paid = {
            bill.slot for bill in world.bills(deployment) if bill.amount and bill.term == newest[bill.slot]
        }
        assert paid <= winners
    if record.status in ENDED:
        assert record.withheld == 0
    total = sum(account.balance for account in world.records(b"account/", Account))
    assert total + record.escrow + record.withheld == view.supply
