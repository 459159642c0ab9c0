"""Records of the state, by key. Keys are ASCII prefixes with raw or printable parts; `key_*` builds them.

Order matters: the state machine walks prefixes in byte order, so heights and times in keys are
8-byte big-endian.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ledger.evidence import TwoProposals, TwoVotes
from ledger.policies.types import Act
from ledger.statuses import DeploymentStatus as DeploymentStatus
from ledger.statuses import SlotStatus as SlotStatus
from ledger.transactions import Price


class _Record(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of the records."""


class Account(_Record, frozen=True):
    """balance: micro-credits, never negative."""

    balance: int


class ContractRecord(_Record, frozen=True):
    """A published contract version. `envelope` is the DSSE envelope as published."""

    id: bytes
    name: str
    version: str
    author: bytes
    envelope: bytes
    height: int
    time_ms: int


class ContractOwner(_Record, frozen=True):
    """Who owns a contract name, and its newest version."""

    author: bytes
    latest: str


class ContractMark(_Record, frozen=True):
    """What a contract version's author said of it after it was published."""

    mark: Literal["deprecated", "revoked"]
    reason: str
    height: int
    time_ms: int


class Farm(_Record, frozen=True):
    name: str
    owner: bytes
    country: str
    certified: dict[str, int] = {}  # certifier's key in hex: until when, ms


class Node(_Record, frozen=True):
    """A node of a farm; offer fields are zero until it posts an offer."""

    key: bytes
    farm: str
    country: str
    cpu_millis: int
    memory_bytes: int
    ssd_bytes: int
    hdd_bytes: int
    used_cpu_millis: int
    used_memory_bytes: int
    used_ssd_bytes: int
    used_hdd_bytes: int
    price: Price
    runtimes: tuple[str, ...]
    attributes: dict[str, str]
    address: str
    valid_until_ms: int  # 0: no offer
    slots_held: int
    broken_leases: int
    terms_kept: int = 0  # ended with success, or when the ledger asked for the stop
    terms_failed: int = 0
    terms_quarantined: int = 0
    terms_given_up: int = 0  # given back unasked
    leaves_ms: int = 0  # when it leaves, as it has told; 0: it has not
    certified: dict[str, int] = {}  # certifier's key in hex: until when, ms


class Deployment(_Record, frozen=True):
    """`desired` is what the consumer wants, `status` what is observed."""

    id: bytes
    contract: bytes
    manifest: bytes  # digest; the bytes are at key_manifest
    consumer: bytes
    bot: bytes
    status: DeploymentStatus
    desired: Literal["run", "stop"]
    escrow: int  # left, micro-credits
    spent: int
    fee_paid: bool
    ordered_ms: int
    approved_ms: int  # 0: not yet
    claimed_ms: int  # first claim
    running_ms: int  # first slot running (or job succeeded)
    ended_ms: int
    signed_off_ms: int
    slots: tuple[str, ...]
    reason: str
    ends_ms: int = 0  # when the timed work `duration` comes: the wait for approval, then the term; 0: none
    missed_ms: int = 0  # the ledger's missed time when `ends_ms` was set
    funded: int = 0  # put into escrow so far: the budget, top-ups, extensions
    topped_up: int = 0  # of that, top-ups
    extended_s: int = 0
    disputes: int = 0  # opened so far
    left_ms: int = 0  # of its term, while it is paused
    notice_ms: int = 0  # when it says that its end is near; 0: it has, or has no end
    look_ms: int = 0  # from when on the escrow is looked at again
    decisions: int = 0  # approval documents accepted so far
    lost_ms: int = 0  # since when it runs on without approval; 0: it does not
    judge_ms: int = 0  # when the deploy policy is judged again by itself; 0: not
    signoff_judge_ms: int = 0  # the same for the sign-off
    precedent_ms: int = 0  # when the same manifest was approved by signatures before it was asked; 0: never
    generation: int = 0  # number of the update that brought `manifest`; 0: the order did
    updates: int = 0  # asked for so far; the last has this number
    updating: bytes = b""  # the manifest of the update under way
    ground: Act = "deploy"  # whose policy the approvals of `manifest` must satisfy: "update", or "deploy"
    asked_ms: int = 0  # when `manifest` was asked for by an update; 0: with the order
    paid_in: int = 0  # into escrow in all
    returned: int = 0  # out of it by updates, to the consumer or to who had paid for one
    withheld: int = 0  # spent, but not paid out yet: terms of jobs whose results are not compared yet
    results: bytes = b""  # digest of what its jobs left behind, where that is held back; none: some miss
    released_ms: int = 0  # when its results were released; 0: they were not
    release_judge_ms: int = 0  # when the release policy is judged again by itself; 0: not
    release_until_ms: int = 0  # not released by then, they never are; 0: it has not completed, or they are


