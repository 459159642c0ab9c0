"""Does this node know what time it is on the ledger? Its leases depend on it (design section 8, rule 3).

A leader that lies, or whose clock is slow, can date a block back as far as its parent: after a stall, by all
of the stall. What `LedgerTime` has seen tells such a block, but not after a restart, when nothing was seen
yet, nor when old blocks come in at once. So a slot is claimed only when both hold, since the last gap:

- a transaction of our own is final: its block and those above were made after we sent it;
- such blocks came from leaders of more than f of the weight: one of them at least is honest.

Both are told by the chain alone; no wall clock is asked. The transaction is the node's offer, posted anew.

From then on what was seen is remembered as far back as such leaders were heard, since the newest blocks may
all be of leaders that lie, while those of honest ones come late. When that is SURE_MS ago it counts as a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from ledger.blocks import decode_header
from ledger.limits import LEASE_MS, VALIDATORS_MAX
from ledger.proofs.certificate import ValidatorSet
from ledger.proofs.quorum import tolerated
from node.executor.lease import SEEN_EVERY_MS, SEEN_MS, LedgerTime

GAP_MS: Final = LEASE_MS  # without a block: every lease is over by then
HEADERS_MAX: Final = 64  # looked at in one step, the newest: enough for any f + 1 to show up soon
LEADERS_MAX: Final = 2 * VALIDATORS_MAX  # remembered: of two sets that have no member in common
# Without a block of an honest leader: 128 validators take turns in less, also when a third of them is down,
# and two clocks drift apart by 2.4 s at the most.
SURE_MS: Final = 4 * LEASE_MS


class Headers(Protocol):
    """As ledger.storage.chain.Chain."""

    def header(self, height: int) -> bytes | None: ...


class Chain(Protocol):
    """What is looked at of the chain; a PeerSeam has it."""

    @property
    def store(self) -> Headers: ...
    @property
    def validators(self) -> ValidatorSet: ...
    @property
    def height(self) -> int: ...
    @property
    def time_ms(self) -> int: ...


@dataclass(slots=True)
class LedgerClock:
    """See the module. `look` at each new block. Times in ms; the boot clock's, where nothing else is said."""

    peer: Chain
    boot_ms: Callable[[], int]
    time: LedgerTime = field(default_factory=LedgerTime)
    is_sure: bool = False
    token: int = 0  # counts gaps: what was sent before one tells nothing after it
    _since: int = 0  # height of the block with our transaction; 0: there is none yet
    _read: int = 0
    _leaders: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # newest block, seen when
    _heard_ms: int = 0  # since then leaders of more than f of the weight were heard
    _looked_ms: int | None = None

    @property
    def wants_own(self) -> bool:
        """Is a transaction of our own needed?"""
        return self._since == 0

    def look(self) -> None:
        """A block was committed."""
        now_ms = self.boot_ms()
        if self._looked_ms is not None and now_ms > self._looked_ms + GAP_MS:
            self._gap()
        self._looked_ms = now_ms
        self._read_leaders(now_ms)
        self._judge()
        if self.is_sure and self._heard_ms < now_ms - SURE_MS:
            self._gap()
        back_ms = now_ms - self._heard_ms + SEEN_EVERY_MS if self.is_sure else 0
        self.time.saw(self.peer.time_ms, now_ms, max(SEEN_MS, back_ms), keeps_best=not self.is_sure)

    def sent(self, height: int, token: int) -> None:
        """A transaction that was sent when `token` was this is final at that height."""
        if token == self.token and self._since == 0:
            self._since = height
            self._judge()

    def at(self, now_ms: int) -> int:
        """As LedgerTime.at."""
        return self.time.at(now_ms)

    def _gap(self) -> None:
        self.token += 1
        self.is_sure, self._since = False, 0
        self._leaders.clear()

    def _read_leaders(self, now_ms: int) -> None:
        """Who made the blocks that are new."""
        tip = self.peer.height
        for height in range(max(self._read + 1, tip - HEADERS_MAX + 1), tip + 1):
            data = self.peer.store.header(height)
            if data is not None:
                self._leaders[decode_header(data).proposer] = height, now_ms
        self._read = tip
        if len(self._leaders) > LEADERS_MAX:  # of sets that are past
            oldest = sorted(self._leaders, key=self._leaders.__getitem__)
            self._leaders = {key: self._leaders[key] for key in oldest[-VALIDATORS_MAX:]}

    def _judge(self) -> None:
        """Since when leaders of more than f of the weight were heard, by blocks from ours on. What was
        said of another set of validators stands while this one is too new to tell."""
        if self._since == 0:
            return
        members = self.peer.validators
        weights = {member.key: member.weight for member in members.members}
        weight = 0
        newest_first = sorted(self._leaders.items(), key=lambda item: item[1], reverse=True)
        for key, (height, seen_ms) in newest_first:
            weight += weights.get(key, 0) if height >= self._since else 0
            if weight > tolerated(members.total):
                self._heard_ms, self.is_sure = seen_ms, True
                return
