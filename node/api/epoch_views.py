"""Epochs as the API shows them: who voted when, and how each epoch ended."""

from __future__ import annotations

from ledger.blocks import decode_header
from ledger.codec import decode, encode
from ledger.errors import LocalError
from ledger.proofs.certificate import ValidatorSet
from ledger.proofs.light import EpochProof
from node.api import models as m
from node.seam import PeerSeam


def validators_of(peer: PeerSeam, epoch: int) -> ValidatorSet:
    """The validators of an epoch that has begun. Raises LocalError for another."""
    if epoch == peer.validators.epoch:
        return peer.validators
    if epoch == 0:
        return peer.genesis.validator_set
    proof = peer.store.epochs.proof(epoch - 1)
    if proof is None:
        raise LocalError(f"the store is damaged: it does not say how epoch {epoch - 1} ended")
    return decode(ValidatorSet, proof.next_set)


def epochs(peer: PeerSeam, first: int, limit: int) -> m.Page[m.EpochView]:
    """Ended epochs from `first` on, ascending."""
    found = peer.store.epochs.proofs(first, limit + 1)
    before = validators_of(peer, first) if found else peer.validators
    items = []
    for proof in found[:limit]:
        items.append(_view(proof, before))
        before = decode(ValidatorSet, proof.next_set)
    return m.Page(items=items, next=str(first + limit) if len(found) > limit else "")


def _view(proof: EpochProof, before: ValidatorSet) -> m.EpochView:
    header, after = decode_header(proof.finality.header), decode(ValidatorSet, proof.next_set)
    old = {member.key: member for member in before.members}
    new = {member.key: member for member in after.members}
    both = [(member, new[key]) for key, member in old.items() if key in new]
    return m.EpochView(
        epoch=header.epoch,
        height=header.height,
        hash=header.hash.hex(),
        time_ms=header.time_ms,
        members=len(after.members),
        joined=[member.moniker for key, member in new.items() if key not in old],
        left=[member.moniker for key, member in old.items() if key not in new],
        reweighted=[member.moniker for member, now in both if member.weight != now.weight],
        proof=encode(proof),
    )
