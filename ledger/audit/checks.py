"""What must follow from what in a deployment's life. The numbers are the state machine's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ledger.audit.agreement import check_agreement
from ledger.audit.approvals import check_approvals, check_signoff
from ledger.audit.disputes import check_disputes
from ledger.audit.file import Case, Generation, Placed
from ledger.audit.organisations import check_organisations
from ledger.audit.release import check_release
from ledger.audit.report import BillRow, Facts, Holding, PenaltyRow, timeline
from ledger.audit.updates import check_fees, check_updates
from ledger.errors import Refused
from ledger.limits import PENALTY_MS
from ledger.manifests.expansion import cost, slots, workload_of
from ledger.manifests.types import Manifest
from ledger.policies.decision import describe
from ledger.policies.people import names_of
from ledger.policies.types import ACTS
from ledger.policies.words import outline
from ledger.predicates import ContractPredicate, ReceiptPredicate
from ledger.receipts import unstated
from ledger.records import Bill, ReceiptRecord
from ledger.transactions import (
    CancelDeployment,
    Claim,
    OrderDeployment,
    Renew,
    Report,
)


def check_case(case: Case, facts: Facts) -> Iterator[tuple[str, Callable[[], str]]]:
    """The checks by name, to be called in this order: each returns a line for people or raises Refused."""
    yield "order", lambda: _order(case, facts)
    yield "updates", lambda: check_updates(case, facts)
    yield "organisations", lambda: check_organisations(case, facts)
    yield "approvals", lambda: check_approvals(case, facts)
    yield "receipts", lambda: _receipts(case)
    yield "terms", lambda: _terms(case, facts)
    yield "bills", lambda: _bills(case, facts)
    yield "agreement", lambda: check_agreement(case)
    yield "penalties", lambda: _penalties(case, facts)
    yield "disputes", lambda: check_disputes(case, facts)
    yield "sign-off", lambda: check_signoff(case, facts)
    yield "release", lambda: check_release(case, facts)


def _short(key: bytes) -> str:
    return key.hex()[:10]


def _order(case: Case, facts: Facts) -> str:
    """[D1] The deployment's record is that of the order; nothing happened before it."""
    record, order, manifest = case.records.deployment, case.order, case.manifest
    body = order.body
    assert isinstance(body, OrderDeployment)
    expected = (case.deployment, order.sender, body.bot or order.sender, order.time_ms)
    if (record.id, record.consumer, record.bot, record.ordered_ms) != expected:
        raise Refused("audit.order_record", "the deployment is not what the order asked for", "deployment")
    budget = case.generations[0].manifest.terms.budget
    if body.escrow != budget:
        raise Refused("audit.escrow", f"{body.escrow}, the budget is {budget}", "escrow")
    facts.chain_id, facts.deployment = case.chain_id, case.deployment.hex()
    facts.contract = f"{manifest.name}@{manifest.version}"
    facts.manifest, facts.author = record.manifest.hex(), manifest.author
    facts.consumer = manifest.consumer
    _ordered(manifest, facts)
    document = case.in_force.published.document
    if document is not None and isinstance(document.predicate, ContractPredicate):
        facts.kinds = {asked.name: asked.type for asked in document.predicate.contract.parameters}
    in_force = manifest.policies.of(record.ground)  # an update may have brought it by the update policy
    facts.policies["deploy"], facts.outlines["deploy"] = describe(in_force), outline(in_force)
    facts.status, facts.state_height = record.status, case.anchor.state_height
    facts.state_time_ms, facts.escrow = case.anchor.time_ms, record.paid_in
    facts.extended_s = record.extended_s
    facts.timeline = timeline(case.placed)
    _cancels(case)
    return f"{_short(case.deployment)} by {_short(record.consumer)}, status {record.status}"


def _ordered(manifest: Manifest, facts: Facts) -> None:
    """What was ordered, in words: a reader need not open the contract."""
    facts.parameters = dict(manifest.parameters)
    for w in manifest.workloads:
        place = ", ".join((*w.placement.countries, *w.placement.farms)) or "anywhere"
        facts.workloads[w.name] = f"{w.replicas} x {w.kind} in a {w.runtime}, {place}: {' '.join(w.command)}"
        for artifact in w.artifacts:
            facts.artifacts[f"{w.name} {artifact.path}"] = artifact.sha256
    held = names_of(manifest.roles)
    facts.roles = {role.name: role.keys or (held[role.name],) for role in manifest.roles}
    policies = manifest.policies
    facts.policies = {act: describe(policies.of(act)) for act in ACTS}
    facts.outlines = {act: outline(policies.of(act)) for act in ACTS}
    facts.duration_s, facts.fee = manifest.terms.duration_s, manifest.terms.fee


