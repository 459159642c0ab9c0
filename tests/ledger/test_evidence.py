"""Evidence of equivocation: what proves an offence, what does not, and what the ledger makes of it [V2]."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger import evidence as module
from ledger.blocks import ZERO_HASH, Header
from ledger.codec import encode, sha256
from ledger.errors import Refused
from ledger.evidence import (
    Evidence,
    SignedHeader,
    SignedVote,
    TwoProposals,
    TwoVotes,
    accused,
    check_evidence,
    offence_name,
)
from ledger.keys import Key
from ledger.proofs.certificate import (
    PROPOSE_DOMAIN,
    VOTE_DOMAIN,
    Statement,
    Validator,
    ValidatorSet,
    VoteKind,
    vote_message,
)
from ledger.proofs.light import Trust, verify_query
from ledger.records import KEY_VALIDATORS, Offence, key_offence
from ledger.state import read
from ledger.transactions import ReportEvidence
from tests.ledger.chain_fixture import VALIDATOR_KEYS, ChainWorld
from tests.ledger.world import CHAIN_ID, STRANGER, World, key_of

KEYS = [key_of(f"voter {n}") for n in range(4)]
SET = ValidatorSet(0, tuple(Validator(k.public, 1, f"v{n}") for n, k in enumerate(KEYS)))
A, B = sha256(b"block a"), sha256(b"block b")
NOTAR, SKIP, FINAL = VoteKind.NOTAR, VoteKind.SKIP, VoteKind.FINAL
BAD = KEYS[2]


def vote(
    kind: VoteKind, block: bytes = ZERO_HASH, key: Key = BAD, view: int = 5, epoch: int = 0
) -> SignedVote:
    """A vote as its voter signs it."""
    statement = Statement(kind, epoch, view, block)
    return SignedVote(statement, key.sign(VOTE_DOMAIN, CHAIN_ID, vote_message(statement)))


def block(time_ms: int, key: Key = BAD, **changes: Any) -> SignedHeader:
    """A proposal as its leader signs it."""
    made = Header(CHAIN_ID, 0, 5, 5, 4, A, time_ms, key.public, 3, A, SET.hash, SET.hash, ())
    header = replace(made, **changes)
    return SignedHeader(encode(header), key.sign(PROPOSE_DOMAIN, CHAIN_ID, header.hash))


def votes(first: SignedVote, second: SignedVote, key: Key = BAD) -> TwoVotes:
    return TwoVotes(key.public, first, second)


OFFENCES: tuple[tuple[str, Evidence], ...] = (
    ("two_notars", votes(vote(NOTAR, A), vote(NOTAR, B))),
    ("two_finals", votes(vote(FINAL, A), vote(FINAL, B))),
    ("notar_and_final", votes(vote(NOTAR, A), vote(FINAL, B))),
    ("skip_and_final", votes(vote(SKIP), vote(FINAL, A))),
    ("skip_and_final", votes(vote(FINAL, A), vote(SKIP))),
    ("two_proposals", TwoProposals(block(1), block(2))),
)
NO_OFFENCES: tuple[tuple[str, Evidence], ...] = (
    ("evidence.same", votes(vote(NOTAR, A), vote(NOTAR, A))),
    ("evidence.same", votes(vote(SKIP), vote(SKIP))),
    ("evidence.same", TwoProposals(block(1), block(1))),
    ("evidence.compatible", votes(vote(NOTAR, A), vote(FINAL, A))),
    ("evidence.compatible", votes(vote(NOTAR, A), vote(SKIP))),
    ("evidence.compatible", votes(vote(SKIP), vote(NOTAR, A))),
    ("evidence.views", votes(vote(NOTAR, A), vote(NOTAR, B, view=6))),
    ("evidence.views", TwoProposals(block(1), block(2, view=6))),
    ("evidence.epoch", votes(vote(NOTAR, A), vote(NOTAR, B, epoch=1))),
    ("evidence.epoch", votes(vote(NOTAR, A, epoch=1), vote(NOTAR, B, epoch=1))),
    ("evidence.epoch", TwoProposals(block(1), block(2, epoch=1))),
    ("evidence.signature", votes(vote(NOTAR, A), vote(NOTAR, B, key=KEYS[0]))),
    ("evidence.signature", votes(vote(NOTAR, A, key=KEYS[0]), vote(NOTAR, B))),
    ("evidence.signature", votes(vote(NOTAR, A), SignedVote(vote(NOTAR, B).statement, b""))),
    ("evidence.signature", TwoProposals(block(1), SignedHeader(block(2).header, block(1).signature))),
    ("evidence.signers", TwoProposals(block(1), block(2, key=KEYS[0]))),
    ("evidence.not_a_validator", votes(vote(NOTAR, A, STRANGER), vote(NOTAR, B, STRANGER), STRANGER)),
    ("evidence.not_a_validator", TwoProposals(block(1, STRANGER), block(2, STRANGER))),
    ("evidence.foreign_chain", TwoProposals(block(1), block(2, chain_id="other"))),
    ("evidence.vote", votes(vote(NOTAR, A), vote(NOTAR))),
    ("evidence.vote", votes(vote(SKIP, A), vote(FINAL, A))),
    ("evidence.vote", votes(vote(NOTAR, A), vote(NOTAR, B[:31]))),
    ("evidence.vote", votes(vote(NOTAR, A, view=0), vote(NOTAR, B, view=0))),
    ("header.malformed", TwoProposals(block(1), SignedHeader(b"", b""))),
    ("header.field_length", TwoProposals(block(1, state_root=b""), block(2))),
)


@pytest.mark.parametrize(("name", "shown"), OFFENCES, ids=lambda x: x if isinstance(x, str) else "")
def test_offences(name: str, shown: Evidence) -> None:
    """Each is proved by the set alone, and names its offender."""
    assert check_evidence(CHAIN_ID, SET, shown) == 2
    assert accused(shown) == BAD.public
    assert offence_name(shown) == name


@pytest.mark.parametrize(("rule", "shown"), NO_OFFENCES, ids=lambda x: x if isinstance(x, str) else "")
def test_no_offences(rule: str, shown: Evidence) -> None:
    with pytest.raises(Refused) as refusal:
        check_evidence(CHAIN_ID, SET, shown)
    assert refusal.value.rule == rule


def test_evidence_of_another_chain_proves_nothing() -> None:
    for _, shown in OFFENCES:
        with pytest.raises(Refused, match=r"evidence\.(signature|foreign_chain)"):
            check_evidence("other", SET, shown)


# Rules 3 to 5: what one honest validator may have signed in one view, whatever happened.
HONEST: tuple[frozenset[tuple[VoteKind, bytes]], ...] = tuple(
    frozenset(one)
    for x in (A, B)
    for one in (
        (),
        ((NOTAR, x),),
        ((SKIP, ZERO_HASH),),
        ((NOTAR, x), (SKIP, ZERO_HASH)),
        ((NOTAR, x), (FINAL, x)),
    )
)


def evidence_is_exact() -> None:
    """Two votes prove an offence if, and only if, no honest history holds both; and never across views."""
    every = [(kind, x) for kind in (NOTAR, FINAL) for x in (A, B)] + [(SKIP, ZERO_HASH)]
    for first, second in itertools.product(every, repeat=2):
        is_honest = any({first, second} <= history for history in HONEST)
        for view in (5, 6):
            shown = votes(vote(*first), vote(*second, view=view))
            try:
                check_evidence(CHAIN_ID, SET, shown)
                is_proof = True
            except Refused:
                is_proof = False
            assert is_proof == (view == 5 and not is_honest), (first, second, view)


def forged_proves_nothing() -> None:
    """Whoever lacks the key proves nothing: each true piece with one signature of somebody else."""
    for _, shown in OFFENCES:
        for part in ("first", "second"):
            forged = replace(shown, **{part: replace(getattr(shown, part), signature=bytes(64))})
            try:
                check_evidence(CHAIN_ID, SET, forged)
            except Refused as error:
                assert error.rule == "evidence.signature"
            else:
                raise AssertionError(f"{offence_name(shown)}: forged {part} was believed")


def test_honest_votes_are_never_evidence_and_all_others_are() -> None:
    evidence_is_exact()


def test_forged_evidence_proves_nothing() -> None:
    forged_proves_nothing()


def any_two_votes(first: Statement, second: Statement) -> bool:
    return first != second


def skip_never_counts(first: Statement, second: Statement) -> bool:
    return first.block != second.block and VoteKind.SKIP not in (first.kind, second.kind)


def signatures_are_not_checked(*_: object) -> None:
    return


@pytest.mark.parametrize(
    ("place", "mutant", "check"),
    [
        ("conflict", any_two_votes, evidence_is_exact),
        ("conflict", skip_never_counts, evidence_is_exact),
        ("_check_signature", signatures_are_not_checked, forged_proves_nothing),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_caught(
    place: str, mutant: Callable[..., Any], check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hand-broken variants: each must be caught by the property that is there for it."""
    monkeypatch.setattr(module, place, mutant)
    with pytest.raises(AssertionError):
        check()


