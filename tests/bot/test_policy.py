"""The bot's policy: total, deterministic, idempotent on random views; and right on real lives."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bot.limits import CANCEL_TRIES_MAX, ENDED_KEPT_MAX, WATCHED_MAX
from bot.memory import Intent, Memory, Watch
from bot.policy import Action, Cancel, Note, Order, Remember, Warn, decide
from bot.view import Own, View, build_view, own_deployments
from ledger.limits import LEASE_GUARD_MS, LEASE_MS
from ledger.manifests.expansion import cost, decode_manifest, expand
from ledger.manifests.types import Manifest, Policies, Rule
from ledger.records import ApprovalRecord, Deployment, DeploymentStatus, Node, Slot, SlotStatus
from ledger.transactions import CancelDeployment, Price, Renew, RenewItem, WithdrawOffer
from tests.ledger.world import (
    AUTHOR,
    BOT,
    BUDGET,
    CONSUMER,
    EXPERT,
    HOUR_MS,
    LEGAL,
    NODES,
    POLICIES,
    STRANGER,
    World,
    contract,
    job,
    service,
)

IDS = [bytes([n]) * 32 for n in range(1, 7)]
NO_POLICY = Policies(deploy=None, signoff=None)


@cache
def manifests() -> tuple[Manifest, ...]:
    sources = (
        contract(),
        contract(job()),
        contract(service(replicas=3), job(), policies=NO_POLICY, budget=9_000_000),
    )
    return tuple(
        decode_manifest(expand(source, bytes(32), AUTHOR.public, CONSUMER.public, {}, {}))
        for source in sources
    )


TIMES = st.sampled_from([0, 1, 1_000, 50_000, 10**6, 10**9, 10**12, 2**53])
AMOUNTS = st.integers(0, 10**7)
TEXT = st.text(max_size=200)
SLOT_STATUSES = get_args(SlotStatus)
STATUSES = get_args(DeploymentStatus)


@st.composite
def slot(draw: Any, deployment: bytes, name: str) -> Slot:
    holder = draw(st.sampled_from([b"", NODES[0].public, NODES[1].public, b"?" * 32]))
    status = draw(st.sampled_from(SLOT_STATUSES))
    numbers = [draw(TIMES) for _ in range(4)]
    return Slot(
        deployment, name, status, draw(st.integers(0, 9)), holder, *numbers, draw(AMOUNTS), draw(TIMES),
        draw(st.integers(0, 5)), {}, {}, draw(TEXT),
    )  # fmt: skip


@st.composite
def own(draw: Any) -> Own:
    manifest = draw(st.sampled_from(manifests()))
    id_ = draw(st.sampled_from(IDS))
    names = draw(st.lists(st.sampled_from(["web/0", "web/1", "mine/0", "gone/7", "odd"]), max_size=4))
    times = [draw(TIMES) for _ in range(6)]
    record = Deployment(
        id_, bytes(32), bytes(32), draw(st.sampled_from([CONSUMER.public, STRANGER.public])), BOT.public,
        draw(st.sampled_from(STATUSES)), draw(st.sampled_from(["run", "stop"])), draw(AMOUNTS),
        draw(AMOUNTS), draw(st.booleans()), *times, tuple(names), draw(TEXT), draw(TIMES),
    )  # fmt: skip
    signers = st.sampled_from([key.public for key in (BUDGET, EXPERT, LEGAL, STRANGER, AUTHOR)])
    approvals = st.builds(
        ApprovalRecord,
        signer=signers,
        role=st.sampled_from(["budget", "it-expert", "legal", "nobody"]),
        act=st.sampled_from(["deploy", "signoff"]),
        decision=st.sampled_from(["granted", "rejected", "revoked"]),
        document=st.just(bytes(32)),
        envelope=st.just(b""),
        expires_ms=TIMES,
        height=st.just(1),
        time_ms=TIMES,
    )
    return Own(
        record=record,
        manifest=manifest,
        slots=tuple(draw(slot(id_, name)) for name in names),
        approvals=tuple(draw(st.lists(approvals, max_size=4))),
    )


@st.composite
def node(draw: Any) -> Node:
    key = draw(st.sampled_from(NODES)).public
    sizes = [draw(st.sampled_from([0, 500, 10**10])) for _ in range(8)]
    price = Price(*(draw(st.sampled_from([0, 40_000, 2**40])) for _ in range(4)))
    runtimes = draw(st.sampled_from([(), ("sandbox",)]))
    return Node(key, "farm-a", "BE", *sizes, price, runtimes, {}, "", draw(TIMES), 0, 0)


VIEWS = st.builds(
    View,
    height=st.integers(0, 2_000),
    time_ms=TIMES,
    account=st.just(CONSUMER.public),
    balance=AMOUNTS,
    own=st.lists(own(), max_size=4).map(tuple),
    nodes=st.lists(node(), max_size=3).map(tuple),
)
MEMORIES = st.builds(
    Memory,
    intents=st.lists(
        st.builds(
            Intent, st.sampled_from(IDS), TEXT, st.integers(0, 2_000), st.binary(max_size=9), st.booleans()
        ),
        max_size=3,
        unique_by=lambda intent: intent.id,
    ).map(tuple),
    watches=st.lists(
        st.builds(
            Watch,
            st.sampled_from(IDS),
            TEXT,
            st.sampled_from(["", *STATUSES]),
            TEXT,
            TIMES,
            st.lists(st.sampled_from(["ended", "term_ends", "budget_low", "x"]), max_size=3).map(tuple),
            st.none() | TEXT,
            st.integers(0, 2_000),
            st.integers(0, CANCEL_TRIES_MAX + 1),
        ),
        max_size=4,
        unique_by=lambda watch: watch.deployment,
    ).map(tuple),
)


def after(actions: tuple[Action, ...], memory: Memory) -> Memory:
    """The memory that the actions leave."""
    last = actions[-1] if actions else None
    return last.memory if isinstance(last, Remember) else memory


@settings(max_examples=150)
@given(VIEWS, MEMORIES)
def test_it_never_raises_decides_alike_and_does_nothing_twice(view: View, memory: Memory) -> None:
    actions = decide(view, memory)
    assert decide(view, memory) == actions
    assert all(not isinstance(action, Remember) for action in actions[:-1])
    kept = after(actions, memory)
    assert decide(view, kept) == ()
    if actions:
        assert isinstance(actions[-1], Remember) or kept == memory
    ids = [watch.deployment for watch in kept.watches]
    assert len(set(ids)) == len(ids)


@settings(max_examples=80)
@given(VIEWS, MEMORIES)
def test_each_action_has_its_reason(view: View, memory: Memory) -> None:
    by_id = {own.record.id: own for own in view.own}
    for action in decide(view, memory):
        match action:
            case Order(intent):
                assert intent in memory.intents
                assert not intent.sent and intent.id not in by_id and intent.expires > view.height
            case Cancel(deployment, reason):
                watch = memory.watch(deployment)
                assert watch is not None and watch.cancel == reason
                assert watch.asked_until < view.height
                assert any(not own.ended for own in view.own if own.record.id == deployment)
            case Note(deployment, status, doing):
                watch = memory.watch(deployment)
                assert watch is None or (watch.status, watch.doing) != (status, doing)
            case Warn(deployment, kind, reason):
                watch = memory.watch(deployment)
                assert reason
                assert watch is None or kind not in watch.warned


class Life:
    """A bot that sees every step of a real ledger; each look is checked to do nothing twice."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.memory = Memory()

    def look(self) -> list[Action]:
        world = self.world
        ids = own_deployments(world.state, BOT.public)
        ids = tuple(dict.fromkeys((*(w.deployment for w in self.memory.watches), *ids)))
        view = build_view(world.state, world.height, world.now_ms, CONSUMER.public, ids)
        actions = decide(view, self.memory)
        self.memory = after(actions, self.memory)
        assert decide(view, self.memory) == ()
        return [action for action in actions if not isinstance(action, Remember)]

    def told(self) -> list[str]:
        return [action.doing for action in self.look() if isinstance(action, Note)]

    def warned(self) -> list[str]:
        return [action.kind for action in self.look() if isinstance(action, Warn)]