def _cancels(case: Case) -> None:
    """[D7] Cancelled exactly when its consumer or bot asked for it."""
    record = case.records.deployment
    times = []
    for tx in case.life:
        if isinstance(tx.body, CancelDeployment):
            if tx.body.deployment != case.deployment or tx.sender not in (record.consumer, record.bot):
                raise Refused("audit.foreign", "a cancel of another deployment, or by a stranger", "txs")
            times.append(tx.time_ms)
    if times != ([record.ended_ms] if record.status == "cancelled" else []):
        raise Refused("audit.cancelled", f"status {record.status}, {len(times)} cancels", "txs")


def _receipts(case: Case) -> str:
    """[R1] [R9] Each accepted receipt is there with its transaction, and the other way round."""
    documents = {id_.hex() for id_ in case.records.documents}
    recorded: dict[tuple[str, int], Iterator[ReceiptRecord]] = {
        key: iter(found) for key, found in case.records.receipts.items()
    }
    count = 0
    before: dict[tuple[str, int], str] = {}  # the status told last, of each term
    for tx in case.life:
        if not isinstance(tx.body, Report) or tx.document is None:
            continue
        predicate = tx.document.predicate
        assert isinstance(predicate, ReceiptPredicate)
        record = next(recorded.get((predicate.slot, predicate.term), iter(())), None)
        expected = ReceiptRecord(
            case.deployment,
            predicate.slot,
            predicate.term,
            tx.sender,
            predicate.status,
            tx.body.envelope,
            tx.height,
            tx.time_ms,
        )
        if record != expected:
            raise Refused("audit.receipt_record", f"{predicate.slot} term {predicate.term}", "receipts")
        place = (predicate.slot, predicate.term)
        _receipt(case, tx, predicate, documents, before.get(place, ""))
        before[place] = predicate.status
        count += 1
    if any(next(rest, None) is not None for rest in recorded.values()):
        raise Refused("audit.incomplete", "a receipt's transaction is missing", "receipts")
    return f"{count} by {len(case.records.nodes)} nodes, artifacts as in the manifest"


def _receipt(case: Case, tx: Placed, predicate: ReceiptPredicate, documents: set[str], before: str) -> None:
    document = tx.document
    assert document is not None
    generation = _generation(case, document.subject, predicate.slot)
    if document.signer != tx.sender or predicate.node != tx.sender.hex():
        raise Refused("audit.receipt_signer", "a receipt of another node", "receipts")
    names = (predicate.chain_id, predicate.deployment)
    if generation is None or names != (case.chain_id, case.deployment.hex()):
        raise Refused("audit.foreign", "a receipt of another deployment", "receipts")
    manifest = generation.manifest
    if predicate.contract != manifest.contract:
        raise Refused("audit.foreign", "a receipt of another contract", "receipts")
    lack = unstated(workload_of(manifest, predicate.slot), predicate, before)
    if lack:
        raise Refused("audit.receipt_incomplete", f"{predicate.slot}: {lack}", "receipts")
    if not documents.issuperset(predicate.approvals):
        raise Refused("audit.receipt_approvals", "it names an approval that was never given", "receipts")
    if predicate.status == "succeeded":
        slot = case.records.slots[predicate.slot]
        results = {path: found.sha256 for path, found in predicate.results.items()}
        if slot.term == predicate.term and slot.results != results:
            raise Refused("audit.results", f"{predicate.slot}: results differ from the record", "receipts")


def _generation(case: Case, digest: bytes, slot: str) -> Generation | None:
    """The manifest of this digest, if it has the slot."""
    found = (one for one in case.generations if one.digest == digest and slot in slots(one.manifest))
    return next(found, None)


