"""Cases of `make scenario-approvals` about results that are held back, and policies that ask for nobody."""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec.structs import replace

from ledger.documents import sign_contract
from ledger.keys import Key
from ledger.manifests.types import Rule
from ledger.policies.types import Weight
from ledger.transactions import PublishContract
from tests.ledger.invariants import check
from tests.ledger.organisation_fixture import ANNA, founding, member, signed
from tests.ledger.scenario_base import HOUR_S, R_BUDGET, R_EXPERT, R_LEGAL, Case, Play
from tests.ledger.scenario_base import case as any_case
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    EXPERT,
    LEGAL,
    NODES,
    POLICIES,
    World,
    contract,
    job,
    result_file,
)

_BOTH: Final = Rule(all=(R_BUDGET, R_EXPERT))
_THREE: Final = Rule(all=(R_BUDGET, R_EXPERT, R_LEGAL))
RELEASE_CASES: Final[list[Case]] = []
case = partial(any_case, table=RELEASE_CASES)


class Mine(Play):
    """A job that budget and it-expert approve, and whose results another policy releases."""

    def __init__(self, release: Rule | None) -> None:
        self.world = World()
        self.world.add_nodes()
        policies = replace(POLICIES, deploy=_BOTH, signoff=R_EXPERT, release=release)
        self.source = contract(job(), policies=policies, budget=50_000_000)
        self.contract_id = self.world.publish(self.source)
        self.id = self.world.order(self.source, self.contract_id)
        self.sign(BUDGET)
        self.sign(EXPERT)

    def work(self) -> str:
        """The job runs and succeeds; what has become of its results."""
        node = self.world.claimed(self.id, "mine/0", [NODES[0]])
        self.world.report(self.id, "mine/0", node, "fetching", "verified", "running")
        results = {"/result/words.tsv": result_file()}
        self.world.ok(node, self.world.receipt(self.id, "mine/0", node, "succeeded", results=results))
        return self.results

    def release(self, *keys: Key, decision: str = "granted") -> str:
        """These sign for the results; what has become of them, or the rule."""
        for key in keys:
            if rule := self.sign(key, decision, "release"):
                return rule
        return self.results

    @property
    def results(self) -> str:
        record = self.world.deployment(self.id)
        return "released" if record.released_ms else "held" if record.results else "free"


@case("release stricter than deploy: both who approved it, then legal too", "held, held, released")
def _stricter() -> str:
    play = Mine(_THREE)
    return f"{play.work()}, {play.release(BUDGET, EXPERT)}, {play.release(LEGAL)}"


@case("approvals to deploy and the sign-off release nothing", "held, signed off")
def _other_acts() -> str:
    play = Mine(R_EXPERT)
    play.work()
    play.sign(EXPERT, act="signoff")
    return f"{play.results}, {'signed off' if play.world.deployment(play.id).signed_off_ms else 'open'}"


@case("nobody releases results that are not there yet", "approval.closed")
def _too_early() -> str:
    return Mine(R_LEGAL).release(LEGAL)


@case("taken back while they are held, and after", "held, released, approval.closed")
def _taken_back() -> str:
    play = Mine(_BOTH)
    play.work()
    play.release(BUDGET)
    play.release(BUDGET, decision="revoked")
    held = play.release(EXPERT)
    return f"{held}, {play.release(BUDGET)}, {play.release(BUDGET, decision='revoked')}"


@case("release with a wait of 1 h and a veto: at it, and when legal says no", "held, released; held")
def _waited() -> str:
    rule, found = Rule(role="budget", wait_s=HOUR_S, veto=("legal",)), []
    for veto in (False, True):
        play = Mine(rule)
        play.work()
        before = play.release(BUDGET)
        if veto:
            play.release(LEGAL, decision="rejected")
        play.wait(HOUR_S)
        found.append(play.results if veto else f"{before}, {play.results}")
    return "; ".join(found)


@case("release: none, where it is written: the consumer has them at once", "free")
def _free() -> str:
    return Mine(None).work()


@case("a role, a choice and shares of 0, and a share that is none", "policy.count 4 times")
def _quorum_of_nobody() -> str:
    role = Weight(role="budget", weight=1)
    return _refused(
        Rule(role="budget", count=0),
        Rule(any=(R_BUDGET, R_EXPERT), count=0),
        Rule(weigh=(role,), count=0),
        Rule(weigh=(replace(role, weight=0),), count=1),
    )


@case("a rule without a form, as lists of nothing are", "policy.rule 2 times")
def _empty() -> str:
    return _refused(Rule(), Rule(all=(Rule(),)))


@case("an organisation whose quorum is 0 is not founded", "organisation.quorum")
def _organisation_of_nobody() -> str:
    play = Play(R_BUDGET)
    deed = founding(play.world, member("Anna", ANNA, "board"), quorum=0)
    return play.world.do(ANNA, signed(deed, ANNA)).rule or "founded"


def _refused(*rules: Rule) -> str:
    """For which rule contracts with such policies are not published, whichever act it is."""
    play, found = Play(R_BUDGET), set()
    for rule in rules:
        for act in ("deploy", "signoff", "delete", "update", "release"):
            source = contract(job(), name="other", policies=replace(POLICIES, **{act: rule}))
            receipt = play.world.do(AUTHOR, PublishContract(sign_contract(AUTHOR, source)))
            found.add(receipt.rule or "published")
            check(play.world.state, play.world.now_ms)
    return f"{', '.join(sorted(found))} {len(rules)} times"
