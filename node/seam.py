"""What a running peer offers to those who sit on it: API, web, executor, bot.

`node.peer.Peer` is the real one. Reads are of committed state only; everything that a peer shows
can be checked against a certificate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ledger.errors import Refused
from ledger.genesis import Genesis
from ledger.keys import Key
from ledger.outcome import Event, Receipt
from ledger.proofs.certificate import ValidatorSet
from ledger.state import Reader
from ledger.storage.store import Store
from p2p.network import Network

Wait = Literal["none", "accepted", "final"]


class Overloaded(Exception):
    """Too much waits here: try again after `retry_s` seconds."""

    def __init__(self, retry_s: float) -> None:
        self.retry_s = retry_s
        super().__init__(f"overloaded, retry after {retry_s:.1f} s")

    @property
    def retry_ms(self) -> int:
        """The same in milliseconds, at least one."""
        return max(1, round(self.retry_s * 1000))


class NotFinal(Exception):
    """The time-out passed before the transaction was final; it may still become final."""


@dataclass(frozen=True, slots=True)
class TxOutcome:
    """A final transaction: where it stands and how it ended."""

    height: int
    index: int
    time_ms: int
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event with its place: `id` is "HEIGHT.N", growing; N counts within the block."""

    id: str
    height: int
    time_ms: int
    event: Event


@dataclass(frozen=True, slots=True)
class Gap:
    """Events from `first` to before `next` can't be replayed: too old, or never here."""

    first: str
    next: str


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A snapshot for people and probes. Times in Unix ms."""

    chain_id: str
    moniker: str
    roles: tuple[str, ...]
    peer_id: str
    addresses: tuple[str, ...]
    version: str
    height: int
    first_height: int  # blocks are held from there on
    block_time_ms: int
    block_hash: str
    state_root: str  # after executing `height`
    view: int  # 0 when not a validator
    catching_up: bool
    best_height: int  # highest height proved by a certificate or told by a neighbour
    last_final_ms: int  # when this peer saw its last final block
    neighbours: int
    validators_connected: int
    mempool_txs: int
    mempool_bytes: int
    started_ms: int
    alarms: tuple[str, ...]
    sync: str = "blocks"  # how it follows: blocks; state: PHASE; stopped; mending: PHASE
    sync_height: int = 0  # the height whose state is being fetched; 0: none is
    sync_share: float = 0.0  # how much of that state is here, 0 to 1
    stale: bool = False  # what is read here is known not to be what a quorum signed, or no longer followed


class PeerSeam(Protocol):
    """One peer, for those who sit on it."""

    home: Path
    genesis: Genesis
    store: Store
    network: Network

    @property
    def node_key(self) -> Key: ...

    @property
    def chain_id(self) -> str: ...

    @property
    def validators(self) -> ValidatorSet: ...

    @property
    def state(self) -> Reader:
        """Committed state. Do not keep a scan open across an await."""

    @property
    def height(self) -> int: ...

    @property
    def time_ms(self) -> int:
        """Block time of `height`."""

    def status(self) -> PeerStatus: ...

    async def answer(self, method: str, body: bytes) -> bytes:
        """What this peer itself answers to a request, as a neighbour would be. Raises p2p.errors.Refused."""

    async def submit(self, raw: bytes, source: str = "") -> bytes:
        """Check a signed transaction and spread it. `source` names the client that brought it, among whom
        room is shared; "": this peer itself. Returns its id once it is accepted here
        (kept and re-sent until it is final or expired). Raises Refused, Overloaded."""

    async def submit_many(
        self, raws: Sequence[bytes], source: str = ""
    ) -> list[bytes | Refused | Overloaded]:
        """As `submit` for each, cheaper: ids or why not, in order."""

    def watch_final(self, tx: bytes, told: Callable[[TxOutcome], None]) -> None:
        """Call `told` once with the outcome: at once if it is final, else from the block that makes it so.
        Raises Overloaded when too many wait."""

    def unwatch(self, tx: bytes, told: Callable[[TxOutcome], None]) -> None:
        """Take that back. Nothing happens when it was told already."""

    async def wait_final(self, tx: bytes, timeout_s: float) -> TxOutcome:
        """The outcome of a transaction, at once if it is final already. Raises NotFinal."""

    async def audit(self, deployment: bytes) -> bytes:
        """A deployment's audit file, as things stand when its turn comes: one is made at a time, beside all
        else. Raises as ledger.audit.audit.export."""

    async def next_block(self, above: int) -> int:
        """Returns a committed height > `above`, at once if there is one."""

    def events(self, after: str | None) -> AsyncIterator[NumberedEvent | Gap]:
        """Committed events after the id (None: from now on), for ever. A Gap tells of loss."""

    def metrics(self) -> Sequence[tuple[str, dict[str, str], float, str]]:
        """(name, labels, value, "counter" | "gauge") of engine, mempool, network, for /metrics."""
