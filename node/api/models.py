"""What the API answers, as shapes. Both sides use them; `/openapi.json` is made from them.

Keys, ids and digests are lower-case hex, times Unix ms, money micro-credits, sizes bytes.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from ledger.contracts.types import Contract
from ledger.manifests.types import Manifest
from ledger.predicates import Act, ReceiptPredicate
from node.api.chain_models import AccountView as AccountView
from node.api.chain_models import BlockDetail as BlockDetail
from node.api.chain_models import BlockSummary as BlockSummary
from node.api.chain_models import BlockTx as BlockTx
from node.api.chain_models import EventView as EventView
from node.api.chain_models import FarmView as FarmView
from node.api.chain_models import GapView as GapView
from node.api.chain_models import QueryView as QueryView
from node.api.chain_models import TxLine as TxLine
from node.api.chain_models import TxResult as TxResult
from node.api.chain_models import TxView as TxView
from node.api.peer_models import Banned as Banned
from node.api.peer_models import KnownPeer as KnownPeer
from node.api.peer_models import Neighbour as Neighbour
from node.api.peer_models import PeerOrder as PeerOrder
from node.api.peer_models import PeerOrdered as PeerOrdered
from node.api.peer_models import Peers as Peers
from node.api.update_models import UpdateView as UpdateView
from node.executor.status import ExecutorStatus as ExecutorStatus

T = TypeVar("T")


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """RFC 9457 problem details. `refused`: a rule of the ledger said no, asking again won't help.
    `retry_after_ms`: above 0 when the same request may be good then."""

    type: str = "about:blank"
    title: str
    status: int
    rule: str
    detail: str = ""
    field: str = ""
    refused: bool = False
    retry_after_ms: int = 0


class Page(msgspec.Struct, Generic[T], kw_only=True):
    """A page of a list. `next` is the cursor of the next page, "" at the end."""

    items: list[T]
    next: str = ""


class Status(msgspec.Struct, kw_only=True):
    """A peer's state. `ready`: caught up, with a BFT quorum making blocks; `not_ready` says why not.
    `sync`: how it follows the chain: blocks; state: PHASE, of the state of `sync_height`, of which the share
    `sync_share` is here; mending: PHASE; stopped. `stale`: what is read here is known to be wrong or left
    behind."""

    chain_id: str
    genesis: str
    moniker: str
    roles: list[str]
    peer_id: str
    addresses: list[str]
    version: str
    height: int
    first_height: int
    block_time_ms: int
    block_hash: str
    state_root: str
    view: int
    catching_up: bool
    best_height: int
    last_final_ms: int
    neighbours: int
    validators: int
    validators_connected: int
    mempool_txs: int
    mempool_bytes: int
    started_ms: int
    alarms: list[str]
    sync: str
    sync_height: int
    sync_share: float
    stale: bool
    ready: bool
    not_ready: str


class ValidatorView(msgspec.Struct, kw_only=True):
    """`suspended_height`: since which block evidence of equivocation against it is on the ledger; null: none.
    The record under `offence/KEY` holds the evidence."""

    key: str
    weight: int
    moniker: str
    suspended_height: int | None = None


class Validators(msgspec.Struct, kw_only=True):
    """The validators of an epoch; `quorum` is the smallest weight that finalizes. `next`: the set that takes
    over at the end of this epoch, once the current one has agreed on it."""

    epoch: int
    total: int
    quorum: int
    members: list[ValidatorView]
    next: Validators | None = None


class EpochView(msgspec.Struct, kw_only=True):
    """How an epoch ended: its last block, and how the set changed. `proof`: an encoded EpochProof, base64."""

    epoch: int
    height: int
    hash: str
    time_ms: int
    members: int
    joined: list[str]
    left: list[str]
    reweighted: list[str]
    proof: bytes


class ContractSummary(msgspec.Struct, kw_only=True):
    id: str
    name: str
    version: str
    title: str
    summary: str
    author: str
    height: int
    time_ms: int
    tags: tuple[str, ...]
    runtimes: tuple[str, ...]
    mark: str  # "", "deprecated" or "revoked"
    mark_reason: str


class ContractDetail(msgspec.Struct, kw_only=True):
    """A published contract; `envelope` is the signed document (DSSE), base64."""

    id: str
    name: str
    version: str
    author: str
    height: int
    time_ms: int
    contract: Contract
    envelope: bytes
    mark: str  # "", "deprecated" or "revoked"
    mark_reason: str


class DeploymentSummary(msgspec.Struct, kw_only=True):
    id: str
    contract: str
    name: str
    version: str
    consumer: str
    status: str
    desired: str
    ordered_ms: int
    escrow: int
    spent: int
    slots: int
    slots_running: int
    reason: str


class Place(msgspec.Struct, kw_only=True):
    """A place of a policy and who fills it."""

    place: str
    signer: str


class PolicyView(msgspec.Struct, kw_only=True):
    """A policy as evaluated by this peer at its last block's time."""

    asked: bool
    satisfied: bool
    rejected: bool
    reasons: list[str]
    used: list[Place]