class ApprovalRecord(_Record, frozen=True):
    """The last decision of a signer for an act. `role` is one of those the signer holds, or "" of a key that
    the policy names itself."""

    signer: bytes
    role: str
    act: Act
    decision: Literal["granted", "rejected", "revoked"]
    document: bytes  # id: sha256 of the payload
    envelope: bytes
    expires_ms: int
    height: int
    time_ms: int
    made_ms: int = 0  # the signer's clock, as in the document
    since_ms: int = 0  # since when the signer grants in this role without a break
    number: int = 0  # of the decisions on the deployment it is this one, from 0
    seat: tuple[int, int] = (0, 0)  # held in the organisation that holds the role: membership, since version
    generation: int = 0  # of the manifest that it is about
    results: bytes = b""  # of a release: the digest that it is about


class Precedent(_Record, frozen=True):
    """The last deployment of a manifest that signatures approved and none withdrew; where a policy asks."""

    deployment: bytes
    approved_ms: int


class Slot(_Record, frozen=True):
    """One replica of a workload. `term` only grows; `holder` is empty when nobody holds it.

    A slot that the ledger released keeps its holder, and the holder's capacity, until that reports
    the stop or its lease ends: only then can nobody be running it.
    """

    deployment: bytes
    name: str  # "workload/index"
    status: SlotStatus
    term: int
    holder: bytes
    lease_until_ms: int  # ledger side: last renewal + L + G; the slot is freed then
    renewed_ms: int
    claimed_ms: int
    billed_ms: int  # billed up to here
    rate_hour: int  # micro-credits per hour while held
    window_closes_ms: int  # 0: no claim window is open
    attempts: int  # terms that ended in failed or quarantined
    endpoints: dict[str, str]  # port name -> host:port, as reported by the holder
    results: dict[str, str]  # path -> sha256 of a job's results
    detail: str
    receipts: int = 0  # accepted in this term
    missed_ms: int = 0  # the ledger's missed time when the term began
    missed_renewed_ms: int = 0  # and at its last renewal
    manifest: bytes = b""  # of this term
    next: bytes = b""  # of the next one; empty: the slot is in no manifest any more
    running_ms: int = 0  # since when this term runs
    switched: int = 0  # number of the update that changed it over last
    witness: bytes = b""  # who committed to results in this term, where replicas must agree
    commitment: bytes = b""  # to what: ledger.commitments
    home: bytes = b""  # the node that has its volumes; none: nobody has begun with them


class Candidate(_Record, frozen=True):
    node: bytes
    height: int


class ReceiptRecord(_Record, frozen=True):
    """A signed receipt as accepted."""

    deployment: bytes
    slot: str
    term: int
    node: bytes
    status: str
    envelope: bytes
    height: int
    time_ms: int


class VaultRecord(_Record, frozen=True):
    version: int
    ciphertext: bytes


class Bill(_Record, frozen=True):
    """What one term of a slot was paid so far, or the author's fee (slot ""). amount in micro-credits.

    One record grows with the term, so that rounding happens once:
    amount == cost(rate, from_ms, to_ms - missed_ms) unless the escrow ran out.
    """

    slot: str
    term: int
    payee: bytes
    from_ms: int
    to_ms: int
    amount: int
    missed_ms: int = 0  # of this stretch: not billed
    withheld: int = 0  # of the amount: neither in the escrow nor paid, until results are compared


class Offence(_Record, frozen=True):
    """Why a validator is suspended, and since which block. `validator`: its key."""

    validator: bytes
    evidence: TwoVotes | TwoProposals
    height: int
    time_ms: int


class Supply(_Record, frozen=True):
    """All micro-credits that exist: set at genesis, constant. Checked by the money tests."""

    total: int


