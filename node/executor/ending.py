"""How a term ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ledger.predicates import ReceiptStatus


@dataclass(frozen=True, slots=True)
class Ending:
    """How a term ends. `status` None: nothing is reported, the slot is another's already."""

    status: ReceiptStatus | None
    detail: str
    fields: dict[str, Any] = field(default_factory=dict)
    by_ledger: bool = False  # it was taken from us, by no fault of this node
