"""What changes while it runs: updates of deployments and their approvals, releases of results, an
organisation whose members hold a role; and who tries it without the right to. `change` adds it."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ledger.contracts.types import Contract, VolumeTemplate, WorkloadTemplate
from ledger.copy_records import VolumeCopy
from ledger.keys import Key
from ledger.limits import MIB
from ledger.manifests.types import DISKS, Placement, Restart, Rule, UpdateStrategy
from ledger.records import Deployment, Slot, key_contract_name, key_deployment, key_slot
from ledger.state import read
from ledger.trade_records import UpdateRecord, key_update
from ledger.transactions import Claim, Decide, RecordCopies, SteerUpdate
from ledger.transition.deal import RUNS
from tests.ledger.world import CONSUMER, EXPERT, STRANGER, contract, job, service
from tests.ledger.world import update_body as wish
from tests.sim.market_board import HELD, founded
from tests.sim.market_peer import MarketPeer
from tests.sim.market_people import ROLES, Plan, decision
from tests.sim.market_tenure import BAD
from tests.sim.market_trade import Deed

if TYPE_CHECKING:
    from tests.sim.market_scenario import MarketScenario

RPO_S: Final = 20
RELEASE: Final = Rule(all=(Rule(role="budget"), Rule(role="legal")))
DEEDS: Final = (
    "update",
    "update",
    "update",
    "update",
    "steer",
    "forge",
    "usurp",
    "rotate",
    "seat",
    "lose",
    "lose",
)


def change(rng: Random, scenario: MarketScenario) -> None:
    """Its deployments are a service that is updated, a job whose replicas must agree, and a service with a
    volume that is copied, on nodes with room for all of it."""
    kinds = (_moving, _compared, _kept)
    plans = zip(scenario.plans, rng.sample(kinds, len(scenario.plans)), strict=True)
    scenario.plans = tuple(kind(rng, plan, number) for number, (plan, kind) in enumerate(plans))
    scenario.cpu_millis = tuple(2_000 + more for more in scenario.cpu_millis)
    until_ms = scenario.network.faults_end_ms
    deeds = [Deed(rng.randint(30_000, until_ms), kind, rng.randrange(1 << 20)) for kind in DEEDS]
    scenario.changes = tuple(sorted(deeds, key=lambda deed: deed.at_ms))


def versions(plan: Plan) -> Plan:
    """With the other versions of its contract."""
    first = plan.contract
    web = first.workloads[0]
    other = msgspec.structs.replace(web, command=("/bin/sh", "-c", "other"))
    bad = msgspec.structs.replace(web, command=("/bin/sh", "-c", BAD), restart=Restart(attempts=0))
    more = msgspec.structs.replace(web, replicas=int(web.replicas) + 1)
    less = msgspec.structs.replace(web, replicas=1)
    dearer = msgspec.structs.replace(first.terms, budget=3_000_000, fee=150_000)

    def version(number: int, work: WorkloadTemplate, **changes: Any) -> Contract:
        workloads = (work, *first.workloads[1:])
        return msgspec.structs.replace(first, version=f"1.{number}.0", workloads=workloads, **changes)

    if web.kind == "job":  # that must be done anew; there are nodes for so many replicas, and no more
        return replace(plan, later=(version(1, other),))
    later = [version(1, other), version(2, more, terms=dearer), version(3, bad), version(4, less)]
    return replace(plan, later=tuple(later))


def _strategy(rng: Random) -> UpdateStrategy:
    return UpdateStrategy(
        max_parallel=rng.choice((1, 2)),
        canary=rng.choice((0, 1)),
        min_healthy_s=rng.choice((0, 3)),
        deadline_s=rng.choice((20, 60)),
        on_failure=rng.choice(("revert", "hold")),
    )


def _planned(rng: Random, plan: Plan, number: int, *work: WorkloadTemplate, release: bool = False) -> Plan:
    source = contract(*work, name=f"change-{number}", duration_s=3600)
    if release:
        source = msgspec.structs.replace(
            source, policies=msgspec.structs.replace(source.policies, release=RELEASE)
        )
    if rng.random() < 0.6:
        roles = tuple(HELD if role.name == HELD.name else role for role in source.roles)
        source = msgspec.structs.replace(source, roles=roles)
    return replace(plan, contract=source, order_ms=min(plan.order_ms, 15_000))


def _moving(rng: Random, plan: Plan, number: int) -> Plan:
    place = Placement(distinct=rng.choice(("none", "node")))
    web = service(replicas=2, placement=place, restart=Restart(attempts=2), update=_strategy(rng))
    others = (job(restart=Restart(attempts=2)),) if rng.random() < 0.7 else ()
    return _planned(rng, plan, number, web, *others, release=bool(others))


def _compared(rng: Random, plan: Plan, number: int) -> Plan:
    mine = job(replicas=3, agree=2, restart=Restart(attempts=3), placement=Placement())
    return _planned(rng, plan, number, mine, release=rng.random() < 0.7)


def _kept(rng: Random, plan: Plan, number: int) -> Plan:
    if_lost = rng.choice(("wait", "wait", "empty"))
    data = VolumeTemplate(
        name="data",
        path="/data",
        size_bytes=16 * MIB,
        storage=DISKS[number % 2],
        rpo_s=RPO_S,
        if_lost=if_lost,
    )
    anywhere = Placement(distinct="none")
    web = service(replicas=1, volumes=(data,), placement=anywhere, update=_strategy(rng))
    return _planned(rng, plan, number, web)


class Changer(MarketPeer):
    """Does the scenario's changes, whoever must sign them, and has updates and results decided on."""

    def booted(self) -> None:
        self.rng = Random(f"changes/{self.market.world.result.seed}")
        self.asked: set[tuple[bytes, int]] = set()
        self.steered: set[tuple[bytes, int]] = set()
        self.found: set[bytes] = set()
        self.papers: list[Decide] = []  # of earlier updates
        self.send_as(STRANGER, founded())
        for deed in self.market.scenario.changes:
            self.later(deed.at_ms, self._act, deed)

    def _act(self, deed: Deed) -> None:
        if deed.kind in ("rotate", "lose", "seat", "usurp"):
            body = self.market.ring.act(deed.kind, self.replica.state, self.replica.time_ms)
            if body is not None:
                self.send_as(STRANGER, body)
            return
        there = [record for record in map(self._record, self.market.ordered) if record is not None]
        running = [record for record in there if record.status in RUNS] or there
        if deed.kind == "update":
            running = [record for record in running if self.market.ordered[record.id].later]
        if running:
            getattr(self, f"_{deed.kind}")(running[deed.pick % len(running)], deed.pick // 16)

    def _record(self, deployment: bytes) -> Deployment | None:
        return read(self.replica.state, Deployment, key_deployment(deployment))

    def look(self) -> None:
        """New updates and new results are decided on; what is held is steered."""
        for record in map(self._record, self.market.ordered):
            if record is None:
                continue
            if record.updating and (record.id, record.updates) not in self.asked:
                self.asked.add((record.id, record.updates))
                self._decide_update(record)
            if record.updating and (record.id, record.updates) not in self.steered:
                update = read(self.replica.state, UpdateRecord, key_update(record.id, record.updates))
                if update is not None and update.status == "held":
                    self.steered.add((record.id, record.updates))
                    self.later(self.rng.randint(1_000, 9_000), self._steer, record, self.rng.randrange(8))
            if record.results and record.results not in self.found:
                self.found.add(record.results)
                self._decide_release(record)

    # ------------------------------------------------------------------ updates

    def _update(self, record: Deployment, pick: int) -> None:
        """To another version, or back to the first; sometimes by a stranger, for too little, or from what is
        in force no more."""
        plan = self.market.ordered[record.id]
        choice = [source for source in (plan.contract, *plan.later) if self._differs(record, source)]
        if not plan.later or not choice:
            return
        source = choice[pick % len(choice)]
        found = self.replica.state.get(key_contract_name(source.name, source.version))
        if found is None:
            return
        body = wish(record, source, found)
        lies = {0: {"amount": body.amount + 1}, 1: {"former": bytes(32)}}
        for number, lie in lies.items():
            if pick % 3 == number:
                self.send_as(CONSUMER, msgspec.structs.replace(body, **lie))
        if pick % 5 == 0:
            self.send_as(STRANGER, body)
        self.send_as(CONSUMER, body)

    def _differs(self, record: Deployment, source: Contract) -> bool:
        return self.market.followed.source_of(record.manifest) != source

    def _decide_update(self, record: Deployment) -> None:
        """Mostly approved within seconds; sometimes rejected, never complete, or withdrawn while it rolls."""
        for paper in self.papers[-2:]:  # of another update, or another deployment
            self.send_as(STRANGER, paper)
        fate = self.rng.random()
        second = self.rng.choice(("it-expert", "legal"))
        self._say(record, self.rng.randint(300, 4_000), "update", "budget")
        if fate < 0.1:
            self._say(record, 4_500, "update", "budget", decision="rejected")
        if fate > 0.2:
            self._say(record, self.rng.randint(300, 6_000), "update", second)
        if fate > 0.75:
            self._say(record, self.rng.randint(7_000, 25_000), "update", "budget", decision="revoked")

    def _say(self, record: Deployment, after_ms: int, act: str, role: str, **changes: Any) -> None:
        self.later(after_ms, self._said, record, act, role, f"{self.rng.random()}", changes)

    def _said(self, record: Deployment, act: str, role: str, comment: str, changes: dict[str, Any]) -> None:
        key = self._key(record, role)
        if key is not None:
            body = decision(self, record, act, role, key, comment=comment, **changes)
            self.papers.append(body)
            self.send_as(STRANGER, body)

    def _key(self, record: Deployment, role: str) -> Key | None:
        if role != HELD.name or HELD not in self.market.ordered[record.id].contract.roles:
            return ROLES[role]
        seated = sorted(self.market.ring.seated(self.replica.state).items())
        return seated[self.rng.randrange(len(seated))][1] if seated else None

    def _steer(self, record: Deployment, pick: int) -> None:
        action = "go_on" if pick % 2 else "cancel"
        self.send_as(STRANGER if pick % 7 == 0 else CONSUMER, SteerUpdate(record.id, record.updates, action))

    # ------------------------------------------------------------------ results

    def _decide_release(self, record: Deployment) -> None:
        """Both sign for what was found; sometimes for something else first, or one takes it back."""
        results = record.results.hex()
        fate = self.rng.random()
        if fate < 0.4:
            self._say(record, 300, "release", "budget", results="77" * 32)
        self._say(record, self.rng.randint(500, 3_000), "release", "budget", results=results)
        if fate > 0.8:
            self._say(record, 3_500, "release", "budget", results=results, decision="revoked")
            self._say(record, 9_000, "release", "budget", results=results)
        self._say(record, self.rng.randint(4_000, 30_000), "release", "legal", results=results)
        if fate < 0.2:  # of somebody who has no say in it
            stranger = decision(self, record, "release", "legal", EXPERT, results=results)
            self.send_as(STRANGER, stranger)

    # ------------------------------------------------------------------ lies

    def _forge(self, record: Deployment, pick: int) -> None:
        """A node that does not hold a slot records copies of its volumes, and claims it without a look at
        its own chances; somebody signs who has no say."""
        for node in self.market.nodes:
            slot = read(self.replica.state, Slot, key_slot(record.id, record.slots[0]))
            if slot is not None and slot.holder != node.key.public:
                lie = VolumeCopy("data", b"\x00" * 32, 1, b"c" * 32, b"box", (node.key.public,))
                self.send_as(node.key, RecordCopies(record.id, slot.name, slot.term, (lie,)))
                self.send_as(node.key, Claim(record.id, slot.name, slot.term + 1))
        self.send_as(STRANGER, decision(self, record, "deploy", "budget", STRANGER))
