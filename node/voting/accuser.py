"""Carries evidence of equivocation to the ledger (rule 11), until the offence is recorded there. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ledger.codec import encode, sha256
from ledger.evidence import Evidence, accused
from ledger.keys import Key
from ledger.records import key_offence
from ledger.state import Reader
from ledger.transactions import ReportEvidence, Tx, sign_tx
from node.limits import EVIDENCE_EXPIRY_BLOCKS


@dataclass(slots=True)
class Case:
    """Evidence against one validator. `expires`: last height of the report that is under way, 0: none is."""

    evidence: Evidence
    expires: int = 0


@dataclass(slots=True)
class Accuser:
    """Of the validator with this key. One case per offender at most, so it is bounded by the validator set.

    Nothing is kept over a restart: other validators report, too, and who offends again is found again.
    """

    chain_id: str
    key: Key
    cases: dict[bytes, Case] = field(default_factory=dict)  # by the offender's key

    def found(self, evidence: Evidence) -> None:
        """Take evidence from the core, which has checked all that is in it."""
        self.cases.setdefault(accused(evidence), Case(evidence))

    def report(self, state: Reader, height: int, submit: Callable[[bytes], bool]) -> None:
        """Submit a signed report for each case that the ledger does not know and none is under way for.

        `submit` takes the transaction and returns False when there is no room for it now.
        """
        for offender, case in list(self.cases.items()):
            if state.get(key_offence(offender)) is not None:
                del self.cases[offender]
            elif case.expires <= height:
                expires = height + EVIDENCE_EXPIRY_BLOCKS
                salt = sha256(encode(case.evidence))[:8]
                body = ReportEvidence(case.evidence)
                if submit(sign_tx(self.key, Tx(self.chain_id, self.key.public, expires, salt, body))):
                    case.expires = expires
