"""The audit file: a deployment's whole life in one piece of bytes.

Canonical msgpack (`ledger.codec`), not JSON lines: nearly all of it is signed bytes and hashes, which
JSON would blow up by a third and give second spellings. There is no checksum at the end: every byte
must matter because something signed disagrees, not because a checksum says so. What could be derived
(keys of records, the manifest, block numbers) is left out, so that nothing in the file is unchecked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ledger.blocks import Header
from ledger.codec import decode, decode_exact
from ledger.documents import Document
from ledger.errors import Refused
from ledger.limits import MIB
from ledger.manifests.types import Manifest
from ledger.organisations.organisation import keys_in
from ledger.organisations.records import DeedRecord, Organisation, key_deed, key_organisation
from ledger.policies.people import organisations_of
from ledger.policies.records import stakeholders
from ledger.policies.types import Act
from ledger.proofs import tree
from ledger.proofs.inclusion import Inclusion
from ledger.proofs.light import EpochProof, FinalityProof
from ledger.records import (
    ApprovalRecord,
    Bill,
    Deployment,
    Farm,
    Node,
    ReceiptRecord,
    Slot,
    key_approval,
    key_bill,
    key_deployment,
    key_document,
    key_farm,
    key_node,
    key_receipt,
    key_slot,
)
from ledger.trade_records import (
    Dispute,
    Penalty,
    UpdateRecord,
    key_dispute,
    key_penalty,
    key_update,
)
from ledger.transactions import Body, CheckedTx

FORMAT: Final = "gridpact-audit/4"
AUDIT_BYTES_MAX: Final = (
    256 * MIB
)  # receipts are most of a long life: about 1.5 MB a slot that runs for a month

# Where decisions stand; those on an update under "deploy".
PLACES: Final[tuple[Act, ...]] = ("deploy", "signoff", "delete", "release")

T = TypeVar("T")
Get = Callable[[bytes], bytes | None]


class AuditTx(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A signed transaction and its place: which batch of the header, where in it."""

    batch: int
    inclusion: Inclusion
    raw: bytes


