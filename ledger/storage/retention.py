"""Retention: which blocks a peer still holds, and how the oldest go, one atomic write a block.

Below `first_height` nothing is left but what the audit of a deployment that still lives needs, and the
publication of each contract (it may be ordered any time): header with its finality, receipts, those
batches, and the places of those transactions. Lease renewals are not part of that: an audit does not
claim to be complete in them, and a long-lived deployment would keep the whole chain. When a deployment
has ended, `kept` blocks are planned again and what was its alone goes.

All reads are of the store itself, never of a cache, so that `plan` may run in a thread beside commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from ledger.blocks import Header, header_hash
from ledger.codec import decode, encode
from ledger.epochs import is_ending
from ledger.errors import LocalError
from ledger.outcome import Receipt
from ledger.proofs.light import FINALITY_PATH_MAX, FinalityProof
from ledger.records import Deployment, be, key_deployment
from ledger.storage.epoch_log import EpochLog, epoch_key
from ledger.storage.kv import Kv
from ledger.storage.stored import TxPlace

EVENTS_PER_BLOCK_MAX: Final = 1 << 20  # an event's id is height * this + number

# Namespaces that grow with the chain: what a byte budget counts, and what is compacted.
HISTORY: Final = (b"b", b"h", b"B", b"c", b"t", b"r", b"e", b"d", b"k", b"u")

FIRST_KEY: Final = b"m/first"


class Drop(msgspec.Struct, frozen=True):
    """What one atomic write does to forget the block at `height`, or to keep less of it."""

    height: int
    puts: dict[bytes, bytes]
    deletes: tuple[bytes, ...]


class Retention:
    """See the module. `first_height`: from there on every block is whole."""

    def __init__(self, kv: Kv) -> None:
        self._kv = kv
        self._epochs = EpochLog(kv)
        first = kv.get(FIRST_KEY)
        self.first_height = 1 if first is None else int.from_bytes(first, "big")

    def plan(self, height: int) -> Drop:
        """How the block at `height` is dropped: `first_height`, or one of `kept`. Reads only.

        Raises LocalError when a part of it is missing, or nothing held makes it final.
        """
        data, found = self._kv.get(b"b" + be(height)), self._kv.get(b"r" + be(height))
        if data is None or found is None:
            raise LocalError(f"the store is damaged: no block at height {height}")
        header, receipts = decode(Header, data), decode(tuple[Receipt, ...], found)
        puts: dict[bytes, bytes] = {}
        deletes = [b"c" + be(height), *self._events(height)]
        wanted: set[int] = set()  # positions of batches that stay
        for number, receipt in enumerate(receipts):
            place = self._place(receipt.id, height)
            if place is not None and self._is_wanted(receipt):
                wanted.add(place.batch)
                continue
            if place is not None:
                deletes.append(b"t" + receipt.id)
            deletes += [b"d" + subject + be(height) + be(number) for subject in _subjects(receipt)]
        if wanted:
            if self._kv.get(b"k" + be(height)) is None:
                puts[b"k" + be(height)] = encode(self._finality(height, data))
        else:
            own = (b"b" + be(height), b"h" + header_hash(data), b"r" + be(height), b"k" + be(height))
            deletes += own
        for position, digest in enumerate(header.batches):
            mine = b"u" + digest + be(height)
            if position in wanted:
                puts[mine] = b""
            else:
                deletes += [mine] if self._is_shared(digest, mine) else [mine, b"B" + digest]
        return Drop(height, puts, tuple(deletes))

    def drop(self, planned: Drop) -> None:
        """Carry out a plan, all or nothing. Not synced: after a power cut blocks may be there again."""
        puts, above = planned.puts, planned.height + 1
        if planned.height >= self.first_height:
            puts = {**puts, FIRST_KEY: be(above)}
        deletes = [key for key in planned.deletes if not self._is_named_since(key, planned.height)]
        self._kv.write(puts, deletes, sync=False)
        self.first_height = max(self.first_height, above)

    def erase(self, height: int) -> list[bytes]:
        """All keys of the block at the tip, `height`, so that it can be taken back. Reads only."""
        data = self._kv.get(b"b" + be(height))
        if data is None:
            raise LocalError(f"the store is damaged: no block at height {height}")
        found = self._kv.get(b"r" + be(height))
        receipts = () if found is None else decode(tuple[Receipt, ...], found)
        keys = [b"b" + be(height), b"h" + header_hash(data), b"r" + be(height), b"c" + be(height)]
        keys += self._events(height)
        header = decode(Header, data)
        if is_ending(header):
            keys.append(epoch_key(header.epoch))
        for number, receipt in enumerate(receipts):
            if self._place(receipt.id, height) is not None:
                keys.append(b"t" + receipt.id)
            keys += [b"d" + subject + be(height) + be(number) for subject in _subjects(receipt)]
        for digest in header.batches:
            mine = b"u" + digest + be(height)
            # Noted here: a block before it names the batch, too.
            keys.append(b"B" + digest if self._kv.get(mine) is None else mine)
        return keys

    def kept(self, above: int, limit: int) -> list[int]:
        """Heights below `first_height` that something was kept of, ascending, greater than `above`."""
        found = self._kv.scan(b"k", b"k" + be(above + 1), limit)
        return [int.from_bytes(key[1:], "big") for key, _ in found]

    def finality(self, height: int) -> FinalityProof | None:
        """Why a kept block is final; None when it is not one."""
        data = self._kv.get(b"k" + be(height))
        return None if data is None else decode(FinalityProof, data)

    def _events(self, height: int) -> Iterator[bytes]:
        first = height * EVENTS_PER_BLOCK_MAX
        end = b"e" + be(first + EVENTS_PER_BLOCK_MAX)
        for key, _ in self._kv.scan(b"e", b"e" + be(first)):
            if key >= end:
                return
            yield key

    def _place(self, id_: bytes, height: int) -> TxPlace | None:
        data = self._kv.get(b"t" + id_)
        place = None if data is None else decode(TxPlace, data)
        return place if place is not None and place.height == height else None

    def _is_wanted(self, receipt: Receipt) -> bool:
        if not receipt.ok:
            return False
        if any(event.kind == "contract.published" for event in receipt.events):
            return True
        return not _is_renewal(receipt) and any(map(self._lives, receipt.deployments))

    def _lives(self, deployment: bytes) -> bool:
        data = self._kv.get(b"s" + key_deployment(deployment))
        return data is not None and lives(decode(Deployment, data))

    def _finality(self, height: int, header: bytes) -> FinalityProof:
        for key, certificate in self._kv.scan(b"c", b"c" + be(height), 1):
            last = int.from_bytes(key[1:], "big")
            held = (self._kv.get(b"b" + be(h)) for h in range(height + 1, last + 1))
            path = [p for p in held if p is not None]
            if len(path) == last - height:
                path += self._epochs.tail(decode(Header, path[-1] if path else header))
                if len(path) <= FINALITY_PATH_MAX:
                    return FinalityProof(header, tuple(path), certificate)
        raise LocalError(f"the store holds no certificate for height {height}")

    def _is_named_since(self, key: bytes, height: int) -> bool:
        """Is this a batch that a block names which was committed after the plan?"""
        return key[:1] == b"B" and self._is_shared(key[1:], b"u" + key[1:] + be(height))

    def _is_shared(self, digest: bytes, mine: bytes) -> bool:
        """Does a block that stays name this batch, too? Only second and later namings are noted."""
        return any(key != mine for key, _ in self._kv.scan(b"u" + digest, limit=2))


def lives(record: Deployment) -> bool:
    """May more happen to it? Also when it completed and its sign-off, or the release of its results, is
    awaited."""
    return record.ended_ms == 0 or record.ends_ms != 0 or record.release_until_ms != 0


def _subjects(receipt: Receipt) -> tuple[bytes, ...]:
    """As ledger.storage.subjects.about, from the receipt alone."""
    if not receipt.ok or _is_renewal(receipt):
        return ()
    published = [bytes.fromhex(e.subject) for e in receipt.events if e.kind == "contract.published"]
    return (*published, *receipt.deployments)


def _is_renewal(receipt: Receipt) -> bool:
    return any(event.kind == "lease.renewed" for event in receipt.events)
