"""What a receipt states of its workload. Pure; held by the state machine, and again by audits.

[R9] A receipt names the workload's runtime as its driver, and the isolation level. It names no artifact that
     is not the workload's; from `verified` on it names them all, also when the term ends. Committed and
     succeeded, it names the exit code.
"""

from __future__ import annotations

from typing import Final

from ledger.manifests.types import Workload
from ledger.predicates import ReceiptPredicate

_VERIFIED: Final = ("verified", "running", "committed", "succeeded")


def unstated(workload: Workload, said: ReceiptPredicate, before: str) -> str:
    """[R9] What a receipt lacks, or has other than the manifest; "" when nothing is amiss. `before`: the
    status that was told before it in the same term, or any other word when it is the first."""
    if said.driver != workload.runtime:
        return f"the driver is {said.driver!r}, the workload's runtime {workload.runtime!r}"
    if not said.level:
        return "no isolation level"
    wanted = {artifact.path: artifact.sha256 for artifact in workload.artifacts}
    for path, digest in said.artifacts.items():
        if wanted.get(path) != digest:
            return f"{path} is not what the manifest names"
    if len(said.artifacts) < len(wanted) and (said.status in _VERIFIED or before in _VERIFIED):
        return "not all artifacts that were verified"
    if said.status in ("committed", "succeeded") and said.exit_code is None:
        return "no exit code"
    return ""
