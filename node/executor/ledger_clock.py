"""Does this node know what time it is on the ledger? Its leases depend on it (design section 8, rule 3).

A leader that lies, or whose clock is slow, can date a block back as far as its parent: after a stall, by all
of the stall. What `LedgerTime` has seen tells such a block, but not after a restart, when nothing was seen
yet, nor when old blocks come in at once. So a slot is claimed only when both hold, since the last gap:

- a transaction of our own is final: its block and those above were made after we sent it;
- such blocks came from leaders of more than f of the weight: one of them at least is honest.

Both are told by the chain alone; no wall clock is asked. The transaction is the node's offer, posted anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ledger.blocks import decode_header
from ledger.limits import LEASE_MS
from ledger.quorum import tolerated
from node.executor.lease import LedgerTime
from node.seam import PeerSeam

GAP_MS: Final = LEASE_MS  # without a block: every lease is over by then
HEADERS_MAX: Final = 64  # looked at in one step, the newest: enough for any f + 1 to show up soon


@dataclass(slots=True)
class LedgerClock:
    """See the module. `look` at each new block. Times in ms; the boot clock's, where nothing else is said."""

    peer: PeerSeam
    boot_ms: Callable[[], int]
    time: LedgerTime = field(default_factory=LedgerTime)
    is_sure: bool = False
    token: int = 0  # counts gaps: what was sent before one tells nothing after it
    _since: int = 0  # height of the block with our transaction; 0: there is none yet
    _read: int = 0
    _leaders: set[bytes] = field(default_factory=set)
    _looked_ms: int | None = None

    @property
    def wants_own(self) -> bool:
        """Is a transaction of our own needed?"""
        return self._since == 0

    def look(self) -> None:
        """A block was committed."""
        now_ms = self.boot_ms()
        if self._looked_ms is not None and now_ms > self._looked_ms + GAP_MS:
            self.token += 1
            self.is_sure, self._since = False, 0
            self._leaders.clear()
        self._looked_ms = now_ms
        self.time.saw(self.peer.time_ms, now_ms, keeps_best=not self.is_sure)
        self._hear()

    def sent(self, height: int, token: int) -> None:
        """A transaction that was sent when `token` was this is final at that height."""
        if token == self.token and self._since == 0:
            self._since, self._read = height, height - 1
            self._hear()

    def at(self, now_ms: int) -> int:
        """As LedgerTime.at."""
        return self.time.at(now_ms)

    def _hear(self) -> None:
        """Who made the blocks from ours on."""
        if self._since == 0 or self.is_sure:
            return
        tip = self.peer.height
        for height in range(max(self._read + 1, tip - HEADERS_MAX + 1), tip + 1):
            data = self.peer.store.header(height)
            if data is not None:
                self._leaders.add(decode_header(data).proposer)
        self._read = tip
        members = self.peer.validators
        weight = sum(member.weight for member in members.members if member.key in self._leaders)
        self.is_sure = weight > tolerated(members.total)
