"""A simulated 3node: production's decisions (`node.executor.decide`, `claims`, `lease`, `verify`) in a shell
that has the timing of `node.executor.executor` and `tenure`, with workloads that only take time.

What really runs is told to the market, and the market's checkers compare it with true time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.keys import Key
from ledger.limits import LEASE_MS, MIB
from ledger.manifests.expansion import workload_of
from ledger.manifests.types import Workload
from ledger.records import Node as LedgerNode
from ledger.records import Slot, key_node, key_slot
from ledger.state import read
from ledger.transactions import Claim, PostOffer, Price, Renew, RenewItem
from ledger.transition.switch import same_work
from node.executor.claims import Attempt, Attempts
from node.executor.decide import Now, Opening, SlotId, held_slots, of_term, openings, refusal
from node.executor.lease import LeaseClock, LedgerTime, next_renewal
from node.executor.ledger_clock import LedgerClock
from node.executor.limits import COOL_FAILED_S, COOL_S, GUARD_TICK_S, KILL_WITHIN_S, ORPHANS_EVERY_S
from node.executor.sender import Signed
from node.executor.verify import Case, update_of, verify
from tests.sim.market_chain import Chronicle
from tests.sim.market_copies import MarketCopier
from tests.sim.market_peer import TX_BLOCKS, MarketPeer
from tests.sim.market_results import Desk
from tests.sim.market_tenure import GiveBack, MarketTenure
from tests.sim.node import Clock

if TYPE_CHECKING:
    from tests.sim.market import Market

TICK_MS: Final = GUARD_TICK_S * 1000
OFFER_MS: Final = 3_600_000


@dataclass(slots=True)
class Renewal:
    """One under way: when it was sent, and for what."""

    sent_ms: int
    ledger_ms: int  # ledger time then, as far as the node could tell
    expires: int  # the last height at which it may be final
    held: list[MarketTenure]


class MarketNode(MarketPeer):
    """See the module. `cpu_millis`: what it offers."""

    copier: type[MarketCopier] = MarketCopier  # what mutants replace
    desk_kind: type[Desk] = Desk

    def __init__(self, market: Market, name: str, key: Key, clock: Clock, cpu_millis: int) -> None:
        super().__init__(market, name, key, clock)
        self.cpu_millis = cpu_millis
        self.tenures: dict[SlotId, MarketTenure] = {}
        self.givers: dict[tuple[SlotId, int], GiveBack] = {}
        self.is_away = False  # its owner told that it leaves: once withdrawn, its offer stays so
        self.volumes: dict[SlotId, int] = {}  # on its disk: when each was last written, in true time
        self.desk = self.desk_kind(self)

    # ------------------------------------------------------------------ what mutants replace

    def lease_ms(self) -> int:
        """The clock that leases are counted on."""
        return self.boot_ms()

    def proved(self, slot_id: SlotId, work: Workload | None = None, runs: bool = False) -> tuple[str, ...]:
        """Why a slot may not run now, by the node's own proof (as `node.executor.workshop`); empty when it
        may, or may go on when it `runs`. `work`: what its term is of."""
        slot = read(self.replica.state, Slot, key_slot(*slot_id))
        if slot is None or not slot.next:
            return ("no manifest has the slot",)
        verdict = verify(self.case(slot_id[0], slot.next, runs=runs))
        if verdict.ok and work is not None and verdict.manifest is not None:
            wanted = workload_of(verdict.manifest, slot_id[1])
            return () if same_work(wanted, work) else ("an update wants something else of the slot",)
        return () if verdict.ok else verdict.reasons or ("not satisfied",)

    def case(self, deployment: bytes, manifest: bytes, *, runs: bool = False) -> Case:
        """What is to be proved, with the signed papers as far as they are here."""
        state = self.replica.state
        update = update_of(state, deployment, manifest)
        order, wish = self.place(deployment), None if update is None else self.place(update.tx)
        return Case(
            state,
            self.market.world.chain_id,
            deployment,
            None if order is None else order.tx.raw,
            self.replica.time_ms,
            runs=runs,
            manifest=manifest,
            update=None if wish is None else wish.tx.raw,
        )

    def kill_ms(self, lease: LeaseClock) -> float:
        """How long this stop takes: SIGTERM's grace or less, then the kill."""
        rng = self.market.rng
        grace_ms = lease.grace_ms(self.lease_ms())
        return rng.choice((0.0, rng.random(), 1.0)) * grace_ms + rng.random() * KILL_WITHIN_S * 1000

    # ------------------------------------------------------------------ life

    def booted(self) -> None:
        self.tenures, self.givers = {}, {}
        self.attempts = Attempts()
        self.ledger_time = LedgerClock(self.replica, self.boot_ms)
        self.offer: tuple[bytes, int] | None = None  # under way, and the clock's token when it was sent
        self.renewals: dict[bytes, Renewal] = {}
        self.cool_ms: dict[SlotId, float] = {}
        self.orphans_ms = -(10**9)
        self.offered_ms = -(10**9)
        self.later(self.market.rng.random() * TICK_MS, self._tick)

    def crashed(self) -> None:
        """Workloads die with the node (bubblewrap's --die-with-parent; the kernel does)."""
        for tenure in self.tenures.values():
            tenure.power_off()
        self.tenures = {}

    def _tick(self) -> None:
        """The guard's and the renewals' timer."""
        for tenure in list(self.tenures.values()):
            tenure.guard()
        self._renew_due()
        self.later(TICK_MS, self._tick)

    def look(self) -> None:
        """As Executor._look: at each new height."""
        self.ledger_time.look()
        for tenure in list(self.tenures.values()):
            tenure.look()
        self._renewals_final()
        self._take_wins()
        for giver in list(self.givers.values()):
            giver.look()
        self.desk.look()
        node = read(self.replica.state, LedgerNode, key_node(self.key.public))
        if node is None:
            return
        self._offer(node)
        self._find_orphans(node)
        if self.ledger_time.is_sure:
            self._claim_some()

    # ------------------------------------------------------------------ claims

    def _offer(self, node: LedgerNode) -> None:
        now_ms = self.boot_ms()
        if self.offer is not None and (place := self.place(self.offer[0])) is not None:
            self.ledger_time.sent(place.height, self.offer[1])
            self.offer = None
        worn = node.valid_until_ms < self.replica.time_ms + OFFER_MS // 2
        waits = self.offer is not None and self.offer[0] in self.pending
        # As Offering.due: withdrawn is what the ledger says is, not what was asked of it and perhaps refused.
        withdrawn = self.is_away and node.valid_until_ms == 0 and bool(node.runtimes)
        wanted = (worn or self.ledger_time.wants_own) and not withdrawn
        if wanted and not waits and now_ms >= self.offered_ms + 5_000:
            self.offered_ms = now_ms
            self.market.count("offer sent")
            tx_id = self.send(
                PostOffer(
                    self.cpu_millis,
                    4096 * MIB,
                    10240 * MIB,
                    20480 * MIB,
                    Price(40_000, 10_000, 1_000, 250),
                    ("sandbox",),
                    {"volumes": "enforced", "volume-copies": "enforced"},
                    f"/ip4/127.0.0.1/tcp/1/p2p/{self.name}",
                    self.replica.time_ms + OFFER_MS,
                )
            )
            self.offer = tx_id, self.ledger_time.token

    def _take_wins(self) -> None:
        for slot_id, attempt in self.attempts.items():
            slot = read(self.replica.state, Slot, key_slot(*slot_id))
            place = self.place(attempt.tx)
            receipt = place.receipt if place is not None else None
            found = attempt.outcome(slot, self.key.public, receipt, self.replica.height)
            if found == "pending" or slot_id in self.tenures:
                continue
            self.attempts.forget(slot_id)
            self.market.count(f"claim {found}")
            if found == "won":
                self._begin(slot_id, attempt)
            elif found == "refused":
                self.cool(slot_id, COOL_S)

    def _begin(self, slot_id: SlotId, attempt: Attempt) -> None:
        slot = read(self.replica.state, Slot, key_slot(*slot_id))
        assert slot is not None
        found = of_term(self.replica.state, slot)
        assert found is not None
        lease = self.won(attempt, slot.claimed_ms)
        self.tenures[slot_id] = tenure = MarketTenure(self, *found, slot_id[1], attempt.term, lease)
        tenure.begin()

    def won(self, attempt: Attempt, claimed_ms: int) -> LeaseClock:
        """Rule 3: the lease counts from when the claim was sent."""
        return attempt.lease(claimed_ms)

    def _claim_some(self) -> None:
        replica = self.replica
        now = Now(replica.state, self.market.world.chain_id, replica.height, replica.time_ms)
        for opening in openings(now, self._skips, 64):
            slot_id = (opening.deployment, opening.slot)
            if refusal(now, self.key.public, opening) or self.proved(slot_id):
                self.cool(slot_id, COOL_S)
            else:
                self._claim(slot_id, opening)

    def _claim(self, slot_id: SlotId, opening: Opening) -> None:
        sent_ms = self.lease_ms()
        expires = self.replica.height + TX_BLOCKS
        tx_id = self.send(Claim(opening.deployment, opening.slot, opening.term))
        signed = Signed(tx_id, b"", expires)
        self.attempts.note(slot_id, opening.term, signed, sent_ms, self.ledger_time.at(self.boot_ms()))

    def _skips(self, slot_id: SlotId) -> bool:
        cool_ms = self.cool_ms.get(slot_id, 0)
        return slot_id in self.tenures or slot_id in self.attempts or cool_ms > self.boot_ms()

    def could_claim(self, chronicle: Chronicle, slot_id: SlotId) -> bool:
        """Would the ledger take this node's claim of a slot at the newest height?"""
        height = chronicle.height
        time_ms = chronicle.blocks[-1].time_ms if height else 0
        now = Now(chronicle.state, chronicle.chain_id, height, time_ms)
        found = list(openings(now, lambda other: other != slot_id, 64))
        return bool(found) and not refusal(now, self.key.public, found[0])

    def cool(self, slot_id: SlotId, cool_s: float) -> None:
        """Leave a slot alone for so long."""
        self.cool_ms[slot_id] = self.boot_ms() + cool_s * 1000

    def over(self, tenure: MarketTenure) -> None:
        """A term is over and said to be."""
        self.tenures.pop(tenure.id, None)
        if tenure.ending is not None and not tenure.ending.by_ledger:
            failed = tenure.ending.status in ("failed", "quarantined")
            self.cool(tenure.id, COOL_FAILED_S if failed else COOL_S)

    # ------------------------------------------------------------------ leases

    def _renew_due(self) -> None:
        held = [t for t in self.tenures.values() if t.holds]
        sent_ms, expires = self.lease_ms(), self.replica.height + TX_BLOCKS
        under_way = {t.id for renewal in self.renewals.values() for t in renewal.held}
        terms = next_renewal(held, sent_ms, under_way, self.market.scenario.renewed_at_once)
        if terms:
            for tenure in self.asked_for(terms, held):
                tenure.lease = tenure.lease.asked(sent_ms)
            tx_id = self.send(Renew(tuple(RenewItem(*t.id, t.term) for t in terms)))
            self.renewals[tx_id] = Renewal(sent_ms, self.ledger_time.at(self.boot_ms()), expires, terms)
            self.renewal_sent(terms, sent_ms)
            if len(self.renewals) > 1:
                self.market.count("several renewals under way")

    def asked_for(self, terms: list[MarketTenure], held: list[MarketTenure]) -> list[MarketTenure]:
        """What a renewal asks for: no more than it carries."""
        return terms

    def renewal_sent(self, held: list[MarketTenure], sent_ms: int) -> None:
        """Nothing is gained by asking."""

    def _renewals_final(self) -> None:
        for tx_id, renewal in list(self.renewals.items()):
            place = self.place(tx_id)
            if place is None:
                waits_ms = LEASE_MS + max(t.lease.beyond_ms for t in renewal.held)
                if self.replica.height > renewal.expires or self.lease_ms() > renewal.sent_ms + waits_ms:
                    del self.renewals[tx_id]
                continue
            del self.renewals[tx_id]
            self.market.count("renewal final" if place.receipt.ok else "renewal refused")
            for tenure in renewal.held:
                slot = read(self.replica.state, Slot, key_slot(*tenure.id))
                if (
                    slot is not None
                    and (slot.holder, slot.term) == (self.key.public, tenure.term)
                    and slot.renewed_ms >= place.time_ms
                ):
                    behind_ms = LedgerTime.behind_ms(renewal.ledger_ms, place.time_ms)
                    tenure.lease = self.renewed(tenure.lease, renewal.sent_ms, behind_ms)

    def renewed(self, lease: LeaseClock, sent_ms: int, behind_ms: int) -> LeaseClock:
        """Rule 3: from when the renewal was sent, less what the ledger counts from before that."""
        return lease.renewed(sent_ms, behind_ms)

    # ------------------------------------------------------------------ slots that it holds without knowing

    def _find_orphans(self, node: LedgerNode) -> None:
        known = sum(t.is_held() for t in self.tenures.values())
        if node.slots_held <= known or self.boot_ms() < self.orphans_ms + ORPHANS_EVERY_S * 1000:
            return
        self.orphans_ms = self.boot_ms()
        for slot in held_slots(self.replica.state, self.key.public):
            slot_id = (slot.deployment, slot.name)
            given = (slot_id, slot.term) in self.givers
            if slot_id not in self.tenures and slot_id not in self.attempts and not given:
                found = of_term(self.replica.state, slot)
                assert found is not None
                self.givers[slot_id, slot.term] = GiveBack(self, *found, slot.name, slot.term)
                self.market.count("orphan given back")
