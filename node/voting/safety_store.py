"""Sign state on disk: one LevelDB directory, owned by one validator key on one chain.

What the core promises is written and synced here before it is sent: votes with the header and the
batches that they name. Certificates ride along with the next synced write. Everything up to the
committed view is pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from consensus.messages import Ready, Record
from consensus.safety import SafetyState, restore
from ledger.blocks import decode_header
from ledger.codec import decode, encode
from ledger.proofs.certificate import Certificate, VoteKind
from ledger.records import be
from ledger.storage.kv import Kv
from ledger.storage.store import SMALL_ROOM, KeyValue
from node.limits import CERTIFICATES_RIDING_MAX

# Votes and certificates by view, kind and epoch (left out for epoch 0). Views grow over all epochs, so that
# pruning needs the view alone; where two epochs meet they overlap, and each epoch's votes stand apart.
_RECORD = b"v/"
_CERTIFICATE = b"c/"
_BATCH = b"b/"
_USES = b"u/"  # view + digest: which batches a voted header of that view needs
_FLOOR = b"f/view"  # votes up to this view were forgotten: that far the chain must be, to vote again


@dataclass(slots=True)
class SafetyStore:
    """See the module. `kv` is a KeyValue in a real peer, memory in simulations."""

    kv: Kv
    riding: dict[bytes, bytes] = field(default_factory=dict)  # certificates that wait for a synced write

    @classmethod
    def open(cls, path: Path, chain_id: str, validator: bytes, *, create: bool) -> SafetyStore:
        """Open the sign state of this key. Raises LocalError for another key's or chain's, or when it
        is missing and `create` is False: a validator never votes without its memory."""
        owner = f"sign state {chain_id} {validator.hex()}"
        return cls(KeyValue.open(path, owner, create=create, room=SMALL_ROOM))

    def load(self, epoch: int, tip_view: int) -> tuple[SafetyState, dict[bytes, bytes]]:
        """Promises and certificates of an epoch above the committed view, and the batches of the voted
        headers. Those of other epochs stay on disk: an older copy of the chain may come to them again."""
        records = [decode(Record, data) for _, data in self.kv.scan(_RECORD)]
        certificates = [decode(Certificate, data) for _, data in self.kv.scan(_CERTIFICATE)]
        state = restore(records, certificates, epoch, tip_view)
        # In the order of headers, not of a set: what is held first is proposed first, and runs must replay.
        wanted = dict.fromkeys(digest for header in state.headers.values() for digest in header.batches)
        found = ((digest, self.kv.get(_BATCH + digest)) for digest in wanted)
        return state, {digest: data for digest, data in found if data is not None}

    @property
    def floor(self) -> int:
        """The highest view whose votes were forgotten, because its block was committed; 0: none."""
        found = self.kv.get(_FLOOR)
        return 0 if found is None else int.from_bytes(found, "big")

    @property
    def torn(self) -> int:
        """As KeyValue.torn; 0 in memory."""
        return self.kv.torn if isinstance(self.kv, KeyValue) else 0

    @property
    def mended(self) -> str:
        """As KeyValue.mended; empty in memory."""
        return self.kv.mended if isinstance(self.kv, KeyValue) else ""

    def highest(self) -> dict[VoteKind, int]:
        """The highest view of which a vote is remembered, by kind; kinds without one are left out."""
        found: dict[VoteKind, int] = {}
        for key, _ in self.kv.scan(_RECORD):
            place = key[len(_RECORD) :]
            view, kind = int.from_bytes(place[:8], "big"), VoteKind(place[8])
            found[kind] = max(view, found.get(kind, 0))
        return found

    def persist(self, ready: Ready, batch: Callable[[bytes], bytes | None]) -> None:
        """Write and sync the votes of `ready`, with the certificates that came since the last ones.

        Certificates alone are not worth a write: others hold them, too, and they come again.
        """
        puts: dict[bytes, bytes] = {}
        for record in ready.records:
            puts[_RECORD + _place(record.epoch, record.view, record.kind)] = encode(record)
            if record.header:
                for digest in decode_header(record.header).batches:
                    puts[_USES + be(record.view) + digest] = b""
                    data = batch(digest)
                    if data is not None:
                        puts[_BATCH + digest] = data
        for certificate in ready.certificates:
            said = certificate.statement
            self.riding[_CERTIFICATE + _place(said.epoch, said.view, said.kind)] = encode(certificate)
        if puts or len(self.riding) > CERTIFICATES_RIDING_MAX:
            self.kv.write({**self.riding, **puts}, (), sync=bool(puts))
            self.riding.clear()

    def prune(self, view: int) -> None:
        """Forget all up to a committed view. After the block is committed, never before."""
        last = _CERTIFICATE + be(view + 1)
        self.riding = {key: data for key, data in self.riding.items() if key >= last}
        deletes: list[bytes] = []
        for prefix in (_RECORD, _CERTIFICATE):
            deletes.extend(_up_to(self.kv.scan(prefix), prefix, view))
        uses = list(_up_to(self.kv.scan(_USES), _USES, view))
        kept = {key[len(_USES) + 8 :] for key, _ in self.kv.scan(_USES, _USES + be(view + 1))}
        batches = {key[len(_USES) + 8 :] for key in uses} - kept
        deletes.extend(uses)
        deletes.extend(_BATCH + digest for digest in batches)
        if deletes:
            floor = max(view, self.floor)
            self.kv.write({_FLOOR: be(floor)}, deletes, sync=False)

    def close(self) -> None:
        """Idempotent."""
        self.kv.close()


def _place(epoch: int, view: int, kind: VoteKind) -> bytes:
    return be(view) + bytes([kind]) + (be(epoch) if epoch else b"")


def _up_to(pairs: Iterable[tuple[bytes, bytes]], prefix: bytes, view: int) -> Iterable[bytes]:
    for key, _ in pairs:
        if int.from_bytes(key[len(prefix) : len(prefix) + 8], "big") > view:
            return
        yield key
