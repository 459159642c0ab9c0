"""What people of the market do beside ordering and approving: money and time added, disputes, certifications,
nodes that leave with notice. `trade` adds it to a scenario, from random numbers of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from ledger.certification import Certification, sign_certification
from ledger.contracts.types import Contract
from ledger.manifests.expansion import decode_manifest, extension_cost
from ledger.manifests.types import Rule
from ledger.records import Deployment, Node, Slot, key_deployment, key_manifest, key_node, key_slot
from ledger.state import read
from ledger.trade_records import Dispute, key_dispute
from ledger.transactions import (
    CancelDeployment,
    CertifyNode,
    CloseDispute,
    DrainNode,
    ExtendDeployment,
    OpenDispute,
    TopUp,
    UncertifyNode,
)
from ledger.transition.deal import ENDED, extended
from tests.ledger.world import CONSUMER, EXPERT, FARMERS, STRANGER
from tests.sim.market_peer import MarketPeer
from tests.sim.market_people import Plan, Word

if TYPE_CHECKING:
    from tests.sim.market_scenario import MarketScenario

KINDS: Final = ("top_up", "extend", "dispute", "close", "certify", "uncertify", "drain", "back", "cancel")
RARE: Final = ("back", "cancel")
TOP_UP: Final = 400_000
EXTENSION_S: Final = 1_800


@dataclass(frozen=True, slots=True)
class Deed:
    """What somebody does at a time. `pick` chooses among what there is."""

    at_ms: int
    kind: str
    pick: int


def trade(rng: Random, scenario: MarketScenario) -> None:
    """Deeds, contracts that allow them, and stakeholders that consent to an end."""
    scenario.plans = tuple(_plan(rng, plan) for plan in scenario.plans)
    until_ms = scenario.network.faults_end_ms
    deeds = [Deed(rng.randint(8_000, 20_000), "certify", rng.randrange(8)) for _ in range(3)]
    for kind in KINDS:
        for _ in range(rng.randint(1, 3) if kind not in RARE else rng.choice((0, 0, 1))):
            latest_ms = 60_000 if kind == "drain" else until_ms  # so that some do leave
            deeds.append(Deed(rng.randint(30_000, latest_ms), kind, rng.randrange(1 << 20)))
    scenario.deeds = tuple(sorted(deeds, key=lambda deed: deed.at_ms))


def _plan(rng: Random, plan: Plan) -> Plan:
    contract, words = _contract(rng, plan.contract), plan.words
    if plan.cancel_ms and rng.random() < 0.7:
        consent_ms = max(plan.cancel_ms + rng.randint(-20_000, 20_000), 500)
        words = (*words, Word(consent_ms, "budget", act="delete"))
    return replace(plan, contract=contract, words=words)


def _contract(rng: Random, contract: Contract) -> Contract:
    terms = msgspec.structs.replace(contract.terms, top_up=TOP_UP, extension_s=EXTENSION_S, grace_s=600)
    policies = contract.policies
    if rng.random() < 0.6:
        policies = msgspec.structs.replace(policies, delete=Rule(role="budget"))
    workloads = contract.workloads
    if rng.random() < 0.3:
        first = workloads[0]
        place = msgspec.structs.replace(first.placement, certified_by=(EXPERT.public.hex(),))
        workloads = (msgspec.structs.replace(first, placement=place), *workloads[1:])
    return msgspec.structs.replace(contract, terms=terms, policies=policies, workloads=workloads)


class Trader(MarketPeer):
    """Does the scenario's deeds, whoever must sign them."""

    def booted(self) -> None:
        for deed in self.market.scenario.deeds:
            self.later(deed.at_ms, self._do, deed)

    def _do(self, deed: Deed) -> None:
        if deed.kind in ("top_up", "extend", "dispute", "close", "cancel"):
            found = [read(self.replica.state, Deployment, key_deployment(i)) for i in self.market.ordered]
            there = [record for record in found if record is not None]
            if there:
                getattr(self, f"_{deed.kind}")(there[deed.pick % len(there)], deed.pick)
        else:
            getattr(self, f"_{deed.kind}")(deed.pick)

    # ------------------------------------------------------------------ deployments

    def _top_up(self, record: Deployment, pick: int) -> None:
        self.send_as(STRANGER, TopUp(record.id, 1 + pick % (TOP_UP // 2)))

    def _extend(self, record: Deployment, pick: int) -> None:
        data = self.replica.state.get(key_manifest(record.manifest))
        if record.status in ENDED or data is None:
            return
        terms = extended(decode_manifest(data), record).terms
        by_s = 60 + pick % 600
        price = extension_cost(terms, by_s)
        self.send_as(CONSUMER, ExtendDeployment(record.id, record.extended_s, by_s, price))

    def _dispute(self, record: Deployment, pick: int) -> None:
        opener = (CONSUMER, EXPERT, STRANGER)[pick % 3]
        name = record.slots[pick % len(record.slots)] if pick % 2 else ""
        slot = read(self.replica.state, Slot, key_slot(record.id, name)) if name else None
        term = slot.term if slot is not None else 0
        self.send_as(opener, OpenDispute(record.id, name if term else "", term, "it is not as promised"))

    def _close(self, record: Deployment, pick: int) -> None:
        """Mostly who opened it."""
        number = max(record.disputes - 1, 0)
        dispute = read(self.replica.state, Dispute, key_dispute(record.id, number))
        openers = [key for key in (CONSUMER, EXPERT) if dispute is not None and key.public == dispute.opener]
        closer = openers[0] if openers and pick % 4 else EXPERT
        self.send_as(closer, CloseDispute(record.id, number, "settled"))

    def _cancel(self, record: Deployment, pick: int) -> None:
        """By hand, without asking whether anybody consents."""
        self.send_as(CONSUMER, CancelDeployment(record.id, "by hand"))

    # ------------------------------------------------------------------ nodes

    def _certify(self, pick: int) -> None:
        number = pick % len(self.market.nodes)
        node = self.market.nodes[number].key.public
        until_ms = self.replica.time_ms + (20_000, 60_000, 3_600_000)[pick % 3]
        said = Certification(node, until_ms, self.wall_ms(), "seen")
        signature = sign_certification(EXPERT, self.market.world.chain_id, said)
        self.send_as(FARMERS[number % 2], CertifyNode(EXPERT.public, said, signature))

    def _uncertify(self, pick: int) -> None:
        node = self.market.nodes[pick % len(self.market.nodes)]
        self.send_as(EXPERT, UncertifyNode(node.key.public))

    def _drain(self, pick: int) -> None:
        """One node at most is on its way out, a holder if there is any: the others have room."""
        if any(node.is_away for node in self.market.nodes):
            return
        found = [(n, read(self.replica.state, Node, key_node(n.key.public))) for n in self.market.nodes]
        there = [(n, record) for n, record in found if record is not None]
        holders = [n for n, record in there if record.slots_held] or [n for n, _ in there]
        if holders:
            node = holders[pick % len(holders)]
            node.is_away = True
            self.send_as(node.key, DrainNode(self.replica.time_ms + 62_000 + pick % 8_000))

    def _back(self, pick: int) -> None:
        """Offers again, perhaps before it left."""
        for node in self.market.nodes:
            node.is_away = False
