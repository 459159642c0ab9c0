"""The file by which validators agree on their next set: readable JSON, signatures added one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from ledger.codec import decode, encode
from ledger.epochs import CHANGE_DOMAIN, change_message, sign_change
from ledger.keys import Key, public_key_from_hex, verify
from ledger.limits import VALIDATORS_BYTES_MAX, VALIDATORS_MAX
from ledger.proofs.certificate import Validator, ValidatorSet
from node.client.signed_file import Signature, judged, read_signed, with_word

FORMAT: Final = "gridpact-validators/2"
CHANGE_FILE_BYTES_MAX: Final = 4 * VALIDATORS_BYTES_MAX + 512 * VALIDATORS_MAX


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A member of the next set; `key` in hex."""

    key: str
    weight: int
    moniker: str


class ChangeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file. `epoch` is the one that begins; `valid_until_ms`: Unix time up to which it may be carried in.
    Signed is this time with the encoding of the set that it describes."""

    format: str
    chain_id: str
    epoch: int
    valid_until_ms: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    members: tuple[Member, ...]
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def of(cls, chain_id: str, next_: bytes, valid_until_ms: int) -> ChangeFile:
        """An unsigned change to an encoded set."""
        found = decode(ValidatorSet, next_)
        members = tuple(Member(key=v.key.hex(), weight=v.weight, moniker=v.moniker) for v in found.members)
        return cls(
            format=FORMAT,
            chain_id=chain_id,
            epoch=found.epoch,
            valid_until_ms=valid_until_ms,
            members=members,
        )

    @property
    def next_set(self) -> ValidatorSet:
        """The set that it describes."""
        members = (Validator(bytes.fromhex(v.key), v.weight, v.moniker) for v in self.members)
        return ValidatorSet(self.epoch, tuple(members))

    @property
    def encoded(self) -> bytes:
        """The next set as it is signed and sent."""
        return encode(self.next_set)


def read_change(file: Path) -> ChangeFile:
    """The change in a file. Raises ConfigError naming what is wrong, Refused for a malformed key or set."""
    change = read_signed(
        file,
        ChangeFile,
        "change of the validators",
        format_=FORMAT,
        bytes_max=CHANGE_FILE_BYTES_MAX,
        signatures_max=VALIDATORS_MAX,
    )
    for number, member in enumerate(change.members):
        public_key_from_hex(member.key, f"members[{number}].key")
    change.next_set.check()
    return change


def signed(change: ChangeFile, key: Key) -> ChangeFile:
    """The change with this key's signature in place of any former one."""
    word = sign_change(key, change.chain_id, change.encoded, change.valid_until_ms)
    return msgspec.structs.replace(change, signatures=with_word(change.signatures, key.public, word))


def collected(change: ChangeFile, now: ValidatorSet) -> tuple[dict[int, bytes], list[str]]:
    """The valid signatures by member of the set in force, ascending, and the keys of those that are not."""
    message = change_message(change.encoded, change.valid_until_ms)
    members = {member.key: index for index, member in enumerate(now.members)}

    def holds(public: bytes, word: bytes) -> bool:
        return public in members and verify(public, CHANGE_DOMAIN, change.chain_id, message, word)

    good, foreign = judged(change.signatures, holds)
    return dict(sorted((members[public], word) for public, word in good.items())), foreign
