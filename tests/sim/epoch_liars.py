"""Cores of a Byzantine member that lie about the end of an epoch (rule 12). See tests.sim.byzantine."""

from __future__ import annotations

from typing import Final

import consensus.core
from consensus.core import Core
from consensus.state import Change


class NextLiar(Core):
    """Ends the epoch with a set that nobody agreed on."""

    def _propose(self) -> None:
        true, self.change = self.change, Change(0, bytes(31) + b"\7")
        super()._propose()
        self.change = true


class LeavesOut(Core):
    """Never says that a change is pending."""

    def _propose(self) -> None:
        true, self.change = self.change, None
        super()._propose()
        self.change = true


class FillsTail(Core):
    """Proposes batches above the boundary."""

    def _propose(self) -> None:
        real = consensus.core.is_ending
        consensus.core.is_ending = lambda header, validators: False
        try:
            super()._propose()
        finally:
            consensus.core.is_ending = real


EPOCH_LIARS: Final[dict[str, type[Core]]] = {"next": NextLiar, "leaves_out": LeavesOut, "tail": FillsTail}