class Policies(msgspec.Struct, kw_only=True):
    deploy: PolicyView
    signoff: PolicyView
    delete: PolicyView
    release: PolicyView


class ApprovalView(msgspec.Struct, kw_only=True):
    """`counts_until_ms`: when a grant stops to count."""

    signer: str
    role: str
    act: str
    decision: str
    document: str
    comment: str
    expires_ms: int
    counts_until_ms: int
    height: int
    time_ms: int
    update: int  # number of the update that brings, or brought, the manifest that it is about
    results: str  # of a release: digest of the results that it is about


class SlotView(msgspec.Struct, kw_only=True):
    name: str
    status: str
    term: int
    holder: str
    farm: str
    country: str
    lease_until_ms: int
    renewed_ms: int
    claimed_ms: int
    rate_hour: int
    attempts: int
    endpoints: dict[str, str]
    results: dict[str, str]
    detail: str


class ReceiptView(msgspec.Struct, kw_only=True):
    """A holder's signed receipt, opened. `document` is its id."""

    slot: str
    term: int
    node: str
    status: str
    height: int
    time_ms: int
    document: str
    receipt: ReceiptPredicate


class BillView(msgspec.Struct, kw_only=True):
    """`slot` "" is the author's fee."""

    slot: str
    term: int
    payee: str
    from_ms: int
    to_ms: int
    amount: int


class Timings(msgspec.Struct, kw_only=True):
    """When each step was final, 0: not yet."""

    ordered_ms: int
    approved_ms: int
    claimed_ms: int
    running_ms: int
    ended_ms: int
    signed_off_ms: int
    released_ms: int  # the results of its jobs, where they are held back


class WarningView(msgspec.Struct, kw_only=True):
    """What somebody should know in time. `kind`: of the event that told it; `about`: a signer, or "".
    `at_ms`: when it will happen; 0: not known."""

    kind: str
    about: str
    at_ms: int
    text: str


class DisputeView(msgspec.Struct, kw_only=True):
    """What a party says against another. `slot` "": of the deployment as a whole. `closed_ms` 0: open."""

    number: int
    opener: str
    slot: str
    term: int
    says: str
    opened_ms: int
    closed_ms: int
    closing: str  # what its opener said when closing it


class DeploymentDetail(msgspec.Struct, kw_only=True):
    id: str
    contract: str
    manifest_digest: str
    consumer: str
    bot: str
    status: str
    desired: str
    escrow: int
    funded: int  # put into escrow so far: the budget, top-ups, extensions
    topped_up: int
    extended_s: int
    ends_ms: int  # when its term, or its wait for approval, is over as things stand; 0: never
    spent: int
    fee_paid: bool
    reason: str
    warnings: list[WarningView]
    manifest: Manifest
    policies: Policies
    approvals: list[ApprovalView]
    slots: list[SlotView]
    receipts: list[ReceiptView]
    bills: list[BillView]
    disputes: list[DisputeView]
    timings: Timings
    txs: list[str]
    generation: int  # number of the update that brought the manifest; 0: the order did
    ground: Act  # the act whose policy the approvals of the manifest must satisfy
    updates: list[UpdateView]
    results: str  # digest of what its jobs left behind, where that is held back and all is there
    withheld: int  # of `spent`: paid to nobody yet, until results of replicas are compared
    release_until_ms: int  # not released by then, the results never are; 0: no such time is set


class PriceView(msgspec.Struct, kw_only=True):
    cpu_core_hour: int
    memory_gib_hour: int
    ssd_gib_hour: int
    hdd_gib_hour: int


class NodeView(msgspec.Struct, kw_only=True):
    """`offering`: it has an offer that is still valid."""

    key: str
    peer_id: str
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
    price: PriceView
    runtimes: list[str]
    attributes: dict[str, str]
    address: str
    valid_until_ms: int
    offering: bool
    slots_held: int
    broken_leases: int
    terms_kept: int  # ended with success, or when the ledger asked for the stop
    terms_failed: int
    terms_quarantined: int
    terms_given_up: int
    leaves_ms: int  # when it leaves, as it has told; 0: it has not
    certified: dict[str, int]  # certifier's key: until when, ms
    reputation: int  # 0 to 1000, the share of terms that ended well


class VaultView(msgspec.Struct, kw_only=True):
    """An owner's encrypted record."""

    owner: str
    name: str
    version: int
    ciphertext: bytes


class Ready(msgspec.Struct, kw_only=True):
    ready: bool
    reason: str
