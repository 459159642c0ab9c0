"""Who proposes in a view: members take turns."""

from __future__ import annotations

from ledger.proofs.certificate import ValidatorSet


def leader(validators: ValidatorSet, view: int) -> int:
    """Member index of the leader of `view` (>= 1)."""
    return view % len(validators.members)