def test_the_life_of_a_service() -> None:
    world = World()
    world.add_nodes()
    life = Life(world)
    deployment = world.ordered(contract())
    waiting = "waits for approval: needs 1 of role budget; needs 1 of any (role it-expert, role legal)"
    assert life.told() == [waiting]
    world.ok(STRANGER, world.decide(deployment, BUDGET, "budget"))
    assert life.told() == ["waits for approval: needs 1 of any (role it-expert, role legal)"]
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert"))
    assert life.told() == ["2 of 2 waiting for a node"]
    for name, holder in (("web/0", NODES[0]), ("web/1", NODES[2])):
        world.claimed(deployment, name, [holder])
        world.report(deployment, name, holder, "fetching", "verified", "running")
    assert life.told() == ["2 of 2 running"]
    world.report(deployment, "web/1", NODES[2], "running")
    assert life.look() == []  # a re-check is no news
    world.report(deployment, "web/1", NODES[2], "failed")
    assert life.told() == ["1 of 2 running; 1 of 2 placed again (web/1 as term 2)"]
    world.claimed(deployment, "web/1", [NODES[3]])
    world.report(deployment, "web/1", NODES[3], "fetching", "verified", "running")
    assert life.told() == ["2 of 2 running"]
    world.wait(LEASE_MS + LEASE_GUARD_MS + 2_000)
    assert life.told() == ["2 of 2 placed again (web/0 as term 2, web/1 as term 3)"]


