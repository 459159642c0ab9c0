"""What an audit says: checks in order, the facts for a table, and the rule that failed, if one did."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ledger.audit.file import Placed
from ledger.errors import Refused
from ledger.policies.decision import Decision
from ledger.policies.words import PolicyLine, span
from ledger.transactions import (
    CancelDeployment,
    Claim,
    CloseDispute,
    Decide,
    ExtendDeployment,
    OpenDispute,
    OrderDeployment,
    PublishContract,
    Report,
    SteerUpdate,
    TopUp,
    UpdateDeployment,
)


class Check(msgspec.Struct, frozen=True):
    """One check. `detail` says what was found, for people."""

    name: str
    ok: bool
    detail: str


class Row(msgspec.Struct, frozen=True):
    """Something that happened, by block time (ms since 1970)."""

    height: int
    time_ms: int
    what: str
    who: str  # hex key
    detail: str
    tx: str  # id in hex: what the file proves to be in the block of that height
    amount: int | None = None  # micro-credits that go into escrow with it; None: it is not about money


class BillRow(msgspec.Struct, frozen=True):
    """What was paid for a term of a slot, or the author's fee (slot ""). amount in micro-credits."""

    slot: str
    term: int
    payee: str  # hex key
    from_ms: int
    to_ms: int
    rate_hour: int  # 0: not known any more, a later term of the slot has another
    amount: int
    generation: int = -1  # number of the manifest that it is for; -1: the holder reported nothing


class Holding(msgspec.Struct, frozen=True):
    """Who had a slot in a term, how it ended, and what it cost. Empty fields: the node reported nothing."""

    slot: str
    term: int
    node: str  # hex key
    farm: str
    country: str
    status: str
    amount: int
    generation: int = -1  # number of the manifest that the term was of; -1: it reported nothing


class PenaltyRow(msgspec.Struct, frozen=True):
    """What a farmer paid the consumer for a broken lease, of what was owed. Micro-credits."""

    slot: str
    term: int
    node: str  # hex key
    payer: str  # hex key
    owed: int
    amount: int
    time_ms: int


class DisputeRow(msgspec.Struct, frozen=True):
    """What a party said against another. `closed_ms` 0: it is open."""

    opener: str  # hex key
    about: str
    says: str
    opened_ms: int
    closed_ms: int
    closing: str


class DeedRow(msgspec.Struct, frozen=True):
    """What an organisation that holds a role decided about itself. `signers`: names of members."""

    organisation: str  # hex id
    name: str
    version: int
    act: str
    height: int
    time_ms: int
    signers: tuple[str, ...]
    says: str
    words: tuple[str, ...]


class VoteRow(msgspec.Struct, frozen=True):
    """A decision that somebody signed. `update`: number of the manifest that it is about; `until_ms`: when it
    stops to count by itself."""

    height: int
    time_ms: int
    act: str
    update: int
    role: str  # "": as a key that the policy names
    decision: str
    key: str  # hex
    comment: str
    until_ms: int


class MemberRow(msgspec.Struct, frozen=True):
    """A decision that a member of an organisation signed: by which key, as whom, at which version of it."""

    height: int
    act: str
    role: str
    key: str  # hex
    member: str
    organisation: str
    id: str  # of the organisation, in hex
    version: int


class GenerationRow(msgspec.Struct):
    """A manifest of the deployment: the order's (number 0), or one that an update asked for. Money in
    micro-credits; times 0: not. `asked_for`: whose policies had to be satisfied, in words. `changes`: field,
    before, after."""

    number: int
    contract: str  # name@version
    manifest: str  # digest in hex
    status: str  # "in force", "was in force", or how the update ended
    asked_by: str  # hex key
    asked_ms: int
    approved_ms: int
    ended_ms: int  # of the update
    reason: str
    locked: int
    returned: int
    asked_for: tuple[str, ...]
    changes: tuple[tuple[str, str, str], ...]
    decision: Decision | None = None  # as at its last change, or when the update was over


