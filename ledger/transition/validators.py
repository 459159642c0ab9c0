"""Validators: what is proved against them, and how their set changes.

[V2] Evidence of equivocation (ledger.evidence) suspends the validator: its offence is recorded with the
     evidence and the height. Anybody may carry it in; the first report of an offender counts. It is judged
     by the set of its own epoch, while that is among the last EVIDENCE_EPOCHS_MAX. A suspended member votes
     on until its epoch ends, and is shown as such; no change that is accepted later may hold it (V3), but one
     that is pending already stays: a header names it, perhaps.
[V3] A change of the set is the next set's encoding, with epoch + 1, and the time up to which it is valid,
     signed by a BFT quorum of the current one (ledger.epochs). Anybody may carry it in. It is refused while
     another is pending, after its time or when that is too far ahead, when it changes nothing, and when it
     holds a suspended key. Accepted, it is pending until a boundary block.
[V4] Executing a boundary block puts the pending set in force, at the block's end (ledger.epochs.turn).
"""

from __future__ import annotations

from ledger import epochs
from ledger.errors import Refused
from ledger.evidence import accused, check_evidence, offence_epoch, offence_name
from ledger.records import KEY_NEXT_VALIDATORS, Offence, key_offence
from ledger.transactions import ChangeValidators, ReportEvidence
from ledger.transition.env import Env


def report_evidence(env: Env, body: ReportEvidence) -> None:
    """[V2] Raises Refused("evidence.…", or "header.…" for a block in it)."""
    offender = accused(body.evidence)
    key = key_offence(offender)
    if env.state.get(key) is not None:  # first: every honest validator reports, and signatures cost time
        raise Refused("evidence.known", "this validator is suspended already")
    epoch = offence_epoch(body.evidence)
    members = epochs.past(env.state, epoch)
    if members is None:
        now = epochs.current(env.state).epoch
        raise Refused("evidence.too_old" if epoch < now else "evidence.epoch", f"epoch {epoch}, now {now}")
    check_evidence(env.chain_id, members, body.evidence)
    env.write(key, Offence(offender, body.evidence, env.height, env.time_ms))
    env.emit("validator.suspended", offender, offence=offence_name(body.evidence), height=env.height)


def change_validators(env: Env, body: ChangeValidators) -> None:
    """[V3] Raises Refused("change.…", or "validators.…" for a malformed set)."""
    if env.state.get(KEY_NEXT_VALIDATORS) is not None:
        raise Refused("change.pending", "another change waits for the end of the epoch")
    epochs.check_time(body.valid_until_ms, env.time_ms)
    now = epochs.current(env.state)
    found = epochs.check_change(
        env.chain_id,
        now,
        body.next,
        body.valid_until_ms,
        body.signatures,
        lambda key: env.state.get(key_offence(key)) is not None,
    )
    env.state.put(KEY_NEXT_VALIDATORS, body.next)
    env.emit(
        "validators.pending",
        found.hash,
        epoch=found.epoch,
        members=len(found.members),
        signers=len(body.signatures),
    )
