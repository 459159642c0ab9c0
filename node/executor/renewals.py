"""Renewals of leases: each term that a node holds every third of a lease, as many in one transaction as it
may carry (rule 3). One is sent a tick: a node that holds more than that has several under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import structlog
import trio

from ledger.errors import Refused
from ledger.limits import LEASE_MS, RENEW_SLOTS_MAX
from ledger.records import Slot, key_slot
from ledger.state import read
from ledger.transactions import Renew, RenewItem
from node.executor.decide import SlotId
from node.executor.lease import LedgerTime, next_renewal
from node.executor.ledger_clock import LedgerClock
from node.executor.limits import GUARD_TICK_S, RENEW_IDLE_S
from node.executor.sender import Sender
from node.executor.tenure import Tenure
from node.seam import Overloaded, TxOutcome

log = structlog.get_logger("executor")


class Renewals:
    """`held`: the terms of this node. `count` is told how each renewal ended: "final" or "refused"."""

    def __init__(
        self,
        sender: Sender,
        clock: LedgerClock,
        boot_ms: Callable[[], int],
        held: Callable[[], list[Tenure]],
        count: Callable[[str], None],
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._boot_ms = boot_ms
        self._held = held
        self._count = count
        self._under_way: Counter[SlotId] = Counter()  # how many renewals under way carry it

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                held = [tenure for tenure in self._held() if tenure.holds]
                now_ms = self._boot_ms()
                terms = next_renewal(held, now_ms, self._under_way, RENEW_SLOTS_MAX)
                if terms:
                    for tenure in terms:
                        tenure.lease = tenure.lease.asked(now_ms)
                    nursery.start_soon(self._renew, terms)
                await trio.sleep(GUARD_TICK_S if held else RENEW_IDLE_S)

    async def _renew(self, held: list[Tenure]) -> None:
        """Send one, and count it from when it was sent once it is final, be that after the next one."""
        carried = Counter(tenure.id for tenure in held)
        self._under_way += carried
        try:
            beyond_ms = max(tenure.lease.beyond_ms for tenure in held)
            with trio.move_on_after((LEASE_MS + beyond_ms) / 1000) as limit:
                while held and not await self._sent(tuple(held)):
                    held = [tenure for tenure in held if tenure.holds]
            if limit.cancelled_caught:
                log.warning("renewal_failed", error="not final in time", slots=len(held))
        finally:
            self._under_way -= carried  # which leaves none at 0

    async def _sent(self, held: Sequence[Tenure]) -> bool:
        """Send one and wait; False when it is to be tried anew with what is held then."""
        sent_ms = self._boot_ms()
        ledger_ms = self._clock.at(sent_ms)
        signed = self._sender.sign(Renew(tuple(RenewItem(*each.id, each.term) for each in held)))
        try:
            await self._sender.peer.submit(signed.raw)
            outcome = await self._sender.final(signed, lambda: any(tenure.holds for tenure in held))
        except Overloaded as error:
            await trio.sleep(error.retry_s)
            return False
        except Refused as error:
            log.warning("renewal_failed", error=str(error), slots=len(held))
            return True
        if outcome is not None:
            self._took(held, sent_ms, ledger_ms, outcome)
        return outcome is not None

    def _took(self, held: Sequence[Tenure], sent_ms: int, ledger_ms: int, outcome: TxOutcome) -> None:
        """Final: those that it renewed have it from when it was sent."""
        self._count("final" if outcome.receipt.ok else "refused")
        behind_ms = LedgerTime.behind_ms(ledger_ms, outcome.time_ms)
        state, me = self._sender.peer.state, self._sender.key.public
        for tenure in held:
            slot = read(state, Slot, key_slot(*tenure.id))
            if (
                slot is not None
                and (slot.holder, slot.term) == (me, tenure.term)
                and slot.renewed_ms >= outcome.time_ms
            ):
                tenure.lease = tenure.lease.renewed(sent_ms, behind_ms)
