"""Random lives of deployments: real transactions in any order, every invariant after each block."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RULE_MARKER, RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from ledger.certification import Certification, sign_certification
from ledger.codec import encode
from ledger.contracts.types import Contract
from ledger.epochs import current, pending, sign_change
from ledger.keys import Key
from ledger.limits import BLOCK_IDLE_MS, MIB, OUTAGE_MS
from ledger.manifests.expansion import extension_cost
from ledger.manifests.types import Placement, Policies, Restart, Rule, UpdateStrategy
from ledger.organisations.organisation import charter_of
from ledger.policies.types import Auto, Weight
from ledger.proofs.certificate import Validator, ValidatorSet
from ledger.records import Slot, key_open
from ledger.state import MemoryState
from ledger.transactions import (
    Body,
    CancelDeployment,
    CertifyNode,
    ChangeValidators,
    Claim,
    CloseDispute,
    DrainNode,
    ExtendDeployment,
    OpenDispute,
    Price,
    Renew,
    RenewItem,
    SteerUpdate,
    TopUp,
    Transfer,
    UncertifyNode,
    WithdrawOffer,
)
from ledger.transition.deal import ENDED, extended
from ledger.transition.outage import missed_ms
from tests.ledger.invariants import View, check, check_step
from tests.ledger.organisation_fixture import (
    ANNA,
    BEN,
    CARL,
    DORA,
    THREE,
    Office,
    held_contract,
    member,
    signed,
)
from tests.ledger.world import (
    AUTHOR,
    BOT,
    BUDGET,
    CHAIN_ID,
    CONSUMER,
    EXPERT,
    FARMERS,
    LEGAL,
    NODES,
    POLICIES,
    SIGNOFF,
    STRANGER,
    World,
    contract,
    job,
    key_of,
    service,
)

NO_APPROVAL = Policies(deploy=None, signoff=None)
HELD = Rule(all=(Rule(role="budget"), Rule(role="board")))
CONTRACTS = (
    contract(name="site", top_up=1_000_000, extension_s=3_600, grace_s=3_600),
    contract(job(replicas=2, restart=Restart(attempts=0)), name="mining", duration_s=3_600),
    contract(service(), job(), name="mixed", duration_s=600),
    contract(job(), name="free", policies=NO_APPROVAL, duration_s=60, fee=0),
    contract(
        service(replicas=1), name="short", policies=NO_APPROVAL, duration_s=60, grace_s=120, extension_s=600
    ),
    contract(
        service(replicas=1),
        name="poor",
        duration_s=60,
        budget=700,
        fee=3,
        grace_s=120,
        extension_s=1_200,
        top_up=500_000,
    ),
    contract(
        service(), name="brief", policies=Policies(deploy=POLICIES.deploy, signoff=SIGNOFF, validity_s=60)
    ),
    contract(
        service(),
        name="runs-on",
        policies=Policies(
            deploy=Rule(all=(Rule(role="budget"), Rule(role="it-expert", expires_s=60))),
            signoff=Rule(role="budget", wait_s=60),
            delete=Rule(role="legal"),
            run_on_s=60,
        ),
    ),
    contract(
        service(),
        job(),
        name="waits",
        policies=Policies(
            deploy=Rule(
                any=(
                    Rule(auto=Auto(approved_within_s=3_600), wait_s=20, veto=("legal",)),
                    Rule(all=(Rule(role="it-expert"), Rule(role="budget", wait_s=10)), ordered=True),
                    Rule(weigh=(Weight(weight=2, role="legal"), Weight(weight=1, role="budget")), count=3),
                )
            ),
            signoff=None,
            run_on_s=600,
        ),
    ),
)
FAST = UpdateStrategy(min_healthy_s=0, deadline_s=60)


def successors(source: Contract) -> tuple[Contract, ...]:
    """Later versions: other work, held when it fails; more of it, for more money; less of it, by other
    people."""
    held = UpdateStrategy(canary=1, min_healthy_s=5, deadline_s=30, on_failure="hold")
    other = tuple(replace(w, command=("/bin/sh", "-c", "other"), update=held) for w in source.workloads)
    more = tuple(replace(w, replicas=3, placement=Placement(), update=FAST) for w in source.workloads)
    less = tuple(replace(w, replicas=w.agree or 1, update=FAST) for w in source.workloads)
    dearer = replace(source.terms, budget=5_000_000, fee=min(150_000, source.terms.budget))
    people = replace(source.policies, deploy=source.policies.deploy and Rule(role="budget"), update=None)
    return (
        replace(source, version="1.1.0", workloads=other),
        replace(source, version="1.2.0", workloads=more, terms=dearer),
        replace(source, version="1.3.0", workloads=less, policies=people),
    )


STAKEHOLDERS = ((EXPERT, "it-expert"), (LEGAL, "legal"), (BUDGET, "budget"))
STEPS_MS = st.sampled_from(
    [0, 1, 300, 600, 1_000, 10_000, 20_000, 30_000, 45_000, 70_000, 900_000, 90_000_000]
)
NEXT = {"claimed": "fetching", "fetching": "verified", "verified": "running", "running": "running"}
PICK = st.integers(0, 1_000)
MORE = st.sampled_from([0, 0, 0, 0, 1])
DEPLOYMENTS_MAX = 4
VOTERS = (key_of("validator"), *(key_of(f"voter {n}") for n in range(1, 4)))


class Lives(RuleBasedStateMachine):
    """Steps are drawn by number, and what there is decides what a number means."""

    SOURCES = CONTRACTS
    ATTRIBUTES = MappingProxyType({"userns": "yes"})  # of offers

    def make(self) -> World:
        """Where it takes place."""
        return World()

    def look(self) -> View:
        """What is to be seen now."""
        return View(self.world.state)

    @initialize(picks=st.lists(PICK, min_size=1, max_size=2))
    def begin(self, picks: list[int]) -> None:
        self.world = self.make()
        self.world.add_nodes()
        self.office = Office(self.world, *THREE, member("Dora", DORA, "board"))
        self.keys = {"Anna": ANNA, "Ben": BEN, "Carl": CARL, "Dora": DORA}
        self.fresh = 0
        held = held_contract(self.office.role("board", "board"), deploy=HELD, run_on_s=60)
        self.contracts = (*self.SOURCES, replace(held, name="held"))
        self.contract_ids = [self.world.publish(source) for source in self.contracts]
        self.later = [
            [(source, self.world.publish(source)) for source in successors(first)] for first in self.contracts
        ]
        self.names = [source.name for source in self.contracts]
        self.deployments: list[bytes] = []
        for pick in picks:
            self.order(pick, True)
        self.view = self.look()

    # Steps.

    def send(self, key: Key, body: Body) -> bool:
        """One transaction; a refused one must leave the state as it was."""
        before = self.world.live_entries()
        receipt = self.world.do(key, body, step_ms=0)
        if not receipt.ok:
            assert self.world.live_entries() == before, f"{receipt.rule} changed the state"
        return receipt.ok

    def deployment(self, pick: int) -> bytes:
        """Mostly one that still lives; every tenth time any."""
        living = [d for d in self.deployments if self.view.deployments[d].status not in ENDED]
        choice = living if living and pick % 10 else self.deployments
        return choice[pick % len(choice)]

    def updating(self, pick: int) -> bytes | None:
        """One with an update under way."""
        found = [d for d in self.deployments if self.world.deployment(d).updating]
        return found[pick % len(found)] if found else None

    def open_slot(self, pick: int) -> Slot | None:
        """Mostly one that may be claimed; every tenth time any."""
        slots = [s for s in self.view.slots.values() if not s.holder]
        opened = [s for s in slots if self.world.state.get(key_open(s.deployment, s.name)) is not None]
        choice = opened if opened and pick % 10 else slots
        return choice[pick % len(choice)] if choice else None

    def held_slot(self, pick: int) -> Slot | None:
        slots = [slot for slot in self.view.slots.values() if slot.holder]
        return slots[pick % len(slots)] if slots else None

    @rule(pick=PICK, approved=st.booleans())
    @precondition(lambda self: len(self.deployments) < DEPLOYMENTS_MAX)
    def order(self, pick: int, approved: bool) -> None:
        which = pick % len(self.contracts)
        body = self.world.order_body(self.contracts[which], self.contract_ids[which])
        receipt = self.world.do(CONSUMER, body, step_ms=0)
        if receipt.rule == "order.organisation":  # nobody is on the board just now
            return
        assert receipt.ok, receipt
        self.deployments.append(receipt.id)
        if approved and self.contracts[which].policies.deploy is not None:
            self.world.approve(receipt.id)

    @rule(pick=PICK)
    @precondition(lambda self: self.deployments)
    def approve_all(self, pick: int) -> None:
        deployment = self.deployment(pick)
        for key, role in (STAKEHOLDERS[0], STAKEHOLDERS[2]):
            self.send(STRANGER, self.world.decide(deployment, key, role))

    @rule(
        pick=PICK,
        who=st.integers(0, 3),
        decision=st.sampled_from(["granted", "rejected", "revoked"]),
        act=st.sampled_from(["deploy", "signoff", "delete", "update"]),
        lasts_ms=st.sampled_from([0, 500, 40_000, 10**9]),
    )
    @precondition(lambda self: self.deployments)
    def decide(self, pick: int, who: int, decision: str, act: str, lasts_ms: int) -> None:
        key, role = (*STAKEHOLDERS, (STRANGER, "budget"))[who]
        expires_ms = self.world.now_ms + lasts_ms if lasts_ms else 0
        body = self.world.decide(self.deployment(pick), key, role, decision, act, expires_ms=expires_ms)
        self.send(STRANGER, body)

    @rule(
        pick=PICK,
        who=st.integers(0, 3),
        decision=st.sampled_from(["granted", "granted", "rejected", "revoked"]),
        act=st.sampled_from(["deploy", "deploy", "update"]),
    )
    @precondition(lambda self: self.deployments)
    def decide_as_member(self, pick: int, who: int, decision: str, act: str) -> None:
        key = list(self.keys.values())[who]
        self.send(STRANGER, self.world.decide(self.deployment(pick), key, "board", decision, act))

    @rule(who=st.integers(0, 3), how=st.sampled_from(["rotate", "lose", "role", "role"]))
    def change_members(self, who: int, how: str) -> None:
        """A member rotates or loses the key, or leaves the board or comes back; the others agree."""
        name = list(self.keys)[who]
        self.fresh += 1
        old, new = self.keys[name], key_of(f"fresh {self.fresh}")
        others = [key for other, key in self.keys.items() if other != name]
        members = {m.name: m for m in charter_of(self.office.now).members}
        if how == "rotate":
            done = self.send(STRANGER, signed(self.office.rotation(name, new), old, new))
        elif how == "lose":
            members[name] = replace(members[name], key=new.public.hex())
            done = self.send(STRANGER, signed(self.office.charter(*members.values()), *others))
        else:
            held = () if members[name].roles else ("board",)
            members[name] = replace(members[name], roles=held)
            self.send(STRANGER, signed(self.office.charter(*members.values()), *others))
            return
        if done:
            self.keys[name] = new

    @rule(pick=PICK, node=st.integers(0, 3), ahead=st.sampled_from([1, 1, 1, 1, 0, 2]))
    @precondition(lambda self: self.deployments)
    def claim(self, pick: int, node: int, ahead: int) -> None:
        slot = self.open_slot(pick)
        if slot is not None:
            self.send(NODES[node], Claim(slot.deployment, slot.name, slot.term + ahead))

    @rule(pick=PICK, nodes=st.sets(st.integers(0, 3), min_size=1))
    @precondition(lambda self: self.deployments)
    def claim_and_get(self, pick: int, nodes: set[int]) -> None:
        slot = self.open_slot(pick)
        if slot is not None:
            for node in sorted(nodes):
                self.send(NODES[node], Claim(slot.deployment, slot.name, slot.term + 1))
            self.world.run(step_ms=600)

    @rule(pick=PICK)
    @precondition(lambda self: self.deployments)
    def progress(self, pick: int) -> None:
        slot = self.held_slot(pick)
        if slot is None:
            return
        node = next(node for node in NODES if node.public == slot.holder)
        for _ in range(1 + pick % 5):
            slot = self.world.slot(slot.deployment, slot.name)
            status = NEXT.get(slot.status)
            if status is None or not slot.holder:
                return
            is_job = slot.name.startswith("mine")
            status = "succeeded" if is_job and slot.status == "running" else status
            self.send(node, self.world.receipt(slot.deployment, slot.name, node, status))

    @rule(step_ms=st.sampled_from([5_000, 20_000]))
    @precondition(lambda self: self.deployments)
    def live_on(self, step_ms: int) -> None:
        """Time passes, and every holder renews."""
        self.world.run(step_ms=step_ms)
        for node in NODES:
            items = tuple(
                RenewItem(slot.deployment, slot.name, slot.term)
                for slot in self.view.slots.values()
                if slot.holder == node.public
            )
            if items:
                self.send(node, Renew(items))

    @rule(pick=PICK)
    @precondition(lambda self: self.deployments)
    def to_its_end(self, pick: int) -> None:
        """A held slot runs, and is renewed, to the end of a short term."""
        slot = self.held_slot(pick)
        if slot is None:
            return
        self.progress(pick)
        node = next(node for node in NODES if node.public == slot.holder)
        left_ms = self.world.deployment(slot.deployment).ends_ms - self.world.now_ms
        for _ in range(8 if left_ms <= 80_000 else 0):
            self.world.run(step_ms=10_000)
            self.send(node, Renew((RenewItem(slot.deployment, slot.name, slot.term),)))

    @rule(
        pick=PICK,
        node=st.integers(-8, 3),
        status=st.sampled_from(["fetching", "succeeded", "failed", "quarantined", "released"]),
    )
    @precondition(lambda self: self.deployments)
    def report(self, pick: int, node: int, status: str) -> None:
        slot = self.held_slot(pick)
        if slot is not None:
            holder = next(node for node in NODES if node.public == slot.holder)
            key = NODES[node] if node >= 0 else holder
            self.send(key, self.world.receipt(slot.deployment, slot.name, key, status))

    @rule(node=st.integers(0, 3), older=st.sampled_from([0, 0, 0, 1]))
    @precondition(lambda self: self.deployments)
    def renew(self, node: int, older: int) -> None:
        items = tuple(
            RenewItem(slot.deployment, slot.name, slot.term - older)
            for slot in self.view.slots.values()
            if slot.holder and (slot.holder == NODES[node].public or older)
        )
        if items:
            self.send(NODES[node], Renew(items))

    @rule(pick=PICK, key=st.sampled_from([CONSUMER, BOT, STRANGER]))
    @precondition(lambda self: self.deployments)
    def cancel(self, pick: int, key: Key) -> None:
        if pick % 6 == 0:  # seldom, or little else would happen
            self.send(key, CancelDeployment(self.deployment(pick), "changed my mind"))

    @rule(
        node=st.integers(0, 3),
        cpu=st.sampled_from([4_000, 4_000, 4_000, 600, 0]),
        rate=st.sampled_from([40, 40, 1, 0, 10**6]),
        hdd=st.sampled_from([20_480, 20_480, 16, 0]),
    )
    def offer(self, node: int, cpu: int, rate: int, hdd: int) -> None:
        price = Price(rate * 1_000, rate * 250, rate * 25, rate * 6)
        said = dict(self.ATTRIBUTES)
        offer = self.world.offer(cpu_millis=cpu, hdd_bytes=hdd * MIB, price=price, attributes=said)
        self.send(NODES[node], offer)

    @rule(node=st.integers(0, 3), pick=PICK)
    def withdraw(self, node: int, pick: int) -> None:
        if pick % 5 == 0:
            self.send(NODES[node], WithdrawOffer())

    @rule(pick=PICK, amount=st.sampled_from([1, 300_000, 1_000_000, 0, -5]))
    @precondition(lambda self: self.deployments)
    def top_up(self, pick: int, amount: int) -> None:
        self.send(STRANGER, TopUp(self.deployment(pick), amount))

    @rule(pick=PICK, which=st.integers(0, 3), key=st.sampled_from([CONSUMER, BOT, STRANGER]), more=MORE)
    @precondition(lambda self: self.deployments)
    def update(self, pick: int, which: int, key: Key, more: int) -> None:
        """To a later version, or back to the first."""
        deployment = self.deployment(pick)
        at = self.names.index(self.view.manifests[deployment].name)
        versions = [*self.later[at], (self.contracts[at], self.contract_ids[at])]
        body = self.world.update_body(deployment, *versions[which])
        done = self.send(key, replace(body, amount=body.amount + more))
        assert not (done and (more or key is STRANGER))

    @rule(pick=PICK, who=st.sets(st.integers(0, 2), min_size=1))
    @precondition(lambda self: self.deployments)
    def approve_update(self, pick: int, who: set[int]) -> None:
        deployment = self.updating(pick)
        if deployment is not None:
            for n in sorted(who):
                key, role = STAKEHOLDERS[n]
                self.send(STRANGER, self.world.decide(deployment, key, role, "granted", "update"))

    @rule(pick=PICK)
    @precondition(lambda self: self.deployments)
    def roll(self, pick: int) -> None:
        """What an update released stops, what it opened runs."""
        deployment = self.updating(pick)
        if deployment is None:
            return
        for name in self.world.deployment(deployment).slots:
            slot = self.world.slot(deployment, name)
            if slot.holder and slot.status == "released":
                node = next(node for node in NODES if node.public == slot.holder)
                self.send(node, self.world.receipt(deployment, name, node, "released"))
            if self.world.slot(deployment, name).status == "open":
                node = NODES[pick % 4]
                self.send(node, Claim(deployment, name, slot.term + 1))
                self.world.run(step_ms=600)
            for status in ("fetching", "verified", "running"):
                slot = self.world.slot(deployment, name)
                if slot.holder and slot.status == {"fetching": "claimed", "verified": "fetching"}.get(
                    status, "verified"
                ):
                    node = next(node for node in NODES if node.public == slot.holder)
                    self.send(node, self.world.receipt(deployment, name, node, status))

    @rule(
        pick=PICK, key=st.sampled_from([CONSUMER, BOT, STRANGER]), action=st.sampled_from(["cancel", "go_on"])
    )
    @precondition(lambda self: self.deployments)
    def steer(self, pick: int, key: Key, action: str) -> None:
        deployment = self.updating(pick)
        if deployment is not None and (action == "go_on" or pick % 5 == 0):
            number = self.world.deployment(deployment).updates
            done = self.send(key, SteerUpdate(deployment, number, action))
            assert not (done and key is STRANGER)

    @rule(pick=PICK, who=st.integers(0, 3), close=st.booleans())
    @precondition(lambda self: self.deployments)
    def dispute(self, pick: int, who: int, close: bool) -> None:
        deployment, key = self.deployment(pick), (CONSUMER, AUTHOR, FARMERS[0], STRANGER)[who]
        before = self.world.deployment(deployment).disputes
        if close:
            self.send(key, CloseDispute(deployment, pick % 3, ""))
        else:
            name = self.world.deployment(deployment).slots[0] if pick % 2 else ""
            term = self.world.slot(deployment, name).term if name else 0
            done = self.send(key, OpenDispute(deployment, name, term, "late"))
            assert self.world.deployment(deployment).disputes == before + done
            assert not (done and key is STRANGER)

    @rule(
        pick=PICK,
        key=st.sampled_from([CONSUMER, CONSUMER, BOT, STRANGER]),
        duration_s=st.sampled_from([60, 60, 600, 0, 10**7]),
        more=st.sampled_from([0, 0, 0, 1]),
    )
    @precondition(lambda self: self.deployments)
    def extend(self, pick: int, key: Key, duration_s: int, more: int) -> None:
        deployment = self.deployment(pick)
        record = self.world.deployment(deployment)
        amount = extension_cost(extended(self.view.manifests[deployment], record).terms, duration_s) + more
        self.send(key, ExtendDeployment(deployment, record.extended_s, duration_s, amount))

    @rule(node=st.integers(0, 3), pick=PICK, notice_ms=st.sampled_from([60_000, 60_001, 3_600_000, 59_999]))
    def drain(self, node: int, pick: int, notice_ms: int) -> None:
        if pick % 3 == 0:
            self.send(NODES[node], DrainNode(self.world.now_ms + notice_ms))

    @rule(node=st.integers(0, 3), who=st.integers(0, 2), days=st.integers(0, 3), own=st.booleans())
    def certify(self, node: int, who: int, days: int, own: bool) -> None:
        certifier = (AUTHOR, EXPERT, STRANGER)[who]
        until_ms, now_ms = self.world.now_ms + days * 90_000_000, self.world.now_ms
        word = Certification(NODES[node].public, until_ms, now_ms, "")
        signed = sign_certification(certifier, CHAIN_ID, word)
        sender = FARMERS[node // 2] if own else STRANGER
        self.send(sender, CertifyNode(certifier.public, word, signed))

    @rule(node=st.integers(0, 3), who=st.integers(0, 2))
    def uncertify(self, node: int, who: int) -> None:
        certifier = (AUTHOR, EXPERT, STRANGER)[who]
        self.send(certifier, UncertifyNode(NODES[node].public))
        assert certifier.public.hex() not in self.world.node(NODES[node]).certified

    @rule(who=st.integers(0, 3), amount=st.integers(0, 10**11))
    def transfer(self, who: int, amount: int) -> None:
        people = (AUTHOR, STRANGER, *FARMERS)
        self.send(people[who], Transfer(people[(who + 1) % 4].public, amount))

    @rule(
        weights=st.lists(st.integers(0, 3), min_size=4, max_size=4),
        signers=st.sets(st.integers(0, 3)),
        epochs=st.sampled_from([1, 1, 1, 0, 2]),
    )
    def change_validators(self, weights: list[int], signers: set[int], epochs: int) -> None:
        """Weights of the next set (0: not in it), and who of the current one signs."""
        now = current(self.world.state)
        members = [Validator(VOTERS[n].public, w, f"v{n}") for n, w in enumerate(weights) if w]
        next_ = encode(ValidatorSet(now.epoch + epochs, tuple(members)))
        by = [(now.index(VOTERS[n].public), VOTERS[n]) for n in sorted(signers)]
        until_ms = self.world.now_ms + 3_600_000
        signed = [(at, sign_change(key, CHAIN_ID, next_, until_ms)) for at, key in by if at is not None]
        enough = now.reached([at for at, _ in signed])
        good = enough and epochs == 1 and members and tuple(members) != now.members
        assert self.send(STRANGER, ChangeValidators(next_, until_ms, tuple(sorted(signed)))) == bool(good)
        if good:
            assert current(self.world.state) == now, "not before its epoch ends"
            self.world.run(step_ms=0)
            assert current(self.world.state).members == tuple(members)
            assert pending(self.world.state) is None

    @rule(gap_ms=st.sampled_from([9_000, 11_000, 25_000, 50_000, 3_600_000, 90_000_000]))
    def outage(self, gap_ms: int) -> None:
        """No block for so long: nothing ends that would not have within the next second."""
        before, then_ms = self.view, self.world.now_ms
        total_ms = missed_ms(self.world.state)
        self.world.run(step_ms=gap_ms, outage=True)
        if gap_ms <= OUTAGE_MS:
            return
        after = View(self.world.state)
        for key, node in before.nodes.items():
            assert after.nodes[key].broken_leases == node.broken_leases, "an outage broke a lease"
        for id_, record in before.deployments.items():
            left_ms = record.ends_ms + total_ms - record.missed_ms - then_ms
            if record.status not in ENDED and left_ms > BLOCK_IDLE_MS:
                assert after.deployments[id_].status not in ENDED, "an outage ended a deployment"

    @rule(step_ms=STEPS_MS)
    def wait(self, step_ms: int) -> None:
        self.world.run(step_ms=step_ms)

    @invariant()
    def all_holds(self) -> None:
        if not hasattr(self, "world"):
            return
        view = check(MemoryState(self.world.state.entries()), self.world.now_ms)
        check_step(self.view, view)
        self.view = view


def test_an_end_and_its_notice_after_outages() -> None:
    """Found by a run: overdue work was left ([I1] [O1]; the cause has a test in test_outage)."""
    lives = Lives()
    lives.begin(picks=[0])
    steps: list[Callable[[], None]] = [
        lambda: lives.top_up(pick=0, amount=1),
        *[lambda: lives.outage(gap_ms=9_000)] * 9,
        *[lambda: lives.outage(gap_ms=25_000)] * 2,
        lambda: lives.wait(step_ms=90_000_000),
    ]
    for step in steps:
        step()
        lives.all_holds()


def test_lives_have_at_least_twenty_rules() -> None:
    assert sum(hasattr(step, RULE_MARKER) for step in vars(Lives).values()) >= 20


Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
TestLives = Lives.TestCase
