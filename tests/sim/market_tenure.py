"""One term on a simulated 3node: fetch, verify, start, run, stop, and what is reported of it.

The steps and their order are those of `node.executor.tenure` and `reporter`: nothing is reported stopped
before it is gone, nothing starts with less than half a lease or without a proof, the guard stops at the
deadline whatever else goes on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ledger.documents import sign_receipt
from ledger.manifests.types import Workload
from ledger.predicates import ReceiptPredicate, ReceiptStatus
from ledger.records import Deployment
from ledger.transactions import Report
from node.executor.decide import SlotId, backoff_s, standing
from node.executor.lease import LeaseClock
from node.executor.limits import GUARD_TICK_S
from tests.ledger.world import stated

if TYPE_CHECKING:
    from tests.sim.market_node import MarketNode

_GIVES_UP: Final = ("failed", "quarantined", "released")
_LAST: Final = ("committed", "succeeded", *_GIVES_UP)
BAD: Final = "bad"  # the last word of a command that fails at once
FETCH_MS: Final = (50, 4_000)
START_MS: Final = (20, 600)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a term ends; `status` None: it is another's already."""

    status: ReceiptStatus | None
    by_ledger: bool = False


class Receipts:
    """One term's receipts: in order, each until it is final, as long as the term is held."""

    def __init__(
        self, node: MarketNode, record: Deployment, workload: Workload, slot: str, term: int
    ) -> None:
        self.node, self.record, self.workload = node, record, workload
        self.id: SlotId = (record.id, slot)
        self.term = term
        self.queue: deque[ReceiptPredicate] = deque()
        self.sending: tuple[bytes, ReceiptPredicate] | None = None
        self.is_over = False

    def is_held(self) -> bool:
        """Does the ledger, as far as this node knows, still name it as the holder?"""
        key = self.node.key.public
        return standing(self.node.replica.state, key, self.id, self.term)[0] != "gone"

    def receipt(self, status: ReceiptStatus, **fields: Any) -> ReceiptPredicate:
        """What the node states of this term now."""
        return ReceiptPredicate(
            chain_id=self.node.market.world.chain_id,
            deployment=self.record.id.hex(),
            contract=self.record.contract.hex(),
            slot=self.id[1],
            term=self.term,
            node=self.node.key.public.hex(),
            status=status,
            time_ms=self.node.wall_ms(),
            **stated(self.workload, status),
            **fields,
        )

    def tell(self, status: ReceiptStatus, **fields: Any) -> None:
        """Queue a receipt; what gives the slot up goes first."""
        predicate = self.receipt(status, **fields)
        if status in _GIVES_UP:
            self.queue.clear()
        self.queue.append(predicate)
        self.pump()

    def pump(self) -> None:
        """Look whether the one under way is final, and send the next."""
        if self.sending is not None:
            tx_id, predicate = self.sending
            if self.node.place(tx_id) is None:
                if tx_id not in self.node.pending and self.is_held():
                    self._send(predicate)  # it expired
                if self.is_held():
                    return
            self.sending = None
            if predicate.status in _LAST or not self.is_held():
                self.is_over = True
                return
        if self.queue and not self.is_over:
            self._send(self.queue.popleft())

    def _send(self, predicate: ReceiptPredicate) -> None:
        body = Report(sign_receipt(self.node.key, predicate, self.record.manifest))
        self.sending = (self.node.send(body), predicate)


class GiveBack(Receipts):
    """Rule 7: a term that an earlier life of the node won is given back."""

    def __init__(
        self, node: MarketNode, record: Deployment, workload: Workload, slot: str, term: int
    ) -> None:
        super().__init__(node, record, workload, slot, term)
        self.tell("released", detail="of an earlier run of the node")

    def look(self) -> None:
        """A new height."""
        self.pump()
        if self.is_over:
            self.node.givers.pop((self.id, self.term), None)


