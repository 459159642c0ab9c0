"""Cases of `make scenario-approvals` about updates of what runs: who must approve them, before and after."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from ledger.contracts.types import Contract, ContractRole
from ledger.keys import Key
from ledger.manifests.types import Placement, Policies, Rule, UpdateStrategy
from ledger.transactions import CancelDeployment, SteerUpdate
from tests.ledger.invariants import check
from tests.ledger.scenario_base import HOUR_S, R_BUDGET, R_EXPERT, R_LEGAL, Case, Play
from tests.ledger.scenario_base import case as any_case
from tests.ledger.world import (
    BUDGET,
    CONSUMER,
    EXPERT,
    LEGAL,
    NODES,
    POLICIES,
    STRANGER,
    World,
    contract,
    service,
)

_BOTH: Final = Rule(all=(R_BUDGET, R_EXPERT))
_NOBODY: Final = Policies(deploy=R_LEGAL, signoff=None)
UPDATE_CASES: Final[list[Case]] = []
case = partial(any_case, table=UPDATE_CASES)


class Moving(Play):
    """A deployment of two replicas that runs under a policy, and another version of its contract."""

    def __init__(self, **policies: Any) -> None:
        self.world = World()
        self.world.add_nodes()
        self.policies = replace(POLICIES, deploy=_BOTH, **policies)
        self.source = self.version("1.0.0")
        self.contract_id = self.world.publish(self.source)
        self.id = self.world.order(self.source, self.contract_id)
        self.sign(BUDGET)
        self.sign(EXPERT)
        self.serve("web/0", "web/1")

    def version(self, version: str, policies: Policies | None = None) -> Contract:
        strategy = UpdateStrategy(min_healthy_s=5, deadline_s=60)
        web = service(command=("/bin/sh", version), update=strategy, placement=Placement(distinct="none"))
        return contract(web, version=version, policies=policies or self.policies)

    def move(self, policies: Policies | None = None, version: str = "2.0.0") -> str:
        """Ask for another version; what has become of it, or the rule."""
        return self.ask(self.version(version, policies))

    def ask(self, source: Contract) -> str:
        body = self.world.update_body(self.id, source, self.world.publish(source))
        receipt = self.world.do(CONSUMER, body)
        check(self.world.state, self.world.now_ms)
        return self.update if receipt.ok else receipt.rule

    def agree(self, *keys: Key, decision: str = "granted") -> str:
        """These sign the update; what has become of it, or the rule."""
        for key in keys:
            if rule := self.sign(key, decision, "update"):
                return rule
        return self.update

    def serve(self, *names: str) -> None:
        for name in names:
            node = self.world.claimed(self.id, name, [NODES[0]])
            self.world.report(self.id, name, node, "fetching", "verified", "running")

    def roll(self) -> str:
        """Holders stop and nodes take over, until all have changed over."""
        for name in ("web/0", "web/1"):
            slot = self.world.slot(self.id, name)
            holder = next(node for node in NODES if node.public == slot.holder)
            self.world.ok(holder, self.world.receipt(self.id, name, holder, "released"))
            self.serve(name)
            self.world.wait(6_000)
            check(self.world.state, self.world.now_ms)
        return self.update

    @property
    def update(self) -> str:
        return self.world.update(self.id).status


@case(
    "update, no policy of its own: budget alone, and with it-expert, as to deploy",
    "awaiting_approval, rolling",
)
def _as_deploy() -> str:
    play = Moving()
    play.move()
    return f"{play.agree(BUDGET)}, {play.agree(EXPERT)}"


@case("update stricter than deploy: who may deploy, and legal too", "awaiting_approval, rolling")
def _stricter() -> str:
    play = Moving(update=Rule(all=(_BOTH, R_LEGAL)))
    play.move()
    return f"{play.agree(BUDGET, EXPERT)}, {play.agree(LEGAL)}"


@case("update weaker than deploy, where it is written: budget alone", "rolling")
def _weaker() -> str:
    play = Moving(update=R_BUDGET)
    play.move()
    return play.agree(BUDGET)


@case("update: none, where it is written", "rolling")
def _none() -> str:
    return Moving(update=None).move()


@case("changed signers: the new policy alone, then the old one too", "awaiting_approval, rolling")
def _new_alone() -> str:
    play = Moving()
    play.move(_NOBODY)
    return f"{play.agree(LEGAL)}, {play.agree(BUDGET, EXPERT)}"


@case("changed signers: the old policy alone, then the new one too", "awaiting_approval, rolling")
def _old_alone() -> str:
    play = Moving()
    play.move(_NOBODY)
    return f"{play.agree(BUDGET, EXPERT)}, {play.agree(LEGAL)}"


@case("budget moves to another key: the old key, then the new one", "awaiting_approval, rolling")
def _new_key() -> str:
    play = Moving()
    source = play.version("2.0.0")
    new = ContractRole(name="budget", bind="author", keys=(STRANGER.public.hex(),))
    play.ask(replace(source, roles=tuple(new if r.name == "budget" else r for r in source.roles)))
    before = play.agree(BUDGET, EXPERT)
    play.sign(STRANGER, act="update", role="budget")
    return f"{before}, {play.update}"


@case(
    "the approvals of what runs are none of its update, nor the other way round",
    "awaiting_approval, not theirs",
)
def _apart() -> str:
    play = Moving()
    play.move()
    before = play.update
    play.sign(EXPERT, "revoked")  # of what runs: the update goes with it
    late = play.sign(EXPERT, "granted", "update")
    return f"{before}, {'not theirs' if late == 'approval.closed' else late}"


@case("a grant for a cancelled update is none of the next one to the same manifest", "awaiting_approval")
def _again() -> str:
    play = Moving()
    play.move()
    play.agree(BUDGET)
    play.world.ok(CONSUMER, SteerUpdate(play.id, 1, "cancel"))
    source = play.version("2.0.0")
    known = play.world.update(play.id).contract
    play.world.ok(CONSUMER, play.world.update_body(play.id, source, known))
    return play.agree(EXPERT)


@case("a second update while one waits", "update.pending")
def _second() -> str:
    play = Moving()
    play.move()
    return play.move(version="3.0.0")


@case("one rejection for good: what runs goes on", "rejected, active: running,running")
def _update_rejected() -> str:
    play = Moving()
    play.move()
    return f"{play.agree(BUDGET, decision='rejected')}, {play.status}: {play.slots}"


@case("taken back while it rolls: everything goes back", "rolling, reverted, active")
def _taken_back() -> str:
    play = Moving()
    play.move()
    before = play.agree(BUDGET, EXPERT)
    return f"{before}, {play.agree(BUDGET, decision='revoked')}, {play.status}"


@case("nobody approves it for as long as the policy waits", "awaiting_approval, expired")
def _expired() -> str:
    play = Moving(validity_s=HOUR_S, run_on_s=2 * HOUR_S)
    play.move()
    before = play.update
    play.wait(HOUR_S)
    return f"{before}, {play.update}"


@case("done by the weak policy: taken back afterwards, it stops what runs", "done, active, awaiting_approval")
def _afterwards() -> str:
    play = Moving(update=R_BUDGET)
    play.move()
    play.agree(BUDGET)
    done, before = play.roll(), play.status
    record = play.world.deployment(play.id)
    body = play.world.decide(play.id, BUDGET, "budget", "revoked", update=record.generation)
    play.world.ok(STRANGER, body)
    return f"{done}, {before}, {play.status}"


@case("delete stricter than deploy: both who approved it, then legal too", "cancel.not_approved, cancelled")
def _delete_stricter() -> str:
    play = Moving(delete=Rule(all=(_BOTH, R_LEGAL)))
    for key in (BUDGET, EXPERT):
        play.sign(key, act="delete")
    alone = play.world.do(CONSUMER, CancelDeployment(play.id, "")).rule
    play.sign(LEGAL, act="delete")
    play.world.ok(CONSUMER, CancelDeployment(play.id, ""))
    return f"{alone}, {play.status}"
