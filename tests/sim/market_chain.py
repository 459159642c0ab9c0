"""The one chain as the market's observers see it: every block executed once, every observer at its own
height of it. (The state machine is pure, and that validators agree is what other checkers watch.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ledger import epochs
from ledger.blocks import Header, decode_batch
from ledger.errors import Refused
from ledger.genesis import Genesis, genesis_state
from ledger.machine import execute
from ledger.outcome import BlockResult, Receipt
from ledger.proofs.certificate import ValidatorSet
from ledger.state import MemoryState
from ledger.transactions import CheckedTx, decode_tx, verified


@dataclass(frozen=True, slots=True)
class Final:
    """A block. `at_us`: true time at which the first honest validator had committed it."""

    height: int
    time_ms: int
    at_us: int
    txs: tuple[CheckedTx, ...]
    result: BlockResult
    header: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """A transaction that counted: its block, its bytes, what became of it."""

    height: int
    time_ms: int
    tx: CheckedTx
    receipt: Receipt


class Chronicle:
    """All final blocks so far. `state` is the one after the last."""

    def __init__(self, genesis: Genesis) -> None:
        self.chain_id = genesis.chain_id
        self.genesis = genesis
        self.state = MemoryState(genesis_state(genesis))
        self.blocks: list[Final] = []
        self.places: dict[bytes, Place] = {}

    @property
    def height(self) -> int:
        return len(self.blocks)

    def append(self, header: Header, batches: tuple[bytes, ...], at_us: int) -> Final:
        """Execute the next block."""
        txs = tuple(tx for data in batches for tx in self._txs(data))
        parent_ms = self.blocks[-1].time_ms if self.blocks else self.genesis.time_ms
        result = execute(self.state, header, txs, parent_ms)
        self.state.update(result.changes)
        block = Final(header.height, header.time_ms, at_us, txs, result, header.encode())
        self.blocks.append(block)
        known = {tx.id: tx for tx in txs}
        for receipt in result.receipts:
            self.places[receipt.id] = Place(header.height, header.time_ms, known[receipt.id], receipt)
        return block

    def _txs(self, data: bytes) -> list[CheckedTx]:
        found: list[CheckedTx] = []
        for raw in decode_batch(data).txs:
            try:
                found.append(verified(decode_tx(raw, self.chain_id)))
            except Refused:
                continue
        return found


class Replica:
    """What one observer has of it. Survives its crashes: each block is one synced write."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._chronicle = chronicle
        self.state = MemoryState(genesis_state(chronicle.genesis))
        self.height = 0
        self.time_ms = chronicle.genesis.time_ms

    def advance(self, height: int) -> bool:
        """Take over the blocks up to this height; True when there were new ones."""
        new = self._chronicle.blocks[self.height : height]
        for block in new:
            changes: Mapping[bytes, bytes | None] = block.result.changes
            self.state.update(changes)
            self.height, self.time_ms = block.height, block.time_ms
        return bool(new)

    @property
    def store(self) -> Replica:
        """As a peer has it, for `header`."""
        return self

    @property
    def validators(self) -> ValidatorSet:
        """The set in force."""
        return epochs.current(self.state)

    def header(self, height: int) -> bytes | None:
        """The encoded header of a block, up to this height."""
        return self._chronicle.blocks[height - 1].header if 0 < height <= self.height else None

    def tx(self, tx_id: bytes) -> Place | None:
        """A transaction that counted, up to this height."""
        place = self._chronicle.places.get(tx_id)
        return place if place is not None and place.height <= self.height else None
