"""Range sync: fetch final blocks from neighbours, prove them, commit them. Always on, for every peer.

A neighbour's word on its height is a hint; a height counts only with a certificate. A peer whose
answer does not prove itself is penalised at the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from ledger.blocks import Header
from ledger.certificate import Certificate
from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.stored import StoredBlock
from ledger.transactions import VerifiedTx
from node.limits import FAULT_POINTS, FOLLOW_BACKOFF_S, FOLLOW_STALLED_S, RANGE_BYTES_MAX, RANGE_TIMEOUT_S
from node.notary import Notary
from node.wire import RangeRequest
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("follower")


@dataclass(slots=True)
class Follower:
    """`patient`: consensus brings the blocks here, so fetch only when it brought none for a while."""

    notary: Notary
    network: Network
    patient: bool
    on_synced: Callable[[Header, Certificate], None]
    known: Callable[[], dict[bytes, VerifiedTx]]
    tips: dict[str, int] = field(default_factory=dict)  # told by neighbours
    last_commit_s: float = 0.0
    fetched_blocks: int = 0
    lies: int = 0
    _bell: trio.Event = field(default_factory=trio.Event)

    def told(self, peer_id: str, height: int) -> None:
        """A neighbour says that it holds final blocks up to `height`."""
        self.tips[peer_id] = height
        if height > self.notary.store.tip.height:
            self._bell.set()

    def gone(self, peer_id: str) -> None:
        """A neighbour is gone."""
        self.tips.pop(peer_id, None)

    def committed(self) -> None:
        """A block was committed by whichever way."""
        self.last_commit_s = time.monotonic()

    @property
    def best_height(self) -> int:
        """Highest height held or told."""
        return max([self.notary.store.tip.height, *self.tips.values()])

    async def run(self) -> None:
        """Until cancelled."""
        turn = 0
        while True:
            height = self.notary.store.tip.height
            ahead = sorted(peer for peer, told in self.tips.items() if told > height)
            if not ahead:
                await self._bell.wait()
                self._bell = trio.Event()
                continue
            stalled_s = time.monotonic() - self.last_commit_s
            if self.patient and stalled_s < FOLLOW_STALLED_S and self.best_height < height + 50:
                await trio.sleep(FOLLOW_STALLED_S - stalled_s)
                continue
            turn += 1
            if not await self._fetch(ahead[turn % len(ahead)]):
                await trio.sleep(FOLLOW_BACKOFF_S)

    async def _fetch(self, peer_id: str) -> bool:
        """One range from one peer. True when it brought us on."""
        first = self.notary.store.tip.height + 1
        request = encode(RangeRequest(first, RANGE_BYTES_MAX))
        try:
            data = await self.network.request(peer_id, "blocks", request, RANGE_TIMEOUT_S)
            blocks = decode(tuple[StoredBlock, ...], data)
        except RequestError as error:
            log.debug("range_failed", peer=peer_id, error=str(error))
            self.tips.pop(peer_id, None)
            return False
        except ValueError:
            self._lied(peer_id, "range.malformed", "not blocks")
            return False
        if not blocks:
            self.tips.pop(peer_id, None)
            return False
        return self._commit(peer_id, first, blocks)

    def _commit(self, peer_id: str, first: int, blocks: tuple[StoredBlock, ...]) -> bool:
        height = self.notary.store.tip.height
        blocks = blocks[height + 1 - first :]  # consensus may have been faster
        if not blocks:
            return True
        try:
            covered = self.notary.check_range(blocks)
        except Refused as error:
            self._lied(peer_id, error.rule, error.detail)
            return False
        for block, (header, certificate) in zip(blocks, covered, strict=True):
            self.notary.commit(header, certificate, block.batches, self.known())
            self.fetched_blocks += 1
            self.on_synced(header, certificate)
        return True

    def _lied(self, peer_id: str, rule: str, detail: str) -> None:
        self.lies += 1
        self.tips.pop(peer_id, None)
        log.warning("peer_fault", peer=peer_id, rule=rule, detail=detail)
        self.network.penalise(peer_id, rule, FAULT_POINTS)
