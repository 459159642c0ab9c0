"""Records and transactions as plain JSON values: bytes in hex, long ones only by their size."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ledger import records as r
from ledger import trade_records as tr
from ledger import transactions as t
from ledger.codec import decode
from ledger.organisations import records as og
from ledger.proofs.certificate import ValidatorSet
from ledger.text.nearest import nearest

_BYTES_SHOWN_MAX: Final = 64

_RECORDS: Final[dict[bytes, Any]] = {
    b"account": r.Account,
    b"approval": r.ApprovalRecord,
    b"bill": r.Bill,
    b"candidate": r.Candidate,
    b"certification": tr.CertificationRecord,
    b"contract": r.ContractRecord,
    b"contract_mark": r.ContractMark,
    b"contract_owner": r.ContractOwner,
    b"deed": og.DeedRecord,
    b"deployment": r.Deployment,
    b"dispute": tr.Dispute,
    b"farm": r.Farm,
    b"farm_certification": tr.CertificationRecord,
    b"missed": tr.Missed,
    b"node": r.Node,
    b"offence": r.Offence,
    b"organisation": og.Organisation,
    b"organisation_former": og.Organisation,
    b"penalty": tr.Penalty,
    b"receipt": r.ReceiptRecord,
    b"slot": r.Slot,
    b"supply": r.Supply,
    b"validators": ValidatorSet,
    b"validators_next": ValidatorSet,
    b"validators_past": ValidatorSet,
    b"vault": r.VaultRecord,
}


def show(value: Any) -> Any:
    """A JSON value that a person can read."""
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _BYTES_SHOWN_MAX else f"{len(value)} bytes"
    if isinstance(value, msgspec.Struct):
        return {name: show(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): show(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [show(item) for item in value]
    return value


def show_record(key: bytes, value: bytes | None) -> Any:
    """The record under a state key, decoded by the key's prefix; hex when there is no such kind."""
    if value is None:
        return None
    kind = _RECORDS.get(key.partition(b"/")[0])
    if kind is None:
        return show(value)
    try:
        return show(decode(kind, value))
    except msgspec.MsgspecError:
        return show(value)


def body_kind(body: t.Body) -> str:
    """The tag of a transaction's body, such as "transfer"."""
    return str(body.__struct_config__.tag)


def state_key(path: str) -> bytes:
    """The state key of a path as people write it: account/HEX, slot/HEX/web/0, farm/alpha, supply.

    Parts of 64 hex digits stand for their 32 bytes. Raises ValueError for a path that is no ASCII text.
    """
    if not path or not path.isascii():
        raise ValueError("a state path wanted, such as account/HEX or farm/NAME")
    parts = []
    for part in path.split("/"):
        is_hex = len(part) == 64 and all(c in "0123456789abcdef" for c in part)
        parts.append(bytes.fromhex(part) if is_hex else part.encode())
    return b"/".join(parts)


def near_kind(path: str) -> str:
    """The kind that somebody may have meant by a path that begins with none, in words; "" for others."""
    kind = path.partition("/")[0]
    known = [name.decode() for name in _RECORDS]
    return "" if kind in known else nearest(kind, known)
