"""Epochs in the state: the set in force, the one that follows it, and the change by which it came there.

A change is self-contained: the exact encoding of the next ValidatorSet (epoch + 1), the time up to which it
is valid, and signatures of a BFT quorum of the current set over both. Nobody can take a signature back: the
time ends it. Executed, it is *pending*, under the state root; the first header whose
`next_validators` names it is the epoch's last block, the *boundary* (docs/adr/0018, rule 12). Executing that
block puts the pending set in force [V4].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from ledger import keys
from ledger.blocks import Header, validators_hash
from ledger.codec import decode, decode_exact, encode
from ledger.errors import LocalError, Refused
from ledger.limits import CHANGE_VALID_MS_MAX, EVIDENCE_EPOCHS_MAX, VALIDATORS_BYTES_MAX, VALIDATORS_MAX
from ledger.outcome import Event
from ledger.proofs.certificate import ValidatorSet
from ledger.records import KEY_NEXT_VALIDATORS, KEY_VALIDATORS, key_past_validators
from ledger.state import Reader, State

CHANGE_DOMAIN: Final = "validators/2"


def current(state: Reader) -> ValidatorSet:
    """The set in force. Raises LocalError when the state holds none: its own rules are broken."""
    data = state.get(KEY_VALIDATORS)
    if data is None:
        raise LocalError("the state holds no validator set: its own rules are broken")
    return decode(ValidatorSet, data)


def pending(state: Reader) -> ValidatorSet | None:
    """The set that takes over at the next boundary, or None."""
    data = state.get(KEY_NEXT_VALIDATORS)
    return None if data is None else decode(ValidatorSet, data)


def pending_hash(state: Reader) -> bytes | None:
    """What `next_validators` is in a header whose `state_height` is this state's (None: `validators`)."""
    data = state.get(KEY_NEXT_VALIDATORS)
    return None if data is None else validators_hash(data)


def past(state: Reader, epoch: int) -> ValidatorSet | None:
    """The set of the current epoch or of one of the EVIDENCE_EPOCHS_MAX before it; None for others."""
    now = current(state)
    if epoch == now.epoch:
        return now
    data = state.get(key_past_validators(epoch)) if 0 <= epoch < now.epoch else None
    return None if data is None else decode(ValidatorSet, data)


def is_ending(header: Header) -> bool:
    """Does this header name another set for the time after it? Then it is its epoch's boundary, or of the
    tail above that; of committed blocks, the boundary. (consensus.epochs asks the same of one epoch.)"""
    return header.next_validators != header.validators


def change_message(next_: bytes, valid_until_ms: int) -> bytes:
    """The bytes that a member signs (under CHANGE_DOMAIN and the chain id): the encoded next set, and up to
    which block time it may be carried in, as 8 bytes, the highest first."""
    return valid_until_ms.to_bytes(8, "big") + next_


def sign_change(key: keys.Key, chain_id: str, next_: bytes, valid_until_ms: int) -> bytes:
    """A member's 64-byte signature over an encoded next set that is valid up to a block time."""
    return key.sign(CHANGE_DOMAIN, chain_id, change_message(next_, valid_until_ms))


def check_time(valid_until_ms: int, now_ms: int) -> None:
    """[V3] Raises Refused("change.expired" | "change.valid_until") when a change is not valid any more at a
    block time, or would be for too long."""
    if valid_until_ms < now_ms:
        detail = f"it was valid up to {valid_until_ms} ms, it is {now_ms}"
        raise Refused("change.expired", detail, "valid_until_ms")
    if valid_until_ms > now_ms + CHANGE_VALID_MS_MAX:
        days = CHANGE_VALID_MS_MAX // 86_400_000
        raise Refused("change.valid_until", f"at most {days} days ahead", "valid_until_ms")


def decode_set(data: bytes) -> ValidatorSet:
    """Foreign bytes to a validator set that makes sense. Raises Refused("validators.…")."""
    found = decode_exact(ValidatorSet, data, "validators", VALIDATORS_BYTES_MAX)
    found.check()
    return found


def check_next(now: ValidatorSet, next_: bytes, is_suspended: Callable[[bytes], bool]) -> ValidatorSet:
    """[V3] The decoded next set, if it may follow `now`. Raises Refused("validators.…", "change.…")."""
    found = decode_set(next_)
    if found.epoch != now.epoch + 1:
        raise Refused("change.epoch", f"epoch {found.epoch}, wanted {now.epoch + 1}", "next")
    if found.members == now.members:
        raise Refused("change.same", "nothing would change", "next")
    for member in found.members:
        if is_suspended(member.key):
            raise Refused("change.suspended", f"{member.moniker}: it was proved to have voted twice", "next")
    return found


def check_change(
    chain_id: str,
    now: ValidatorSet,
    next_: bytes,
    valid_until_ms: int,
    signatures: Sequence[tuple[int, bytes]],
    is_suspended: Callable[[bytes], bool],
) -> ValidatorSet:
    """[V3] The next set, if it may follow `now` and a BFT quorum of `now` signed it. `signatures`: member
    index in `now`, ascending, and signature. Whether it is still valid: `check_time`. Raises Refused with the
    broken rule."""
    found = check_next(now, next_, is_suspended)
    signers = [index for index, _ in signatures]
    if signers != sorted(set(signers)) or any(not 0 <= index < len(now.members) for index in signers):
        raise Refused("change.signers", "members of the current set, each once, ascending", "signatures")
    if not now.reached(signers):
        weight = sum(now.members[index].weight for index in signers)
        raise Refused("change.no_quorum", f"weight {weight} of {now.quorum}", "signatures")
    message = change_message(next_, valid_until_ms)
    for index, signature in signatures:
        if not _signed(now.members[index].key, chain_id, message, signature):
            raise Refused("change.signature", f"member {index}", "signatures")
    return found


@lru_cache(maxsize=2 * VALIDATORS_MAX)
def _signed(key: bytes, chain_id: str, message: bytes, signature: bytes) -> bool:
    """Remembered, since copies of one change that differ in a false signature would all be checked whole."""
    return keys.verify(key, CHANGE_DOMAIN, chain_id, message, signature)


def turn(state: State, header: Header) -> Event:
    """[V4] At the end of a boundary block: the pending set comes into force. Returns the event.

    Raises LocalError when the header, which a quorum made final, names another set than is pending here.
    """
    data = state.get(KEY_NEXT_VALIDATORS)
    if data is None or validators_hash(data) != header.next_validators:
        raise LocalError(f"height {header.height} ends its epoch with a set that is not the pending one here")
    before, after = current(state), decode(ValidatorSet, data)
    if validators_hash(encode(before)) != header.validators:
        raise LocalError(f"height {header.height} is of another validator set than the one in force here")
    state.put(KEY_VALIDATORS, data)
    state.delete(KEY_NEXT_VALIDATORS)
    state.put(key_past_validators(before.epoch), encode(before))
    if before.epoch >= EVIDENCE_EPOCHS_MAX:
        state.delete(key_past_validators(before.epoch - EVIDENCE_EPOCHS_MAX))
    return _event(before, after, header.next_validators)


def _event(before: ValidatorSet, after: ValidatorSet, hash_: bytes) -> Event:
    old = {member.key: member.weight for member in before.members}
    new = {member.key: member.weight for member in after.members}
    return Event(
        "validators.changed",
        hash_.hex(),
        {
            "epoch": after.epoch,
            "joined": len(new.keys() - old.keys()),
            "left": len(old.keys() - new.keys()),
            "reweighted": sum(new[key] != weight for key, weight in old.items() if key in new),
        },
    )
