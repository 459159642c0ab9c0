"""An organisation's deeds from the founding on, checked one by one: what it was after each. Pure.

Who does not want to believe a record (an executing node, an auditor) follows the deeds themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.codec import encode, sha256
from ledger.errors import Refused
from ledger.organisations.organisation import applied, check_deed, check_deed_time, decode_deed
from ledger.organisations.records import DeedRecord, Organisation, key_deed, organisation_at
from ledger.state import Reader, read

_CACHED_MAX: Final = 1_024
_checked: dict[bytes, Organisation] = {}  # by a digest of all deeds so far: right for every chain and fork


def replay(chain_id: str, deeds: Sequence[DeedRecord]) -> list[Organisation]:
    """What the organisation was after each deed. Raises Refused("organisation.…", "key.malformed") for the
    first that does not follow from those before it."""
    out: list[Organisation] = []
    digest = sha256(chain_id.encode())
    for record in deeds:
        digest = sha256(digest + encode(record))
        found = _checked.get(digest)
        if found is None:
            found = _follow(chain_id, out[-1] if out else None, record)
            if len(_checked) >= _CACHED_MAX:
                _checked.pop(next(iter(_checked)))
            _checked[digest] = found
        out.append(found)
    return out


def _follow(chain_id: str, now: Organisation | None, record: DeedRecord) -> Organisation:
    deed = decode_deed(record.payload)
    if now is not None and record.height <= now.height:
        raise Refused("organisation.busy", f"height {record.height} after {now.height}", "height")
    check_deed_time(deed, record.time_ms)
    check_deed(chain_id, now, deed, record.payload, record.signatures)
    return applied(now, deed, record.payload, record.height, record.time_ms)


def proved_organisation(state: Reader, chain_id: str, organisation: bytes) -> Organisation | None:
    """The organisation as a state holds it, once its deeds lead to exactly that; None when there is none.
    Raises Refused as `replay`, and "organisation.unknown" when deeds are missing or lead elsewhere."""
    found = organisation_at(state, organisation)
    if found is None:
        return None
    deeds = []
    for version in range(1, found.version + 1):
        record = read(state, DeedRecord, key_deed(organisation, version))
        if record is None:
            raise Refused("organisation.unknown", f"its deed {version} is missing")
        deeds.append(record)
    if not deeds or replay(chain_id, deeds)[-1] != found or found.id != organisation:
        raise Refused("organisation.unknown", "its deeds do not lead to what is on record")
    return found
