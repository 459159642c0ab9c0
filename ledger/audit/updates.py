"""Updates of a deployment in an audit: each as it was asked for, one after the other, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ledger.audit.file import Case, Generation, Placed
from ledger.audit.report import Facts, GenerationRow
from ledger.contracts.differences import manifest_changes
from ledger.errors import Refused
from ledger.manifests.expansion import slots
from ledger.policies.decision import describe
from ledger.policies.records import same_signers
from ledger.records import Deployment
from ledger.trade_records import CANCELLED, UpdateRecord
from ledger.transactions import ExtendDeployment, SteerUpdate, TopUp, UpdateDeployment
from ledger.transition.deal import funds_under

_UNDER_WAY = ("awaiting_approval", "rolling", "held")
_UNAPPROVED = ("awaiting_approval", "expired", "cancelled", "rejected")


def check_updates(case: Case, facts: Facts) -> str:
    """[U1]–[U4] [U9] Each record follows from its wish and from what was in force; none is left out."""
    in_force, former_end_ms = case.generations[0], 0
    names = list(slots(in_force.manifest))
    facts.generations.append(_row(case, in_force, None, None))
    for number, update in case.records.updates.items():
        generation = case.generations[number]
        _check_update(case, generation, update, in_force)
        if generation.asked.time_ms < former_end_ms or (update.ended_ms == 0) != (
            update.status in _UNDER_WAY
        ):
            raise Refused("audit.update_record", f"update {number} began or ended out of order", "updates")
        if update.status in _UNDER_WAY and number != len(case.records.updates):
            raise Refused("audit.update_record", f"update {number} is under way, and not the last", "updates")
        facts.generations.append(_row(case, generation, update, in_force))
        if update.approved_ms:
            names += [name for name in slots(generation.manifest) if name not in names]
        if update.status == "done":
            in_force = generation
        former_end_ms = update.ended_ms
    _check_in_force(case, in_force, tuple(names))
    _steered(case)
    _check_funds(case)
    done = sum(update.status == "done" for update in case.records.updates.values())
    return f"{len(case.records.updates)} asked for, {done} done"


def _check_update(case: Case, generation: Generation, update: UpdateRecord, in_force: Generation) -> None:
    """[U1] [U3] The record is that of the wish."""
    asked, record = generation.asked, case.records.deployment
    body = asked.body
    assert isinstance(body, UpdateDeployment)
    if asked.sender not in (record.consumer, record.bot) or body.former != in_force.digest:
        raise Refused("audit.foreign", f"update {generation.number} by a stranger, or out of order", "txs")
    ground = "update" if same_signers(in_force.manifest, generation.manifest) else "deploy"
    wanted = (generation.number, asked.id, asked.sender, in_force.digest, generation.digest, body.contract)
    found = (update.number, update.tx, update.sender, update.former, update.manifest, update.contract)
    rest = (update.locked, update.ground, update.requested_ms)
    if found != wanted or rest != (body.amount, ground, asked.time_ms):
        raise Refused(
            "audit.update_record", f"update {generation.number} is not what was asked for", "updates"
        )
    if bool(update.approved_ms) == (update.status in _UNAPPROVED):
        raise Refused("audit.update_record", f"update {generation.number}: {update.status}", "updates")
    times = [time for time in (update.requested_ms, update.approved_ms, update.ended_ms) if time]
    if times != sorted(times) or times[-1] > case.anchor.time_ms:
        raise Refused("audit.update_record", f"update {generation.number}: times out of order", "updates")
    least = update.locked if update.status in _UNAPPROVED[1:] else 0
    if update.refunded < least or (update.refunded > update.locked and update.status != "done"):
        raise Refused("audit.escrow", f"update {generation.number}: {update.refunded} came back", "updates")


def _check_in_force(case: Case, in_force: Generation, names: tuple[str, ...]) -> None:
    """[U9] What is in force is what the last update that was done brought."""
    record, number = case.records.deployment, in_force.number
    found = (record.generation, record.manifest, record.contract, record.slots)
    contract = bytes.fromhex(in_force.manifest.contract)
    if found != (number, in_force.digest, contract, names):
        raise Refused("audit.order_record", "not what was asked for is in force", "deployment")
    last = case.records.updates.get(len(case.records.updates))
    updating = last.manifest if last is not None and not last.ended_ms else b""
    brought = case.records.updates.get(number)
    ground, asked_ms = ("deploy", 0) if brought is None else (brought.ground, brought.requested_ms)
    if (record.updating, record.ground, record.asked_ms) != (updating, ground, asked_ms):
        raise Refused("audit.order_record", "the record and its updates differ", "deployment")


def _steered(case: Case) -> None:
    """[U4] [U6] Cancelled exactly when the consumer or bot asked for it."""
    record, cancelled = case.records.deployment, set()
    for tx in case.life:
        if not isinstance(tx.body, SteerUpdate):
            continue
        update = case.records.updates.get(tx.body.number)
        if tx.body.deployment != case.deployment or tx.sender not in (record.consumer, record.bot):
            raise Refused("audit.foreign", "an update was steered by a stranger, or of another", "txs")
        if update is None or not _is_open(update, tx):
            raise Refused("audit.update_record", "no update of this number was under way", "txs")
        if tx.body.action == "cancel":
            cancelled.add(tx.body.number)
            if update.ended_ms != tx.time_ms or update.status not in ("cancelled", "reverted"):
                raise Refused("audit.update_record", f"update {tx.body.number} was cancelled", "updates")
    found = {number for number, update in case.records.updates.items() if update.reason == CANCELLED}
    if found != cancelled:
        raise Refused("audit.update_record", "cancelled by nobody", "updates")


def _is_open(update: UpdateRecord, tx: Placed) -> bool:
    return update.requested_ms <= tx.time_ms and (not update.ended_ms or tx.time_ms <= update.ended_ms)


def _check_funds(case: Case) -> None:
    """[D10] [D11] [U2] [U8] [U9] What was put into escrow, and the term, are what was asked for, within the
    terms; each update locked exactly what it costs more."""
    record, terms = case.records.deployment, case.manifest.terms
    topped_up = extended_s = 0
    paid_in = case.generations[0].manifest.terms.budget
    budgets: dict[int, set[int]] = {0: {paid_in}}  # by manifest in force: what may have been funded by now
    for tx in case.life:
        _switch(case, budgets, tx.time_ms, topped_up, extended_s)
        if isinstance(tx.body, TopUp):
            topped_up += tx.body.amount
        elif isinstance(tx.body, ExtendDeployment):
            if tx.sender not in (record.consumer, record.bot) or tx.body.extended_s != extended_s:
                raise Refused("audit.foreign", "an extension by a stranger, or out of order", "txs")
            extended_s += tx.body.duration_s
        elif isinstance(tx.body, UpdateDeployment):
            paid_in += tx.body.amount
            _locked(case, tx, budgets, topped_up, extended_s)
            continue
        else:
            continue
        if tx.body.deployment != case.deployment:
            raise Refused("audit.foreign", "money for another deployment", "txs")
        paid_in += tx.body.amount
        for number, found in budgets.items():
            budgets[number] = {funded + tx.body.amount for funded in found}
    _switch(case, budgets, case.anchor.time_ms, topped_up, extended_s)
    wanted = (paid_in, topped_up, extended_s)
    if (record.paid_in, record.topped_up, record.extended_s) != wanted:
        raise Refused("audit.funds", f"asked for: {wanted}, recorded otherwise", "deployment")
    if record.funded not in budgets.get(record.generation, ()):
        raise Refused("audit.funds", f"{record.funded} were not asked for", "deployment")
    if topped_up > terms.top_up or extended_s > terms.extension_s:
        raise Refused("audit.funds", "more than the terms let it have", "deployment")
    returned = sum(update.refunded for update in case.records.updates.values())
    if record.returned != returned:
        raise Refused("audit.escrow", f"{record.returned} came back, by updates {returned}", "escrow")


def _switch(case: Case, budgets: dict[int, set[int]], now_ms: int, topped_up: int, extended_s: int) -> None:
    """[U9] Updates that were done by now. In the block of that time, before or after the transaction."""
    for number, update in case.records.updates.items():
        if update.status == "done" and update.ended_ms <= now_ms:
            record = _funds(case.records.deployment, topped_up, extended_s)
            value = funds_under(case.generations[number].manifest.terms, record)
            budgets.setdefault(number, set())
            if not budgets[number] or update.ended_ms == now_ms:
                budgets[number].add(value)
        elif update.status == "done":
            return


def _funds(record: Deployment, topped_up: int, extended_s: int) -> Deployment:
    return replace(record, topped_up=topped_up, extended_s=extended_s)


def _locked(case: Case, tx: Placed, budgets: dict[int, set[int]], topped_up: int, extended_s: int) -> None:
    """[U2]"""
    asked = next(one for one in case.generations if one.asked is tx)
    former = max(
        (n for n, x in case.records.updates.items() if n < asked.number and x.status == "done"), default=0
    )
    whole = funds_under(asked.manifest.terms, _funds(case.records.deployment, topped_up, extended_s))
    body = tx.body
    assert isinstance(body, UpdateDeployment)
    if all(body.amount != max(0, whole - funded) for funded in budgets.get(former, ())):
        raise Refused("audit.funds", f"update {asked.number} locked {body.amount}", "txs")


def _row(
    case: Case, generation: Generation, update: UpdateRecord | None, former: Generation | None
) -> GenerationRow:
    manifest, record = generation.manifest, case.records.deployment
    if generation.number == record.generation:
        status = "in force"
    elif update is None or update.status == "done":
        status = "was in force"
    else:
        status = update.status
    parts: list[str] = []
    if former is not None:
        parts.append(describe(former.manifest.policies.of("update")))
        if not same_signers(former.manifest, manifest):
            parts.append(describe(manifest.policies.of("deploy")))
    else:
        parts.append(describe(manifest.policies.of("deploy")))
    return GenerationRow(
        number=generation.number,
        contract=f"{manifest.name}@{manifest.version}",
        manifest=generation.digest.hex(),
        status=status,
        asked_by=generation.asked.sender.hex(),
        asked_ms=generation.asked.time_ms,
        approved_ms=record.approved_ms if update is None else update.approved_ms,
        ended_ms=0 if update is None else update.ended_ms,
        reason="" if update is None else update.reason,
        locked=0 if update is None else update.locked,
        returned=0 if update is None else update.refunded,
        asked_for=tuple(parts),
        changes=() if former is None else tuple(_changes(former, generation)),
    )


def _changes(former: Generation, generation: Generation) -> Iterator[tuple[str, str, str]]:
    for found in manifest_changes(former.manifest, generation.manifest):
        yield found.field, found.before_text, found.after_text


def check_fees(case: Case) -> int:
    """[E3] [E7] The author's fee, and what updates made it more: micro-credits in all."""
    record, fees = case.records.deployment, case.records.fees
    first, fee = fees.get(0), case.generations[0].manifest.terms.fee
    if (first is not None) != record.fee_paid:
        raise Refused("audit.fee", "its bill and the deployment's record differ", "bills")
    former = {fee}
    for number, update in case.records.updates.items():
        if update.status != "done":
            continue
        terms, at_ms, found = case.generations[number].manifest.terms, update.ended_ms, fees.get(number)
        before = first is not None and first.from_ms <= at_ms
        if first is None or first.from_ms >= at_ms:
            former = former | {terms.fee} if before else {terms.fee}
        more = terms.fee - fee
        if found is None:
            if before and first is not None and first.from_ms < at_ms and more > 0:
                raise Refused("audit.fee", f"update {number} raised it, and paid nothing", "bills")
        elif not before or not 0 <= found.amount <= more or (found.from_ms, found.to_ms) != (at_ms, at_ms):
            raise Refused("audit.fee", f"update {number} may pay {more} more", "bills")
        fee = terms.fee
    for bill in fees.values():
        if bill.payee.hex() != case.manifest.author:
            raise Refused("audit.fee", "paid to another than the author", "bills")
    if first is not None and first.amount not in former:
        raise Refused("audit.fee", f"the contract's fee is {sorted(former)}, to its author", "bills")
    return sum(bill.amount for bill in fees.values())
