"""What must hold of every state, checked from its bytes alone. Raises AssertionError naming what does not."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ledger.codec import decode
from ledger.copy_records import Copies, key_copies, key_keeper
from ledger.manifests.expansion import decode_manifest, most_spent, slots, workload_of
from ledger.manifests.types import CAPACITY, Manifest
from ledger.organisations.records import key_organisation_turn, key_organisation_use
from ledger.policies.people import organisations_of
from ledger.policies.records import judge_records, roll_of
from ledger.records import (
    Account,
    ApprovalRecord,
    Bill,
    Deployment,
    Node,
    Slot,
    Supply,
    due_parts,
    key_approval,
    key_due,
    key_held,
    key_open,
)
from ledger.state import MemoryState
from ledger.trade_records import Agreement, Penalty, UpdateRecord, key_agreement, key_update
from ledger.transition.deal import ENDED, RUNS, replicas
from ledger.transition.switch import same_work
from ledger.warnings import approval_notice_ms


class View:
    """All records of a state, decoded."""

    def __init__(self, state: MemoryState) -> None:
        self.state = state
        self.supply = decode(Supply, state.entries()[b"supply"]).total
        self.accounts = self.all(b"account/", Account)
        self.nodes = {node.key: node for node in self.all(b"node/", Node)}
        self.slots = {(slot.deployment, slot.name): slot for slot in self.all(b"slot/", Slot)}
        self.deployments = {d.id: d for d in self.all(b"deployment/", Deployment)}
        self.manifests = {d.id: self.manifest(d.manifest) for d in self.deployments.values()}
        self.due = [due_parts(key) for key, _ in state.scan(b"due/")]

    def update(self, deployment: bytes, number: int) -> UpdateRecord:
        return decode(UpdateRecord, self.state.entries()[key_update(deployment, number)])

    def agreement(self, deployment: bytes, slot: str) -> Agreement | None:
        """The comparison under way of the results of a slot's job."""
        data = self.state.get(key_agreement(deployment, slot.partition("/")[0]))
        return None if data is None else decode(Agreement, data)

    def all(self, prefix: bytes, kind: type[Any]) -> list[Any]:
        return [decode(kind, value) for _, value in self.state.scan(prefix)]

    def manifest(self, digest: bytes) -> Manifest:
        data = self.state.get(b"manifest/" + digest)
        assert data is not None
        return decode_manifest(data)


def check(state: MemoryState, now_ms: int) -> View:
    """All invariants of one state after a block at `now_ms`."""
    view = View(state)
    check_money(view)
    check_capacity(view)
    check_slots(view)
    check_due(view, now_ms)
    check_members(view, now_ms)
    check_copies(view)
    return view


def check_money(view: View) -> None:
    escrows = sum(d.escrow + d.withheld for d in view.deployments.values())
    assert sum(a.balance for a in view.accounts) + escrows == view.supply, "supply is not constant"
    assert all(a.balance >= 0 for a in view.accounts), "a negative balance"
    for d in view.deployments.values():
        budget = view.manifests[d.id].terms.budget
        assert d.escrow >= 0
        assert d.spent >= 0
        left = d.paid_in - d.returned - d.spent
        assert d.escrow == (left if d.status not in ENDED or d.escrow else 0), "escrow is not what is left"
        assert left >= 0, "spent more than was put in"
        updates = [view.update(d.id, number) for number in range(1, d.updates + 1)]
        assert sum(u.refunded for u in updates) == d.returned
        assert [u.number for u in updates if not u.ended_ms] == ([d.updates] if d.updating else [])
        assert d.topped_up <= view.manifests[d.id].terms.top_up
        assert d.extended_s <= view.manifests[d.id].terms.extension_s
        assert budget <= d.funded <= most_spent(view.manifests[d.id].terms), "more than was approved"
        assert d.spent == sum(b.amount for b in view.all(b"bill/" + d.id, Bill)), (
            "bills are not what was spent"
        )
        assert d.withheld == sum(b.withheld for b in view.all(b"bill/" + d.id, Bill)), "withheld from nobody"
        assert not d.withheld or d.status not in ENDED, "withheld for ever"
        for b in view.all(b"bill/" + d.id, Bill):
            assert 0 <= b.withheld <= b.amount
            assert 0 <= b.missed_ms <= b.to_ms - b.from_ms, "more missed than there was"
        for p in view.all(b"penalty/" + d.id, Penalty):
            assert 0 <= p.amount <= p.owed
        assert not d.left_ms or d.status == "paused" or d.ended_ms
        if d.status in ENDED and d.status != "completed":
            assert d.escrow == 0, f"{d.status} with {d.escrow} in escrow"
        if d.ended_ms and not d.ends_ms:
            assert d.escrow == 0, "nobody would ever settle this"


