"""What executing yields: events for those who watch, a receipt per transaction, the result of a block."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Something that happened, for subscribers. Small: a kind, what it is about, a few fields.

    `kind` is a dotted name (`slot.running`); `subject` is a hex id or a name; a slot's fields carry its
    name under `slot`. Values are numbers or short text (keys and digests in hex).
    """

    kind: str
    subject: str
    fields: dict[str, str | int]


class Receipt(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """How a transaction ended. A refused one changed nothing; `rule` and `detail` say why.

    `deployments`: ids of the deployments that it was about (also when refused), for their history.
    """

    id: bytes
    ok: bool
    rule: str  # "" when ok
    detail: str
    events: tuple[Event, ...]
    deployments: tuple[bytes, ...] = ()


class Skipped(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A transaction of a block that has no effect and no receipt (rule T1)."""

    id: bytes
    rule: str


class BlockResult(msgspec.Struct, frozen=True):
    """Executed block. `events`: the timed work's first, then each receipt's, in block order.

    `changes` are all writes in byte order of the keys (None: deleted).
    """

    receipts: tuple[Receipt, ...]
    events: tuple[Event, ...]
    changes: dict[bytes, bytes | None]
    skipped: tuple[Skipped, ...]
