"""What a transition is given: the state to change, the block it runs in, and where its events go."""

from __future__ import annotations

from typing import Any, TypeVar

from ledger.errors import LocalError, Refused
from ledger.outcome import Event
from ledger.records import key_due
from ledger.state import Overlay, read, write
from ledger.transition.outage import missed_ms

T = TypeVar("T")


class Env:
    """One step of execution. `sender` and `tx_id` are empty in timed work."""

    __slots__ = ("chain_id", "deployments", "events", "height", "seed", "sender", "state", "time_ms", "tx_id")

    def __init__(
        self,
        state: Overlay,
        *,
        chain_id: str,
        height: int,
        time_ms: int,
        seed: bytes,
        sender: bytes = b"",
        tx_id: bytes = b"",
    ) -> None:
        self.state = state
        self.chain_id = chain_id
        self.height = height
        self.time_ms = time_ms
        self.seed = seed  # the parent block's hash: no sender of this block could know it
        self.sender = sender
        self.tx_id = tx_id
        self.events: list[Event] = []
        self.deployments: dict[bytes, None] = {}  # ids of those that were looked at, in order

    def emit(self, kind: str, subject: bytes | str, **fields: str | int) -> None:
        """Add an event; bytes are shown in hex."""
        self.events.append(Event(kind, subject.hex() if isinstance(subject, bytes) else subject, fields))

    def read(self, kind: type[T], key: bytes) -> T | None:
        """The record at `key`, or None."""
        return read(self.state, kind, key)

    def need(self, kind: type[T], key: bytes, rule: str, detail: str = "", field: str = "") -> T:
        """The record at `key`. Raises Refused(rule) when there is none."""
        record = read(self.state, kind, key)
        if record is None:
            raise Refused(rule, detail, field)
        return record

    def must(self, kind: type[T], key: bytes) -> T:
        """The record at `key`, which our own rules promise. Raises LocalError when there is none."""
        record = read(self.state, kind, key)
        if record is None:
            raise LocalError(f"the state holds no {kind.__name__} at {key!r}: its own rules are broken")
        return record

    @property
    def missed_ms(self) -> int:
        """[O1] All missed time up to this block."""
        return missed_ms(self.state)

    def move_due(self, kind: str, rest: bytes, before_ms: int, time_ms: int) -> None:
        """Move timed work from one block time to another; 0: none."""
        if before_ms:
            self.state.delete(key_due(before_ms, kind, rest))
        if time_ms:
            self.state.put(key_due(time_ms, kind, rest), b"")

    def write(self, key: bytes, record: Any) -> None:
        """Put a record."""
        write(self.state, key, record)
