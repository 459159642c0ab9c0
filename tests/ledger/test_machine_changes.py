"""Random lives of deployments that are updated while their results must agree and are released, and their
volumes are copied: as `test_machine_properties`, with more of what changes."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from ledger.contracts.types import VolumeTemplate
from ledger.copy_records import VolumeCopy
from ledger.limits import MIB
from ledger.manifests.expansion import workload_of
from ledger.manifests.types import Placement, Policies, Restart, Rule, Workload
from ledger.records import Slot
from ledger.transactions import Claim, RecordCopies
from ledger.transition import agreement, approvals, claims
from ledger.transition.deal import Deal
from ledger.transition.results import release
from ledger.transition.withheld import pay_out
from tests.ledger.test_machine_properties import PICK, STAKEHOLDERS, Lives
from tests.ledger.world import BUDGET, DEPLOY, LEGAL, NODES, SIGNOFF, STRANGER, contract, job, service

RELEASE = Rule(all=(Rule(role="legal"), Rule(role="budget")))
HELD = Policies(deploy=DEPLOY, signoff=SIGNOFF, release=RELEASE)
DATA = VolumeTemplate(name="data", path="/data", size_bytes=16 * MIB, storage="hdd", rpo_s=60)
MINE = job(replicas=3, agree=2, restart=Restart(attempts=1), placement=Placement())
CHANGING = (
    contract(MINE, name="agreed", budget=50_000_000, duration_s=3_600),
    contract(service(replicas=1), MINE, name="agreed-held", policies=HELD, budget=50_000_000),
    contract(service(replicas=2), job(), name="released", policies=HELD, budget=50_000_000),
    contract(service(replicas=2, volumes=(DATA,), placement=Placement(distinct="none")), name="kept"),
)
FOUND = ("33" * 32, "33" * 32, "33" * 32, "44" * 32)
RESULT = "/result/words.tsv"
FARM_BY_FARM = (NODES[0], NODES[2], NODES[1], NODES[3])


class Changing(Lives):
    """`homes`: who has a slot's volume; `copied`: slots of whose volumes there is a copy; `signed`: who
    stands to the release of which results."""

    SOURCES = CHANGING
    ATTRIBUTES = MappingProxyType({"userns": "yes", "volumes": "enforced", "volume-copies": "enforced"})

    @initialize(picks=st.lists(PICK, min_size=1, max_size=2))
    def begin(self, picks: list[int]) -> None:
        super().begin(picks)
        for node in NODES:
            self.world.ok(node, self.world.offer(attributes=dict(self.ATTRIBUTES)))
        self.known = 0
        self.found: dict[tuple[bytes, str], str] = {}
        self.homes: dict[tuple[bytes, str], str] = {}
        self.copied: set[tuple[bytes, str]] = set()
        self.signed: dict[tuple[bytes, bytes], set[bytes]] = {}

    def work(self, slot: Slot) -> Workload:
        """What the slot's newest term is of."""
        return workload_of(self.view.manifest(slot.manifest), slot.name)

    @rule(pick=PICK, found=st.sampled_from(FOUND))
    @precondition(lambda self: self.deployments)
    def commit(self, pick: int, found: str) -> None:
        """A replica that runs, or soon does, commits to what it has found."""
        slots = [s for s in self.view.slots.values() if s.holder and self.work(s).agree]
        if not slots:
            return
        slot = slots[pick % len(slots)]
        node = next(node for node in NODES if node.public == slot.holder)
        for status in ("fetching", "verified", "running"):
            self.send(node, self.world.receipt(slot.deployment, slot.name, node, status))
        if self.send(node, self.world.commit(slot.deployment, slot.name, node, {RESULT: found})):
            self.found[slot.deployment, slot.name] = found

    @rule(pick=PICK, lies=st.sampled_from([False, False, False, True]))
    @precondition(lambda self: self.deployments)
    def tell(self, pick: int, lies: bool) -> None:
        slots = [s for s in self.view.slots.values() if s.status == "committed"]
        if not slots:
            return
        slot = slots[pick % len(slots)]
        node = next(node for node in NODES if node.public == slot.witness)
        found = "55" * 32 if lies else self.found[slot.deployment, slot.name]
        told = self.world.told(slot.deployment, slot.name, node, {RESULT: found})
        assert not (self.send(node, told) and lies), "something else than was committed to"

    @rule(
        pick=PICK,
        who=st.integers(0, 2),
        decision=st.sampled_from(["granted", "granted", "granted", "revoked"]),
        other=st.sampled_from([False, False, False, True]),
    )
    @precondition(lambda self: self.deployments)
    def release(self, pick: int, who: int, decision: str, other: bool) -> None:
        """Of what is on record, or of something else."""
        found = [d for d in self.deployments if self.view.deployments[d].results] or self.deployments
        deployment = found[pick % len(found)]
        results = self.world.deployment(deployment).results
        key, role = STAKEHOLDERS[who]
        changes = {"results": "66" * 32} if other else {}
        body = self.world.decide(deployment, key, role, decision, "release", **changes)
        if self.send(STRANGER, body):
            assert not other, "a release of other results"
            signers = self.signed.setdefault((deployment, results), set())
            (signers.add if decision == "granted" else signers.discard)(key.public)

    @rule(pick=PICK, holder=st.sampled_from([True, True, True, False]))
    @precondition(lambda self: self.deployments)
    def copy(self, pick: int, holder: bool) -> None:
        slots = [s for s in self.view.slots.values() if s.holder and self.work(s).volumes]
        if not slots:
            return
        slot = slots[pick % len(slots)]
        others = [node for node in NODES if node.public != slot.holder]
        (own,) = [node for node in NODES if node.public == slot.holder]
        sender, keeper = (own, others[0]) if holder else (others[0], own)
        made = VolumeCopy("data", b"s" * 32, 1_000, b"c" * 32, b"box", (keeper.public,))
        done = self.send(sender, RecordCopies(slot.deployment, slot.name, slot.term, (made,)))
        assert not done or holder, "copies by who does not hold the slot"

    @rule(pick=PICK, copied=st.booleans(), taker=st.integers(0, 3))
    @precondition(lambda self: self.deployments)
    def move(self, pick: int, copied: bool, taker: int) -> None:
        """A slot with a volume is given back, copied or not, and somebody asks for it."""
        slots = [s for s in self.view.slots.values() if s.holder and self.work(s).volumes]
        if not slots:
            return
        slot = slots[pick % len(slots)]
        own = next(node for node in NODES if node.public == slot.holder)
        for status in ("fetching", "verified"):
            self.send(own, self.world.receipt(slot.deployment, slot.name, own, status))
        if copied:
            self.copy(pick=pick, holder=True)
        self.send(own, self.world.receipt(slot.deployment, slot.name, own, "released"))
        self.send(NODES[taker], Claim(slot.deployment, slot.name, slot.term + 1))
        self.world.run(step_ms=600)

    @rule(pick=PICK, found=st.lists(st.sampled_from(FOUND), min_size=3, max_size=3), tells=st.integers(2, 3))
    @precondition(lambda self: self.deployments)
    def compare(self, pick: int, found: list[str], tells: int) -> None:
        """Replicas that must agree are all given out, commit, and tell; or all but one."""
        deployment = self.deployment(pick)
        names = [name for name in self.world.deployment(deployment).slots if name.startswith("mine")][:3]
        for index, name in enumerate(names):
            slot = self.world.slot(deployment, name)
            self.send(NODES[index], Claim(deployment, name, slot.term + 1))
            self.world.run(step_ms=600)
            slot = self.world.slot(deployment, name)
            node = next((node for node in NODES if node.public == slot.holder), None)
            if node is None:
                continue
            for status in ("fetching", "verified", "running"):
                self.send(node, self.world.receipt(deployment, name, node, status))
            self.world.run(step_ms=1_000)
            if self.send(node, self.world.commit(deployment, name, node, {RESULT: found[index]})):
                self.found[deployment, name] = found[index]
        for name in names[:tells]:
            slot = self.world.slot(deployment, name)
            node = next((node for node in NODES if node.public == slot.witness), None)
            if node is not None and (deployment, name) in self.found:
                told = {RESULT: self.found[deployment, name]}
                self.send(node, self.world.told(deployment, name, node, told))

    @invariant()
    def results_and_volumes(self) -> None:
        """Nothing is released but by those who must; a slot goes to its volume, or to a copy of it."""
        if not hasattr(self, "homes"):
            return
        new, self.known = self.world.events[self.known :], len(self.world.events)
        for event in new:
            if not event.kind.startswith(("slot.", "results.", "job.")):
                continue
            id_, fields = bytes.fromhex(event.subject), event.fields
            slot_id = id_, str(fields.get("slot", ""))
            match event.kind:
                case "slot.verified" if slot_id[1].startswith("web"):
                    self.homes[slot_id] = str(fields["node"])
                case "slot.copied":
                    self.copied.add(slot_id)
                case "slot.claimed" if self.work(self.view.slots[slot_id]).volumes:
                    home = self.homes.get(slot_id, fields["node"])
                    assert home == fields["node"] or slot_id in self.copied, "a volume stayed behind"
                case "results.released":
                    signers = self.signed.get((id_, bytes.fromhex(str(fields["results"]))), set())
                    assert {BUDGET.public, LEGAL.public} <= signers, "released by too few"
                case "slot.disagrees" | "slot.silent":
                    of = (slot_id[1], fields["term"])
                    paid = [bill.amount for bill in self.world.bills(id_) if (bill.slot, bill.term) == of]
                    assert not sum(paid), "paid for what was wrong"
        for record in self.view.deployments.values():
            update = record.updating and self.view.update(record.id, record.updates)
            assert not (update and update.status == "rolling" and record.results), "results of what changes"


