"""What a simulated validator keeps: a disk whose unsynced writes may be lost, and the chain's store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from consensus.messages import Record
from ledger import tree
from ledger.blocks import Header
from ledger.certificate import Certificate
from ledger.codec import decode
from ledger.kv import MemoryKv
from ledger.limits import RECENT_ROOTS
from ledger.outcome import BlockResult
from ledger.state import MemoryState

Writes = Mapping[bytes, bytes | None]
UNPROVED = b"seen/"  # as in ledger.chain: the replay guard is not under the root
_RECORD, _BATCH = b"v/", b"b/"  # as in node.safety_store


class Disk(MemoryKv):
    """A Kv as LevelDB behaves: a log of atomic writes over durable pairs. What is read is all of it.

    A sync makes the log so far durable. A crash keeps a random prefix of the unsynced log; the write at the
    tear is dropped whole, as its checksum fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.durable: dict[bytes, bytes] = {}
        self.log: list[Writes] = []
        self.lost = 0  # writes that crashes took
        self.is_stuck = False  # power fails within a write: its sync does not come to an end

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        deletes = tuple(deletes)
        super().write(puts, deletes, sync)
        self.log.append({**dict.fromkeys(deletes), **puts})
        if sync and not self.is_stuck:
            self._settle(len(self.log))

    def crash(self, rng: Random) -> None:
        kept = rng.randint(0, len(self.log))
        self.lost += len(self.log) - kept
        self._settle(kept)
        self.log.clear()
        self.is_stuck = False
        super().write(self.durable, [key for key, _ in self.scan(b"") if key not in self.durable])

    def _settle(self, count: int) -> None:
        for writes in self.log[:count]:
            for key, value in writes.items():
                if value is None:
                    self.durable.pop(key, None)
                else:
                    self.durable[key] = value
        del self.log[:count]


def record_key(record: Record) -> bytes:
    """Where an own vote is kept: one place per view and kind."""
    return _RECORD + record.view.to_bytes(8, "big") + bytes([record.kind])


def records(disk: Disk) -> list[Record]:
    """All own votes that are durable."""
    return [decode(Record, v) for k, v in sorted(disk.durable.items()) if k[:2] == _RECORD]


def holds_batch(disk: Disk, digest: bytes) -> bool:
    """Is a batch durable beside the votes that name it?"""
    return _BATCH + digest in disk.durable


@dataclass(frozen=True, slots=True)
class Block:
    """A committed block. `certificate` finalizes it or a descendant."""

    header: Header
    hash: bytes
    batches: tuple[bytes, ...]
    certificate: Certificate
    root: bytes


@dataclass(slots=True)
class Store:
    """The committed chain: each commit is one atomic, synced write, so that it survives every crash."""

    genesis: Header
    genesis_hash: bytes
    state: MemoryState
    nodes: dict[bytes, bytes] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    roots: dict[int, bytes] = field(default_factory=dict)
    places: dict[bytes, int] = field(default_factory=dict)  # batch digest -> index in `blocks`

    @classmethod
    def create(cls, genesis: Header, genesis_hash: bytes, state: Mapping[bytes, bytes]) -> Store:
        store = cls(genesis, genesis_hash, MemoryState(state))
        store.roots[0] = store._root(dict(state))
        return store

    @property
    def height(self) -> int:
        return len(self.blocks)

    @property
    def tip(self) -> tuple[Header, bytes]:
        return (
            (self.blocks[-1].header, self.blocks[-1].hash)
            if self.blocks
            else (self.genesis, self.genesis_hash)
        )

    def commit(
        self, header: Header, batch_bytes: tuple[bytes, ...], certificate: Certificate, result: BlockResult
    ) -> Block:
        self.state.update(result.changes)
        root = self._root({k: v for k, v in result.changes.items() if not k.startswith(UNPROVED)})
        block = Block(header, header.hash, batch_bytes, certificate, root)
        for digest in header.batches:
            self.places[digest] = len(self.blocks)
        self.blocks.append(block)
        self.roots[header.height] = root
        self.roots.pop(header.height - RECENT_ROOTS, None)
        return block

    def batch(self, digest: bytes) -> bytes | None:
        """The bytes of a committed batch."""
        place = self.places.get(digest)
        if place is None:
            return None
        block = self.blocks[place]
        return block.batches[block.header.batches.index(digest)]

    def _root(self, changes: Mapping[bytes, bytes | None]) -> bytes:
        root, writes = tree.update(self.nodes.get, changes)
        for path, node in writes.items():
            if node is None:
                self.nodes.pop(path, None)
            else:
                self.nodes[path] = node
        return root
