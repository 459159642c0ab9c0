"""The executor of a 3node: watches committed blocks, claims what it can run and prove, keeps its leases.

Each held term is a `Tenure`; here stand what they share: the look at each block, claims, the node's offer,
and what is shown; `Renewals` keeps their leases. Design section 8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import structlog
import trio

from ledger.errors import Refused
from ledger.records import Node as LedgerNode
from ledger.records import Slot, key_node, key_slot
from ledger.state import read
from ledger.transactions import Claim
from node.clock import boot_ms, wall_ms
from node.config import Node
from node.executor.claims import Attempt, Attempts
from node.executor.decide import Now, Opening, SlotId, held_slots, of_term, openings, refusal
from node.executor.drivers.base import Driver
from node.executor.drivers.spec import check_spec
from node.executor.errors import SpecRefused
from node.executor.figures import Metric, figures
from node.executor.gather import sweep_volumes
from node.executor.held import HeldResults, release_results
from node.executor.ledger_clock import LedgerClock
from node.executor.limits import (
    CLAIMS_PENDING_MAX,
    COOL_FAILED_S,
    COOL_S,
    LAST_EXITS_MAX,
    LOG_KEPT_BYTES,
    LOOK_EVERY_S,
    LOOK_REST,
    OPENINGS_LOOKED_AT_MAX,
    ORPHANS_EVERY_S,
    TENURES_MAX,
)
from node.executor.logs import LogDesk
from node.executor.offering import Offering
from node.executor.orders import METHOD as ORDER
from node.executor.orders import Orders
from node.executor.orphans import orphan_reporter
from node.executor.quarantine import Quarantine
from node.executor.renewals import Renewals
from node.executor.secrets import SecretsDesk
from node.executor.sender import Sender
from node.executor.status import ExecutorStatus, TenureStatus
from node.executor.task import features, task_spec
from node.executor.tenure import Tenure
from node.executor.volumes.keeper import Keeper
from node.executor.volumes.volumes import VolumeShelf
from node.executor.workshop import Workshop
from node.files.exchange import Exchange
from node.handlers import Serve
from node.sealed.copy_wire import KEEP
from node.sealed.log_wire import LOGS
from node.sealed.secret_wire import HERE
from node.seam import Overloaded, PeerSeam

log = structlog.get_logger("executor")


class Executor:
    """See the module. `run` is called once; `status` and `metrics` at any time."""

    def __init__(
        self,
        peer: PeerSeam,
        settings: Node,
        driver: Driver,
        exchange: Exchange,
        *,
        boot_clock_ms: Callable[[], int] = boot_ms,
        wall_clock_ms: Callable[[], int] = wall_ms,
        quarantine: Quarantine | None = None,
        volumes: VolumeShelf | None = None,
    ) -> None:
        self._peer = peer
        self._driver = driver
        self._exchange = exchange
        self._settings = settings
        self._boot_ms = boot_clock_ms
        self._wall_ms = wall_clock_ms
        self._sender = Sender(peer, peer.node_key)
        self._me = peer.node_key.public
        self._quarantine = quarantine or Quarantine(None)
        self._volumes = volumes or VolumeShelf({})
        self.orders = Orders(peer)
        self.secrets = SecretsDesk(peer)
        self.keeper = Keeper(peer, exchange)
        self._log_desk = LogDesk(peer, lambda at, n: t.log_tail(n) if (t := self._tenures.get(at)) else None)
        self._shop: Workshop | None = None
        self._offering: Offering | None = None
        self._tenures: dict[SlotId, Tenure] = {}
        self._attempts = Attempts()
        self._clock = LedgerClock(peer, boot_clock_ms)
        self._renewals = Renewals(
            self._sender,
            self._clock,
            boot_clock_ms,
            lambda: list(self._tenures.values()),
            lambda result: self._count("renewals", result),
        )
        self._cool_until_ms: dict[SlotId, int] = {}
        self._refused: dict[SlotId, str] = {}
        self._ended: deque[TenureStatus] = deque(maxlen=LAST_EXITS_MAX)
        self._orphans_looked_ms: int | None = None
        self._orphans: set[tuple[SlotId, int]] = set()
        self._counts: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Until cancelled; then all workloads are stopped, within bounds, before it returns.

        Raises ExecutorError when leftovers of an earlier run can't be killed: nothing is claimed then.
        """
        fingerprint = await trio.to_thread.run_sync(self._driver.fingerprint)
        killed = await self._driver.recover()  # rule 7: first of all
        log.info("executor_starts", runtimes=fingerprint.runtimes, killed=killed)
        if not fingerprint.runtimes:
            log.error("driver_unusable", driver=fingerprint.driver, reason=fingerprint.reason)
        self._shop = Workshop(
            self._peer,
            self._sender,
            self._settings,
            self._driver,
            fingerprint,
            self._exchange,
            self._boot_ms,
            self._wall_ms,
            self.orders,
            self.secrets,
            self._quarantine,
            self._volumes,
            HeldResults(self._peer.home / "held"),
        )
        self._offering = Offering(self._peer, self._sender, self._settings, fingerprint, self._boot_ms)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renewals.run)
            nursery.start_soon(self.orders.run)
            nursery.start_soon(self.keeper.run)
            nursery.start_soon(release_results, self._shop)
            nursery.start_soon(sweep_volumes, self._shop, lambda: {held for held, _ in self._tenures})
            height = -1
            while True:
                height = await self._peer.next_block(height)
                self._clock.look()
                began_s = trio.current_time()
                self._look(nursery)
                await trio.sleep(max(LOOK_EVERY_S, LOOK_REST * (trio.current_time() - began_s)))

    # ------------------------------------------------------------------ each block

    def _look(self, nursery: trio.Nursery) -> None:
        """What the newest committed state means for this node."""
        for tenure in list(self._tenures.values()):
            tenure.look()
        self._take_wins(nursery)
        node = read(self._peer.state, LedgerNode, key_node(self._me))
        if node is None:
            return
        assert self._offering is not None, "made before the first look"
        current = not self._peer.status().catching_up  # else the record may be older than a withdrawal
        if current and self._offering.due(node, anew=self._clock.wants_own):
            nursery.start_soon(self._post)
        self._find_orphans(nursery, node)
        if self._offering.usable and current and self._clock.is_sure:
            self._claim_some(nursery)

    async def _post(self) -> None:
        assert self._offering is not None, "made before the first look"
        token = self._clock.token
        if height := await self._offering.post():
            self._clock.sent(height, token)

    def _take_wins(self, nursery: trio.Nursery) -> None:
        """Claims that the ledger decided."""
        state = self._peer.state
        for slot_id, attempt in self._attempts.items():
            slot = read(state, Slot, key_slot(*slot_id))
            stored = self._peer.store.tx(attempt.tx)
            receipt = stored.receipt if stored is not None else None
            found = attempt.outcome(slot, self._me, receipt, self._peer.height)
            if found == "pending" or slot_id in self._tenures:
                continue
            self._attempts.forget(slot_id)
            self._count("claims", found)
            if found == "won":
                self._begin(nursery, slot_id, attempt)
            elif found == "refused":
                self._cool(slot_id, COOL_S, receipt.rule if receipt else "")

    def _begin(self, nursery: trio.Nursery, slot_id: SlotId, attempt: Attempt) -> None:
        state = self._peer.state
        slot = read(state, Slot, key_slot(*slot_id))
        found = of_term(state, slot) if slot is not None else None
        if self._shop is None or slot is None or found is None:
            return
        lease = attempt.lease(slot.claimed_ms)
        tenure = Tenure(self._shop, *found, slot_id[1], attempt.term, lease)
        self._tenures[slot_id] = tenure
        self._refused.pop(slot_id, None)
        log.info("slot_won", deployment=slot_id[0].hex()[:16], slot=slot_id[1], term=attempt.term)
        nursery.start_soon(self._hold, tenure)

    async def _hold(self, tenure: Tenure) -> None:
        try:
            await tenure.run()
        finally:
            self._tenures.pop(tenure.id, None)
            self._ended.append(tenure.status())
            self._log_desk.keep(tenure.id, tenure.log_tail(LOG_KEPT_BYTES))
            ending = tenure.ending
            status = ending.status if ending is not None and ending.status is not None else "gone"
            self._count("ended", status)
            if ending is not None and not ending.by_ledger and status not in ("succeeded", "committed"):
                cool_s = COOL_FAILED_S if status in ("failed", "quarantined") else COOL_S
                self._cool(tenure.id, cool_s, f"{status}: {tenure.detail}")

    # ------------------------------------------------------------------ claims

    def _claim_some(self, nursery: trio.Nursery) -> None:
        peer = self._peer
        now = Now(peer.state, peer.chain_id, peer.height, peer.time_ms)
        room = min(CLAIMS_PENDING_MAX, TENURES_MAX - len(self._tenures)) - len(self._attempts)
        for opening in openings(now, self._skips, OPENINGS_LOOKED_AT_MAX):
            if room <= 0:
                return
            slot_id = (opening.deployment, opening.slot)
            problem = refusal(now, self._me, opening) or self._unfit(opening)
            if problem:
                self._cool(slot_id, COOL_S, problem)
                continue
            self._refused.pop(slot_id, None)
            room -= 1
            signed = self._sender.sign(Claim(opening.deployment, opening.slot, opening.term))
            sent_ms = self._boot_ms()
            self._attempts.note(slot_id, opening.term, signed, sent_ms, self._clock.at(sent_ms))
            nursery.start_soon(self._claim, slot_id, signed.raw)

    def _skips(self, slot_id: SlotId) -> bool:
        if slot_id in self._tenures or slot_id in self._attempts:
            return True
        until_ms = self._cool_until_ms.get(slot_id)
        if until_ms is not None and until_ms > self._boot_ms():
            return True
        self._cool_until_ms.pop(slot_id, None)
        return False

    def _unfit(self, opening: Opening) -> str:
        """What only this node knows: its driver, its disk, and its own proof of the approvals."""
        assert self._shop is not None, "claims come after the start"
        if problem := self._shop.unwilling(opening):
            return problem
        workload, store = opening.workload, self._exchange.store
        try:
            check_spec(
                task_spec(
                    opening.deployment,
                    opening.slot,
                    opening.term,
                    workload,
                    self._settings.listen_host,
                    lambda digest: store.folder / digest,
                )
            )
        except SpecRefused as error:
            return f"driver: {error}"
        missing = {a.sha256: a.size_bytes for a in workload.artifacts if not store.has(a.sha256)}
        if not store.fits(sum(missing.values())):
            return f"its artifacts do not fit the {store.size_bytes_max} bytes of this node's store"
        verdict = self._shop.prove(opening.deployment, opening.slot)
        return "" if verdict.ok else "not proved: " + "; ".join(verdict.reasons)

    async def _claim(self, slot_id: SlotId, raw: bytes) -> None:
        try:
            await self._peer.submit(raw)
        except Refused as error:
            self._attempts.forget(slot_id)
            self._cool(slot_id, COOL_S, f"{error.rule}: {error.detail}")
        except Overloaded as error:
            self._attempts.forget(slot_id)
            self._cool(slot_id, error.retry_s, "overloaded")

    def _cool(self, slot_id: SlotId, cool_s: float, reason: str) -> None:
        if self._refused.get(slot_id) != reason:
            log.info("slot_refused", deployment=slot_id[0].hex()[:16], slot=slot_id[1], reason=reason)
        now_ms = self._boot_ms()
        self._cool_until_ms[slot_id] = now_ms + int(cool_s * 1000)
        self._refused[slot_id] = reason
        if len(self._refused) > OPENINGS_LOOKED_AT_MAX:
            for old in [k for k, until_ms in self._cool_until_ms.items() if until_ms <= now_ms]:
                self._cool_until_ms.pop(old, None)
                self._refused.pop(old, None)

    # ------------------------------------------------------------------ slots that we hold without knowing

    def _find_orphans(self, nursery: trio.Nursery, node: LedgerNode) -> None:
        """Rule 7: terms won by an earlier run of this node are given back at once, and claimed anew."""
        now_ms, last_ms = self._boot_ms(), self._orphans_looked_ms
        if last_ms is not None and now_ms < last_ms + ORPHANS_EVERY_S * 1000:
            return
        self._orphans_looked_ms = now_ms
        if node.slots_held <= sum(t.is_held() for t in self._tenures.values()):
            return
        for slot in held_slots(self._peer.state, self._me):
            slot_id = (slot.deployment, slot.name)
            known = slot_id in self._tenures or slot_id in self._attempts
            if not known and (slot_id, slot.term) not in self._orphans:
                self._orphans.add((slot_id, slot.term))
                nursery.start_soon(self._give_back, slot)

    async def _give_back(self, slot: Slot) -> None:
        slot_id = (slot.deployment, slot.name)
        log.info("orphan_released", deployment=slot_id[0].hex()[:16], slot=slot.name, term=slot.term)
        try:
            found = of_term(self._peer.state, slot)
            if found is not None and self._shop is not None:
                await orphan_reporter(self._shop, *found, slot).run()
        finally:
            self._orphans.discard((slot_id, slot.term))

    # ------------------------------------------------------------------ what is shown

    def status(self) -> ExecutorStatus:
        """A snapshot for people."""
        fingerprint = self._shop.fingerprint if self._shop is not None else None
        offering = self._offering is not None and self._offering.valid
        return ExecutorStatus(
            driver=self._driver.name,
            usable=fingerprint is not None and fingerprint.usable,
            reason=fingerprint.reason if fingerprint is not None else "not started yet",
            features=features(fingerprint) if fingerprint is not None else {},
            offering=offering,
            slots=[tenure.status() for tenure in self._tenures.values()],
            ended=list(self._ended),
            refused={f"{deployment.hex()}/{slot}": why for (deployment, slot), why in self._refused.items()},
            artifacts_bytes=self._exchange.store.used_bytes,
        )

    def methods(self) -> Mapping[str, Serve]:
        """What PeerHandlers.methods takes."""
        others = {LOGS: self._log_desk.serve, KEEP: self.keeper.serve}
        return {ORDER: self.orders.serve, HERE: self.secrets.serve_here} | others

    def metrics(self) -> Sequence[Metric]:
        """Rows as PeerSeam.metrics gives them."""
        gauges = {"ledger_time_known": float(self._clock.is_sure)}
        rows = figures(list(self._tenures.values()), self._counts, gauges, self._boot_ms())
        return [*rows, *self.orders.metrics(), *self.secrets.metrics(), *self.keeper.metrics()]

    def _count(self, what: str, result: str) -> None:
        self._counts[what, result] = self._counts.get((what, result), 0) + 1
