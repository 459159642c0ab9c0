"""Messages of an epoch that is not ours (rule 12). Nobody is to blame for them: one of the two is behind.

Who is behind us gets the certificate that ended its epoch: with the headers that it holds, or fetches, its
own core commits the boundary and goes on. Who is ahead of us shows where the missing blocks are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.limits import ANSWER_EVERY_MS
from consensus.messages import Certified, Message, encode_message
from ledger.codec import encode
from ledger.errors import Refused
from ledger.limits import EVIDENCE_EPOCHS_MAX
from ledger.proofs.light import decode_certificate
from node.limits import OTHER_EPOCH_EVERY_MS
from node.notary import Notary
from node.wire import TipNote
from p2p.network import Lane, Network


def is_answer(message: Message) -> bool:
    """Is this what we tell one that is behind? It is not to be answered in turn: the other may have gone on
    meanwhile, and the two would never come to an end. Who is behind says more than that."""
    return isinstance(message, Certified)


@dataclass(slots=True)
class OtherEpochs:
    """See the module. `voter` is our validator key, b"" without one; `told(peer id, height)` hears of heights
    that a peer must hold."""

    notary: Notary
    network: Network
    voter: bytes
    told: Callable[[str, int], None]
    now_ms: Callable[[], int]
    _answered_ms: dict[str, int] = field(default_factory=dict)
    _read_ms: dict[str, int] = field(default_factory=dict)

    def heard(self, peer_id: str, epoch: int) -> None:
        """A peer that proved a validator key speaks of this epoch."""
        if epoch > self.notary.validators.epoch:
            self.told(peer_id, self.notary.store.tip.height + 1)
        elif epoch < self.notary.validators.epoch:
            self._answer(peer_id, epoch)

    def listens(self, peer_id: str) -> bool:
        """Is what a peer without a seat here says to be read? Now and then: anybody may make a key and claim
        an epoch, and one message says where it stands."""
        now_ms, last_ms = self.now_ms(), self._read_ms.get(peer_id)
        if last_ms is not None and now_ms < last_ms + OTHER_EPOCH_EVERY_MS:
            return False
        self._read_ms[peer_id] = now_ms
        return True

    def gone(self, peer_id: str) -> None:
        """A neighbour is gone."""
        self._answered_ms.pop(peer_id, None)
        self._read_ms.pop(peer_id, None)

    def voted(self, key: bytes, epoch: int) -> bool:
        """Was this key a member of the set of `epoch`, as far as is known here?"""
        try:
            return self.notary.validators_of(epoch).index(key) is not None
        except Refused:
            return False

    def last_seat(self, key: bytes) -> int | None:
        """The newest ended epoch in whose set this key was; None when it was in none of the last few."""
        ours = self.notary.validators.epoch
        lately = range(ours - 1, max(-1, ours - 1 - EVIDENCE_EPOCHS_MAX), -1)
        return next((epoch for epoch in lately if self.voted(key, epoch)), None)

    def _answer(self, peer_id: str, epoch: int) -> None:
        last_ms = self._answered_ms.get(peer_id)
        if last_ms is not None and self.now_ms() < last_ms + ANSWER_EVERY_MS:
            return
        self._answered_ms[peer_id] = self.now_ms()
        tip, ended = self.notary.store.tip, self.notary.store.epochs.proof(epoch)
        if ended is not None and self.voted(self.voter, epoch):  # from others it would not take it
            certificate = decode_certificate(ended.finality.certificate)
            self.network.send(peer_id, Lane.CONSENSUS, encode_message(Certified(certificate)))
        self.network.send(peer_id, Lane.BULK, encode(TipNote(tip.height, tip.time_ms)))
