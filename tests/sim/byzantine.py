"""Cores of a Byzantine member: each lies in its own proposals in one way. Twins of the honest core
("nothing") already propose and vote twice, as two instances with one key do."""

from __future__ import annotations

from typing import Final

import msgspec

from consensus.core import Core
from consensus.messages import Propose
from ledger.blocks import Header
from ledger.codec import sha256
from ledger.proofs.certificate import VoteKind


class RootLiar(Core):
    """Claims a state root that is not the one of its state height."""

    def _propose(self) -> None:
        true, self.roots = self.roots, {height: sha256(root) for height, root in self.roots.items()}
        super()._propose()
        self.roots = true


class ParentLiar(Core):
    """Builds on its committed tip, over views that were notarized and never skipped; at once where there are
    any, for by the time that there is work they are mostly committed."""

    def _base(self) -> tuple[int, bytes]:
        return self.chain.tip.view, self.chain.tip_hash

    def _idle_left_ms(self, entered_ms: int) -> int:
        return 0 if self.chain.tip.view < self.frontier - 1 else super()._idle_left_ms(entered_ms)

    def _proposal(self, header: Header) -> Propose:
        said = super()._proposal(header)
        skips = tuple(c for c in said.skips if c.statement.kind is VoteKind.SKIP)
        return msgspec.structs.replace(said, skips=skips)

    def _proved(self, header: Header) -> bool:
        return True


class HeightLiar(Core):
    """Counts the tip one higher than it is when it proposes."""

    def _propose(self) -> None:
        true = self.chain.tip
        self.chain.tip = msgspec.structs.replace(true, height=true.height + 1)
        super()._propose()
        self.chain.tip = true


class TimeLiar(Core):
    """Its clock goes ten seconds ahead of the others'."""

    def _propose(self) -> None:
        self._wall_ms += 10_000
        super()._propose()
        self._wall_ms -= 10_000


LIARS: Final[dict[str, type[Core]]] = {
    "nothing": Core,
    "root": RootLiar,
    "parent": ParentLiar,
    "height": HeightLiar,
    "time": TimeLiar,
}