def be(number: int) -> bytes:
    """8-byte big-endian, so that byte order is number order."""
    return number.to_bytes(8, "big")


def key_account(public: bytes) -> bytes:
    return b"account/" + public


def key_contract(contract: bytes) -> bytes:
    return b"contract/" + contract


def key_contract_name(name: str, version: str) -> bytes:
    """Points from name and version to the contract id (first come, first served per name: author)."""
    return b"contract_name/" + name.encode() + b"/" + version.encode()


def key_contract_owner(name: str) -> bytes:
    """A ContractOwner: the first author of a name owns it."""
    return b"contract_owner/" + name.encode()


def key_contract_mark(contract: bytes) -> bytes:
    """A ContractMark; none: the version stands."""
    return b"contract_mark/" + contract


def key_farm(name: str) -> bytes:
    return b"farm/" + name.encode()


def key_node(node: bytes) -> bytes:
    return b"node/" + node


def key_held(node: bytes, deployment: bytes, slot: str) -> bytes:
    """Index of what a node holds; the value is empty. Without deployment and slot: what all of it begins
    with."""
    return b"held/" + node + b"/" + (deployment + b"/" + slot.encode() if deployment else b"")


def held_parts(key: bytes) -> tuple[bytes, str]:
    """Deployment and slot of a `key_held`."""
    return key[38:70], key[71:].decode()


def key_deployment(deployment: bytes) -> bytes:
    return b"deployment/" + deployment


def key_manifest(digest: bytes) -> bytes:
    return b"manifest/" + digest


def key_precedent(manifest: bytes) -> bytes:
    return b"precedent/" + manifest


def key_approval(deployment: bytes, act: str, signer: bytes, generation: int = 0) -> bytes:
    """The ApprovalRecord of a signer for an act. Decisions on an update stand where those on the deployment
    of its manifest do: under "deploy", in the update's generation."""
    at = act.encode() + (b"@%d" % generation if generation else b"")
    return b"approval/" + deployment + b"/" + at + b"/" + signer


def key_document(deployment: bytes, document: bytes) -> bytes:
    """Marks an approval document as accepted, so that nobody can carry it in a second time."""
    return b"document/" + deployment + b"/" + document


def key_slot(deployment: bytes, slot: str) -> bytes:
    return b"slot/" + deployment + b"/" + slot.encode()


def key_candidate(deployment: bytes, slot: str, node: bytes) -> bytes:
    return b"candidate/" + deployment + b"/" + slot.encode() + b"/" + node


def key_open(deployment: bytes, slot: str) -> bytes:
    """Index of slots that may be claimed now; the value is empty."""
    return b"open/" + deployment + b"/" + slot.encode()


def key_receipt(deployment: bytes, slot: str, term: int, number: int) -> bytes:
    return b"receipt/" + deployment + b"/" + slot.encode() + b"/" + be(term) + be(number)


def key_bill(deployment: bytes, slot: str, term: int, number: int) -> bytes:
    return b"bill/" + deployment + b"/" + slot.encode() + b"/" + be(term) + be(number)


def key_vault(owner: bytes, name: str) -> bytes:
    return b"vault/" + owner + b"/" + name.encode()


def key_offence(validator: bytes) -> bytes:
    return b"offence/" + validator


def key_past_validators(epoch: int) -> bytes:
    """The ValidatorSet of an ended epoch, for evidence; the last EVIDENCE_EPOCHS_MAX are kept."""
    return b"validators_past/" + be(epoch)


def key_due(time_ms: int, kind: str, rest: bytes) -> bytes:
    """Timed work, in time order: its kind (window, lease, approval, duration, notice …) and what it is
    about."""
    return b"due/" + be(time_ms) + kind.encode() + b"/" + rest


def due_parts(key: bytes) -> tuple[int, str, bytes]:
    """Time, kind and rest of a `key_due`."""
    kind, _, rest = key[12:].partition(b"/")
    return int.from_bytes(key[4:12], "big"), kind.decode(), rest


def key_seen(expires: int, tx: bytes) -> bytes:
    """Replay guard: ids of executed transactions until they expire."""
    return b"seen/" + be(expires) + tx


KEY_SUPPLY = b"supply"
KEY_VALIDATORS = b"validators"
KEY_NEXT_VALIDATORS = b"validators_next"
