"""Evidence goes to the ledger as a signed transaction, once, and again only when it was lost."""

from __future__ import annotations

from ledger.codec import encode, sha256
from ledger.evidence import SignedVote, TwoVotes
from ledger.machine import Context, apply
from ledger.records import key_offence
from ledger.state import MemoryState
from ledger.transactions import ReportEvidence, decode_tx, verified
from node.limits import EVIDENCE_EXPIRY_BLOCKS
from node.voting.accuser import Accuser
from tests.ledger.test_evidence import BAD, KEY_VALIDATORS, NOTAR, SET, A, B, vote, votes
from tests.ledger.world import CHAIN_ID, key_of

ME = key_of("an honest validator")


class Desk:
    """Takes transactions, or has no room."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.has_room = True

    def submit(self, raw: bytes) -> bool:
        if self.has_room:
            self.taken.append(raw)
        return self.has_room


def test_reports_once_until_the_ledger_knows() -> None:
    accuser, desk, state = Accuser(CHAIN_ID, ME), Desk(), MemoryState({KEY_VALIDATORS: encode(SET)})
    evidence = votes(vote(NOTAR, A), vote(NOTAR, B))
    accuser.report(state, 7, desk.submit)
    assert desk.taken == []
    accuser.found(evidence)
    accuser.found(TwoVotes(BAD.public, SignedVote(evidence.second.statement, b""), evidence.first))
    desk.has_room = False
    accuser.report(state, 7, desk.submit)
    desk.has_room = True
    for height in range(7, 7 + EVIDENCE_EXPIRY_BLOCKS):
        accuser.report(state, height, desk.submit)
    (raw,) = desk.taken
    tx = verified(decode_tx(raw, CHAIN_ID))
    assert tx.tx.sender == ME.public
    assert tx.tx.body == ReportEvidence(evidence)

    accuser.report(state, 7 + EVIDENCE_EXPIRY_BLOCKS, desk.submit)  # it was lost: a new one, with its own id
    assert len({decode_tx(sent, CHAIN_ID).id for sent in desk.taken}) == 2

    context = Context(CHAIN_ID, 7 + EVIDENCE_EXPIRY_BLOCKS, 1, sha256(b"seed"))
    receipt = apply(state, verified(decode_tx(desk.taken[1], CHAIN_ID)), context)
    assert receipt.ok, receipt
    assert state.get(key_offence(BAD.public)) is not None
    accuser.report(state, 8 + 2 * EVIDENCE_EXPIRY_BLOCKS, desk.submit)
    assert len(desk.taken) == 2
    assert accuser.cases == {}