def _term_manifests(case: Case) -> dict[tuple[str, int], bytes]:
    """Digest of the manifest that each term is of, as far as its holder or its slot says."""
    out: dict[tuple[str, int], bytes] = {}
    for name, slot in case.records.slots.items():
        if slot.term:
            out[name, slot.term] = slot.manifest
    for tx in case.life:
        if isinstance(tx.body, Report) and tx.document is not None:
            key = (tx.document.predicate.slot, tx.document.predicate.term)
            if out.setdefault(key, tx.document.subject) != tx.document.subject:
                raise Refused("audit.terms", f"{key[0]} term {key[1]} is of two manifests", "receipts")
    for name, term in out:
        if _generation(case, out[name, term], name) is None:
            raise Refused("audit.terms", f"{name} term {term} is of no manifest of this", "slots")
    return out


def _terms(case: Case, facts: Facts) -> str:
    """[C7] Terms only grow, each has one holder, who asked for it before."""
    asked: set[tuple[str, int, bytes]] = set()
    holders: dict[tuple[str, int], bytes] = {}
    newest: dict[str, int] = {}
    for tx in case.life:
        if isinstance(tx.body, Claim):
            if tx.body.deployment != case.deployment:
                raise Refused("audit.foreign", "a claim of another deployment", "txs")
            asked.add((tx.body.slot, tx.body.term, tx.sender))
        elif isinstance(tx.body, Report) and tx.document is not None:
            name, term = tx.document.predicate.slot, tx.document.predicate.term
            if (name, term, tx.sender) not in asked:
                raise Refused("audit.unclaimed", f"{name} term {term} was not asked for by its holder", "txs")
            if term < newest.get(name, 1):
                raise Refused("audit.terms", f"{name}: term {term} after {newest[name]}", "txs")
            newest[name] = term
            if holders.setdefault((name, term), tx.sender) != tx.sender:
                raise Refused("audit.two_holders", f"{name} term {term}", "txs")
        elif isinstance(tx.body, Renew) and all(i.deployment != case.deployment for i in tx.body.items):
            raise Refused("audit.foreign", "a renewal of other deployments", "txs")
    for name, slot in case.records.slots.items():
        if slot.holder and holders.setdefault((name, slot.term), slot.holder) != slot.holder:
            raise Refused("audit.two_holders", f"{name} term {slot.term}", "slots")
        if newest.get(name, 0) > slot.term:
            raise Refused("audit.terms", f"{name}: a receipt beyond term {slot.term}", "slots")
    for (name, term), bill in case.records.bills.items():
        holder = holders.get((name, term))
        if holder is not None and bill.payee != _farmer(case, holder):
            raise Refused("audit.payee", f"{name} term {term} was paid to another than its farmer", "bills")
    facts.holdings = _holdings(case, holders, _term_manifests(case))
    terms = {name: slot.term for name, slot in case.records.slots.items()}
    return ", ".join(f"{name} at term {term}" for name, term in terms.items()) + ", one holder each"


def _holdings(
    case: Case, holders: dict[tuple[str, int], bytes], manifests: dict[tuple[str, int], bytes]
) -> list[Holding]:
    out = []
    for (name, term), receipts in case.records.receipts.items():
        holder, bill = holders.get((name, term)), case.records.bills.get((name, term))
        node = None if holder is None else case.records.nodes[holder]
        out.append(
            Holding(
                name,
                term,
                "" if node is None else node.key.hex(),
                "" if node is None else node.farm,
                "" if node is None else node.country,
                receipts[-1].status if receipts else "",
                0 if bill is None else bill.amount,
                _number(case, name, manifests.get((name, term))),
            )
        )
    return out


def _number(case: Case, name: str, digest: bytes | None) -> int:
    """Of the manifest, the first of this digest; -1: not known."""
    found = None if digest is None else _generation(case, digest, name)
    return -1 if found is None else found.number


def _farmer(case: Case, node: bytes) -> bytes:
    return case.records.farms[case.records.nodes[node].farm].owner


