"""What must hold of every market, in true time. Each checker is told what happens and complains to the world.

They share no code with what they check: terms, capacity and money are counted from the records, leases from
when claims and renewals were seen to leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.codec import decode
from ledger.limits import KILL_MS, LEASE_GUARD_MS, LEASE_MS
from ledger.records import Deployment, Slot, key_deployment, key_slot
from ledger.state import read
from ledger.transactions import Claim, Renew, decode_tx
from tests.ledger import invariants
from tests.sim.market_chain import Final as FinalBlock
from tests.sim.market_follow import slot_of

if TYPE_CHECKING:
    from node.executor.decide import SlotId
    from tests.sim.market import Market
    from tests.sim.market_node import MarketNode
    from tests.sim.market_peer import MarketPeer

RATE: Final = 1.01  # a true second is at least 1/RATE of a clock's, and at most RATE
TAIL_MS: Final = 2_500  # of a machine that slept through its deadline: noticed and killed, no grace


class MarketChecker:
    """Base: told of everything, minds what it wants."""

    def __init__(self, market: Market) -> None:
        self.market = market

    @property
    def now_us(self) -> int:
        """True time."""
        return self.market.world.now_us

    def complain(self, what: str) -> None:
        self.market.world.report(type(self).__name__, what)

    def final(self, block: FinalBlock) -> None:
        """A block is final; the chronicle's state is the one after it."""

    def sent(self, peer: MarketPeer, tx_id: bytes, raw: bytes) -> None:
        """A peer signed a transaction and hands it in for the first time."""

    def started(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        """A workload runs from now on."""

    def stopped(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        """It does not any more."""

    def lease_over(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        """Its holder stops a term by the clock."""

    def resumed(self, node: MarketNode) -> None:
        """A machine that slept goes on."""

    def handed_out(self, node: MarketNode, deployment: bytes, results: bytes) -> None:
        """A node gives results that were held back to whoever asks, from now on."""

    def end(self) -> None:
        """The run is over."""


class OneHolder(MarketChecker):
    """No slot is executed by two nodes at the same true time, no term by two nodes ever.

    A machine that slept through its deadline can't stop anything meanwhile: what it then still runs until
    its guard has killed it is counted, and must end within TAIL_MS. (Receivers refuse its lower term.) What
    is `available` may go on beside its next holder: for how long is minded by Leases, and by Told.
    """

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.runs: dict[SlotId, dict[tuple[str, int], MarketNode]] = {}
        self.tails: dict[tuple[str, SlotId, int], int] = {}
        self.of_term: dict[tuple[SlotId, int], str] = {}

    def started(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        if self.of_term.setdefault((slot_id, term), node.name) != node.name:
            self.complain(f"{slot_id[1]} term {term} ran on {self.of_term[slot_id, term]} and {node.name}")
        runs = self.runs.setdefault(slot_id, {})
        for (name, other_term), other in runs.items():
            if self.market.followed.available_ms(slot_id, other_term):
                self.market.count("E9 ran beside its next holder")
                continue
            woke_us = other.woke_us(self.now_us - TAIL_MS * 1_000)
            if woke_us and not other.is_paused:  # just now: its guard has not killed it yet
                self.market.count("slept through its deadline")
                self.tails.setdefault((name, slot_id, other_term), woke_us)
            elif not other.is_paused:
                self.complain(
                    f"{slot_id[1]} runs on {name} (term {other_term}) and {node.name} (term {term})"
                )
        runs[node.name, term] = node

    def resumed(self, node: MarketNode) -> None:
        for slot_id, runs in self.runs.items():
            others = [n for n in runs.values() if n is not node and not n.is_paused]
            for name, term in runs:
                if self.market.followed.available_ms(slot_id, term):
                    continue
                if name == node.name and others:
                    self.market.count("slept through its deadline")
                    self.tails[name, slot_id, term] = self.now_us

    def stopped(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        self.runs.get(slot_id, {}).pop((node.name, term), None)
        since_us = self.tails.pop((node.name, slot_id, term), None)
        if since_us is not None:
            self._tail(node.name, slot_id, term, since_us)

    def _tail(self, name: str, slot_id: SlotId, term: int, since_us: int) -> None:
        tail_ms = (self.now_us - since_us) // 1_000
        if tail_ms > TAIL_MS:
            self.complain(f"{slot_id[1]} term {term} ran on {name} for {tail_ms} ms after it woke")

    def end(self) -> None:
        for (name, slot_id, term), since_us in self.tails.items():
            self._tail(name, slot_id, term, since_us)


class Leases(MarketChecker):
    """Nothing runs for longer than a lease, what it may go on for (`available`), and its kill time after the
    last claim or renewal that became final was *sent*; it starts with half a lease left, but for what is
    available and had run before in its term; the ledger keeps no slot longer than L + G. What is available is
    not stopped by the clock before its time, by the renewals that its holder has heard of."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.left: dict[bytes, tuple[str, int, dict[SlotId, int]]] = {}  # whose, when, for which terms
        self.heard: dict[tuple[str, SlotId, int], list[tuple[int, int]]] = {}  # height, own true sending
        self.ran: set[tuple[str, SlotId, int]] = set()
        self.counted: dict[tuple[SlotId, int], int] = {}  # last true sending that became final
        self.running: dict[tuple[str, SlotId, int], int] = {}

    def sent(self, peer: MarketPeer, tx_id: bytes, raw: bytes) -> None:
        body = decode_tx(raw, self.market.world.chain_id).tx.body
        if isinstance(body, Claim):
            self.left[tx_id] = peer.name, self.now_us, {(body.deployment, body.slot): body.term}
        elif isinstance(body, Renew):
            self.left[tx_id] = peer.name, self.now_us, {(i.deployment, i.slot): i.term for i in body.items}

    def final(self, block: FinalBlock) -> None:
        for receipt in block.result.receipts:
            name, at_us, terms = self.left.get(receipt.id, ("", 0, {}))
            for slot_id, term in terms.items() if receipt.ok else ():
                key = (slot_id, term)
                # A claim counts for whoever wins the term; the latest is the most that anybody may count on.
                self.counted[key] = max(self.counted.get(key, 0), at_us)
                self.heard.setdefault((name, *key), []).append((block.height, at_us))
        for _, data in self.market.chronicle.state.scan(b"slot/"):
            slot = decode(Slot, data)
            if slot.holder and slot.lease_until_ms > block.time_ms + LEASE_MS + LEASE_GUARD_MS:
                self.complain(f"{slot.name}: leased for longer than L + G")

    def started(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        counted_us = self.counted.get((slot_id, term))
        if counted_us is None:
            self.complain(f"{slot_id[1]} term {term} starts on {node.name} without a claim that was final")
            return
        used_ms = (self.now_us - counted_us) / 1_000
        key, beyond_ms = (node.name, slot_id, term), self.market.followed.available_ms(slot_id, term)
        may_ms = LEASE_MS + beyond_ms if beyond_ms and key in self.ran else LEASE_MS / 2
        if used_ms * (2 - RATE) > may_ms + 1:
            self.complain(f"{slot_id[1]} term {term} starts on {node.name} {used_ms:.0f} ms into its lease")
        self.ran.add(key)
        self.running[key] = counted_us

    def lease_over(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        beyond_ms = self.market.followed.available_ms(slot_id, term)
        heard = self.heard.get((node.name, slot_id, term), [])
        known_us = [at_us for height, at_us in heard if height <= node.replica.height]
        ran_ms = (self.now_us - max(known_us, default=0)) / 1_000
        # A renewal that a leader dated back counts for less, but for no half lease here.
        if beyond_ms and ran_ms < beyond_ms + LEASE_MS / 2:
            self.complain(f"{slot_id[1]} term {term} is stopped on {node.name} after {ran_ms:.0f} ms")

    def stopped(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        if self.running.pop((node.name, slot_id, term), None) is None:
            return
        counted_us = self.counted[slot_id, term]
        beyond_ms = self.market.followed.available_ms(slot_id, term)
        allowed_us = counted_us + (LEASE_MS + beyond_ms + KILL_MS) * 1_000 * RATE
        if self.now_us > max(allowed_us, node.woke_us(counted_us) + TAIL_MS * 1_000):
            ran_ms = (self.now_us - counted_us) // 1_000
            self.complain(f"{slot_id[1]} term {term} ran on {node.name} {ran_ms} ms after it was asked for")

    def end(self) -> None:
        for name, slot_id, term in list(self.running):
            self.stopped(next(n for n in self.market.nodes if n.name == name), slot_id, term)


class Outages(MarketChecker):
    """[L4] What may still run, by the clock that its holder has, is not moved for an outage of the notary."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.slots: dict[SlotId, Slot] = {}  # before the block

    def final(self, block: FinalBlock) -> None:
        for event in block.result.events:
            if event.kind == "slot.lost" and int(event.fields["missed_ms"]):
                slot_id, term = slot_of(event)
                slot, beyond_ms = self.slots[slot_id], self.market.followed.available_ms(slot_id, term)
                runs = slot.status == "running" and block.time_ms <= slot.renewed_ms + LEASE_MS + beyond_ms
                if runs and beyond_ms:
                    self.complain(f"{slot_id[1]} term {term} is moved for an outage that it outlasts")
        for _, data in self.market.chronicle.state.scan(b"slot/") if block.result.events else ():
            slot = decode(Slot, data)
            self.slots[slot.deployment, slot.name] = slot


class Terms(MarketChecker):
    """A slot's term never goes back, grows by one with each holder, and has one holder ever."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.last: dict[bytes, int] = {}
        self.holders: dict[tuple[bytes, int], bytes] = {}

    def final(self, block: FinalBlock) -> None:
        for key, data in self.market.chronicle.state.scan(b"slot/"):
            slot = decode(Slot, data)
            last = self.last.get(key, 0)
            if not last <= slot.term <= last + 1:
                self.complain(f"{slot.name} goes from term {last} to {slot.term}")
            self.last[key] = slot.term
            if slot.holder and self.holders.setdefault((key, slot.term), slot.holder) != slot.holder:
                self.complain(f"{slot.name} term {slot.term} has two holders")
        for event in block.result.events:
            if event.kind == "slot.claimed":
                key = key_slot(bytes.fromhex(event.subject), str(event.fields["slot"]))
                node = bytes.fromhex(str(event.fields["node"]))
                if self.holders.setdefault((key, int(event.fields["term"])), node) != node:
                    self.complain(f"{event.fields['slot']}: term {event.fields['term']} was given out twice")


class Books(MarketChecker):
    """Money is conserved, every bill is what was spent; capacity that is bound is what held slots need, no
    less and no more; timed work and open slots are what the records ask for."""

    def final(self, block: FinalBlock) -> None:
        if not block.result.events:
            return
        try:
            invariants.check(self.market.chronicle.state, block.time_ms)
        except AssertionError as error:
            self.complain(f"height {block.height}: {error}")


class Ended(MarketChecker):
    """At the end, what runs is what the ledger says is held, and of an ended deployment nothing runs."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.running: set[tuple[str, SlotId, int]] = set()

    def started(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        self.running.add((node.name, slot_id, term))

    def stopped(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        self.running.discard((node.name, slot_id, term))

    def end(self) -> None:
        state = self.market.chronicle.state
        keys = {node.name: node.key.public for node in self.market.nodes}
        for name, slot_id, term in sorted(self.running):
            slot = read(state, Slot, key_slot(*slot_id))
            record = read(state, Deployment, key_deployment(slot_id[0]))
            assert slot is not None and record is not None
            node = next(node for node in self.market.nodes if node.name == name)
            if node.woke_us(self.now_us - TAIL_MS * 1_000):
                continue  # just now: its guard has not looked yet
            if (slot.holder, slot.term) != (keys[name], term):
                self.complain(f"{name} runs {slot_id[1]} term {term}, which it does not hold")


MARKET_CHECKERS: Final = (OneHolder, Leases, Outages, Terms, Books, Ended)
