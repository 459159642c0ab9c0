"""Organisations: how they are founded, change, rotate keys and end. Rules N1 to N6."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import (
    DETAIL_CHARS_MAX,
    NAME_CHARS_MAX,
    ORGANISATION_BYTES_MAX,
    ORGANISATION_KEYS_MAX,
    ORGANISATION_MEMBERS_MAX,
    ORGANISATION_VALID_MS_MAX,
    POLICY_WEIGHT_MAX,
)
from ledger.organisations.history import proved_organisation, replay
from ledger.organisations.organisation import Deed, Rotation, charter_of, decode_deed, organisation_id
from ledger.organisations.records import DeedRecord, key_deed, key_organisation, organisation_at
from ledger.organisations.words import words_of_deed
from ledger.transactions import ActOrganisation
from tests.ledger.organisation_fixture import (
    ANNA,
    BEN,
    CARL,
    DORA,
    EVE,
    HOUR_MS,
    THREE,
    Office,
    founding,
    member,
    signed,
)
from tests.ledger.world import CHAIN_ID, STRANGER, World, key_of

# --- N1: founding


def test_founded_by_a_quorum_of_its_own_members() -> None:
    """[N1]"""
    world = World()
    deed = founding(world)
    receipt = world.ok(STRANGER, signed(deed, ANNA, CARL))
    id_ = organisation_id(deed.encode())
    assert receipt.events[0].kind == "organisation.founded"
    assert receipt.events[0].subject == id_.hex()
    found = organisation_at(world.state, id_)
    assert found is not None
    assert (found.name, found.version, found.quorum) == ("City of Ghent", 1, 2)
    assert [seat.name for seat in found.seats] == ["Anna", "Ben", "Carl"]
    assert found.seats[2].holds == {"": 1, "board": 1, "legal": 1}
    assert world.refused(STRANGER, signed(deed, ANNA, CARL)) == "organisation.exists"
    assert world.refused(STRANGER, signed(deed, ANNA, BEN)) == "organisation.exists", "its id is the deed's"


@pytest.mark.parametrize("ssh", [False, True], ids=["plain", "ssh"])
def test_signatures_as_of_approvals(ssh: bool) -> None:
    """[N1] [X1]"""
    world = World()
    deed = founding(world)
    good = signed(deed, ANNA, BEN, ssh=ssh)
    for index in (0, 1):
        key, word = good.signatures[index]
        for wrong in (word[:-1] + bytes([word[-1] ^ 1]), word[:-1], b"", good.signatures[1 - index][1]):
            words = list(good.signatures)
            words[index] = (key, wrong)
            body = ActOrganisation(good.payload, tuple(words))
            assert world.refused(STRANGER, body) == "organisation.signature"
    world.ok(STRANGER, good)


def bad_foundings(world: World) -> list[tuple[str, Deed]]:
    key = key_of("somebody").public.hex()
    anna, ben, carl = THREE
    charter = founding(world).charter
    assert charter is not None
    long = "x" * (NAME_CHARS_MAX + 1)

    def of(**changes: Any) -> Deed:
        return founding(world, charter=replace(charter, **changes))

    many = tuple(member(f"M{n}", key_of(f"m{n}")) for n in range(ORGANISATION_MEMBERS_MAX + 1))
    return [
        ("organisation.quorum", of(quorum=0)),
        ("organisation.quorum", of(quorum=4)),
        ("organisation.quorum", of(quorum=-1)),
        ("organisation.quorum", of(members=tuple(replace(m, weight=0) for m in THREE), quorum=1)),
        ("organisation.members", of(members=())),
        ("organisation.members", of(members=many)),
        ("organisation.members", of(members=(anna, replace(ben, name="Anna")))),
        ("organisation.members", of(members=(anna, replace(ben, key=anna.key)))),
        ("organisation.name", of(name="")),
        ("organisation.name", of(name=long)),
        ("organisation.name", of(name=" Ghent")),
        ("organisation.name", of(members=(anna, replace(ben, name="B\u202een")))),
        ("organisation.weight", of(members=(anna, ben, replace(carl, weight=-1)))),
        ("organisation.weight", of(members=(anna, ben, replace(carl, weight=POLICY_WEIGHT_MAX + 1)))),
        ("organisation.roles", of(members=(anna, ben, replace(carl, roles=("legal", "board"))))),
        ("organisation.roles", of(members=(anna, ben, replace(carl, roles=("board", "board"))))),
        ("organisation.roles", of(members=(anna, ben, replace(carl, roles=("Board",))))),
        ("organisation.roles", of(members=(anna, ben, replace(carl, roles=("",))))),
        ("key.malformed", of(members=(anna, ben, replace(carl, key=key.upper())))),
        ("organisation.shape", founding(world, charter=None)),
        ("organisation.shape", founding(world, version=2)),
        ("organisation.shape", founding(world, organisation=key)),
        ("organisation.shape", founding(world, rotation=Rotation(member="Anna", key=key))),
        ("organisation.shape", founding(world, act="change")),
        ("organisation.shape", founding(world, says="x" * (DETAIL_CHARS_MAX + 1))),
        ("organisation.shape", founding(world, says="a\x00b")),
        ("organisation.shape", founding(world, valid_until_ms=-1)),
        ("organisation.foreign_chain", founding(world, chain_id="other")),
        ("organisation.expired", founding(world, valid_until_ms=world.now_ms - 1)),
        (
            "organisation.valid_until",
            founding(world, valid_until_ms=world.now_ms + ORGANISATION_VALID_MS_MAX + 1),
        ),
    ]


def test_charters_that_make_no_sense() -> None:
    """[N1]"""
    world = World()
    for rule, deed in bad_foundings(world):
        assert world.refused(STRANGER, signed(deed, ANNA, BEN, CARL)) == rule, deed


def test_bytes_that_are_no_deed() -> None:
    world = World()
    good = signed(founding(world), ANNA, BEN)
    for payload, rule in (
        (b"", "organisation.malformed"),
        (b"{}", "organisation.malformed"),
        (good.payload[:-1], "organisation.malformed"),
        (good.payload.replace(b'"says":""', b'"more":1,"says":""'), "organisation.malformed"),
        (good.payload + b" ", "organisation.not_canonical"),
        (good.payload.replace(b'"says":""', b'"says": ""'), "organisation.not_canonical"),
        (good.payload.replace(b'"says":""', b'"says":"","says":""'), "organisation.not_canonical"),
        (b" " * (ORGANISATION_BYTES_MAX + 1), "organisation.too_long"),
    ):
        assert world.refused(STRANGER, ActOrganisation(payload, good.signatures)) == rule


def test_who_signs_a_founding() -> None:
    """[N1]"""
    world = World()
    deed = founding(world)
    assert world.refused(STRANGER, signed(deed)) == "organisation.no_quorum"
    assert world.refused(STRANGER, signed(deed, ANNA)) == "organisation.no_quorum"
    assert world.refused(STRANGER, signed(deed, ANNA, BEN, DORA)) == "organisation.signers"
    good = signed(deed, ANNA, BEN)
    backwards = ActOrganisation(good.payload, good.signatures[::-1])
    twice = ActOrganisation(good.payload, (good.signatures[0], good.signatures[0], good.signatures[1]))
    assert world.refused(STRANGER, backwards) == "organisation.signers"
    assert world.refused(STRANGER, twice) == "organisation.signers"
    one = founding(world, member("Anna", ANNA, weight=1), member("Ben", BEN, weight=0), quorum=1)
    assert world.refused(STRANGER, signed(one, BEN)) == "organisation.no_quorum"
    world.ok(STRANGER, signed(one, ANNA))


# --- N2: changes


def test_a_change_is_signed_by_those_before_and_those_after() -> None:
    """[N2] Safe's and TUF's rule: neither alone."""
    office = Office(World())
    dora, eve = member("Dora", DORA), member("Eve", EVE)
    assert office.change(dora, eve, by=(ANNA, BEN)) == "organisation.no_quorum", "nobody after it signed"
    assert office.change(dora, eve, by=(DORA, EVE)) == "organisation.no_quorum", "nobody before it signed"
    assert office.change(dora, eve, by=(ANNA, DORA, EVE)) == "organisation.no_quorum"
    assert office.change(dora, eve, by=(ANNA, BEN, DORA)) == "organisation.no_quorum"
    assert office.change(dora, eve, by=(ANNA, BEN, DORA, EVE)) == ""
    assert [seat.name for seat in office.now.seats] == ["Dora", "Eve"]
    assert office.now.version == 2
    assert office.change(*THREE, by=(ANNA, BEN)) == "organisation.no_quorum", "they are strangers now"


def test_one_member_alone_changes_nothing() -> None:
    """[N2]"""
    office = Office(World())
    before = office.now
    for members, quorum in (
        ((member("Anna", ANNA, "board"),), 1),
        (THREE, 1),
        ((*THREE, member("Eve", EVE)), 2),
        (tuple(replace(m, weight=9 if m.name == "Anna" else 1) for m in THREE), 2),
    ):
        assert office.change(*members, by=(ANNA,), quorum=quorum) == "organisation.no_quorum"
    assert office.act(office.deed("dissolve"), ANNA) == "organisation.no_quorum"
    assert office.now == before


def test_a_quorum_that_could_never_be_met_comes_not_into_force() -> None:
    """[N2] Nor one that only keys of nobody could meet."""
    office = Office(World())
    ghosts = tuple(member(f"Ghost {n}", key_of(f"ghost {n}")) for n in range(3))
    assert office.change(*THREE, by=(ANNA, BEN, CARL), quorum=4) == "organisation.quorum"
    assert office.change(*THREE, by=(ANNA, BEN, CARL), quorum=0) == "organisation.quorum"
    assert office.change(*ghosts, by=(ANNA, BEN, CARL)) == "organisation.no_quorum"
    assert office.change(by=(ANNA, BEN, CARL)) == "organisation.members"


def test_stale_late_and_empty_changes() -> None:
    """[N2]"""
    world = World()
    office = Office(world)
    kept_back = office.charter(*THREE, member("Eve", EVE))
    assert office.change(*THREE, by=(ANNA, BEN)) == "organisation.same"
    assert office.change(*THREE, by=(ANNA, BEN, CARL), quorum=3) == ""
    assert office.act(kept_back, ANNA, BEN, CARL) == "organisation.stale"
    assert office.act(replace(kept_back, version=9), ANNA, BEN, CARL) == "organisation.stale"
    late = office.charter(*THREE, quorum=2)
    world.run(step_ms=HOUR_MS + 5_000)
    assert office.act(late, ANNA, BEN, CARL) == "organisation.expired"
    far = replace(late, valid_until_ms=world.now_ms + ORGANISATION_VALID_MS_MAX + 10_000)
    assert office.act(far, ANNA, BEN, CARL) == "organisation.valid_until"
    unknown = replace(office.charter(*THREE, quorum=2), organisation="ab" * 32)
    assert office.act(unknown, ANNA, BEN, CARL) == "organisation.unknown"
    other_chain = replace(office.charter(*THREE, quorum=2), chain_id="other")
    assert office.act(other_chain, ANNA, BEN, CARL) == "organisation.foreign_chain"


def test_weights() -> None:
    """[N2]"""
    heavy = (member("Anna", ANNA, weight=3), member("Ben", BEN, weight=2), member("Carl", CARL, weight=2))
    office = Office(World(), *heavy, quorum=4, by=(BEN, CARL))
    more = (*heavy, member("Dora", DORA, weight=0))
    assert office.change(*more, by=(ANNA,)) == "organisation.no_quorum"
    assert office.change(*more, by=(BEN, CARL)) == ""
    assert office.change(*heavy, by=(BEN, DORA)) == "organisation.no_quorum", "a weight of 0 has no say"
    assert office.change(*heavy, by=(ANNA, BEN)) == ""


# --- N3, N4: keys


def test_a_key_is_rotated_by_the_old_and_the_new_alone() -> None:
    """[N3]"""
    office = Office(World())
    deed = office.rotation("Anna", DORA)
    for by in ((ANNA,), (DORA,), (BEN, CARL), (ANNA, BEN, DORA), (BEN, DORA), (BEN, CARL, DORA)):
        assert office.act(deed, *by) == "organisation.signers"
    assert office.act(replace(deed, version=3), ANNA, DORA) == "organisation.stale"
    assert office.act(office.rotation("Nobody", DORA), ANNA, DORA) == "organisation.member"
    assert office.act(office.rotation("Anna", BEN), ANNA, BEN) == "organisation.former_key"
    assert office.act(deed, ANNA, DORA) == ""
    anna = office.now.seats[0]
    assert (anna.name, anna.key, anna.earlier, anna.holds) == (
        "Anna",
        DORA.public,
        (ANNA.public,),
        {"": 1, "board": 1},
    )
    assert office.act(deed, ANNA, DORA) == "organisation.stale", "the same deed again"
    assert office.act(office.rotation("Anna", ANNA), ANNA, DORA) == "organisation.former_key"
    assert office.change(*THREE, by=(BEN, CARL)) == "organisation.former_key"
    assert office.change(*THREE[:2], by=(ANNA, BEN, CARL), quorum=1) == "organisation.former_key"
    back = (member("Anna", DORA, "board"), *THREE[1:])
    assert office.change(*back, member("Eve", EVE), by=(ANNA, BEN)) == "organisation.signers"
    assert office.change(*back, member("Eve", EVE), by=(DORA, BEN)) == ""
    assert office.now.seats[0].earlier == (ANNA.public,), "a change keeps what it does not touch"


def test_a_lost_key_is_replaced_by_the_others() -> None:
    """[N4]"""
    office = Office(World())
    assert office.rotate("Anna", ANNA, DORA) == ""
    new = (member("Anna", EVE, "board"), *THREE[1:])
    assert office.change(*new, by=(BEN,)) == "organisation.no_quorum"
    assert office.change(*new, by=(BEN, CARL)) == ""
    anna = office.now.seats[0]
    assert (anna.key, anna.earlier, anna.lost) == (EVE.public, (), (ANNA.public, DORA.public))
    assert anna.holds == {"": 3, "board": 3}, "held anew"
    assert office.now.seats[1].holds == {"": 1, "board": 1}
    assert office.rotate("Anna", EVE, DORA) == "organisation.former_key"


def test_so_many_rotations_and_no_more() -> None:
    """[N3] The organisation gives a new key then, and forgets the oldest."""
    office = Office(World())
    keys = [ANNA, *(key_of(f"anna {n}") for n in range(ORGANISATION_KEYS_MAX + 2))]
    for old, new in pairwise(keys[: ORGANISATION_KEYS_MAX + 1]):
        assert office.rotate("Anna", old, new) == ""
    last, more = keys[ORGANISATION_KEYS_MAX], keys[ORGANISATION_KEYS_MAX + 1]
    assert office.rotate("Anna", last, more) == "organisation.rotations"
    assert office.change(member("Anna", more, "board"), *THREE[1:], by=(BEN, CARL)) == ""
    lost = office.now.seats[0].lost
    assert len(lost) == ORGANISATION_KEYS_MAX
    assert lost[-1] == last.public
    assert ANNA.public not in lost


# --- N5, N6


def test_dissolved_for_good() -> None:
    """[N5]"""
    office = Office(World())
    assert office.act(office.deed("dissolve"), ANNA, BEN) == ""
    assert (office.now.dissolved, office.now.seats) == (True, ())
    assert office.change(*THREE, by=(ANNA, BEN)) == "organisation.dissolved"
    assert office.rotate("Anna", ANNA, DORA) == "organisation.dissolved"


def test_it_has_so_many_deeds_and_then_it_is_only_dissolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """[N5] All of them are kept, and replayed by who wants to know its members."""
    monkeypatch.setattr("ledger.organisations.organisation.ORGANISATION_DEEDS_MAX", 2)
    office = Office(World())
    assert office.rotate("Anna", ANNA, EVE) == ""
    assert office.rotate("Ben", BEN, DORA) == "organisation.too_many_deeds"
    assert office.change(*THREE, by=(EVE, BEN)) == "organisation.too_many_deeds"
    assert office.act(office.deed("dissolve"), EVE, BEN) == ""


def test_a_deed_holds_from_the_next_block_on_and_one_is_taken_in_a_block() -> None:
    """[N6]"""
    world = World()
    office = Office(world)
    first, second = office.charter(*THREE, member("Dora", DORA)), office.rotation("Anna", EVE)
    result = world.run(
        world.tx(STRANGER, signed(first, ANNA, BEN)),
        world.tx(STRANGER, signed(replace(second, version=3), ANNA, EVE)),
    )
    assert [receipt.rule for receipt in result.receipts] == ["", "organisation.busy"]
    before = organisation_at(world.state, office.id, world.height)
    after = organisation_at(world.state, office.id, world.height + 1)
    assert before is not None
    assert after is not None
    assert (before.version, after.version) == (1, 2)
    assert organisation_at(world.state, office.id) == after
    fresh = founding(world, name="Another")
    world.ok(STRANGER, signed(fresh, ANNA, BEN))
    assert organisation_at(world.state, organisation_id(fresh.encode()), world.height) is None


# --- following the deeds


def history(office: Office) -> list[DeedRecord]:
    found = (office.world.state.get(key_deed(office.id, n + 1)) for n in range(office.now.version))
    return [decode(DeedRecord, data) for data in found if data is not None]


def test_whoever_follows_the_deeds_comes_to_the_record() -> None:
    office = Office(World())
    office.rotate("Anna", ANNA, DORA)
    office.change(member("Anna", EVE, "board"), *THREE[1:], by=(BEN, CARL))
    assert proved_organisation(office.world.state, CHAIN_ID, office.id) == office.now
    assert proved_organisation(office.world.state, CHAIN_ID, bytes(32)) is None
    deeds = history(office)
    assert [one.version for one in replay(CHAIN_ID, deeds)] == [1, 2, 3]
    assert charter_of(replay(CHAIN_ID, deeds)[1]).members[0].key == DORA.public.hex()
    with pytest.raises(Refused, match=r"organisation\.foreign_chain"):
        replay("other", deeds)
    for wrong in (deeds[1:], deeds[::2], [deeds[0], deeds[0]], [deeds[0], deeds[2], deeds[1]]):
        with pytest.raises(Refused, match=r"organisation\."):
            replay(CHAIN_ID, wrong)
    late = replace(deeds[0], time_ms=deeds[0].time_ms + 2 * HOUR_MS)
    with pytest.raises(Refused, match=r"organisation\.expired"):
        replay(CHAIN_ID, [late])
    with pytest.raises(Refused, match=r"organisation\.busy"):
        replay(CHAIN_ID, [deeds[0], replace(deeds[1], height=deeds[0].height)])


def test_a_deed_of_another_organisation_stands_in_no_history() -> None:
    """The same three have founded two, and what they sign for the one changes nothing in the other."""
    world = World()
    mine, other = Office(world), Office(world)
    assert other.change(*THREE, member("Eve", EVE), by=(ANNA, BEN)) == ""
    founded, changed = history(mine)[0], history(other)[1]
    assert replay(CHAIN_ID, history(other))[-1] == other.now
    with pytest.raises(Refused, match=r"organisation\.unknown at organisation: .* another organisation"):
        replay(CHAIN_ID, [founded, changed])
    with pytest.raises(Refused, match=r"organisation\.unknown at organisation: .* founded before"):
        replay(CHAIN_ID, [changed])


def test_a_record_that_no_deed_made_is_not_believed() -> None:
    office = Office(World())
    state, found = office.world.state, office.now
    eve = replace(found.seats[0], name="Eve", key=EVE.public)
    state.put(key_organisation(office.id), encode(replace(found, seats=(*found.seats, eve))))
    with pytest.raises(Refused, match=r"organisation\.unknown"):
        proved_organisation(state, CHAIN_ID, office.id)
    state.put(key_organisation(office.id), encode(replace(found, version=2)))
    with pytest.raises(Refused, match=r"organisation\.unknown"):
        proved_organisation(state, CHAIN_ID, office.id)


# --- words


def test_a_deed_in_words() -> None:
    world = World()
    office = Office(world)
    assert words_of_deed(None, founding(world))[0] == (
        f"Anna ({ANNA.public.hex()}) is a member of weight 1, holds board"
    )
    changed = office.charter(
        member("Anna", DORA, "board"),
        member("Benjamin", BEN, "legal", weight=2),
        member("Eve", EVE),
        quorum=3,
    )
    assert words_of_deed(office.now, changed) == [
        f"Anna has lost the key {ANNA.public.hex()} and has {DORA.public.hex()} of weight 1, holds board",
        "what Anna signed before counts no more",
        "Ben is called Benjamin from then on",
        "Benjamin: weight 1 becomes 2",
        "Benjamin holds legal from then on",
        "Benjamin does not hold board any more",
        f"Eve ({EVE.public.hex()}) joins of weight 1",
        f"Carl ({CARL.public.hex()}) leaves; what they signed as a member counts no more",
        "weight 3 of 4 changes the organisation from then on",
        "warning: when the heaviest member's key is lost, nothing can be changed any more",
    ]
    assert words_of_deed(office.now, office.rotation("Anna", EVE)) == [
        f"Anna signs by the key {EVE.public.hex()} from then on",
        f"the key {ANNA.public.hex()} signs no more; what it signed as a member counts on",
    ]
    assert len(words_of_deed(office.now, office.deed("dissolve"))) == 1


@given(st.data())
def test_foreign_bytes_are_refused_by_rule(data: st.DataObject) -> None:
    """Whatever a deed's bytes are changed to: it reads back to itself, or is refused by name."""
    payload = founding(World()).encode()
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(len(payload), start + 40)))
    changed = payload[:start] + data.draw(st.binary(max_size=40)) + payload[end:]
    try:
        assert decode_deed(changed).encode() == changed
    except Refused as error:
        assert error.rule.startswith(("organisation.", "key."))


def test_a_deed_reads_back() -> None:
    deed = founding(World())
    assert decode_deed(deed.encode()) == deed
    keys: list[Key] = [ANNA, BEN]
    assert signed(deed, *keys).payload == deed.encode()
