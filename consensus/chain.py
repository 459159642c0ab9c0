"""Headers above the committed tip, and the way from the tip to one of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.limits import HEADERS_MAX, RECENT_HEADERS
from ledger.blocks import Header


@dataclass(slots=True)
class Chain:
    """Uncommitted headers by hash. `tip` is the last committed one (height 0: genesis)."""

    tip: Header
    tip_hash: bytes
    headers: dict[bytes, Header] = field(default_factory=dict)
    recent: dict[bytes, Header] = field(default_factory=dict)  # committed a short while ago, to answer Fetch

    def add(self, block: bytes, header: Header) -> bool:
        """Keep a header whose hash is `block`. At the bound the oldest by view goes. False when it is
        not above the tip, so of no use."""
        if header.view <= self.tip.view:
            return False
        if block in self.headers:
            return True
        if len(self.headers) >= HEADERS_MAX:
            oldest = min(self.headers, key=lambda h: self.headers[h].view)
            del self.headers[oldest]
        self.headers[block] = header
        return True

    def get(self, block: bytes) -> Header | None:
        """A header by hash, the tip's too."""
        return self.tip if block == self.tip_hash else self.headers.get(block)

    def find(self, block: bytes) -> Header | None:
        """A header to answer a Fetch with: above the tip, the tip, or committed a short while ago."""
        found = self.headers.get(block) or self.recent.get(block)
        if found is None and block == self.tip_hash and self.tip.height > 0:
            return self.tip
        return found

    def path(self, block: bytes) -> tuple[list[tuple[bytes, Header]], bytes | None]:
        """Headers from above the tip to `block`, oldest first, and the first missing hash or None.

        A path that does not end at the tip (a fork below it) is reported as missing nothing and
        empty: it can never be committed.
        """
        steps: list[tuple[bytes, Header]] = []
        while block != self.tip_hash:
            header = self.headers.get(block)
            if header is None:
                return [], block
            if header.height <= self.tip.height:
                return [], None
            steps.append((block, header))
            block = header.parent_hash
        steps.reverse()
        return steps, None

    def commit(self, block: bytes, header: Header) -> None:
        """Move the tip to `block` and forget what is not above it."""
        if self.tip.height > 0:
            self.recent[self.tip_hash] = self.tip  # it began as the tip: after a restart, or an epoch's end
        for known, _ in ((block, header), *self.path(block)[0]):
            if known in self.headers:
                self.recent[known] = self.headers[known]
        while len(self.recent) > RECENT_HEADERS:
            del self.recent[next(iter(self.recent))]
        self.tip, self.tip_hash = header, block
        self.headers = {h: x for h, x in self.headers.items() if x.view > header.view}