def check_capacity(view: View) -> None:
    used: Counter[tuple[bytes, str]] = Counter()
    for (_, name), slot in view.slots.items():
        if slot.holder:
            needs = workload_of(view.manifest(slot.manifest), name).needs
            for field in CAPACITY:
                used[slot.holder, field] += getattr(needs, field)
            used[slot.holder, "slots"] += 1
    for key, node in view.nodes.items():
        for field in CAPACITY:
            found = getattr(node, f"used_{field}")
            assert found == used[key, field], f"{field} used is not what its slots need"
            assert 0 <= found <= getattr(node, field), f"more {field} used than offered"
        assert node.slots_held == used[key, "slots"]


def check_slots(view: View) -> None:
    opened = {key for key, _ in view.state.scan(b"open/")}
    held: set[tuple[bytes, str, str]] = set()
    for (deployment, name), slot in view.slots.items():
        record = view.deployments[deployment]
        runs = record.status in RUNS
        done = slot.status in ("succeeded", "committed") or _agreed(view, deployment, name)
        compared = view.agreement(deployment, name)
        done = done or (compared is not None and compared.reveals)
        assert bool(slot.witness) == (bool(slot.commitment) and slot.term > 0)
        assert slot.status != "committed" or (slot.witness and not slot.holder)
        may_be_claimed = runs and not record.lost_ms and not slot.holder and not done and bool(slot.next)
        assert slot.next in (record.manifest, record.updating, b"")
        if not record.updating:
            assert slot.next in (record.manifest, b"")
            assert bool(slot.next) == (name in slots(view.manifests[deployment])), "a slot of no manifest"
        if slot.holder and slot.status != "released":
            work = workload_of(view.manifest(slot.manifest), name)
            assert same_work(work, workload_of(view.manifest(slot.next), name)), "it runs what nobody wants"
        assert (key_open(deployment, name) in opened) == may_be_claimed, f"open list is wrong about {name}"
        if may_be_claimed:
            assert slot.status == "open"
        candidates = list(view.state.scan(b"candidate/" + deployment + b"/" + name.encode() + b"/"))
        assert bool(candidates) == bool(slot.window_closes_ms), "candidates and window go together"
        if slot.window_closes_ms:
            assert may_be_claimed
        if slot.holder:
            assert slot.term >= 1
            assert slot.status in ("claimed", "fetching", "verified", "running", "released")
            assert slot.billed_ms >= slot.claimed_ms
            if slot.status != "released":
                assert runs, "a slot runs without an approved deployment"
            workload = workload_of(view.manifest(slot.manifest), name)
            distinct = workload.placement.distinct
            if distinct != "none":
                node = view.nodes[slot.holder]
                place = (deployment, workload.name, node.farm if distinct == "farm" else node.key.hex())
                assert place not in held, f"two replicas on one {distinct}"
                held.add(place)
    index = {key for key, _ in view.state.scan(b"held/")}
    holding = {key_held(slot.holder, *place) for place, slot in view.slots.items() if slot.holder}
    assert index == holding, "the index of held slots is wrong"
    assert opened <= {key_open(deployment, name) for deployment, name in view.slots}, "an open slot of nobody"


def _agreed(view: View, deployment: bytes, slot: str) -> bool:
    """Whether enough replicas of the slot's job have the same results."""
    digest = view.slots[deployment, slot].next
    if not digest:
        return False
    workload = workload_of(view.manifest(digest), slot)
    found = [
        str(sorted(other.results.items()))
        for (id_, name), other in view.slots.items()
        if id_ == deployment and name in replicas(workload) and other.status == "succeeded"
    ]
    return workload.agree > 0 and max(Counter(found).values(), default=0) >= workload.agree