def test_a_lost_lease_and_no_node_for_it() -> None:
    world = World()
    world.add_nodes()
    life = Life(world)
    deployment = world.running(contract())
    assert life.told() == ["2 of 2 running"]
    for holder in NODES[2:]:
        world.ok(holder, WithdrawOffer())
    for _ in range(4):  # node 0 renews, node 2 is gone
        term = world.slot(deployment, "web/0").term
        world.ok(NODES[0], renewal(deployment, "web/0", term), step_ms=20_000)
    actions = life.look()
    assert [a.doing for a in actions if isinstance(a, Note)] == [
        "1 of 2 running; 1 of 2 placed again (web/1 as term 2)"
    ]
    reasons = {a.kind: a.reason for a in actions if isinstance(a, Warn)}
    assert reasons == {"no_capacity.web": "no node fits web/1: 2 nodes: claim.distinct"}
    world.ok(NODES[3], world.offer())
    assert life.look() == []  # the warning ends quietly
    world.ok(NODES[3], WithdrawOffer())
    assert life.warned() == ["no_capacity.web"]  # and is told again when it holds again


def renewal(deployment: bytes, name: str, term: int) -> Any:
    return Renew((RenewItem(deployment, name, term),))


def test_approvals_that_run_out_and_the_end_of_the_term() -> None:
    world = World()
    world.add_nodes()
    life = Life(world)
    policies = replace(POLICIES, validity_s=10 * 3600)
    deployment = world.ordered(contract(policies=policies))
    life.look()
    world.wait(9 * HOUR_MS + 1_000, step_ms=HOUR_MS)
    assert life.warned() == ["approval_wait"]
    world.approve(deployment)
    assert life.warned() == []
    world.wait(9 * HOUR_MS + 1_000, step_ms=HOUR_MS)
    assert life.warned() == ["approval_ends"]
    world.approve(deployment)
    assert life.warned() == []
    world.wait(5 * HOUR_MS, step_ms=HOUR_MS)
    assert life.warned() == []
    world.approve(deployment)
    world.wait(8 * HOUR_MS, step_ms=HOUR_MS)
    assert life.warned() == ["term_ends"]
    world.wait(3 * HOUR_MS, step_ms=HOUR_MS)
    actions = life.look()
    assert Warn(deployment, "ended", "expired: nothing ran within its term") in actions
    assert Note(deployment, "expired", "expired: nothing ran within its term") in actions


def test_a_job_waits_for_its_sign_off() -> None:
    world = World()
    world.add_nodes()
    life = Life(world)
    deployment = world.ordered(contract(job()))
    world.approve(deployment)
    world.claimed(deployment, "mine/0", [NODES[0]])
    world.report(deployment, "mine/0", NODES[0], "fetching", "verified", "running", "succeeded")
    assert life.told() == ["done, waits for sign-off: needs 1 of any (role it-expert, role budget)"]
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "granted", "signoff"))
    assert life.told() == ["completed"]
    assert life.look() == []


