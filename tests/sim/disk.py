"""What a simulated validator keeps: a disk whose unsynced writes may be lost, and the chain's store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from consensus.messages import Record
from ledger import tree
from ledger.blocks import Header
from ledger.certificate import Certificate
from ledger.codec import decode, encode
from ledger.limits import RECENT_ROOTS
from ledger.outcome import BlockResult
from ledger.state import MemoryState

Writes = Mapping[bytes, bytes | None]
UNPROVED = b"seen/"  # as in ledger.chain: the replay guard is not under the root


class Disk:
    """A log of atomic writes over durable pairs, as LevelDB behaves.

    A sync makes the log so far durable. A crash keeps a random prefix of the unsynced log; the write at the
    tear is dropped whole, as its checksum fails.
    """

    def __init__(self) -> None:
        self.durable: dict[bytes, bytes] = {}
        self.log: list[Writes] = []
        self.lost = 0  # writes that crashes took

    def write(self, writes: Writes, sync: bool) -> None:
        self.log.append(writes)
        if sync:
            self._settle(len(self.log))

    def crash(self, rng: Random) -> None:
        kept = rng.randint(0, len(self.log))
        self.lost += len(self.log) - kept
        self._settle(kept)
        self.log.clear()

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
    return b"r" + record.view.to_bytes(8, "big") + bytes([record.kind])


def certificate_key(certificate: Certificate) -> bytes:
    return b"c" + certificate.statement.view.to_bytes(8, "big") + bytes([certificate.statement.kind])


def records(disk: Disk) -> list[Record]:
    """All own votes that are durable."""
    return [decode(Record, v) for k, v in sorted(disk.durable.items()) if k[:1] == b"r"]


def certificates(disk: Disk) -> list[Certificate]:
    return [decode(Certificate, v) for k, v in sorted(disk.durable.items()) if k[:1] == b"c"]


def batches(disk: Disk) -> dict[bytes, bytes]:
    return {k[1:]: v for k, v in disk.durable.items() if k[:1] == b"b"}


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


def encoded(record: Record | Certificate) -> bytes:
    """As kept on the disk."""
    return encode(record)
