"""The six messages (design section 6) and the core's events and output.

Wire: msgspec msgpack, one tagged array each; `decode` accepts the exact encoding only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from consensus.limits import MESSAGE_BYTES_MAX
from ledger.blocks import Header, decode_header
from ledger.codec import decode_exact, encode
from ledger.errors import PeerFault, Refused
from ledger.evidence import Evidence
from ledger.proofs.certificate import Certificate, Statement, VoteKind


class _Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of the wire messages."""


class Propose(_Message, frozen=True, tag="propose"):
    """A leader's block with what proves its place: the parent's Notar or Final certificate (None for
    genesis), and Skip certificates for the views between; in the tail of an epoch Notar, too [12].
    Batches travel apart."""

    header: bytes
    signature: bytes
    parent: Certificate | None
    skips: tuple[Certificate, ...]


class Vote(_Message, frozen=True, tag="vote"):
    """One validator's signature under a statement."""

    statement: Statement
    voter: int
    signature: bytes


class Certified(_Message, frozen=True, tag="certificate"):
    """A certificate on its own (answers to Status, relays)."""

    certificate: Certificate


class Status(_Message, frozen=True, tag="status"):
    """What the sender holds in this epoch: its last Final, its frontier, and have-maps of Notar and Skip
    certificates (bit i stands for view base + 1 + i). `base` is the view of that Final; without one in the
    epoch so far, of the sender's last committed block."""

    epoch: int
    final: Certificate | None
    base: int
    frontier: int
    notars: bytes
    skips: bytes


class Fetch(_Message, frozen=True, tag="fetch"):
    """Ask for a header ("header") or a batch ("batch") by hash."""

    kind: str
    digest: bytes


class Reply(_Message, frozen=True, tag="reply"):
    """The bytes asked for; their hash proves them. Empty: not held here."""

    kind: str
    digest: bytes
    data: bytes


Message = Propose | Vote | Certified | Status | Fetch | Reply


def epoch_of(message: Message) -> int | None:
    """The epoch that an unchecked message speaks of; None for Fetch and Reply, which speak of bytes, and for
    a Propose whose header cannot be read."""
    match message:
        case Propose():
            try:
                return decode_header(message.header).epoch
            except Refused:
                return None
        case Vote():
            return message.statement.epoch
        case Certified():
            return message.certificate.statement.epoch
        case Status():
            return message.epoch
    return None


def encode_message(message: Message) -> bytes:
    """Wire bytes of a message."""
    return encode(message)


def decode_message(peer: str, data: bytes) -> Message:
    """Foreign bytes to a message. Raises PeerFault."""
    try:
        return decode_exact(Message, data, "message", MESSAGE_BYTES_MAX)  # type: ignore[arg-type]
    except Refused as error:
        raise PeerFault(peer, f"consensus.{error.rule}", error.detail) from None


# Events: what the shell tells the core. Messages in them were checked by `verify.check`.


@dataclass(frozen=True, slots=True)
class Start:
    """First event, after the batches at hand were announced."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The stream to a validator is up: it may have missed anything."""

    member: int


@dataclass(frozen=True, slots=True)
class Received:
    """A checked message of validator `sender`; `header` is the decoded one of a Propose or Reply."""

    sender: int
    message: Message
    header: Header | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: the `wake_ms` of an earlier Ready came."""


@dataclass(frozen=True, slots=True)
class BatchHeld:
    """A batch is held here, with this many transactions, worth proposing (not seen committed). `maker`: the
    member that brought it; what one brings waits behind its own when not all fit into a block."""

    digest: bytes
    txs: int
    maker: int = -1


@dataclass(frozen=True, slots=True)
class BatchDropped:
    """A batch that was held is not any more (expired in the mempool)."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Executed:
    """A committed block was executed; its state root is known. `due_ms`: block time from which the
    ledger has timed work (a claim window closes, a lease ends), None for none. `next_validators`: hash of
    the set that shall vote in the next epoch, as of this state; None while no change is pending [12]."""

    height: int
    root: bytes
    due_ms: int | None = None
    next_validators: bytes | None = None


@dataclass(frozen=True, slots=True)
class Synced:
    """Range sync committed and executed this block, which `certificate` (Final, of it or a descendant)
    makes final. One event for each block, in order, followed by its Executed."""

    header: Header
    certificate: Certificate


Event = Start | Joined | Received | Tick | BatchHeld | BatchDropped | Executed | Synced


# Output: what the shell does, in this order.


class Record(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One own vote to keep. Its header (empty for Skip) is kept with it, and the batches it names."""

    kind: VoteKind
    view: int
    block: bytes
    header: bytes
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """`to` is a member index, or None for all other validators."""

    to: int | None
    message: Message


@dataclass(frozen=True, slots=True)
class Commit:
    """A final block; `certificate` finalizes it or a descendant. `path`: of a boundary block, the encoded
    headers above it up to the certified one, oldest first: they prove it final and are never committed."""

    header: Header
    certificate: Certificate
    path: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Ready:
    """Output of one step. The shell does, in this order: persist (synced when `records` is not
    empty), send, commit; and calls with Tick at `wake_ms`. Nothing is sent before what it promises
    is on disk."""

    records: list[Record] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    # Records and certificates up to this view may go once the commits so far are on disk, not before:
    # a crash in between would forget votes above the tip that the store then still has.
    prune_view: int = 0
    send: list[Send] = field(default_factory=list)
    commit: list[Commit] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)  # [11] at most one piece per member and life
    wake_ms: int | None = None