def check_due(view: View, now_ms: int) -> None:
    expected = set()
    for (deployment, name), slot in view.slots.items():
        rest = deployment + b"/" + name.encode()
        if slot.holder:
            expected.add(key_due(slot.lease_until_ms, "lease", rest))
        if slot.window_closes_ms:
            expected.add(key_due(slot.window_closes_ms, "window", rest))
    for node in view.nodes.values():
        if node.leaves_ms:
            expected.add(key_due(node.leaves_ms, "drain", node.key + b"/"))
            assert not node.valid_until_ms, "it leaves, and offers"
        if node.valid_until_ms > now_ms:
            expected.add(key_due(node.valid_until_ms, "offer", node.key))
    for d in view.deployments.values():
        if d.ends_ms:
            expected.add(key_due(d.ends_ms, "duration", d.id))
        if d.notice_ms:
            assert d.notice_ms < d.ends_ms, "said when it is over"
            expected.add(key_due(d.notice_ms, "notice", d.id))
        judged = (("deploy", d.judge_ms), ("signoff", d.signoff_judge_ms), ("release", d.release_judge_ms))
        if d.release_until_ms:
            assert d.status == "completed" and d.results and not d.released_ms, "nothing waits to be released"
            expected.add(key_due(d.release_until_ms, "release", d.id))
        for key, data in view.state.scan(b"agreement/" + d.id + b"/"):
            assert d.status not in ENDED, "compared for ever"
            expected.add(key_due(decode(Agreement, data).due_ms, "agreement", d.id + b"/" + key[43:]))
        assert not d.released_ms or d.results, "released, and nothing is there"
        for act, at_ms in judged:
            if at_ms:
                expected.add(key_due(at_ms, "judge", d.id + b"/" + act.encode()))
        if d.lost_ms:
            assert d.status in RUNS, f"{d.status}, and runs on without approval"
            run_on_ms = view.manifests[d.id].policies.run_on_s * 1000
            expected.add(key_due(d.lost_ms + run_on_ms, "run_on", d.id))
        live = {d.generation, *([d.updates] if d.updating else [])}
        for generation in live if d.status not in ENDED else ():
            for record in view.all(key_approval(d.id, "deploy", b"", generation), ApprovalRecord):
                rest = d.id + b"/" + record.signer + b"%d" % generation
                if record.decision == "granted" and record.expires_ms > now_ms:
                    expected.add(key_due(record.expires_ms, "approval", rest))
                if record.decision == "granted" and approval_notice_ms(record) > now_ms:
                    expected.add(key_due(approval_notice_ms(record), "approval_notice", rest))
        for number in range(1, d.updates + 1):
            update = view.update(d.id, number)
            assert bool(update.due_ms) == (not update.ended_ms), "nobody would ever look at the update again"
            if update.due_ms:
                assert d.status in RUNS, "an update of what does not run"
                expected.add(key_due(update.due_ms, "update", d.id))
            if update.judge_ms:
                expected.add(key_due(update.judge_ms, "judge", d.id + b"/update"))
    found = {key for key, _ in view.state.scan(b"due/")}
    turns = {key for key in found if due_parts(key)[1] == "members"}
    turning = {key_organisation_turn(due_parts(key)[2][:32]) for key in turns}
    assert len(turning) == len(turns), "an organisation has two turns at a time"
    assert turning == {key for key, _ in view.state.scan(b"organisation_turn/")}
    found -= turns
    assert found == expected, f"timed work: surplus {found - expected}, missing {expected - found}"
    assert all(time_ms > now_ms for time_ms, _, _ in view.due), "overdue work was left"


def check_copies(view: View) -> None:
    """[C13] [C14] The index of who keeps copies is that of the records; no ended deployment has any."""
    expected = set()
    for key, data in view.state.scan(b"copies/"):
        record = decode(Copies, data)
        assert key == key_copies(record.deployment, record.slot)
        assert view.deployments[record.deployment].status not in ENDED, "copies of what has ended"
        assert record.term <= view.slots[record.deployment, record.slot].term
        for copy in record.copies:
            expected |= {key_keeper(keeper, record.deployment, record.slot) for keeper in copy.keepers}
    assert {key for key, _ in view.state.scan(b"keeper/")} == expected, "the index of copies is wrong"


def check_members(view: View, now_ms: int) -> None:
    """What runs is approved by those who are members now, once nothing waits to be judged again."""
    waits = {rest[:32] for _, kind, rest in view.due if kind == "members"}
    for d in view.deployments.values():
        held = organisations_of(view.manifests[d.id].roles)
        if d.status not in ENDED and held:
            records = view.all(b"approval/" + d.id + b"/", ApprovalRecord)
            names = {record.role for record in records}
            for organisation in organisations_of(r for r in view.manifests[d.id].roles if r.name in names):
                use = key_organisation_use(organisation, decided=True, deployment=d.id)
                assert view.state.get(use) is not None, "not in the index"
        if d.status in RUNS and held and waits.isdisjoint(held) and not d.lost_ms:
            manifest = view.manifests[d.id]
            approvals = view.all(key_approval(d.id, "deploy", b"", d.generation), ApprovalRecord)
            roll = roll_of(view.state, manifest)
            found = judge_records(manifest, d, "deploy", approvals, now_ms, roll)
            assert found.satisfied, "runs without the members' approval"


def check_step(before: View, after: View) -> None:
    """What must hold between one block and the next."""
    for key, old in before.slots.items():
        new = after.slots[key]
        assert new.term >= old.term, "a term went back"
        if new.holder and old.holder and new.term == old.term:
            assert new.holder == old.holder, "another holder in the same term"
        if new.holder and new.holder != old.holder:
            assert new.term > old.term, "a new holder without a new term"
        if new.term > old.term:
            assert new.term == old.term + 1
    for deployment, record in before.deployments.items():
        if record.status in ENDED:
            changed = after.deployments[deployment]
            assert changed.status == record.status, "an ended deployment came back"
            assert changed.spent == record.spent, "an ended deployment was billed"
