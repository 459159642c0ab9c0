"""What a bot and a holder say about secrets: who may say it, for whom, and that nobody else can read it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ledger.codec import encode
from ledger.errors import Refused
from ledger.keys import Key
from node.limits import SECRET_BYTES_MAX, SECRETS_BYTES_MAX
from node.sealed.sealing import seal, unseal
from node.sealed.secret_wire import Given, Place, check_here, digest_of, make_given, make_here, open_given

CONSUMER, BOT, NODE, OTHER = (Key(bytes([n]) * 32) for n in range(1, 5))
PLACE = Place("test", b"d" * 32, "web/0", 3, NODE.public)
SENDERS = (CONSUMER.public, BOT.public)
VALUES = {"token": b"correct horse", "tls-key": b"battery staple"}


def opened(given: Given, key: Key = NODE, place: Place = PLACE) -> dict[str, bytes]:
    return open_given(given, key, place, SENDERS, tuple(VALUES))


def rule(given: Given, key: Key = NODE, place: Place = PLACE) -> str:
    with pytest.raises(Refused) as caught:
        opened(given, key, place)
    return caught.value.rule


@pytest.mark.parametrize("sender", [CONSUMER, BOT])
def test_the_holder_opens_what_the_consumer_or_its_bot_gave(sender: Key) -> None:
    given = make_given(sender, PLACE, VALUES)
    assert opened(given) == VALUES
    sent = encode(given)
    assert not any(value in sent or name.encode() in sent for name, value in VALUES.items())
    assert digest_of(given) != digest_of(make_given(sender, PLACE, VALUES))  # another box each time


def test_nobody_else_opens_it() -> None:
    given = make_given(BOT, PLACE, VALUES)
    assert rule(given, OTHER) == "seal.not_ours"
    assert rule(given, CONSUMER) == "seal.not_ours"


@pytest.mark.parametrize(
    "change",
    [{"term": 2}, {"term": 4}, {"slot": "web/1"}, {"deployment": b"e" * 32}, {"chain_id": "other"}],
)
def test_secrets_of_another_term_slot_deployment_or_chain_are_refused(change: dict[str, object]) -> None:
    """A box that was given for one place is none for another, though the same giver signed and sealed it."""
    assert rule(make_given(BOT, replace(PLACE, **change), VALUES)) == "secrets.sender"


def test_a_box_for_another_place_under_a_new_signature_is_refused() -> None:
    """The word outside and the word inside must be the same: a giver cannot sign another's box anew."""
    box = make_given(BOT, replace(PLACE, term=2), VALUES).sealed
    signature = BOT.sign("secrets-given/1", "test", encode(PLACE) + box)
    assert rule(Given(BOT.public, box, signature)) == "secrets.place"


def test_a_strangers_secrets_are_refused() -> None:
    assert rule(make_given(OTHER, PLACE, VALUES)) == "secrets.sender"
    given = make_given(BOT, PLACE, VALUES)
    assert rule(replace(given, sender=CONSUMER.public)) == "secrets.sender"
    assert rule(replace(given, sealed=given.sealed[:-1] + b"x")) == "secrets.sender"


def test_other_names_than_the_contracts_are_refused() -> None:
    for values in ({"token": b"x"}, VALUES | {"more": b"x"}, {}):
        assert rule(make_given(BOT, PLACE, values)) == "secrets.names"


def test_what_is_sealed_but_no_secrets_is_refused() -> None:
    box = seal(NODE.public, b"no secrets")
    assert rule(Given(BOT.public, box, BOT.sign("secrets-given/1", "test", encode(PLACE) + box))) == (
        "secrets.malformed"
    )


def test_sizes_are_bounded() -> None:
    make_given(BOT, PLACE, {"a": bytes(SECRET_BYTES_MAX)})
    many = {f"s{n}": bytes(SECRET_BYTES_MAX) for n in range(SECRETS_BYTES_MAX // SECRET_BYTES_MAX)}
    make_given(BOT, PLACE, many)
    for values in ({"a": bytes(SECRET_BYTES_MAX + 1)}, many | {"one": b"x"}):
        with pytest.raises(Refused) as caught:
            make_given(BOT, PLACE, values)
        assert caught.value.rule == "secrets.too_long"
        # A giver that seals them all the same: only the one who opens the box can tell.
        box = seal(NODE.public, encode((PLACE, values)))
        given = Given(BOT.public, box, BOT.sign("secrets-given/1", "test", encode(PLACE) + box))
        with pytest.raises(Refused) as caught:
            open_given(given, NODE, PLACE, SENDERS, tuple(values))
        assert caught.value.rule == "secrets.too_long"


def test_only_consumer_and_bot_say_where_secrets_are() -> None:
    check_here(make_here(BOT, PLACE), "test", SENDERS)
    forged = replace(make_here(OTHER, PLACE), sender=BOT.public)
    moved = replace(make_here(BOT, PLACE), place=replace(PLACE, term=4))
    elsewhere = make_here(BOT, replace(PLACE, chain_id="other"))
    for here in (make_here(OTHER, PLACE), forged, moved, elsewhere):
        with pytest.raises(Refused) as caught:
            check_here(here, "test", SENDERS)
        assert caught.value.rule == "secrets.sender"


@pytest.mark.parametrize("public", [bytes(32), b"short", b"\x01" + bytes(31), b"\xff" * 32])
def test_nothing_is_sealed_to_what_is_no_key(public: bytes) -> None:
    with pytest.raises(Refused) as caught:
        seal(public, b"x")
    assert caught.value.rule == "seal.key"


def test_a_changed_box_does_not_open() -> None:
    box = seal(NODE.public, b"hidden")
    assert unseal(NODE, box) == b"hidden"
    for wrong in (box[:-1], box + b"x", b"", bytes(len(box)), bytes([box[0] ^ 1]) + box[1:]):
        with pytest.raises(Refused) as caught:
            unseal(NODE, wrong)
        assert caught.value.rule == "seal.not_ours"
