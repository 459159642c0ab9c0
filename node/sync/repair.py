"""A wrong state mends itself. When a final header names another state root than ours, one of us has executed
wrongly, and a quorum says that it is us: a record changed at rest, or the program is broken.

From then on nothing is executed and no vote is cast (node.notary raises StateDiffers); reads go on, marked as
stale. Another state is taken from peers, or made anew from the blocks held here, if all of them are; then all
goes on. If the same happens again and again it is not chance: then people must look.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from ledger.errors import LocalError, Refused
from ledger.storage.store import Store
from node.errors import StateDiffers
from node.limits import (
    GROUP_MS,
    RANGE_BYTES_MAX,
    REPAIRS_MAX,
    STATE_RETRY_MAX_S,
    STATE_RETRY_S,
)
from node.notary import Covered, Notary
from node.sync.state_sync import LOOK_EVERY_S, StateSync

log = structlog.get_logger("repair")

NO_CHANCE: Final = "state_root_differs_again"
NOT_REPLACED: Final = "store_not_replaced"


@dataclass(slots=True)
class Repair:
    """See the module."""

    notary: Notary
    sync: StateSync
    phase: str = ""
    done: int = 0  # repairs in this life
    gave_up: bool = False

    async def run(self) -> None:
        """Until cancelled."""
        tries = 0
        while True:
            await trio.sleep(LOOK_EVERY_S)
            if not self.notary.differs or self.gave_up:
                tries = 0
                continue
            if self.done >= REPAIRS_MAX:
                self._give_up("mended before")
                continue
            async with self.sync.turn:
                is_mended = not self.notary.differs or await self._mend()
            if is_mended:
                self.done += 1
                log.warning("state_mended", height=self.notary.store.tip.height, times=self.done)
                continue
            await trio.sleep(min(STATE_RETRY_S * 2**tries, STATE_RETRY_MAX_S))
            tries += 1

    def _give_up(self, why: str) -> None:
        self.gave_up = True
        log.error(NO_CHANCE, height=self.notary.differs, reason=why)

    async def _mend(self) -> bool:
        """One attempt. True when another state is in place. Raises LocalError when the peer must stop: the
        disk failed while one store took the other's place."""
        if self.sync.enabled and await self.sync.attempt(above=0):
            return True
        async with self.sync.store_use:  # nothing is pruned meanwhile
            if not await self._is_made_anew():
                return False
            async with self.sync.audit_use:
                await self.sync.snapshots.close()
                try:
                    self.sync.adopt()
                except LocalError as error:  # our store may be closed: nothing can go on
                    log.critical("store_not_replaced", reason=str(error), rule=NOT_REPLACED)
                    raise
        return True

    async def _is_made_anew(self) -> bool:
        """Is a store with another state ready, made of the blocks held here? Ours stays as it is."""
        if self.notary.store.first_height > 1:
            log.warning("no_blocks_to_mend_from", first_height=self.notary.store.first_height)
            return False
        self.phase = "executing again"
        try:
            await self._execute_again()
            return True
        except StateDiffers:
            self._give_up("the blocks held here, executed anew, lead to it again")
        except (LocalError, Refused) as error:
            log.error("not_mended", reason=str(error))
        finally:
            self.phase = ""
        return False

    async def _execute_again(self) -> None:
        """Make the state anew in a staging store: genesis, then all blocks that are held and proved."""
        store, old = self.notary.store, self.notary
        store.unstage()
        fresh = Notary.open(old.genesis, Store(store.stage(), store.chain_id), old.scheme)
        while fresh.store.tip.height < store.tip.height:
            tip = fresh.store.tip
            blocks = store.blocks(tip.height + 1, RANGE_BYTES_MAX)
            if not blocks:
                return  # the last ones have no certificate here: they come again from others
            covered = await trio.to_thread.run_sync(partial(fresh.check_range, blocks, tip))
            rows = [(block.batches, proved) for block, proved in zip(blocks, covered, strict=False)]
            while rows:
                await trio.lowlevel.checkpoint()
                _commit_some(fresh, rows)


def _commit_some(notary: Notary, rows: list[tuple[tuple[bytes, ...], Covered]]) -> None:
    """Commit the first of the rows in one synced write, without holding up others for long."""
    until_s = time.monotonic() + GROUP_MS / 1000
    with notary.store.grouped():
        while rows:
            batches, proved = rows.pop(0)
            notary.commit(proved.header, proved.certificate, batches, {}, proved.path)
            if time.monotonic() >= until_s:
                return