Changing.TestCase.settings = settings(max_examples=40, stateful_step_count=50)
TestChanging = Changing.TestCase


# ---------------------------------------------------------------------- rules broken by hand


def one_signs(deal: Deal) -> None:
    release(deal)


def nothing(*_: Any) -> None:
    pass


def started(name: str) -> type[Changing]:
    """Lives of this contract and the organisation's. From the start a deployment runs, and its jobs have
    ended that need not agree: what a rule of the end of a life forbids is then a few steps away."""

    class Started(Changing):
        SOURCES = tuple(source for source in CHANGING if source.name == name)

        @initialize(picks=st.just([0]))
        def begin(self, picks: list[int]) -> None:
            super().begin(picks)
            (deployment,) = self.deployments
            for slot, node in zip(self.world.deployment(deployment).slots, FARM_BY_FARM, strict=False):
                self.world.claimed(deployment, slot, [node])
                self.world.report(deployment, slot, node, "fetching", "verified", "running")
                if slot.startswith("mine") and not self.work(self.world.slot(deployment, slot)).agree:
                    self.world.report(deployment, slot, node, "succeeded")
            self.view = self.look()

    return Started


# Its name, the contract whose lives show it, where it is, what stands there instead, what the property says.
MUTANTS: tuple[tuple[str, str, tuple[Any, str], Callable[..., Any], str], ...] = (
    ("who_is_wrong_is_paid", "agreed", (agreement, "take_back"), pay_out, "paid for what was wrong"),
    ("a_volume_stays_behind", "kept", (claims, "_check_home"), nothing, "a volume stayed behind"),
    ("one_signs_for_a_release", "released", (approvals, "_judge_release"), one_signs, "released by too few"),
)


@pytest.mark.parametrize(
    ("of", "place", "mutant", "said"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS]
)
def test_caught(
    of: str, place: tuple[Any, str], mutant: Callable[..., Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*place, mutant)
    hunt = settings(
        max_examples=1_000,
        stateful_step_count=50,
        phases=(Phase.generate,),
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,  # or it looks for a second one for as long as it looked for the first
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError, match=said):
        run_state_machine_as_test(started(of), settings=hunt)  # type: ignore[no-untyped-call]
