"""Records of trade beside the life of a deployment: what certifiers said, penalties, disputes, updates,
missed time.

As `ledger.records`, which has the others.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.policies.types import Act
from ledger.records import be
from ledger.statuses import UpdateStatus


class _Record(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of the records."""


class CertificationRecord(_Record, frozen=True):
    """A certifier's last word about a node or farm. `valid_until_ms` 0: withdrawn; `made_ms`: none older
    counts."""

    made_ms: int
    valid_until_ms: int
    says: str
    signature: bytes


class Penalty(_Record, frozen=True):
    """What a broken lease cost the farmer. `owed` and `amount`, which was there to take, in micro-credits."""

    slot: str
    term: int
    node: bytes
    payer: bytes
    payee: bytes
    owed: int
    amount: int
    time_ms: int


class Missed(_Record, frozen=True):
    """Block time without blocks so far: outages of the notary ([O1])."""

    total_ms: int


class Agreement(_Record, frozen=True):
    """A comparison of the results of a job's replicas. `reveals`: they tell them now, and none commits."""

    reveals: bool
    due_ms: int  # when the timed work `agreement` comes
    missed_ms: int  # the ledger's missed time when that was set


class Dispute(_Record, frozen=True):
    """What a party says against another. `slot` "": about the deployment as a whole. `closed_ms` 0: open."""

    number: int  # from 0
    opener: bytes
    slot: str
    term: int
    says: str
    opened_ms: int
    closed_ms: int
    closing: str  # what its opener said when closing it


class UpdateRecord(_Record, frozen=True):
    """One update of a deployment, under way or over. Money in micro-credits, times block time."""

    number: int  # from 1
    tx: bytes  # that asked for it
    sender: bytes
    former: bytes  # digest of the manifest in force
    manifest: bytes  # digest of the one that it leads to
    contract: bytes
    status: UpdateStatus
    locked: int  # what the new terms cost more; paid by the sender, into escrow
    ground: Act  # `Deployment.ground` once it is done
    requested_ms: int
    precedent_ms: int
    step_ms: int  # the last step forward
    step_missed_ms: int  # the ledger's missed time then
    approved_ms: int = 0
    ended_ms: int = 0
    due_ms: int = 0  # when the timed work `update` comes; 0: none
    judge_ms: int = 0  # when its policy is judged again by itself; 0: not
    refunded: int = 0
    reason: str = ""
    former_precedent_ms: int = 0  # `Deployment.precedent_ms` of the manifest in force


CANCELLED: Final = "cancelled by the consumer"  # the reason of an update that was steered so


def key_certification(node: bytes, certifier: bytes) -> bytes:
    return b"certification/" + node + b"/" + certifier


def key_farm_certification(farm: str, certifier: bytes) -> bytes:
    return b"farm_certification/" + farm.encode() + b"/" + certifier


def key_penalty(deployment: bytes, slot: str, term: int) -> bytes:
    return b"penalty/" + deployment + b"/" + slot.encode() + b"/" + be(term)


def key_agreement(deployment: bytes, workload: str) -> bytes:
    return b"agreement/" + deployment + b"/" + workload.encode()


def key_dispute(deployment: bytes, number: int) -> bytes:
    return b"dispute/" + deployment + b"/" + be(number)


def key_update(deployment: bytes, number: int) -> bytes:
    return b"update/" + deployment + b"/" + be(number)


KEY_MISSED = b"missed"
