"""What a peer keeps for ever of each ended epoch: its boundary's finality and the set that came after it.

Namespace E of the store: epoch → EpochProof. Retention never deletes it; a rollback removes those above its
target. It lets a stranger walk from genesis to today, one certificate an epoch (ledger.proofs.light).
"""

from __future__ import annotations

from ledger.blocks import Header
from ledger.codec import decode, encode
from ledger.epochs import is_ending
from ledger.errors import LocalError
from ledger.proofs.light import EpochProof, FinalityProof
from ledger.records import be
from ledger.storage.kv import Kv

SPACE = b"E"


class EpochLog:
    """See the module. Reads the store itself, never a cache: it may be used in a thread beside commits."""

    def __init__(self, kv: Kv) -> None:
        self._kv = kv

    def proof(self, epoch: int) -> EpochProof | None:
        """Why an epoch has ended and which set follows; None while it has not."""
        data = self._kv.get(epoch_key(epoch)) if epoch >= 0 else None
        return None if data is None else decode(EpochProof, data)

    def proofs(self, first: int, limit: int) -> tuple[EpochProof, ...]:
        """Of ended epochs from `first` on, ascending, at most `limit`."""
        found = self._kv.scan(SPACE, epoch_key(max(first, 0)), limit)
        return tuple(decode(EpochProof, data) for _, data in found)

    def upto(self, epoch: int) -> tuple[EpochProof, ...]:
        """All that lead from genesis to the set of `epoch`. Raises LocalError when one is missing."""
        found = self.proofs(0, epoch) if epoch > 0 else ()
        if len(found) != max(epoch, 0):
            raise LocalError(f"the store is damaged: the way to epoch {epoch} has {len(found)} proofs")
        return found

    def tail(self, header: Header) -> tuple[bytes, ...]:
        """The headers between this block and the certificate that names it or its tail: () for all but
        boundaries."""
        if not is_ending(header):
            return ()
        proof = self.proof(header.epoch)
        if proof is None:
            raise LocalError(f"the store is damaged: no proof of the end of epoch {header.epoch}")
        return proof.finality.path


def epoch_key(epoch: int) -> bytes:
    """Where the proof of an ended epoch stands in the store."""
    return SPACE + be(epoch)


def entry(
    header: Header, parent: bytes, path: tuple[bytes, ...], certificate: bytes, next_set: bytes
) -> tuple[bytes, bytes]:
    """The pair that the commit of a boundary writes. `parent`: the header before it."""
    finality = FinalityProof(header.encode(), path, certificate)
    return epoch_key(header.epoch), encode(EpochProof(next_set, parent, finality))