# ---------------------------------------------------------------------- on the ledger


@pytest.fixture
def world() -> World:
    made = World()
    made.state.put(KEY_VALIDATORS, encode(SET))
    return made


@pytest.mark.parametrize(("name", "shown"), OFFENCES, ids=lambda x: x if isinstance(x, str) else "")
def test_a_report_suspends_once(world: World, name: str, shown: Evidence) -> None:
    """[V2] Carried in by an account without a balance."""
    receipt = world.ok(STRANGER, ReportEvidence(shown))
    assert [(e.kind, e.subject, e.fields["offence"]) for e in receipt.events] == [
        ("validator.suspended", BAD.public.hex(), name)
    ]
    offence = read(world.state, Offence, key_offence(BAD.public))
    assert offence == Offence(BAD.public, shown, world.height, world.now_ms)
    assert world.refused(STRANGER, ReportEvidence(shown)) == "evidence.known"
    other = votes(vote(NOTAR, A, view=9), vote(NOTAR, B, view=9))
    assert world.refused(STRANGER, ReportEvidence(other)) == "evidence.known"
    assert read(world.state, Offence, key_offence(BAD.public)) == offence


@pytest.mark.parametrize(("rule", "shown"), NO_OFFENCES, ids=lambda x: x if isinstance(x, str) else "")
def test_what_proves_nothing_is_refused_whole(world: World, rule: str, shown: Evidence) -> None:
    assert world.refused(STRANGER, ReportEvidence(shown)) == rule


