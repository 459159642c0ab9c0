"""Results: sealed to the consumer, and held back where stakeholders release them.

[Y6] A job's receipt names the sealed form of each result, which the consumer alone opens; it has the size of
     its content and RESULT_SEAL_BYTES more. Where the contract has a release policy, a node hands it to
     nobody before the release. When the last result is there, its digest (Y5) is on record and may be decided
     on.
[Y7] A decision on the release is about exactly that digest. Satisfied, the results are released, for good.
[Y8] An update that begins takes the digest back; when it is over, it is made anew of what is there then.
[Y9] Decisions are taken while the deployment is active or completed, and until RELEASE_MS_MAX after its end;
     then, or when it ends in any other way, the results are never released.
"""

from __future__ import annotations

from ledger.limits import RELEASE_MS_MAX
from ledger.results import results_digest
from ledger.transition.deal import Deal
from ledger.transition.withheld import agreement_of


def set_release_judge(deal: Deal, time_ms: int) -> None:
    """Move the `judge` timed work of the release; 0 removes it."""
    before_ms = deal.record.release_judge_ms
    if before_ms != time_ms:
        deal.env.move_due("judge", deal.id + b"/release", before_ms, time_ms)
        deal.set(release_judge_ms=time_ms)


def note_results(deal: Deal) -> None:
    """[Y6] [Y8] Nothing happens while results are missing or an update rolls."""
    update, record = deal.update, deal.record
    if deal.manifest.policies.release is None or (update and update.status != "awaiting_approval"):
        return
    if any(agreement_of(deal, w.name) for w in deal.manifest.workloads if w.agree):
        return  # they are compared still
    slots = {name: deal.slot(name) for name in record.slots}
    found = results_digest(deal.id, record.manifest, deal.manifest, slots)
    if not found or found == record.results:
        return
    deal.set(results=found, released_ms=0)
    deal.emit("results.held", results=found.hex(), manifest=record.manifest.hex())
    # Decisions on the same results may stand from before an update that came to nothing.
    set_release_judge(deal, deal.env.time_ms + 1 if record.updates else 0)


def forget_results(deal: Deal) -> None:
    """[Y8] [Y9] There is nothing to decide on any more."""
    set_release_judge(deal, 0)
    _set_until(deal, 0)
    if deal.record.results:
        deal.set(results=b"", released_ms=0)


def await_release(deal: Deal) -> None:
    """[Y9] The deployment has completed: what is not released in time never is."""
    if deal.record.results and not deal.record.released_ms:
        _set_until(deal, deal.env.time_ms + RELEASE_MS_MAX)


def release(deal: Deal) -> None:
    """[Y7] The release policy is satisfied."""
    set_release_judge(deal, 0)
    _set_until(deal, 0)
    deal.set(released_ms=deal.env.time_ms)
    deal.emit("results.released", results=deal.record.results.hex())


def release_over(deal: Deal) -> None:
    """[Y9] The timed work `release`."""
    results = deal.record.results.hex()
    forget_results(deal)
    deal.emit("results.withheld", results=results)


def _set_until(deal: Deal, time_ms: int) -> None:
    before_ms = deal.record.release_until_ms
    if before_ms != time_ms:
        deal.env.move_due("release", deal.id, before_ms, time_ms)
        deal.set(release_until_ms=time_ms)