class AuditBlock(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A final header and the transactions in its block that are about the deployment."""

    finality: FinalityProof
    txs: tuple[AuditTx, ...]


class AuditRecord(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What the state holds under the next key that `gather` asks for."""

    value: bytes | None
    proof: tree.Proof


class AuditFile(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """`anchor`: the final header whose state root proves the records. `blocks` by ascending height. `epochs`:
    how each epoch before the anchor's ended, from genesis on, so that nothing else is needed."""

    format: str
    chain_id: str
    deployment: bytes
    epochs: tuple[EpochProof, ...]
    blocks: tuple[AuditBlock, ...]
    anchor: FinalityProof
    records: tuple[AuditRecord, ...]


def decode_audit(data: bytes) -> AuditFile:
    """Foreign bytes to a file of this format. Raises Refused("audit.…")."""
    file = decode_exact(AuditFile, data, "audit", AUDIT_BYTES_MAX)
    if file.format != FORMAT:
        raise Refused("audit.format", f"{file.format[:40]!r}, this program reads {FORMAT!r}", "format")
    return file


class Placed(msgspec.Struct, frozen=True):
    """A checked transaction at its place in the chain, and the signed document in it, opened."""

    height: int
    time_ms: int
    checked: CheckedTx
    document: Document[Any] | None

    @property
    def id(self) -> bytes:
        return self.checked.id

    @property
    def sender(self) -> bytes:
        return self.checked.tx.sender

    @property
    def body(self) -> Body:
        return self.checked.tx.body


class Records(msgspec.Struct, frozen=True):
    """All that the state holds about a deployment. `updates`: by number, from 1. `approvals`: by where they
    stand, number of the manifest, and signer. `fees`: by number of the manifest that cost it. `documents`:
    which of the asked ids were accepted. `organisations`: those that hold a role, as they stand now, with all
    their deeds."""

    deployment: Deployment
    updates: dict[int, UpdateRecord]
    slots: dict[str, Slot]
    approvals: dict[tuple[str, int, bytes], ApprovalRecord | None]
    documents: dict[bytes, bool]
    receipts: dict[tuple[str, int], list[ReceiptRecord]]
    fees: dict[int, Bill]
    bills: dict[tuple[str, int], Bill]
    penalties: dict[tuple[str, int], Penalty]
    nodes: dict[bytes, Node]
    farms: dict[str, Farm]
    disputes: list[Dispute]
    organisations: dict[bytes, tuple[Organisation, list[DeedRecord]]]


class Generation(msgspec.Struct, frozen=True):
    """A manifest of the deployment, which its contract expands to. `asked`: the order, or the wish for the
    update that leads to it. `digest`: of the manifest."""

    number: int  # 0: the order's; else the update's
    asked: Placed
    published: Placed
    manifest: Manifest
    digest: bytes


class Case(msgspec.Struct):
    """A file whose transactions, documents and records are proved one by one. `life`: its transactions but
    for the publications of its contracts. `suspended`: ids of those among them that told results while the
    approval did not stand; `stood_still`: it was suspended once, or may have been paused, so that what comes
    due by time alone may have waited. Both as `check_approvals` finds them."""

    chain_id: str
    deployment: bytes
    generations: tuple[Generation, ...]
    placed: list[Placed]
    life: list[Placed]
    records: Records
    anchor: Header
    suspended: set[bytes] = msgspec.field(default_factory=set)
    stood_still: bool = False

    @property
    def order(self) -> Placed:
        """What the deployment began with."""
        return self.generations[0].asked

    @property
    def in_force(self) -> Generation:
        """Whose manifest is in force, as the records say."""
        return self.generations[self.records.deployment.generation]

    @property
    def manifest(self) -> Manifest:
        """The manifest in force."""
        return self.in_force.manifest


def gather(deployment: bytes, manifests: Sequence[Manifest], documents: Sequence[bytes], get: Get) -> Records:
    """Read all records of a deployment, in one fixed order of keys; also those that may be absent, so
    that nothing can be left out: updates, deeds of organisations that hold a role, approvals of each
    manifest by every key that may or might decide, receipts up to the first free number, bills of every
    term, and of every manifest whose fee may have been paid. `manifests`: the order's, then each update's.

    The exporter passes a `get` that writes proofs, the verifier one that checks them. Raises
    Refused("audit.incomplete") when a record is missing that must be there. Penalties as bills.
    """
    record = _must(Deployment, get, key_deployment(deployment))
    if record.updates != len(manifests) - 1 or not 0 <= record.generation <= record.updates:
        raise Refused("audit.incomplete", f"{len(manifests) - 1} of {record.updates} updates", "txs")
    numbers = range(1, record.updates + 1)
    updates = {number: _must(UpdateRecord, get, key_update(deployment, number)) for number in numbers}
    slot_records = {name: _must(Slot, get, key_slot(deployment, name)) for name in record.slots}
    roles = [role for manifest in manifests for role in manifest.roles]
    organisations = {id_: _organisation(id_, get) for id_ in organisations_of(roles)}
    members = {key for _, deeds in organisations.values() for deed in deeds for key in keys_in(deed)}
    approvals = _approvals(deployment, manifests, updates, members, get)
    accepted = {id_: get(key_document(deployment, id_)) is not None for id_ in documents}
    receipts: dict[tuple[str, int], list[ReceiptRecord]] = {}
    bills: dict[tuple[str, int], Bill] = {}
    penalties: dict[tuple[str, int], Penalty] = {}
    for name, slot in slot_records.items():
        for term in range(1, slot.term + 1):
            receipts[name, term] = _receipts(deployment, name, term, get)
            found = get(key_bill(deployment, name, term, 0))
            if found is not None:
                bills[name, term] = decode(Bill, found)
            found = get(key_penalty(deployment, name, term))
            if found is not None:
                penalties[name, term] = decode(Penalty, found)
    fees: dict[int, Bill] = {}
    for number in (0, *(update.number for update in updates.values() if update.status == "done")):
        found = get(key_bill(deployment, "", number, 0))
        if found is not None:
            fees[number] = decode(Bill, found)
    holders = {receipt.node for list_ in receipts.values() for receipt in list_}
    holders |= {penalty.node for penalty in penalties.values()}
    holders |= {slot.holder for slot in slot_records.values() if slot.holder}
    nodes = {key: _must(Node, get, key_node(key)) for key in sorted(holders)}
    farms = {name: _must(Farm, get, key_farm(name)) for name in sorted({n.farm for n in nodes.values()})}
    disputes = [_must(Dispute, get, key_dispute(deployment, n)) for n in range(record.disputes)]
    return Records(
        deployment=record,
        updates=updates,
        slots=slot_records,
        approvals=approvals,
        documents=accepted,
        receipts=receipts,
        fees=fees,
        bills=bills,
        penalties=penalties,
        nodes=nodes,
        farms=farms,
        disputes=disputes,
        organisations=organisations,
    )


def _approvals(
    deployment: bytes,
    manifests: Sequence[Manifest],
    updates: Mapping[int, UpdateRecord],
    members: Iterable[bytes],
    get: Get,
) -> dict[tuple[str, int, bytes], ApprovalRecord | None]:
    """Of each manifest; an update's may also be decided on by who decides on another one's. Signed off and
    ended is only what was in force."""
    signers = sorted({key for manifest in manifests for key in stakeholders(manifest, members)})
    out: dict[tuple[str, int, bytes], ApprovalRecord | None] = {}
    for number in range(len(manifests)):
        was_in_force = number == 0 or updates[number].status == "done"
        for place in PLACES if was_in_force else PLACES[:1]:
            for signer in signers:
                found = get(key_approval(deployment, place, signer, number))
                out[place, number, signer] = None if found is None else decode(ApprovalRecord, found)
    return out


def _organisation(organisation: bytes, get: Get) -> tuple[Organisation, list[DeedRecord]]:
    """Its record, and each deed from the founding on."""
    found = _must(Organisation, get, key_organisation(organisation))
    versions = range(1, found.version + 1)
    return found, [_must(DeedRecord, get, key_deed(organisation, version)) for version in versions]


def _receipts(deployment: bytes, name: str, term: int, get: Get) -> list[ReceiptRecord]:
    out: list[ReceiptRecord] = []
    while (found := get(key_receipt(deployment, name, term, len(out)))) is not None:
        out.append(decode(ReceiptRecord, found))
    return out


def _must(kind: type[T], get: Get, key: bytes) -> T:
    found = get(key)
    if found is None:
        raise Refused("audit.incomplete", f"no {kind.__name__.lower()} record")
    return decode(kind, found)
