"""The chain as one peer holds it: layout over an ordered key-value store, commit, queries, proofs.

One block is one atomic write. Namespaces (one byte, then the key):
  m  meta: format, chain, tip, undo          b  height → header          h  header hash → height
  B  batch digest → batch bytes              c  height → Final certificate that names this height
  t  tx id → where it stands                 r  height → receipts        e  event id → event
  d  deployment or contract, height, number → tx id      s  state                    n  state tree nodes
  R  height → state root (the last RECENT_ROOTS)
  k  height of a dropped block that was kept for audits → its finality
  u  batch digest, height: also this block names the batch (noted from the second on)
  E  ended epoch → how it ended and the next validator set (ledger.storage.epoch_log), for ever
ledger.storage.retention deletes from b, h, B, c, t, r, e, d, k, u below a height; s, n, R and E never need
them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Final, TypeVar

from ledger.blocks import Header, decode_batch, header_hash
from ledger.codec import decode, encode, sha256
from ledger.epochs import is_ending
from ledger.errors import LocalError, Refused
from ledger.limits import RECENT_ROOTS
from ledger.outcome import Event, Receipt
from ledger.proofs import tree
from ledger.proofs.inclusion import prove_inclusion
from ledger.proofs.light import FINALITY_PATH_MAX, FinalityProof, QueryProof
from ledger.records import KEY_VALIDATORS, be
from ledger.storage import epoch_log
from ledger.storage.epoch_log import EpochLog
from ledger.storage.group import Group
from ledger.storage.kv import Kv, ReadCache
from ledger.storage.retention import EVENTS_PER_BLOCK_MAX as EVENTS_PER_BLOCK_MAX
from ledger.storage.retention import Retention
from ledger.storage.stored import CommitData, StoredBlock, StoredTx, Tip, TxPlace
from ledger.storage.views import FrozenState, SavedUndo, StateReader, StateView, Window

STATE_CACHE_BYTES_MAX: Final = 32 * 1024 * 1024
NODE_CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
NODE_STAY_KEY_BYTES: Final = 2  # the upper 16 levels, at most 14 MiB
UNDO_SAVED_BYTES_MAX: Final = 16 * 1024 * 1024  # more is not worth a slow stop

TIP_KEY: Final = b"m/tip"
UNDO_KEY: Final = b"m/undo"

# Not under the state root: the replay guard follows from the ids in the last EXPIRY_BLOCKS_MAX certified
# blocks, which a peer that fetches state needs anyway, and it would double the tree's work per transaction.
UNPROVED_PREFIXES: Final = (b"seen/",)

V = TypeVar("V")


class Chain:
    """See the module. Not safe for use by several threads at once."""

    def __init__(self, kv: Kv, chain_id: str) -> None:
        self.chain_id = chain_id
        self._closed = False
        self._attach(kv)

    def _attach(self, kv: Kv) -> None:
        """Read on from this store. Raises LocalError when it is damaged."""
        self._kv = Group(kv)
        self._state = ReadCache(self._kv, b"s", STATE_CACHE_BYTES_MAX)
        self._nodes = ReadCache(self._kv, b"n", NODE_CACHE_BYTES_MAX, NODE_STAY_KEY_BYTES)
        self._window = Window(self._state.get, self._nodes.get)
        self.state = StateReader(self._kv, self._state)
        self.retention = Retention(kv)
        self.epochs = EpochLog(kv)
        tip = kv.get(TIP_KEY)
        self._tip = None if tip is None else decode(Tip, tip)
        if self._tip is not None:
            self._check_tip(self._tip)
            self._load_undo(self._tip)

    # --- writing -------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """True until `begin`."""
        return self._tip is None

    @property
    def tip(self) -> Tip:
        """The last committed block. Raises LocalError before `begin`."""
        if self._tip is None:
            raise LocalError("the store is empty: the genesis state was not written")
        return self._tip

    @property
    def first_height(self) -> int:
        """From here on every block is held whole; 1 when nothing was dropped."""
        return self.retention.first_height

    def begin(self, genesis_hash: bytes, writes: Mapping[bytes, bytes], time_ms: int) -> bytes:
        """Write block 0, the genesis state. Returns its root. Raises LocalError if there is a chain."""
        if self._tip is not None:
            raise LocalError("the store holds a chain already")
        root, nodes = tree.update(self._nodes.get, _proved(writes))
        return self._write({}, Tip(0, genesis_hash, 0, time_ms, root, 0), writes, nodes)

    def commit(self, data: CommitData) -> bytes:
        """Write one block, all or nothing, synced. Returns the state root after it.

        Raises LocalError when it is not the tip's child or its parts do not fit (nothing is written),
        and when the disk fails (the peer must stop).
        """
        header_bytes = data.header.encode()
        self._check_commit(data)
        height = be(data.header.height)
        hash_ = header_hash(header_bytes)
        puts: dict[bytes, bytes] = {b"b" + height: header_bytes, b"h" + hash_: height}
        for digest, batch in zip(data.header.batches, data.batches, strict=True):
            if self._kv.get(b"B" + digest) is not None:
                puts[b"u" + digest + height] = b""
            puts[b"B" + digest] = batch
        if data.certificate is not None:
            puts[b"c" + height] = data.certificate
            if is_ending(data.header):
                parent = self._header_must(data.header.height - 1)
                next_set = _next_set(data)
                key, proof = epoch_log.entry(data.header, parent, data.path, data.certificate, next_set)
                puts[key] = proof
        puts[b"r" + height] = encode(data.receipts)
        for number, entry in enumerate(data.txs):
            place = TxPlace(data.header.height, entry.batch, entry.index, number)
            puts[b"t" + entry.id] = encode(place)
            for subject in entry.about:
                puts[b"d" + subject + height + be(number)] = entry.id
        first = data.header.height * EVENTS_PER_BLOCK_MAX
        for number, event in enumerate(data.events):
            puts[b"e" + be(first + number)] = encode(event)
        root, nodes, fresh = tree.update_noting_fresh(self._nodes.get, _proved(data.changes))
        header = data.header
        tip = Tip(header.height, hash_, header.view, header.time_ms, root, header.state_height)
        self._write(puts, tip, data.changes, nodes, fresh)
        if is_ending(header):
            self._kv.flush()  # ended epochs are read from the disk
        return root

    def _check_commit(self, data: CommitData) -> None:
        header, tip = data.header, self.tip
        if header.height != tip.height + 1 or header.parent_hash != tip.hash:
            raise LocalError(f"commit of height {header.height}: not the child of the tip at {tip.height}")
        if header.chain_id != self.chain_id:
            raise LocalError(f"commit of a block of chain {header.chain_id!r}")
        if len(data.batches) != len(header.batches) or len(data.receipts) != len(data.txs):
            raise LocalError(f"commit of height {header.height}: batches or receipts do not fit")
        next_set = _next_set(data)
        if (sha256(next_set) if next_set else header.validators) != header.next_validators:
            raise LocalError(f"commit of height {header.height}: its validators do not fit its changes")
        if is_ending(header) and (data.certificate is None or len(data.path) > FINALITY_PATH_MAX):
            raise LocalError(f"commit of height {header.height}: an epoch ends, and nothing makes it final")
        if data.path and not is_ending(header):
            raise LocalError(f"commit of height {header.height}: headers above it belong to an epoch's end")
        if len(data.events) >= EVENTS_PER_BLOCK_MAX:
            raise LocalError(f"commit of height {header.height}: {len(data.events)} events")

    def _write(
        self,
        puts: dict[bytes, bytes],
        tip: Tip,
        changes: Mapping[bytes, bytes | None],
        nodes: Mapping[bytes, bytes | None],
        fresh: Collection[bytes] = (),
    ) -> bytes:
        deletes = [UNDO_KEY]
        for space, delta in ((b"s", changes), (b"n", nodes)):
            for key, value in delta.items():
                if value is None:
                    deletes.append(space + key)
                else:
                    puts[space + key] = value
        puts[b"R" + be(tip.height)] = tip.root
        if tip.height >= RECENT_ROOTS:
            deletes.append(b"R" + be(tip.height - RECENT_ROOTS))
        puts[TIP_KEY] = encode(tip)
        self._window.push(tip.height, changes, nodes, fresh)
        try:
            self._kv.write(puts, deletes, sync=True)
        except BaseException:
            self._window.pop()
            raise
        self._state.put(changes)
        self._nodes.put(nodes)
        self.state.follow(changes)
        self._tip = tip
        return tip.root

    def grouped(self) -> AbstractContextManager[None]:
        """Commits within are on the disk together, at its end. For one task that lets nobody run in between
        (ledger.storage.group)."""
        return self._kv.grouped()

    def close(self) -> None:
        """Idempotent. Keeps the undo window for the next start when it is small."""
        if self._closed:
            return
        self._closed = True
        if self._tip is not None:
            saved = encode((self._tip.height, self._window.dump()))
            if len(saved) <= UNDO_SAVED_BYTES_MAX:
                self._kv.write({UNDO_KEY: saved})
        self._kv.close()

    def _load_undo(self, tip: Tip) -> None:
        saved = self._kv.get(UNDO_KEY)
        if saved is None:
            return
        height, entries = decode(tuple[int, list[SavedUndo]], saved)
        if height == tip.height:
            self._window.load(entries)

    def _check_tip(self, tip: Tip) -> None:
        root = tree.root_of(self._nodes.get)
        header = self._kv.get(b"b" + be(tip.height)) if tip.height else None
        if root != tip.root or (tip.height and (header is None or header_hash(header) != tip.hash)):
            raise LocalError(
                f"the store is damaged: at height {tip.height} the state tree and the block do not agree. "
                "Move the data directory away and start again: the peer fetches everything anew."
            )

    # --- blocks ----------------------------------------------------------------------------------

    def header(self, height: int) -> bytes | None:
        """The encoded header at a height, 1 or more; below `first_height` of few blocks only."""
        return self._kv.get(b"b" + be(height)) if height > 0 else None

    def height_of(self, hash_: bytes) -> int | None:
        """The height of a committed header."""
        found = self._kv.get(b"h" + hash_)
        return None if found is None else int.from_bytes(found, "big")

    def batch(self, digest: bytes) -> bytes | None:
        """The bytes of a batch of a committed block."""
        return self._kv.get(b"B" + digest)

    def certificate(self, height: int) -> bytes | None:
        """The Final certificate that names the block at `height`, or the end of a boundary's tail, if one is
        held."""
        return self._kv.get(b"c" + be(height)) if height > 0 else None

    def block(self, height: int) -> StoredBlock | None:
        """The block at a height; None above the tip and below `first_height`. Raises LocalError when a part
        is missing."""
        header = self.header(height) if height >= self.first_height else None
        if header is None:
            return None
        batches, decoded = [], decode(Header, header)
        for digest in decoded.batches:
            batch = self.batch(digest)
            if batch is None:
                raise LocalError(f"the store is damaged: height {height} misses batch {digest.hex()}")
            batches.append(batch)
        certificate = self.certificate(height) or b""
        return StoredBlock(header, tuple(batches), certificate, self.epochs.tail(decoded))

    def blocks(self, first: int, size_bytes_max: int) -> tuple[StoredBlock, ...]:
        """Blocks from `first` on, at least one if there is one, that end with a certified block.

        As many as fit, but a run without certificates is never cut (it is at most FINALITY_PATH_MAX
        long): what is returned can always be verified. Empty when nothing from `first` on is certified.
        """
        found: list[StoredBlock] = []
        certified = size_bytes = 0
        for height in range(first, self.tip.height + 1):
            block = self.block(height)
            if block is None or len(found) - certified > FINALITY_PATH_MAX:
                break
            size_bytes += len(block.header) + len(block.certificate)
            size_bytes += sum(map(len, block.batches)) + sum(map(len, block.path))
            if certified and size_bytes > size_bytes_max:
                break
            found.append(block)
            if block.certificate:
                certified = len(found)
        return tuple(found[:certified])

    def finality(self, height: int) -> FinalityProof | None:
        """Why the block at `height` is final, or None when no certificate for it is held."""
        header = self.header(height)
        if header is None:
            return None
        if height < self.first_height:
            return self.retention.finality(height)
        for key, certificate in self._kv.scan(b"c", b"c" + be(height), 1):
            last = int.from_bytes(key[1:], "big")
            if last - height > FINALITY_PATH_MAX:
                return None
            path = [self._header_must(h) for h in range(height + 1, last + 1)]
            path += self.epochs.tail(decode(Header, path[-1] if path else header))
            return FinalityProof(header, tuple(path), certificate) if len(path) <= FINALITY_PATH_MAX else None
        return None

    def _header_must(self, height: int) -> bytes:
        header = self.header(height)
        if header is None:
            raise LocalError(f"the store is damaged: no header at height {height}")
        return header

    # --- transactions, receipts, events ----------------------------------------------------------

    def tx(self, id_: bytes) -> StoredTx | None:
        """An executed transaction by its id."""
        found = self._kv.get(b"t" + id_)
        if found is None:
            return None
        place = decode(TxPlace, found)
        digest = decode(Header, self._header_must(place.height)).batches[place.batch]
        batch = self.batch(digest)
        if batch is None:
            raise LocalError(f"the store is damaged: no batch {digest.hex()}")
        txs = decode_batch(batch).txs
        receipt = self.receipts(place.height)[place.number]
        inclusion = prove_inclusion(txs, place.index)
        return StoredTx(place.height, txs[place.index], receipt, digest, place.batch, inclusion)

    def receipts(self, height: int) -> tuple[Receipt, ...]:
        """The receipts of a block, in the order of execution."""
        found = self._kv.get(b"r" + be(height))
        return () if found is None else decode(tuple[Receipt, ...], found)

    def events(self, after: int, limit: int) -> list[tuple[int, Event]]:
        """Events with an id above `after` (0: from the start), oldest first, at most `limit`."""
        found = self._kv.scan(b"e", b"e" + be(after + 1), limit)
        return [(int.from_bytes(key[1:], "big"), decode(Event, data)) for key, data in found]

    def last_event_id(self) -> int:
        """The id of the newest event, 0 when there is none."""
        found = self._kv.last(b"e")
        return 0 if found is None else int.from_bytes(found[0][1:], "big")

    def history(self, subject: bytes, limit: int | None = None) -> list[bytes]:
        """Ids of the accepted transactions about a deployment (or contract), in the order of execution."""
        return [id_ for _, id_ in self._kv.scan(b"d" + subject, limit=limit)]

    # --- state and proofs ------------------------------------------------------------------------

    def root(self, height: int) -> bytes | None:
        """The state root after executing `height`; None when it is not among the last RECENT_ROOTS."""
        return self._kv.get(b"R" + be(height)) if height >= 0 else None

    def at(self, height: int) -> StateView:
        """The state at a recent height. Raises Refused("state.pruned" | "state.future")."""
        return self._window.at(height, self.tip.height)

    def freeze(self, height: int) -> FrozenState | None:
        """The state at a recent height, kept as it is while the chain goes on, until it is closed. None where
        the store can't. Raises Refused("state.pruned" | "state.future")."""
        overwritten = self.at(height).overwritten()
        frozen = self._kv.freeze()
        return None if frozen is None else FrozenState(frozen, overwritten, UNPROVED_PREFIXES)

    def anchor(self) -> tuple[FinalityProof, StateView]:
        """The newest certified header, and the state that its root commits to.

        Raises Refused("proof.not_yet") while there is none: on an empty chain, or for a few blocks
        after an unclean stop.
        """
        newest = self._kv.last(b"c")
        if newest is None:
            raise Refused("proof.not_yet", "no block is final yet")
        height = int.from_bytes(newest[0][1:], "big")
        header = self._header_must(height)
        decoded = decode(Header, header)
        try:
            view = self.at(decoded.state_height)
        except Refused as error:
            raise Refused("proof.not_yet", f"the state that height {height} proves: {error.detail}") from None
        return FinalityProof(header, self.epochs.tail(decoded), newest[1]), view

    def prove(self, key: bytes) -> QueryProof:
        """What a key holds, proved from genesis alone (ledger.proofs.light.verify_query). Raises as
        `anchor`."""
        if key.startswith(UNPROVED_PREFIXES):
            raise Refused("proof.unproved", "these records are not under the state root", "key")
        finality, view = self.anchor()
        return QueryProof(key, view.get(key), view.prove(key), finality)


def _proved(changes: Mapping[bytes, V]) -> dict[bytes, V]:
    """The changes that the state root commits to."""
    return {key: value for key, value in changes.items() if not key.startswith(UNPROVED_PREFIXES)}


def _next_set(data: CommitData) -> bytes:
    """The validator set that the block puts in force; b"" for all but boundaries."""
    return data.changes.get(KEY_VALIDATORS) or b""
