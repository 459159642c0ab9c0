"""The box of a copy's key: for its reader alone, and of one copy alone."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ledger.codec import encode
from ledger.copy_records import VolumeCopy
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import COPY_BOX_BYTES_MAX, NAME_CHARS_MAX
from node.sealed.copy_wire import KEEP_BYTES_MAX, Keep, open_key, seal_key
from node.sealed.sealing import seal

BOT, OTHER = Key(b"b" * 32), Key(b"o" * 32)
SECRET = b"k" * 32
KEEP = Keep(b"d" * 32, "web/0", 3, "data", b"s" * 32, 1000, b"c" * 32)


def copy(box: bytes) -> VolumeCopy:
    return VolumeCopy("data", b"s" * 32, 1000, b"c" * 32, box, (b"n" * 32,))


def rule(reader: Key, chain_id: str, deployment: bytes, slot: str, found: VolumeCopy) -> str:
    with pytest.raises(Refused) as caught:
        open_key(reader, chain_id, deployment, slot, found)
    return caught.value.rule


def test_a_box_opens_for_its_reader_and_its_copy_alone() -> None:
    """[C17] Else a holder could have the key of another slot's volume: by recording that box as its own."""
    sealed = seal_key(BOT.public, "chain", KEEP, SECRET)
    assert open_key(BOT, "chain", b"d" * 32, "web/0", copy(sealed)) == SECRET
    assert SECRET not in sealed
    assert rule(OTHER, "chain", b"d" * 32, "web/0", copy(sealed)) == "seal.not_ours"
    assert rule(BOT, "chain", b"d" * 32, "web/0", copy(sealed[:-1] + b"x")) == "seal.not_ours"
    for chain_id, deployment, slot, changes in (
        ("other", b"d" * 32, "web/0", {}),
        ("chain", b"e" * 32, "web/0", {}),
        ("chain", b"d" * 32, "web/1", {}),
        ("chain", b"d" * 32, "web/0", {"volume": "more"}),
        ("chain", b"d" * 32, "web/0", {"sha256": b"t" * 32}),
    ):
        assert rule(BOT, chain_id, deployment, slot, replace(copy(sealed), **changes)) == "copies.key"


@pytest.mark.parametrize(
    "inside", [b"", b"garbage", encode(["chain", b"d" * 32, "web/0", "data", b"s" * 32])]
)
def test_what_is_no_key_is_refused(inside: bytes) -> None:
    assert rule(BOT, "chain", b"d" * 32, "web/0", copy(seal(BOT.public, inside))) == "copies.key"


def test_a_key_has_one_length() -> None:
    for key in (b"", b"k" * 31, b"k" * 33):
        sealed = seal_key(BOT.public, "chain", KEEP, key)
        assert rule(BOT, "chain", b"d" * 32, "web/0", copy(sealed)) == "copies.key"


def test_the_longest_names_fit() -> None:
    longest = replace(KEEP, slot=f"{'w' * NAME_CHARS_MAX}/999", term=1 << 40, volume="v" * NAME_CHARS_MAX)
    assert len(encode(longest)) <= KEEP_BYTES_MAX
    assert len(seal_key(BOT.public, "c" * NAME_CHARS_MAX, longest, SECRET)) <= COPY_BOX_BYTES_MAX