def test_an_escrow_that_will_not_last_is_warned_of() -> None:
    world = World()
    world.add_nodes()
    life = Life(world)
    deployment = world.running(contract())
    assert life.warned() == []
    ids = (deployment,)
    view = build_view(world.state, world.height, world.now_ms, CONSUMER.public, ids)
    poor = replace(view.own[0], record=replace(view.own[0].record, escrow=100_000))
    found = [a for a in decide(replace(view, own=(poor,)), life.memory) if isinstance(a, Warn)]
    assert [warning.kind for warning in found] == ["budget_low"]
    assert "credits short" in found[0].reason


def test_the_fee_is_kept_back_until_it_is_paid() -> None:
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract())
    world.approve(deployment)
    world.claimed(deployment, "web/0", [NODES[0]])
    view = build_view(world.state, world.height, world.now_ms, CONSUMER.public, (deployment,))
    held = view.own[0]
    need = cost(held.slots[0].rate_hour, held.slots[0].claimed_ms, held.record.ends_ms)
    for fee_paid, kinds in ((True, []), (False, ["budget_low"])):
        record = replace(held.record, escrow=need + 1_000, fee_paid=fee_paid)
        actions = decide(replace(view, own=(replace(held, record=record),)), Memory())
        assert [action.kind for action in actions if isinstance(action, Warn)] == kinds


def test_a_wish_to_cancel_is_asked_for_until_it_is_done() -> None:
    world = World()
    life = Life(world)
    deployment = world.ordered(contract())
    life.look()
    watch = life.memory.watch(deployment)
    assert watch is not None
    life.memory = life.memory.with_watch(replace(watch, cancel="enough"))
    asked = 0
    for _ in range(2_000):
        asked += sum(isinstance(action, Cancel) for action in life.look())
        world.run(step_ms=10)
    assert asked == CANCEL_TRIES_MAX
    watch = life.memory.watch(deployment)
    assert watch is not None and watch.warned == ("cancel_stuck",)
    world.ok(BOT, CancelDeployment(deployment, "enough"))
    assert life.told() == ["cancelled: enough"]
    assert life.look() == []


def test_a_wish_to_cancel_waits_for_consent() -> None:
    """[B4] And is not asked for in vain meanwhile."""
    world = World()
    world.add_nodes()
    life = Life(world)
    deployment = world.ordered(contract(policies=replace(POLICIES, delete=Rule(role="legal"))))
    world.approve(deployment)
    life.look()
    watch = life.memory.watch(deployment)
    assert watch is not None
    life.memory = life.memory.with_watch(replace(watch, cancel="enough"))
    told = [action for action in life.look() if isinstance(action, Warn)]
    assert [(warn.kind, "needs 1 of role legal" in warn.reason) for warn in told] == [("cancel_waits", True)]
    world.run()
    assert not [action for action in life.look() if isinstance(action, Cancel)]
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "granted", "delete"))
    assert [action for action in life.look() if isinstance(action, Cancel)] == [Cancel(deployment, "enough")]


def test_a_flood_of_orders_that_name_the_bot_is_bounded_and_own_ones_come_first() -> None:
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract())
    view = build_view(world.state, world.height, world.now_ms, CONSUMER.public, (deployment,))
    mine = view.own[0]
    foreign = [
        replace(mine, record=replace(mine.record, id=n.to_bytes(32, "big"), consumer=STRANGER.public))
        for n in range(1, 200)
    ]
    memory = after(decide(replace(view, own=(*foreign, mine)), Memory()), Memory())
    assert len(memory.watches) == WATCHED_MAX
    assert memory.watch(deployment) is not None
    over = [replace(o, record=replace(o.record, status="failed", ended_ms=n)) for n, o in enumerate(foreign)]
    memory = after(decide(replace(view, own=(*over, mine)), memory), memory)
    assert len(memory.watches) == ENDED_KEPT_MAX + 1
    assert decide(replace(view, own=(*over, mine)), memory) == ()
