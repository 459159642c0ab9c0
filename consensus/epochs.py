"""Rule 12: which block ends an epoch, and what of a final chain is committed.

The first header of an epoch whose `next_validators` is another set is its *boundary block*, the last block
of the epoch. What stands above it, the *tail*, has no batches; it only helps to make the boundary final,
and is never committed: whichever of its blocks a Final certificate names, all peers begin the next epoch on
the same block. Each block of the tail stands on the boundary itself, so that what proves the boundary final
stays one header long, however many views it takes.
"""

from __future__ import annotations

from ledger.blocks import Header
from ledger.proofs.certificate import ValidatorSet

Steps = list[tuple[bytes, Header]]  # (hash, header), oldest first


def is_ending(header: Header, validators: ValidatorSet) -> bool:
    """Is this the boundary of the epoch of `validators`, or of the tail above it?"""
    return header.epoch == validators.epoch and header.next_validators != header.validators


def until_boundary(path: Steps, validators: ValidatorSet) -> tuple[Steps, tuple[bytes, ...]]:
    """A final path, cut after the boundary of the epoch, and the encoded headers of the tail above it;
    the whole path and () when the epoch goes on."""
    for place, (_, header) in enumerate(path):
        if is_ending(header, validators):
            return path[: place + 1], tuple(above.encode() for _, above in path[place + 1 :])
    return path, ()
