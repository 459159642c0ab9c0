"""Replicas that must agree: what they committed to, what they told, and who was paid for it.

Each comparison is judged by the manifest that its terms are of, also when another one is in force by now."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ledger.audit.file import Case, Generation, Placed
from ledger.commitments import commitment_of
from ledger.errors import Refused
from ledger.manifests.expansion import workload_of
from ledger.manifests.types import Workload
from ledger.predicates import ReceiptPredicate
from ledger.results import Results
from ledger.transactions import Report
from ledger.transition.deal import ENDED
from ledger.transition.switch import same_work

_TELLING: Final = ("committed", "succeeded")


class _Round:
    """One comparison: replicas that bound themselves before any of them told. `bound`: by slot its term and
    what it is bound to. `suspended`: the last of them told while the approval did not stand."""

    def __init__(self, generation: Generation, workload: Workload) -> None:
        self.generation, self.workload = generation, workload
        self.bound: dict[str, tuple[int, bytes]] = {}
        self.told: dict[str, Results] = {}
        self.told_ms = 0
        self.suspended = False

    def tell(self, case: Case, tx: Placed, said: ReceiptPredicate) -> None:
        """[Y1] Exactly what the replica had committed to."""
        results = {path: found.sha256 for path, found in said.results.items()}
        place, nonce = (said.slot, said.term), bytes.fromhex(said.nonce)
        opened = commitment_of(case.chain_id, case.deployment, *place, tx.sender, nonce, results)
        if self.bound.get(said.slot) != (said.term, opened):
            raise Refused("audit.agreement", f"{said.slot} told what it had not committed to", "receipts")
        self.told[said.slot] = tuple(sorted(results.items()))
        self.told_ms, self.suspended = tx.time_ms, tx.id in case.suspended

    @property
    def winners(self) -> set[str]:
        """[R8] Slots that found what enough others found."""
        if not self.told:
            return set()
        best, most = Counter(self.told.values()).most_common(1)[0]
        return {name for name, found in self.told.items() if found == best and most >= self.workload.agree}

    def broken(self, case: Case, until_ms: int) -> bool:
        """[Y10] Whether an update to other work came between, so that its replicas began anew."""
        for number, update in case.records.updates.items():
            workloads = case.generations[number].manifest.workloads
            same = any(same_work(one, self.workload) for one in workloads if one.name == self.workload.name)
            over = bool(update.ended_ms) and update.ended_ms < self.told_ms
            if not same and update.approved_ms and update.approved_ms <= until_ms and not over:
                return True
        return False

    def compared(self, case: Case, *, last: bool) -> bool:
        """[Y2] Whether it is certain that the ledger compared it: all that were bound have told, in a
        deployment that ran; or the records of its slots show it."""
        record = case.records.deployment
        may_pause = bool(self.generation.manifest.terms.grace_s)
        if self.told and len(self.told) == len(self.bound) and not self.suspended and not may_pause:
            return True
        dropped = record.status in ENDED and record.status != "completed" and (self.suspended or may_pause)
        if not last or dropped or not self.told:
            return False
        slots = case.records.slots
        return all(
            (slots[name].term, slots[name].status) == (term, "succeeded" if name in self.told else "failed")
            for name, (term, _) in self.bound.items()
        )


def check_agreement(case: Case) -> str:
    """[R8] [Y1] [Y3] [Y4] Replicas committed before any of them told, and told that; only those that agree
    are paid."""
    withheld = sum(bill.withheld for bill in case.records.bills.values())
    record = case.records.deployment
    if withheld != record.withheld or (record.ended_ms and withheld):
        raise Refused("audit.withheld", f"{record.withheld}, the bills say {withheld}", "deployment")
    rounds = _rounds(case)
    for found in rounds.values():
        for one in found:
            _paid(case, one, last=one is found[-1])
    for workload in case.manifest.workloads:
        if not workload.agree or record.status != "completed" or record.reason:
            continue
        mine = rounds.get(workload.name)
        if mine is None or not same_work(mine[-1].workload, workload) or not mine[-1].winners:
            detail = f"{workload.name}: completed, and no {workload.agree} agree"
            raise Refused("audit.agreement", detail, "slots")
    compared = sum(bool(one.winners) for found in rounds.values() for one in found)
    return f"{compared} jobs whose replicas agree"


def _rounds(case: Case) -> dict[str, list[_Round]]:
    """[Y1] [Y2] [Y10] The comparisons of each job, in order."""
    rounds: dict[str, list[_Round]] = {}
    for tx in case.life:
        if not isinstance(tx.body, Report) or tx.document is None:
            continue
        said = tx.document.predicate
        assert isinstance(said, ReceiptPredicate)
        generation = next(one for one in case.generations if one.digest == tx.document.subject)
        workload = workload_of(generation.manifest, said.slot)
        if not workload.agree or said.status not in _TELLING:
            continue
        mine = rounds.setdefault(workload.name, [])
        last = mine[-1] if mine and same_work(mine[-1].workload, workload) else None
        if said.status == "succeeded":
            (last or _Round(generation, workload)).tell(case, tx, said)
            continue
        anew = last is None or said.slot in last.bound or (bool(last.told) and last.broken(case, tx.time_ms))
        if last is None or anew:
            mine.append(last := _Round(generation, workload))
        elif last.told:
            raise Refused("audit.agreement", f"{said.slot} committed after others had told", "receipts")
        last.bound[said.slot] = said.term, bytes.fromhex(said.commitment)
    return rounds


def _paid(case: Case, one: _Round, *, last: bool) -> None:
    """[R8] [Y4] Only those that agree are paid; nothing goes on when none do."""
    if not one.compared(case, last=last):
        return
    winners = one.winners
    if not winners and not last:
        detail = f"{one.workload.name} went on, and no {one.workload.agree} agreed"
        raise Refused("audit.agreement", detail, "receipts")
    for name in one.told if winners else ():
        bill = case.records.bills.get((name, one.bound[name][0]))
        if name not in winners and bill is not None and bill.amount != bill.withheld:
            raise Refused("audit.agreement", f"{name} disagrees, and was paid", "bills")