class Facts(msgspec.Struct):
    """What the checked file says. Money in micro-credits."""

    chain_id: str = ""
    deployment: str = ""
    contract: str = ""  # name@version
    manifest: str = ""  # digest in hex
    author: str = ""
    consumer: str = ""
    parameters: dict[str, str | int | bool] = msgspec.field(default_factory=dict)
    kinds: dict[str, str] = msgspec.field(default_factory=dict)  # the type of each parameter: its units
    workloads: dict[str, str] = msgspec.field(default_factory=dict)  # name: what it is, in words
    artifacts: dict[str, str] = msgspec.field(default_factory=dict)  # "workload path": sha256
    roles: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)  # keys in hex, or an organisation
    policies: dict[str, str] = msgspec.field(default_factory=dict)  # by act, in words
    outlines: dict[str, tuple[PolicyLine, ...]] = msgspec.field(default_factory=dict)  # the same, as a tree
    votes: list[VoteRow] = msgspec.field(default_factory=list)
    duration_s: int = 0  # as ordered
    extended_s: int = 0  # on top of that
    fee: int = 0
    status: str = ""
    state_height: int = 0  # everything is as of the state after this height
    state_time_ms: int = 0
    approved_ms: int = 0
    signed_off_ms: int = 0
    results: str = ""  # digest in hex of what is held back until its release, once all is there
    released_ms: int = 0
    escrow: int = 0
    spent: int = 0
    refunded: int = 0
    left: int = 0
    decisions: dict[str, Decision] = msgspec.field(default_factory=dict)  # by act, as at its last change
    generations: list[GenerationRow] = msgspec.field(default_factory=list)
    deeds: list[DeedRow] = msgspec.field(default_factory=list)
    members: list[MemberRow] = msgspec.field(default_factory=list)
    bills: list[BillRow] = msgspec.field(default_factory=list)
    penalties: list[PenaltyRow] = msgspec.field(default_factory=list)
    disputes: list[DisputeRow] = msgspec.field(default_factory=list)
    holdings: list[Holding] = msgspec.field(default_factory=list)
    timeline: list[Row] = msgspec.field(default_factory=list)


class AuditReport(msgspec.Struct):
    """`rule` and `detail` of the first failed check, "" when all hold. Nothing is checked after a failure."""

    checks: list[Check] = msgspec.field(default_factory=list)
    facts: Facts = msgspec.field(default_factory=Facts)
    rule: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """True when every check was made and holds."""
        return not self.rule

    def passed(self, name: str, detail: str) -> None:
        """Note a check that holds."""
        self.checks.append(Check(name, True, detail))

    def failed(self, name: str, error: Refused) -> None:
        """Note the check that does not."""
        self.rule = error.rule
        self.detail = f"{error.field}: {error.detail}" if error.field else error.detail
        self.checks.append(Check(name, False, f"{self.rule}: {self.detail}"))

    def require(self) -> None:
        """Raises Refused with the failed rule, if one failed."""
        if self.rule:
            raise Refused(self.rule, self.detail)


def timeline(placed: Sequence[Placed]) -> list[Row]:
    """A row per transaction, in the order of the chain."""
    return [
        Row(tx.height, tx.time_ms, *row, tx.id.hex(), _amount(tx))
        for tx in placed
        if (row := _row(tx)) is not None
    ]


def _amount(tx: Placed) -> int | None:
    """What went into escrow."""
    body = tx.body
    if isinstance(body, OrderDeployment):
        return body.escrow
    if isinstance(body, TopUp | ExtendDeployment | UpdateDeployment):
        return body.amount
    return None


def _row(tx: Placed) -> tuple[str, str, str] | None:
    """What, who, detail."""
    body, who = tx.body, tx.sender.hex()
    if isinstance(body, PublishContract) and tx.document is not None:
        return "contract published", who, tx.document.subject_name
    if isinstance(body, OrderDeployment):
        return "ordered", who, ""
    if isinstance(body, Decide) and tx.document is not None:
        predicate = tx.document.predicate
        names = {"signoff": "sign-off", "delete": "consent to delete", "release": "release"}
        if predicate.act == "update":
            names[predicate.act] = f"approval of update {predicate.update}"
        what = names.get(predicate.act, "approval")
        comment = f": {predicate.comment[:80]}" if predicate.comment else ""
        return (
            f"{what} {predicate.decision}",
            tx.document.signer.hex(),
            f"as {predicate.role or 'named key'}{comment}",
        )
    if isinstance(body, Claim):
        return "claim", who, f"{body.slot} term {body.term}"
    if isinstance(body, Report) and tx.document is not None:
        predicate = tx.document.predicate
        return predicate.status, who, f"{predicate.slot} term {predicate.term}"
    if isinstance(body, OpenDispute):
        return "dispute opened", who, body.says[:80]
    if isinstance(body, CloseDispute):
        return "dispute closed", who, body.says[:80]
    if isinstance(body, TopUp):
        return "topped up", who, ""
    if isinstance(body, ExtendDeployment):
        return "extended", who, f"by {span(body.duration_s)}"
    if isinstance(body, UpdateDeployment):
        return "update asked for", who, f"to manifest {body.manifest.hex()[:10]}"
    if isinstance(body, SteerUpdate):
        verb = "cancelled" if body.action == "cancel" else "resumed"
        return f"update {verb}", who, f"update {body.number}"
    if isinstance(body, CancelDeployment):
        return "cancelled", who, body.reason[:80]
    return None