NUMBERS = st.sampled_from([0, 1, 5, 6, -1, 2**63, 2**64 - 1, -(2**63)])
BYTES = st.sampled_from([b"", A, B, ZERO_HASH, BAD.public, bytes(64), block(1).header, block(2).header[:-1]])
SIGNED_VOTES = st.builds(
    SignedVote, st.builds(Statement, st.sampled_from(VoteKind), NUMBERS, NUMBERS, BYTES), BYTES
) | st.sampled_from([vote(NOTAR, A), vote(NOTAR, B), vote(SKIP), vote(FINAL, A)])
SIGNED_HEADERS = st.builds(SignedHeader, BYTES, BYTES) | st.sampled_from([block(1), block(2)])


@settings(max_examples=300)
@given(
    st.builds(TwoVotes, BYTES, SIGNED_VOTES, SIGNED_VOTES)
    | st.builds(TwoProposals, SIGNED_HEADERS, SIGNED_HEADERS)
)
def test_garbage_is_refused_by_name(shown: Evidence) -> None:
    """Whatever decodes gets a receipt; what is applied names the one key that signed something here."""
    made = World()
    made.state.put(KEY_VALIDATORS, encode(SET))
    receipt = made.do(STRANGER, ReportEvidence(shown))
    if receipt.ok:
        assert [key for key, _ in made.state.scan(b"offence/")] == [key_offence(BAD.public)]
    else:
        assert receipt.rule.startswith(("evidence.", "header."))
        assert list(made.state.scan(b"offence/")) == []


def test_each_offender_has_a_record_of_its_own(world: World) -> None:
    for key in KEYS[:2]:
        world.ok(STRANGER, ReportEvidence(votes(vote(NOTAR, A, key), vote(NOTAR, B, key), key)))
    assert [o.validator for o in world.records(b"offence/", Offence)] == sorted(k.public for k in KEYS[:2])
    world.ok(STRANGER, ReportEvidence(OFFENCES[0][1]))


def test_a_suspension_and_its_absence_are_proved_from_genesis_alone() -> None:
    world = ChainWorld()
    bad, good = VALIDATOR_KEYS[1], VALIDATOR_KEYS[2]
    world.ok(STRANGER, ReportEvidence(votes(vote(NOTAR, A, bad), vote(NOTAR, B, bad), bad)))
    for _ in range(3):
        world.run()
    trust = Trust(CHAIN_ID, world.genesis.validator_set)
    shown = verify_query(trust, world.store.prove(key_offence(bad.public)).encode())
    assert shown.value == world.state.get(key_offence(bad.public)) is not None
    assert verify_query(trust, world.store.prove(key_offence(good.public)).encode()).value is None
