"""Transactions that wait for a batch, in turns: first over who brought them, then over accounts. Pure.

Start-time fair queueing (Goyal, Vin, Cheng 1996) on two levels: who brings much waits behind its own, not
before others, and many accounts of one bringer get one bringer's share. Transactions of one account that
came the same way keep their order. What fits into one batch as a whole leaves in order of arrival.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ledger.transactions import CheckedTx, VerifiedTx
from node.limits import BATCH_ENTRY_BYTES, TX_WORK_BYTES

K = TypeVar("K")


def cost_of(tx: CheckedTx) -> int:
    """What a transaction takes of a validator, in bytes: its own, and its checks and execution as such."""
    return len(tx.raw) + TX_WORK_BYTES


@dataclass(slots=True)
class Turns(Generic[K]):
    """Whose turn it is. A key that has nothing left stays until its turn, so that leaving gains nothing.

    Virtual time goes on at least by the share that each of those waiting has in what is served (as in
    weighted fair queueing): who had a turn has the next one after a round, even when new keys never cease
    to come.
    """

    _heap: list[tuple[int, int, K]] = field(default_factory=list)  # (start tag, arrival, key)
    _keys: set[K] = field(default_factory=set)
    fresh: OrderedDict[K, None] = field(default_factory=OrderedDict)  # had nothing waiting, got no turn yet
    _now: int = 0  # virtual time: the start tag served last, or later
    _count: int = 0

    def join(self, key: K) -> None:
        """The key has something waiting; no change when it takes part already."""
        if key not in self._keys:
            self._keys.add(key)
            self.fresh[key] = None
            self._push(self._now, key)

    def first(self) -> K:
        """Whose turn it is. Raises IndexError when nobody takes part."""
        return self._heap[0][2]

    def served(self, cost: int, waiting: int | None = None) -> None:
        """The first one got its turn, for that cost, while so many keys had something waiting. None: virtual
        time stays at its start tag, so that who is new goes before all that had a turn."""
        start, _, key = heapq.heappop(self._heap)
        self._now = max(start, self._now + cost // waiting) if waiting else start
        self.fresh.pop(key, None)
        self._push(start + cost, key)

    def leave(self) -> None:
        """The first one has nothing waiting."""
        start, _, key = heapq.heappop(self._heap)
        self._now = max(start, self._now)
        self._keys.discard(key)
        self.fresh.pop(key, None)

    def _push(self, start: int, key: K) -> None:
        self._count += 1
        heapq.heappush(self._heap, (start, self._count, key))


@dataclass(slots=True)
class _Account:
    ids: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    cost: int = 0


@dataclass(slots=True)
class _Source:
    accounts: dict[bytes, _Account] = field(default_factory=dict)  # those with something waiting
    turns: Turns[bytes] = field(default_factory=Turns)
    cost: int = 0
    size_bytes: int = 0
    txs: int = 0


@dataclass(slots=True)
class FairQueue:
    """See the module. `source` is who brought a transaction: a client's address, a peer's id."""

    size_bytes: int = 0
    cost: int = 0
    _txs: OrderedDict[bytes, tuple[VerifiedTx, str]] = field(default_factory=OrderedDict)  # by arrival
    _sources: dict[str, _Source] = field(default_factory=dict)  # those with something waiting
    _turns: Turns[str] = field(default_factory=Turns)

    def __len__(self) -> int:
        return len(self._txs)

    def __iter__(self) -> Iterator[VerifiedTx]:
        """In order of arrival."""
        return (tx for tx, _ in self._txs.values())

    def __contains__(self, id_: object) -> bool:
        return id_ in self._txs

    @property
    def source_count(self) -> int:
        """How many bringers wait."""
        return len(self._sources)

    def put(self, tx: VerifiedTx, source: str) -> None:
        """Queue a transaction that is not here."""
        cost, size = cost_of(tx), len(tx.raw)
        self._txs[tx.id] = (tx, source)
        bringer = self._sources.get(source)
        if bringer is None:
            bringer = self._sources[source] = _Source()
        account = bringer.accounts.get(tx.tx.sender)
        if account is None:
            account = bringer.accounts[tx.tx.sender] = _Account()
        account.ids[tx.id] = None
        account.cost += cost
        bringer.cost += cost
        bringer.size_bytes += size
        bringer.txs += 1
        self.cost += cost
        self.size_bytes += size
        bringer.turns.join(tx.tx.sender)
        self._turns.join(source)

    def take(self, txs_max: int, bytes_max: int) -> list[VerifiedTx]:
        """The next transactions, at least one if there is any, that encode to a batch of `bytes_max`."""
        taken: list[VerifiedTx] = []
        if len(self._txs) <= txs_max and self.size_bytes + len(self._txs) * BATCH_ENTRY_BYTES <= bytes_max:
            taken.extend(self)
            self._clear()
            return taken
        size = 0
        while len(taken) < txs_max and self._txs:
            bringer, tx = self._next()
            size += len(tx.raw) + BATCH_ENTRY_BYTES
            if taken and size > bytes_max:
                break
            self._serve(bringer, tx)
            taken.append(tx)
        return taken

    def _serve(self, bringer: _Source, tx: VerifiedTx) -> None:
        cost = cost_of(tx)
        bringer.turns.served(cost, len(bringer.accounts))
        self._turns.served(cost)
        self.remove(tx.id)

    def has_fresh(self) -> bool:
        """Does somebody wait who had nothing waiting and got no turn yet?"""
        return any(source in self._sources for source in self._turns.fresh)

    def take_fresh(self, txs_max: int, bytes_max: int) -> list[VerifiedTx]:
        """As `take`, of those only who had nothing waiting: who sends now and then goes before a flood."""
        taken: list[VerifiedTx] = []
        size = 0
        while len(taken) < txs_max and self._txs:
            bringer, tx = self._next()
            size += len(tx.raw) + BATCH_ENTRY_BYTES
            if self._turns.first() not in self._turns.fresh or size > bytes_max:
                break
            self._serve(bringer, tx)
            taken.append(tx)
        return taken

    def remove(self, id_: bytes) -> VerifiedTx | None:
        """Take one out, wherever it stands; None: it is not here."""
        found = self._txs.pop(id_, None)
        if found is None:
            return None
        tx, source = found
        cost, size = cost_of(tx), len(tx.raw)
        bringer = self._sources[source]
        account = bringer.accounts[tx.tx.sender]
        del account.ids[id_]
        account.cost -= cost
        bringer.cost -= cost
        bringer.size_bytes -= size
        bringer.txs -= 1
        self.cost -= cost
        self.size_bytes -= size
        if not account.ids:
            del bringer.accounts[tx.tx.sender]
        if not bringer.accounts:
            del self._sources[source]
        if not self._txs:
            self._clear()
        return tx

    def usage(self, source: str) -> tuple[int, int]:
        """Transactions and bytes that wait of one bringer."""
        bringer = self._sources.get(source)
        return (bringer.txs, bringer.size_bytes) if bringer is not None else (0, 0)

    def waiting(self, source: str, sender: bytes | None = None) -> int:
        """The cost of what waits of one bringer, or of one account among its."""
        bringer = self._sources.get(source)
        if bringer is None or sender is None:
            return bringer.cost if bringer is not None else 0
        account = bringer.accounts.get(sender)
        return account.cost if account is not None else 0

    def ahead(self, source: str, sender: bytes, cost: int) -> int:
        """At most so much of what waits is served before a further transaction of that cost has been."""
        bringer = self._sources.get(source)
        account = bringer.accounts.get(sender) if bringer is not None else None
        own = cost + (account.cost if account is not None else 0)
        accounts = (len(bringer.accounts) if bringer is not None else 0) + (account is None)
        among = cost + (bringer.cost if bringer is not None else 0)
        sources = len(self._sources) + (bringer is None)
        return min(cost + self.cost, min(among, own * accounts) * sources)

    def _next(self) -> tuple[_Source, VerifiedTx]:
        """Whose turn it is, and the oldest transaction of the account whose turn it is there."""
        while (source := self._turns.first()) not in self._sources:
            self._turns.leave()
        bringer = self._sources[source]
        while (sender := bringer.turns.first()) not in bringer.accounts:
            bringer.turns.leave()
        id_ = next(iter(bringer.accounts[sender].ids))
        return bringer, self._txs[id_][0]

    def _clear(self) -> None:
        self._txs.clear()
        self._sources.clear()
        self._turns = Turns()
        self.cost = self.size_bytes = 0
