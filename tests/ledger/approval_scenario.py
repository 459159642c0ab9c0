"""`make scenario-approvals`: what approval policies do on the ledger, as a table of case, expected and got.

Each case orders a deployment under its policy on a real state machine and has people sign; what it gives back
is what a reader would look up on the ledger. Beside it: how long a policy of 100 signers takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from ledger.keys import Key
from ledger.manifests.types import Role, Rule
from ledger.organisations.organisation import Member
from ledger.policies.decision import Approval, Decision, evaluate
from ledger.policies.types import Auto, Weight
from ledger.transactions import CancelDeployment, Claim
from tests.ledger.organisation_fixture import ANNA, BEN, CARL, DORA, EVE, Office, held_contract, member
from tests.ledger.release_scenario import RELEASE_CASES
from tests.ledger.scenario_base import (
    APPROVED,
    CASES,
    HOUR_S,
    R_BUDGET,
    R_EXPERT,
    R_LEGAL,
    WAITING,
    Play,
    case,
)
from tests.ledger.update_scenario import UPDATE_CASES
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    CONSUMER,
    EXPERT,
    LEGAL,
    NODES,
    STRANGER,
    World,
)

# ---------------------------------------------------------------------- the tree


@case("2 of 3, and budget is one of them: budget + legal", APPROVED)
def _two_of_three() -> str:
    play = Play(Rule(all=(R_BUDGET, Rule(any=(R_EXPERT, R_LEGAL)))))
    play.sign(BUDGET)
    play.sign(LEGAL)
    return play.status


@case("the same, without budget", WAITING)
def _without_budget() -> str:
    play = Play(Rule(all=(R_BUDGET, Rule(any=(R_EXPERT, R_LEGAL)))))
    play.sign(EXPERT)
    play.sign(LEGAL)
    return play.status


@case("one signature never fills two places", WAITING)
def _one_place() -> str:
    play = Play(Rule(all=(R_BUDGET, Rule(any=(R_BUDGET, R_EXPERT)))))
    play.sign(BUDGET)
    return play.status


@case("a signer beyond the threshold is on record", "approved, 2 decisions on record")
def _beyond() -> str:
    play = Play(Rule(any=(R_BUDGET, R_EXPERT)))
    play.sign(BUDGET)
    play.sign(EXPERT)
    return f"{play.status}, {play.world.deployment(play.id).decisions} decisions on record"


@case("a key that the policy names signs without a role", APPROVED)
def _named_key() -> str:
    play = Play(Rule(key=STRANGER.public.hex()))
    return play.sign(STRANGER, role="") or play.status


@case("a key that no rule names, without a role", "approval.not_a_stakeholder, approval.wrong_role")
def _unnamed_key() -> str:
    play = Play(Rule(all=(R_BUDGET, Rule(any=(R_EXPERT, R_LEGAL)))))
    return f"{play.sign(STRANGER, role='')}, {play.sign(BUDGET, role='')}"


@case(
    "weight 5 of budget 3, it-expert 2, legal 1: 3+1 is short, 3+2 is enough", "awaiting_approval, approved"
)
def _weights() -> str:
    shares = zip(("budget", "it-expert", "legal"), (3, 2, 1), strict=True)
    play = Play(Rule(weigh=tuple(Weight(role=name, weight=w) for name, w in shares), count=5))
    play.sign(BUDGET)
    play.sign(LEGAL)
    before = play.status
    play.sign(EXPERT)
    return f"{before}, {play.status}"


@case("an excluded author fills no place", "approval.excluded, awaiting_approval")
def _author() -> str:
    both = Play(Rule(any=(Rule(key=AUTHOR.public.hex()), R_BUDGET)))
    return f"{both.sign(AUTHOR, role='')}, {both.status}"


@case("an exclusion of one rule alone: the signature counts elsewhere", "awaiting_approval, approved")
def _rule_exclusion() -> str:
    key = CONSUMER.public.hex()
    play = Play(Rule(all=(Rule(key=key), Rule(any=(Rule(key=key), R_BUDGET), exclude=("consumer",)))))
    play.sign(CONSUMER, role="")
    before = play.status
    play.sign(BUDGET)
    return f"{before}, {play.status}"


@case("order: budget before legal is not counted, again after it is", "awaiting_approval, approved")
def _order() -> str:
    play = Play(Rule(all=(R_LEGAL, R_BUDGET), ordered=True))
    play.sign(BUDGET)
    play.sign(LEGAL)
    before = play.status
    play.sign(BUDGET, "revoked")
    play.sign(BUDGET)
    return f"{before}, {play.status}"


@case("order: who renews an approval does not lose the turn", APPROVED)
def _order_renewed() -> str:
    play = Play(Rule(all=(R_LEGAL, R_BUDGET), ordered=True))
    for key in (LEGAL, BUDGET, LEGAL):
        play.sign(key)
    return play.status


@case("wait of 1 h: open until then, approved by itself at it", "awaiting_approval, approved")
def _wait() -> str:
    play = Play(Rule(role="budget", wait_s=HOUR_S))
    play.sign(BUDGET)
    play.wait(HOUR_S - 2)
    before = play.status
    play.wait(2)
    return f"{before}, {play.status}"


@case("wait: a revocation within it begins it anew", "awaiting_approval, approved")
def _wait_revoked() -> str:
    play = Play(Rule(role="budget", wait_s=HOUR_S))
    for decision in ("granted", "revoked", "granted"):
        play.sign(BUDGET, decision)
        play.wait(HOUR_S // 2)
    before = play.status
    play.wait(HOUR_S // 2)
    return f"{before}, {play.status}"


@case("veto within the wait ends it", "rejected")
def _veto() -> str:
    play = Play(Rule(role="budget", wait_s=HOUR_S, veto=("legal",)))
    play.sign(BUDGET)
    play.sign(LEGAL, "rejected")
    return play.status


@case("the rule's own expiry is shorter than the policy's: suspended at it", "approved, awaiting_approval")
def _rule_expiry() -> str:
    play = Play(Rule(role="budget", expires_s=HOUR_S))
    play.sign(BUDGET)
    play.wait(HOUR_S - 2)
    before = play.status
    play.wait(2)
    return f"{before}, {play.status}"


# ---------------------------------------------------------------------- automatic


@case("auto: the budget of 2 credits is within 2 credits", APPROVED)
def _auto() -> str:
    return Play(Rule(any=(Rule(auto=Auto(budget=2_000_000)), R_BUDGET))).status


@case("auto: it is above 1.5 credits, so budget is asked", "awaiting_approval, approved")
def _escalated() -> str:
    play = Play(Rule(any=(Rule(auto=Auto(budget=1_500_000)), R_BUDGET)))
    before = play.status
    play.sign(BUDGET)
    return f"{before}, {play.status}"


@case("auto: the same manifest again within 2 h, and after them", "approved, awaiting_approval")
def _same_again() -> str:
    play = Play(Rule(any=(Rule(auto=Auto(approved_within_s=2 * HOUR_S)), R_BUDGET)))
    play.sign(BUDGET)
    play.wait(HOUR_S)
    again = play.world.order(play.source, play.contract_id)
    found = play.world.deployment(again).status
    play.wait(2 * HOUR_S)
    late = play.world.order(play.source, play.contract_id)
    return f"{found}, {play.world.deployment(late).status}"


@case("auto: no precedent when that approval was taken back, or was automatic itself", "awaiting_approval")
def _precedent_lost() -> str:
    play = Play(Rule(any=(Rule(auto=Auto(approved_within_s=2 * HOUR_S)), R_BUDGET)))
    play.sign(BUDGET)
    again = play.world.order(play.source, play.contract_id)
    assert play.world.deployment(again).status == "approved"
    play.sign(BUDGET, "revoked")
    return play.world.deployment(play.world.order(play.source, play.contract_id)).status


# ---------------------------------------------------------------------- running workloads

_BOTH = Rule(all=(R_BUDGET, R_EXPERT))


@case("revoked while it runs, on_revoked stop", "awaiting_approval: released,released")
def _stop() -> str:
    play = Play(_BOTH, running=True)
    play.sign(EXPERT, "revoked")
    return f"{play.status}: {play.slots}"


@case("revoked, run_until 60 s: what runs renews its leases", "active: running,running renewed")
def _runs_on() -> str:
    play = Play(_BOTH, running=True, run_on_s=60)
    play.sign(EXPERT, "revoked")
    last = play.renew(50)
    return f"{play.status}: {play.slots} {last}"


@case("... and 60 s later it is stopped", "awaiting_approval: released,released renew.released")
def _run_on_over() -> str:
    play = Play(_BOTH, running=True, run_on_s=60)
    play.sign(EXPERT, "revoked")
    last = play.renew(70)
    return f"{play.status}: {play.slots} {last}"


@case("... unless it is approved again meanwhile", "active: running,running")
def _regained() -> str:
    play = Play(_BOTH, running=True, run_on_s=60)
    play.sign(EXPERT, "revoked")
    play.sign(EXPERT)
    play.renew(80)
    return f"{play.status}: {play.slots}"


@case("a slot that falls free meanwhile is not claimed", "claim.not_open, open after approval")
def _no_new_claims() -> str:
    play = Play(_BOTH, running=True, run_on_s=600)
    play.sign(EXPERT, "revoked")
    play.world.report(play.id, "web/0", NODES[0], "failed")
    found = play.world.do(NODES[1], Claim(play.id, "web/0", 2)).rule
    play.sign(EXPERT)
    return f"{found}, {play.world.slot(play.id, 'web/0').status} after approval"


@case("a slot that stands open when the approval is lost is not claimed", "approved, claim.not_open")
def _open_when_lost() -> str:
    play = Play(_BOTH, run_on_s=600)
    for key, decision in ((BUDGET, "granted"), (EXPERT, "granted"), (EXPERT, "revoked")):
        play.sign(key, decision)
    return f"{play.status}, {play.world.do(NODES[0], Claim(play.id, 'web/0', 1)).rule}"


@case("an approval that expires while it runs, run_until 60 s", "active since lost, awaiting_approval")
def _expired_run_on() -> str:
    play = Play(Rule(all=(R_BUDGET, Rule(role="it-expert", expires_s=60))), running=True, run_on_s=60)
    play.renew(80)
    before = f"{play.status} since {'lost' if play.world.deployment(play.id).lost_ms else 'approved'}"
    play.renew(50)
    return f"{before}, {play.status}"


@case("a rejection for good ends it at once, run_until or not", "rejected: released,released")
def _rejected() -> str:
    play = Play(_BOTH, running=True, run_on_s=600)
    play.sign(BUDGET, "rejected")
    return f"{play.status}: {play.slots}"


# ---------------------------------------------------------------------- delete


@case("delete asks for legal: the consumer alone, and with consent", "cancel.not_approved, cancelled")
def _delete() -> str:
    play = Play(_BOTH, running=True, delete=R_LEGAL)
    alone = play.world.do(CONSUMER, CancelDeployment(play.id, "")).rule
    play.sign(LEGAL, act="delete")
    play.world.ok(CONSUMER, CancelDeployment(play.id, ""))
    return f"{alone}, {play.status}"


@case("an approval to deploy is no consent to delete", "cancel.not_approved")
def _other_act() -> str:
    play = Play(_BOTH, running=True, delete=R_BUDGET)
    return play.world.do(CONSUMER, CancelDeployment(play.id, "")).rule


@case("what nobody approved yet is withdrawn freely", "cancelled")
def _withdrawn() -> str:
    play = Play(_BOTH, delete=R_LEGAL)
    play.world.ok(CONSUMER, CancelDeployment(play.id, ""))
    return play.status


@case("sign-off with a wait of 1 h is given by itself at it", "0, signed off")
def _signoff_wait() -> str:
    play = Play(None, signoff=Rule(role="budget", wait_s=HOUR_S))
    play.world.claimed(play.id, "web/0", [NODES[0]])
    play.world.report(play.id, "web/0", NODES[0], "fetching", "verified", "running")
    play.sign(BUDGET, act="signoff")
    before = play.world.deployment(play.id).signed_off_ms
    play.wait(HOUR_S)
    return f"{before}, {'signed off' if play.world.deployment(play.id).signed_off_ms else 'open'}"


def hundred_signers() -> Iterator[tuple[str, Callable[[], Decision]]]:
    """Policies over 100 signers by name, each with what evaluates it."""
    signers = [bytes([1, n]) * 16 for n in range(100)]
    roles = [Role(name=f"r{j}", keys=tuple(s.hex() for s in signers[j * 10 : j * 10 + 60])) for j in range(5)]
    many = Rule(any=tuple(Rule(role=f"r{j}", count=15) for j in range(5)), count=4)
    weights = Rule(weigh=tuple(Weight(role=f"r{j}", weight=j + 1) for j in range(5)), count=60)
    keys = Rule(any=tuple(Rule(key=s.hex()) for s in signers), count=67)
    approvals = [Approval(s, (), "granted", 0, n + 1) for n, s in enumerate(signers)]
    for name, rule, given in (
        ("any 4 of 5 roles, 15 signers each", many, approvals),
        ("weight 60 of 5 roles", weights, approvals),
        ("both of these, in order", Rule(all=(many, weights), ordered=True), approvals),
        ("67 of 100 named keys", keys, approvals),
        ("the same with 66 signatures", keys, approvals[:66]),
    ):
        yield name, partial(evaluate, rule, roles, given, 1_000_000)


# ---------------------------------------------------------------------- organisations

_TWO = Rule(role="board", count=2)


class Board(Play):
    """A deployment that two of the board approve: Anna, Ben, Carl and Dora of an organisation."""

    def __init__(self, *, running: bool = False, **policies: object) -> None:
        self.world = World()
        self.world.add_nodes()
        self.people = {"Anna": ANNA, "Ben": BEN, "Carl": CARL, "Dora": DORA}
        self.office = Office(self.world, *self.members())
        self.world.run()
        self.source = held_contract(self.office.role("board", "board"), deploy=_TWO, **policies)
        self.contract_id = self.world.publish(self.source)
        self.id = self.world.order(self.source, self.contract_id)
        if running:
            self.sign(ANNA)
            self.sign(BEN)
            for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
                self.world.claimed(self.id, name, [node])
                self.world.report(self.id, name, node, "fetching", "verified", "running")

    def members(self, **changes: Key | None) -> tuple[Member, ...]:
        """The members, some with another key, or gone (None)."""
        now = {name: changes.get(name, key) for name, key in self.people.items()}
        return tuple(member(name, key, "board") for name, key in now.items() if key is not None)

    def sign(self, key: Key, decision: str = "granted", act: str = "deploy", role: str | None = None) -> str:
        return super().sign(key, decision, act, "board" if role is None else role)


@case("two of the board of an organisation sign", "awaiting_approval, approved")
def _members() -> str:
    play = Board()
    play.sign(ANNA)
    before = play.status
    play.sign(DORA)
    return f"{before}, {play.status}"


@case("who is no member, or is one no more, does not sign", "approval.not_a_stakeholder twice")
def _strangers() -> str:
    play = Board()
    first = play.sign(EVE)
    play.office.change(*play.members(Dora=None), by=(ANNA, BEN))
    return f"{first} twice" if play.sign(DORA) == first else "signed"


@case("a member leaves who had signed, before it runs", "approved, awaiting_approval")
def _left() -> str:
    play = Board()
    play.sign(ANNA)
    play.sign(DORA)
    before = play.status
    play.office.change(*play.members(Dora=None), by=(ANNA, BEN))
    return f"{before}, {play.status}"


@case("... while it runs, on_revoked stop", "awaiting_approval: released,released")
def _left_running() -> str:
    play = Board(running=True)
    play.office.change(*play.members(Ben=None), by=(ANNA, CARL))
    return f"{play.status}: {play.slots}"


@case("... run_until 60 s, and another signs within it", "active since lost, active since approved")
def _left_run_on() -> str:
    play = Board(running=True, run_on_s=60)
    play.office.change(*play.members(Ben=None), by=(ANNA, CARL))
    found = []
    for key in (None, CARL):
        if key is not None:
            play.sign(key)
        lost = "lost" if play.world.deployment(play.id).lost_ms else "approved"
        found.append(f"{play.status} since {lost}")
    return ", ".join(found)


@case("... and comes back: the old approval does not", "awaiting_approval, approved")
def _came_back() -> str:
    play = Board(running=True)
    play.office.change(*play.members(Ben=None), by=(ANNA, CARL))
    play.office.change(*play.members(), by=(ANNA, CARL))
    before = play.status
    play.sign(BEN)
    return f"{before}, {play.status}"


@case(
    "a member rotates the key: what it signed counts on, once", "active, approval.not_a_stakeholder, active"
)
def _rotated() -> str:
    play = Board(running=True)
    play.office.rotate("Ben", BEN, EVE)
    before = play.status
    old = play.sign(BEN)
    play.sign(EVE)
    return f"{before}, {old}, {play.status}"


@case("the new key takes back what the old one signed", "awaiting_approval: released,released")
def _rotated_revoked() -> str:
    play = Board(running=True)
    play.office.rotate("Ben", BEN, EVE)
    play.sign(EVE, "revoked")
    return f"{play.status}: {play.slots}"


@case("a lost key is replaced by the others: what it signed is void", "awaiting_approval, approved")
def _lost_key() -> str:
    play = Board(running=True)
    play.office.change(*play.members(Ben=EVE), by=(ANNA, CARL))
    before = play.status
    play.sign(EVE)
    return f"{before}, {play.status}"


@case("one member alone changes nobody, nor only those who are to be members", "organisation.no_quorum twice")
def _takeover() -> str:
    play = Board()
    alone = play.office.change(*play.members(Ben=None), by=(ANNA,))
    after = play.office.change(member("Eve", EVE, "board"), by=(EVE,), quorum=1)
    return f"{alone} twice" if alone == after else f"{alone}, {after}"


@case("dissolved, what it approved stops, and it is ordered no more", "awaiting_approval, order.organisation")
def _dissolved() -> str:
    play = Board(running=True)
    play.office.act(play.office.deed("dissolve"), ANNA, BEN)
    again = play.world.do(CONSUMER, play.world.order_body(play.source, play.contract_id)).rule
    return f"{play.status}, {again}"


CASES += [*UPDATE_CASES, *RELEASE_CASES]


def timings() -> list[tuple[str, float, bool]]:
    """(what, CPU milliseconds, satisfied) of policies over 100 signers."""
    out = []
    for name, work in hundred_signers():
        started_s = time.process_time()
        decision = work()
        out.append((name, (time.process_time() - started_s) * 1000, decision.satisfied))
    return out


def main() -> int:
    """Print the table; returns 1 when a case went otherwise than expected."""
    width = max(len(found.name) for found in CASES)
    bad = 0
    print(f"{'case':{width}}  {'expected':48}  got")
    for found in CASES:
        got = found.play()
        bad += got != found.expected
        wrong = "" if got == found.expected else "  <-- WRONG"
        print(f"{found.name:{width}}  {found.expected:48}  {got}{wrong}")
    print(f"\n{len(CASES)} cases, {bad} otherwise than expected\n")
    for name, ms, satisfied in timings():
        print(f"100 signers, {name}: {ms:.1f} ms ({'satisfied' if satisfied else 'open'})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
