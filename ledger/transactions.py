"""Transactions: what can be asked of the ledger, and how the asking is signed.

The sender signs the exact bytes of `Tx` under the domain "tx/1" and the chain id; the id is a
hash of those bytes. Replay: a transaction is valid up to `expires` (a height at most
EXPIRY_BLOCKS_MAX ahead) and its id is unique within that window. No account nonces, so a client
may have many in flight; `salt` tells two equal wishes apart.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger import keys
from ledger.certification import Certification, FarmCertification
from ledger.codec import decode_exact, encode
from ledger.copy_records import VolumeCopy
from ledger.errors import Refused
from ledger.evidence import TwoProposals, TwoVotes
from ledger.limits import TX_BYTES_MAX

TX_DOMAIN: Final = "tx/1"


class _Body(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of the bodies: tagged arrays; the tag is the lower-case noun-verb name."""


class Transfer(_Body, frozen=True, tag="transfer"):
    """Move micro-credits from the sender's account."""

    to: bytes
    amount: int


class PublishContract(_Body, frozen=True, tag="contract.publish"):
    """A signed contract (DSSE over in-toto). Sender: its author."""

    envelope: bytes


class MarkContract(_Body, frozen=True, tag="contract.mark"):
    """Warn of a published version (deprecated), or take it back (revoked). Sender: its author."""

    contract: bytes
    mark: str  # "deprecated" or "revoked"
    reason: str


class RegisterFarm(_Body, frozen=True, tag="farm.register"):
    """A farm name (unique) owned by the sender."""

    name: str
    country: str


class RegisterNode(_Body, frozen=True, tag="node.register"):
    """The farm's owner names a node key as one of its nodes, which that key has signed, too."""

    farm: str
    node: bytes
    country: str
    consent: bytes  # see ledger.consent


