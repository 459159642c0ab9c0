"""The seam between a peer and its network: what ``node`` sees, and the two implementations provide.

``p2p.host.Host`` is the real one on libp2p, ``p2p.memory.MemoryNetwork`` lives in one process for tests.
Both run the same links, frames, credit, dialling and scoring; only the bytes' way differs.
"""

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import trio

if TYPE_CHECKING:
    from p2p.operator import Operator


class Lane(enum.Enum):
    """The two long-lived streams to each neighbour: votes never queue behind bytes."""

    CONSENSUS = "consensus"
    BULK = "bulk"

    __hash__ = object.__hash__  # members are single; Enum's own is Python code, three times a message


class Verdict(enum.Enum):
    """A gossip validator's answer: pass on; penalise the sender; drop without blame."""

    ACCEPT = "accept"
    REJECT = "reject"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One connected peer: ``hello`` is what it said first, ``since_ms`` Unix time, ``score`` 0 (good) to
    -100 (banned), ``fault`` the rule that it broke last ("" while its score is spotless).

    ``rtt_ms`` is None until the first heartbeat came back; ``dropped`` counts messages that we shed for it.
    """

    peer_id: str
    address: str
    inbound: bool
    hello: bytes
    since_ms: int
    rtt_ms: float | None
    score: int
    bytes_in: int
    bytes_out: int
    dropped: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Ban:
    """A peer that we refuse to talk to: the rule that it broke last, and for how many seconds more; None when
    the operator banned it, for ``rule`` as reason, until it is lifted."""

    peer_id: str
    rule: str
    left_s: float | None


class Started(Protocol):
    """What ``nursery.start`` gives: trio's TaskStatus, told the listen addresses (multiaddrs with
    ``/p2p/ID``)."""

    def started(self, value: Any, /) -> None: ...


class Handlers(Protocol):
    """What the network asks of its owner. Errors raised are ``p2p.errors.PeerFault`` and
    ``p2p.errors.Refused``."""

    def hello(self, peer_id: str) -> bytes:
        """Returns the opaque first words for that peer (at most HELLO_BYTES_MAX)."""

    def check_hello(self, peer_id: str, hello: bytes) -> None:
        """Raises PeerFault to refuse the connection; the fault is counted and lowers the peer's score."""

    def on_up(self, neighbour: Neighbour) -> None:
        """A neighbour is there: both streams open, both hellos accepted."""

    def on_down(self, peer_id: str, reason: str) -> None:
        """The neighbour is gone; what was under way to it may be lost. Called once for each ``on_up``."""

    def on_message(self, peer_id: str, lane: Lane, payload: bytes) -> None:
        """Takes one message, in order per lane; synchronous and quick. PeerFault → the sender is
        penalised."""

    async def serve(self, peer_id: str, method: str, body: bytes) -> bytes:
        """Returns the answer to a request (at most PAYLOAD_BYTES_MAX), or raises Refused(reason) or
        PeerFault."""

    async def on_gossip(self, topic: str, peer_id: str, payload: bytes) -> Verdict:
        """Judges one gossip message; ``peer_id`` is the neighbour that passed it on. Never called for own
        messages."""


class Network(Protocol):
    """One peer's network. Call everything from within ``run``'s event loop; ``run`` may be called once."""

    @property
    def peer_id(self) -> str:
        """Our own id."""

    @property
    def operator(self) -> "Operator":
        """Orders of the peer's operator."""

    def addresses(self) -> tuple[str, ...]:
        """Returns our listen addresses as full multiaddrs with ``/p2p/ID``; empty before ``run`` has
        started."""

    def neighbours(self) -> tuple[Neighbour, ...]:
        """Returns a snapshot of the connected peers, sorted by peer id."""

    def send(self, peer_id: str, lane: Lane, payload: bytes) -> bool:
        """Queues one message and never blocks. False = shed (no such neighbour, or its queue is full), and
        counted.

        True promises nothing more than the queue: a broken connection loses what was under way. Raises
        LocalError for a payload above PAYLOAD_BYTES_MAX.
        """

    async def request(self, peer_id: str, method: str, body: bytes, timeout_s: float) -> bytes:
        """Returns the neighbour's answer; raises Refused, RequestTimeout, PeerGone or TooManyRequests."""

    def publish(self, topic: str, payload: bytes) -> bool:
        """Queues one gossip message. False = shed (queue full), and counted. LocalError: unknown topic or
        too big."""

    def penalise(self, peer_id: str, rule: str, points: int) -> None:
        """Counts ``fault.<rule>`` and takes ``points`` off the peer's score; at -100 it is dropped and
        banned."""

    def add_peer(self, address: str, *, keep: bool) -> None:
        """Learns a multiaddr with ``/p2p/ID``. ``keep``: redial for ever with back-off, beyond
        ``neighbours_max`` too.

        Raises LocalError for a malformed address.
        """

    def hold(self, peer_ids: frozenset[str]) -> None:
        """Keeps connections to these peers, beyond ``neighbours_max`` too, until the next call names others.

        Raises LocalError for more than HELD_MAX.
        """

    def banned(self) -> tuple[Ban, ...]:
        """Returns the bans in force, sorted by peer id."""

    def stats(self) -> dict[str, int]:
        """Returns the counters by name (``fault.<rule>``, ``shed.<lane>``, ``dial.failed``, …), for the
        metrics."""

    async def run(self, handlers: Handlers, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled, which is the normal way to stop; ``started`` gives the listen addresses."""