def _bills(case: Case, facts: Facts) -> str:
    """[E1] [E3] [E4] What was billed is what left the escrow; no stretch of time is paid twice."""
    record, bills = case.records.deployment, case.records.bills
    fees = check_fees(case)
    manifests = _term_manifests(case)
    until_ms: dict[str, int] = {}
    for (name, term), bill in bills.items():  # by slot, then by term
        _stretch(case, (name, term), bill, until_ms.get(name, record.approved_ms), manifests)
        until_ms[name] = bill.to_ms
    total = sum(bill.amount for bill in bills.values()) + fees
    if total != record.spent:
        raise Refused("audit.bills", f"bills make {total}, the escrow paid {record.spent}", "bills")
    rest = facts.escrow - record.spent - record.returned
    if rest < 0 or record.escrow not in (0, rest):
        raise Refused(
            "audit.escrow", f"{record.escrow} left of {facts.escrow} after {record.spent}", "escrow"
        )
    paid = {("", number): fee for number, fee in case.records.fees.items()} | bills
    for (name, term), bill in paid.items():
        slot = case.records.slots.get(name)
        rate = slot.rate_hour if slot is not None and slot.term == term else 0
        number = _number(case, name, manifests.get((name, term))) if name else term
        row = BillRow(name, term, bill.payee.hex(), bill.from_ms, bill.to_ms, rate, bill.amount, number)
        facts.bills.append(row)
    facts.spent, facts.left = record.spent, record.escrow
    facts.refunded = rest - record.escrow + record.returned
    return f"{len(bills)} bills and fees make {total} of {facts.escrow}; {facts.refunded} refunded"


def _stretch(
    case: Case,
    place: tuple[str, int],
    bill: Bill,
    earliest_ms: int,
    manifests: dict[tuple[str, int], bytes],
) -> None:
    """[E1] [E6]"""
    name, term = place
    if (bill.slot, bill.term) != (name, term) or not earliest_ms <= bill.from_ms <= bill.to_ms:
        raise Refused("audit.bill_time", f"{name} term {term} overlaps what was paid before", "bills")
    slot = case.records.slots[name]
    if not 0 <= bill.missed_ms <= bill.to_ms - bill.from_ms:
        raise Refused("audit.bill_time", f"{name} term {term}: {bill.missed_ms} ms missed", "bills")
    if slot.term == term and bill.amount > cost(slot.rate_hour, bill.from_ms, bill.to_ms - bill.missed_ms):
        raise Refused("audit.bill_amount", f"{name} term {term}: more than its rate", "bills")
    limit_ms = _time_limit_s(case, name, manifests.get(place)) * 1000
    if limit_ms and bill.to_ms - bill.from_ms - bill.missed_ms > limit_ms:
        raise Refused("audit.bill_time", f"{name} term {term}: longer than its time limit", "bills")
    if bill.amount < 0:
        raise Refused("audit.bill_amount", f"{name} term {term}: below zero", "bills")


def _time_limit_s(case: Case, name: str, digest: bytes | None) -> int:
    """The term's; of a holder that reported nothing the longest that any manifest gives; 0: none."""
    known = [one for one in case.generations if name in slots(one.manifest)]
    limits = [workload_of(one.manifest, name).time_limit_s for one in known if digest in (None, one.digest)]
    return 0 if 0 in limits else max(limits, default=0)


def _penalties(case: Case, facts: Facts) -> str:
    """[E5] Each is paid by the farmer of the term's node to the consumer, and no more than was owed."""
    for (name, term), found in case.records.penalties.items():
        slot = case.records.slots[name]
        names = (found.slot, found.term, found.payer, found.payee)
        if names != (name, term, _farmer(case, found.node), case.records.deployment.consumer):
            raise Refused("audit.penalty", f"{name} term {term}: of another than its farmer", "penalties")
        rate_known = slot.term == term
        if not 0 <= found.amount <= found.owed or (
            rate_known and found.owed != cost(slot.rate_hour, 0, PENALTY_MS)
        ):
            raise Refused("audit.penalty", f"{name} term {term}: {found.amount} of {found.owed}", "penalties")
        if any(receipt.node != found.node for receipt in case.records.receipts[name, term]):
            raise Refused("audit.penalty", f"{name} term {term}: another node held it", "penalties")
        row = PenaltyRow(
            name, term, found.node.hex(), found.payer.hex(), found.owed, found.amount, found.time_ms
        )
        facts.penalties.append(row)
    paid = sum(row.amount for row in facts.penalties)
    return f"{len(facts.penalties)} broken leases and false witnesses, {paid} paid to the consumer"