class Price(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Micro-credits per hour: per core, per GiB of memory, per GiB of SSD, per GiB of hard disk."""

    cpu_core_hour: int
    memory_gib_hour: int
    ssd_gib_hour: int
    hdd_gib_hour: int


class PostOffer(_Body, frozen=True, tag="offer.post"):
    """A node offers capacity. Sender: the node key. Replaces its former offer."""

    cpu_millis: int
    memory_bytes: int
    ssd_bytes: int
    hdd_bytes: int
    price: Price
    runtimes: tuple[str, ...]
    attributes: dict[str, str]  # e.g. isolation features found by fingerprint
    address: str  # multiaddr with /p2p/ id, where its artifacts and services are reached
    valid_until_ms: int


class WithdrawOffer(_Body, frozen=True, tag="offer.withdraw"):
    """No new slots for this node. Sender: the node key."""


class CertifyNode(_Body, frozen=True, tag="node.certify"):
    """A certifier's signed word about a node. Sender: the node, or its farm's owner."""

    certifier: bytes
    certification: Certification
    signature: bytes  # see ledger.certification


class UncertifyNode(_Body, frozen=True, tag="node.uncertify"):
    """The sender does not stand for a node any more."""

    node: bytes


class CertifyFarm(_Body, frozen=True, tag="farm.certify"):
    """A certifier's signed word about a farm. Sender: its owner."""

    certifier: bytes
    certification: FarmCertification
    signature: bytes  # see ledger.certification


class UncertifyFarm(_Body, frozen=True, tag="farm.uncertify"):
    """The sender does not stand for a farm any more."""

    farm: str


class DrainNode(_Body, frozen=True, tag="node.drain"):
    """The sender, a node, takes no new slot and leaves at this block time."""

    leaves_ms: int


class OrderDeployment(_Body, frozen=True, tag="deployment.order"):
    """A consumer's order: the ledger expands the contract itself and refuses another digest.

    `escrow` micro-credits leave the sender's account. `roles` binds the roles that the contract
    leaves to the order. The deployment's id is this transaction's id.
    """

    contract: bytes
    parameters: dict[str, str | int | bool]
    roles: dict[str, tuple[str, ...]]
    manifest: bytes  # digest of the expected manifest
    escrow: int
    bot: bytes  # key of the 3bot that may act for the consumer; the consumer's own when empty


class Decide(_Body, frozen=True, tag="approval.decide"):
    """A stakeholder's signed decision (DSSE; predicate in documents). Anybody may carry it."""

    envelope: bytes


class CancelDeployment(_Body, frozen=True, tag="deployment.cancel"):
    """Stop, settle and refund. Sender: consumer or its bot."""

    deployment: bytes
    reason: str


class TopUp(_Body, frozen=True, tag="deployment.top_up"):
    """Micro-credits of the sender into a deployment's escrow. Anybody may."""

    deployment: bytes
    amount: int


class ExtendDeployment(_Body, frozen=True, tag="deployment.extend"):
    """A longer term, paid by the sender: consumer or bot. `extended_s`: by how much it is extended
    already, so the same wish never counts twice."""

    deployment: bytes
    extended_s: int
    duration_s: int
    amount: int  # exactly what it costs


class UpdateDeployment(_Body, frozen=True, tag="deployment.update"):
    """Another manifest for a deployment that runs: of another version of its contract, or other parameters.
    Sender: consumer or its bot. `former`: the manifest in force, so the wish is about nothing else. `amount`:
    exactly what the new terms cost more, into escrow."""

    deployment: bytes
    former: bytes
    contract: bytes
    parameters: dict[str, str | int | bool]
    roles: dict[str, tuple[str, ...]]
    manifest: bytes
    amount: int


class SteerUpdate(_Body, frozen=True, tag="deployment.steer_update"):
    """Stop an update, which reverts what it changed, or go on with one that is held. Sender: consumer or
    bot."""

    deployment: bytes
    number: int
    action: str  # "cancel" or "go_on"


class OpenDispute(_Body, frozen=True, tag="dispute.open"):
    """A party's complaint, on record. Sender: consumer, bot, author, a key that may decide; about a term of a
    slot also the node that held it and its farm's owner."""

    deployment: bytes
    slot: str  # "": the deployment as a whole
    term: int
    says: str


class CloseDispute(_Body, frozen=True, tag="dispute.close"):
    """The sender, who opened it, has nothing against it any more."""

    deployment: bytes
    number: int
    says: str


class Claim(_Body, frozen=True, tag="slot.claim"):
    """A node asks for an open slot. The state machine selects when the window closes."""

    deployment: bytes
    slot: str  # "workload/index"
    term: int  # the term it would get: the slot's term + 1


class RenewItem(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One lease to renew."""

    deployment: bytes
    slot: str
    term: int


class Renew(_Body, frozen=True, tag="slot.renew"):
    """A holder renews leases. Sender: the node key. Each item stands alone: a stale one is
    skipped and named in the receipt, the others are renewed."""

    items: tuple[RenewItem, ...]


class Report(_Body, frozen=True, tag="slot.report"):
    """A holder's signed receipt (DSSE), see `ledger.predicates.ReceiptPredicate`. Sender: the node key."""

    envelope: bytes


class RecordCopies(_Body, frozen=True, tag="slot.copies"):
    """A holder says that these copies of its slot's volumes are kept elsewhere. Sender: the node key."""

    deployment: bytes
    slot: str
    term: int
    copies: tuple[VolumeCopy, ...]


class PutVault(_Body, frozen=True, tag="vault.put"):
    """An encrypted record of the sender (the 3bot's state). `version` must be the former + 1."""

    name: str
    version: int
    ciphertext: bytes


class ActOrganisation(_Body, frozen=True, tag="organisation.act"):
    """A deed that founds or changes an organisation (ledger.organisations.organisation), and who signed it:
    key and signature, by ascending key. Anybody may carry it in."""

    payload: bytes
    signatures: tuple[tuple[bytes, bytes], ...]


class ReportEvidence(_Body, frozen=True, tag="evidence.report"):
    """Proof that a validator signed two statements of which an honest one signs one. Anybody may carry it."""

    evidence: TwoVotes | TwoProposals


class ChangeValidators(_Body, frozen=True, tag="validators.change"):
    """The next validator set, as its exact encoding, the block time up to which it may be carried in, and
    who of the current set signed the two: member index and signature, ascending (ledger.epochs). Anybody may
    carry it."""

    next: bytes
    valid_until_ms: int
    signatures: tuple[tuple[int, bytes], ...]


Body = (
    Transfer
    | PublishContract
    | MarkContract
    | RegisterFarm
    | RegisterNode
    | PostOffer
    | WithdrawOffer
    | CertifyNode
    | UncertifyNode
    | CertifyFarm
    | UncertifyFarm
    | DrainNode
    | OrderDeployment
    | Decide
    | CancelDeployment
    | TopUp
    | ExtendDeployment
    | UpdateDeployment
    | SteerUpdate
    | OpenDispute
    | CloseDispute
    | Claim
    | Renew
    | Report
    | RecordCopies
    | PutVault
    | ActOrganisation
    | ReportEvidence
    | ChangeValidators
)


class Tx(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The signed part. `expires`: last height at which it may execute."""

    chain_id: str
    sender: bytes
    expires: int
    salt: bytes
    body: Body


class SignedTx(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What travels: the exact bytes of a Tx and the sender's signature over them."""

    payload: bytes
    signature: bytes


def tx_id(payload: bytes) -> bytes:
    """32 bytes; independent of the signature, so a malleable signature gives no second id."""
    return keys.hash_tagged("txid/1", payload)


def sign_tx(key: keys.Key, tx: Tx) -> bytes:
    """The encoding of a SignedTx. Raises Refused when `key` is not the sender's."""
    if key.public != tx.sender:
        raise Refused("tx.sender", "the key is not the sender's")
    payload = encode(tx)
    return encode(SignedTx(payload, key.sign(TX_DOMAIN, tx.chain_id, payload)))


class CheckedTx(msgspec.Struct, frozen=True):
    """A decoded transaction whose form was checked, but not its signature."""

    id: bytes
    tx: Tx
    payload: bytes
    signature: bytes
    raw: bytes


class VerifiedTx(CheckedTx, frozen=True):
    """A CheckedTx whose signature was checked, too. Only `verified` makes one."""


def decode_tx(raw: bytes, chain_id: str) -> CheckedTx:
    """Foreign bytes to a transaction of this chain. Raises Refused. The signature is not checked here."""
    signed = decode_exact(SignedTx, raw, "tx", TX_BYTES_MAX)
    tx = decode_exact(Tx, signed.payload, "tx", TX_BYTES_MAX)
    if tx.chain_id != chain_id:
        raise Refused("tx.foreign_chain", f"chain {tx.chain_id!r}, here {chain_id!r}", "chain_id")
    if len(tx.sender) != keys.PUBLIC_KEY_BYTES:
        raise Refused("tx.sender", "32 bytes wanted", "sender")
    if not 8 <= len(tx.salt) <= 16:
        raise Refused("tx.salt", "8 to 16 bytes wanted", "salt")
    return CheckedTx(tx_id(signed.payload), tx, signed.payload, signed.signature, raw)


def verify_tx(checked: CheckedTx) -> bool:
    """True when the sender signed the payload."""
    tx = checked.tx
    return keys.verify(tx.sender, TX_DOMAIN, tx.chain_id, checked.payload, checked.signature)


def verified(checked: CheckedTx) -> VerifiedTx:
    """The same transaction, known to be signed by its sender. Raises Refused("tx.signature")."""
    if isinstance(checked, VerifiedTx):
        return checked
    if not verify_tx(checked):
        raise Refused("tx.signature", "not the sender's signature over these bytes", "signature")
    return VerifiedTx(checked.id, checked.tx, checked.payload, checked.signature, checked.raw)
