"""What the API answers about the chain itself: blocks, transactions, events, accounts, farms, records.

See node.api.models, under which these are known, too.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class BlockSummary(msgspec.Struct, kw_only=True):
    height: int
    hash: str
    time_ms: int
    view: int
    proposer: str
    moniker: str
    txs: int
    certified: bool


class BlockTx(msgspec.Struct, kw_only=True):
    id: str
    kind: str
    sender: str
    ok: bool
    rule: str


class BlockDetail(msgspec.Struct, kw_only=True):
    """`signers`: who is behind the Final certificate that names it; empty when a later one covers it."""

    height: int
    hash: str
    time_ms: int
    epoch: int
    view: int
    parent_hash: str
    proposer: str
    moniker: str
    state_height: int
    state_root: str
    batches: list[str]
    signers: list[str]
    size_bytes: int
    txs: list[BlockTx]


class EventView(msgspec.Struct, kw_only=True):
    """Also the data of an SSE event."""

    id: str
    height: int
    time_ms: int
    kind: str
    subject: str
    fields: dict[str, str | int]


class GapView(msgspec.Struct, kw_only=True):
    """Data of the SSE event `gap`: events from `first` to before `next` were not sent."""

    first: str
    next: str


class TxView(msgspec.Struct, kw_only=True):
    """A final transaction. `body` shows it decoded; `raw` is what was signed and sent, base64."""

    id: str
    height: int
    time_ms: int
    ok: bool
    rule: str
    detail: str
    sender: str
    kind: str
    body: dict[str, Any]
    events: list[EventView]
    raw: bytes


class TxResult(msgspec.Struct, kw_only=True):
    """`sent`: form checked. `accepted`: kept here until final or expired. `final`: see ok and rule."""

    id: str
    state: Literal["sent", "accepted", "final"]
    height: int = 0
    time_ms: int = 0
    ok: bool = False
    rule: str = ""
    detail: str = ""


class TxLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the answer to a stream: of frame `n`. `late`: not final in time, it may still become so.
    What is left out is empty, 0 or false."""

    state: Literal["accepted", "final", "refused", "overloaded", "late"]
    n: int = -1
    id: str = ""
    height: int = 0
    time_ms: int = 0
    ok: bool = False
    rule: str = ""
    detail: str = ""
    retry_after_ms: int = 0


class AccountView(msgspec.Struct, kw_only=True):
    key: str
    balance: int


class QueryView(msgspec.Struct, kw_only=True):
    """`value`: the record's bytes, base64, null when absent. `shown`: the same for people.
    `proof`: an encoded QueryProof, base64, when asked; `height` is the state's that it shows."""

    key: str
    value: bytes | None
    shown: Any
    height: int
    proof: bytes | None = None


class FarmView(msgspec.Struct, kw_only=True):
    name: str
    owner: str
    country: str
    certified: dict[str, int]  # certifier's key: until when, ms
