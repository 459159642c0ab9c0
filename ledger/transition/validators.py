"""Validators: what is proved against them.

[V2] Evidence of equivocation (ledger.evidence) suspends the validator: its offence is recorded with the
     evidence and the height. Anybody may carry it in; the first report of an offender counts. The validator
     set is fixed so far: until sets change with epochs, a suspended member votes on, and is shown as such.
"""

from __future__ import annotations

from ledger.certificate import ValidatorSet
from ledger.errors import Refused
from ledger.evidence import accused, check_evidence, offence_name
from ledger.records import KEY_VALIDATORS, Offence, key_offence
from ledger.transactions import ReportEvidence
from ledger.transition.env import Env


def report_evidence(env: Env, body: ReportEvidence) -> None:
    """[V2] Raises Refused("evidence.…", or "header.…" for a block in it)."""
    offender = accused(body.evidence)
    key = key_offence(offender)
    if env.state.get(key) is not None:  # first: every honest validator reports, and signatures cost time
        raise Refused("evidence.known", "this validator is suspended already")
    check_evidence(env.chain_id, env.must(ValidatorSet, KEY_VALIDATORS), body.evidence)
    env.write(key, Offence(offender, body.evidence, env.height, env.time_ms))
    env.emit("validator.suspended", offender, offence=offence_name(body.evidence), height=env.height)
