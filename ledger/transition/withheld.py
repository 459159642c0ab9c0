"""Money of terms whose results are not compared yet: out of the escrow, and in nobody's account.

[Y4] What a term of a job with `agree` costs is withheld until the results are compared. A term that ends
     without a commitment is not paid, unless the ledger stopped it: released with its deployment, or by an
     update, it is paid for its time; left behind by the others it is not.
"""

from __future__ import annotations

from msgspec.structs import replace

from ledger.records import Bill, key_bill, key_due
from ledger.trade_records import Agreement, key_agreement
from ledger.transition.deal import Deal
from ledger.transition.money import credit


def pay_out(deal: Deal, name: str) -> None:
    """[Y4] What is withheld of the slot's newest term goes to its farmer."""
    bill = _bill(deal, name)
    if bill is not None and bill.withheld:
        credit(deal.env, bill.payee, bill.withheld)
        deal.set(withheld=deal.record.withheld - bill.withheld)
        _write(deal, replace(bill, withheld=0))


def take_back(deal: Deal, name: str) -> None:
    """[Y4] What is withheld of the slot's newest term goes back into the escrow."""
    bill, record = _bill(deal, name), deal.record
    if bill is not None and bill.withheld:
        amount = bill.withheld
        deal.set(
            withheld=record.withheld - amount, escrow=record.escrow + amount, spent=record.spent - amount
        )
        _write(deal, replace(bill, amount=bill.amount - amount, withheld=0))


def set_agreement(deal: Deal, workload: str, agreement: Agreement | None) -> None:
    """Write the record of a comparison under way, and its timed work; None removes both."""
    key = key_agreement(deal.id, workload)
    former, rest = deal.env.read(Agreement, key), deal.id + b"/" + workload.encode()
    if former is not None:
        deal.env.state.delete(key_due(former.due_ms, "agreement", rest))
        deal.env.state.delete(key)
    if agreement is not None:
        deal.env.write(key, agreement)
        deal.env.state.put(key_due(agreement.due_ms, "agreement", rest), b"")


def agreement_of(deal: Deal, workload: str) -> Agreement | None:
    """The comparison under way of a job's results, if there is one."""
    return deal.env.read(Agreement, key_agreement(deal.id, workload))


def drop_agreements(deal: Deal) -> None:
    """[Y4] The deployment ends: nothing is compared any more, and who has committed is paid."""
    for name in deal.record.slots:
        if deal.slot(name).status in ("committed", "succeeded"):
            pay_out(deal, name)
    for workload in {name.partition("/")[0] for name in deal.record.slots}:
        set_agreement(deal, workload, None)


def _bill(deal: Deal, name: str) -> Bill | None:
    return deal.env.read(Bill, key_bill(deal.id, name, deal.slot(name).term, 0))


def _write(deal: Deal, bill: Bill) -> None:
    deal.env.write(key_bill(deal.id, bill.slot, bill.term, 0), bill)