class MarketTenure(Receipts):
    """See the module."""

    def __init__(
        self,
        node: MarketNode,
        record: Deployment,
        workload: Workload,
        slot: str,
        term: int,
        lease: LeaseClock,
    ) -> None:
        super().__init__(node, record, workload, slot, term)
        self.lease = replace(lease, beyond_ms=workload.available_s * 1000)
        self.ending: Ending | None = None
        self.is_running = False
        self.is_stopping = False
        self.is_beyond = False  # it has run past its lease once
        self.run = 0  # counts runs: what an earlier one scheduled is void
        self.restarts = 0
        self.rng = node.market.rng
        self.copier = node.copier(self)

    @property
    def holds(self) -> bool:
        """Whether its lease is worth renewing."""
        return self.ending is None or (self.copier.saves and not self.ending.by_ledger)

    # ------------------------------------------------------------------ stopping

    def guard(self) -> None:
        """Rules 4 and 8, at each tick."""
        now_ms = self.node.lease_ms()
        if self.ending is None and self.lease.must_stop(now_ms):
            self.node.market.lease_over(self.node, self.id, self.term)
            self.stop(Ending("released"))
        elif (
            self.is_running and not self.is_beyond and self.lease.left_ms(now_ms) <= 0 < self.lease.beyond_ms
        ):
            self.is_beyond = True
            self.node.market.count("E9 ran on past its lease")

    def look(self) -> None:
        """Rule 6, at each new height."""
        key = self.node.key.public
        said, _ = standing(self.node.replica.state, key, self.id, self.term)
        if said != "hold":
            self.stop(Ending(None if said == "gone" else "released", by_ledger=True))
        self.copier.look()
        self.pump()
        self._leave()

    def stop(self, ending: Ending) -> None:
        """End the term; the first reason counts."""
        if self.ending is None:
            self.ending = ending
            self.copier.saves = ending.status not in (None, "quarantined") and self.copier.written()
            self._halt()

    def _halt(self) -> None:
        if not self.is_running:
            self._gone()
        elif not self.is_stopping:
            self.is_stopping = True
            self.node.later(self.node.kill_ms(self.lease), self._killed)

    def _killed(self) -> None:
        self._ended()
        self._gone()

    def _ended(self) -> None:
        if self.is_running:
            self.is_running, self.is_stopping = False, False
            if self.workload.volumes:
                self.node.volumes[self.id] = self.node.market.world.now_us
            self.node.market.stopped(self.node, self.id, self.term)

    def power_off(self) -> None:
        """The machine is off."""
        self._ended()

    def _gone(self) -> None:
        """Nothing of it runs: its volumes are saved, then it says so."""
        if self.copier.saves:
            self.copier.last()
        else:
            self.leave_word()

    def leave_word(self) -> None:
        """The last receipt, where there is anything to say."""
        assert self.ending is not None
        desk, status = self.node.desk, self.ending.status
        if status == "committed":
            self.tell(status, commitment=desk.commit(self))
        elif status is not None:
            self.tell(status, results=desk.results(self) if status == "succeeded" else {})
        else:
            self.is_over = True
        self._leave()

    def _leave(self) -> None:
        gone = self.ending is not None and not self.is_running and not self.copier.saves
        if gone and (self.is_over or not self.is_held()):
            self.node.over(self)

    # ------------------------------------------------------------------ living

    def begin(self) -> None:
        """The claim has won."""
        if self._unproved():
            self.stop(Ending("released"))
            return
        self.tell("fetching")
        self.node.later(self.rng.randint(*FETCH_MS), self._fetched)

    def _unproved(self, *, runs: bool = False) -> bool:
        """By the node's own proof, of what this term is of."""
        return bool(self.node.proved(self.id, self.workload, runs))

    def _fetched(self) -> None:
        if self.ending is not None:
            return
        if self.copier.gather():
            self.tell("verified")
            self._try_start(self.run)
        else:
            self.stop(Ending("released"))

    def _try_start(self, run: int) -> None:
        if self.ending is not None or run != self.run:
            return
        writes = self.copier.may_write()
        if not writes or not self.may_start():
            self.node.market.count("waits for half a lease" if writes else "C11 waits to be home")
            self.node.later(GUARD_TICK_S * 1000, self._try_start, run)
        elif self._unproved():
            self.stop(Ending("released"))
        else:
            # From here on the driver is at it: a stop waits for it, and kills what it started.
            self._started(run)

    def may_start(self) -> bool:
        """Rule 3; rule 8 for what ran in this term already."""
        return self.lease.may_start(self.node.lease_ms(), self.restarts > 0)

    def _started(self, run: int) -> None:
        self.is_running = True
        self.node.market.started(self.node, self.id, self.term, self.lease)
        self.node.later(self.rng.randint(*START_MS), self._runs, run)

    def _runs(self, run: int) -> None:
        if self.ending is not None or run != self.run:
            return
        self.tell("running", endpoints={port.name: "127.0.0.1:8080" for port in self.workload.ports})
        self.node.later(self.workload.recheck_s * 1000, self._recheck, run)
        if not run:
            self.copier.run()
        if self.workload.command[-1] == BAD:
            self.node.later(self.rng.randint(200, 3_000), self._broke, run)
        elif self.workload.kind == "job":
            self.node.later(self.rng.randint(500, 40_000), self._done, run)
        elif self.rng.random() < 0.2:
            self.node.later(self.rng.randint(500, 60_000), self._broke, run)

    def _recheck(self, run: int) -> None:
        if self.ending is None and run == self.run and self.is_running:
            if self._unproved(runs=True):
                self.stop(Ending("released"))
            else:
                self.node.later(self.workload.recheck_s * 1000, self._recheck, run)

    def _done(self, run: int) -> None:
        if self.ending is None and run == self.run:
            self._ended()
            done: ReceiptStatus = "committed" if self.workload.agree else "succeeded"
            self.stop(Ending("failed" if self.rng.random() < 0.1 else done))

    def _broke(self, run: int) -> None:
        """The workload ended by itself: again after a while, or it has failed."""
        if self.ending is not None or run != self.run:
            return
        self._ended()
        self.run += 1
        self.restarts += 1
        if self.restarts > self.workload.restart.attempts:
            self.stop(Ending("failed"))
        else:
            self.node.later(backoff_s(self.restarts) * 1000, self._try_start, self.run)
