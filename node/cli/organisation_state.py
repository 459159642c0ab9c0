"""What an organisation is, worked out here from the signed deeds that a peer shows."""

from __future__ import annotations

import msgspec

from ledger.codec import decode
from ledger.organisations.history import replay
from ledger.organisations.records import DeedRecord, Organisation, key_deed
from node.api.organisation_models import OrganisationDetail
from node.cli.context import EXIT_REJECTED, Failure, current
from node.client.sdk import Client


def organisation_of(ref: str) -> Organisation:
    """The organisation that deeds lead to, by its id or the first digits of it. Raises Failure, Refused."""
    client = current.client()
    return checked(client, client.organisation(ref), ref)


def checked(client: Client, detail: OrganisationDetail, ref: str) -> Organisation:
    """What the deeds lead to that the peer holds. Raises Failure(4) when that is another organisation than
    was asked for, or than the peer says; Refused for a deed that does not follow."""
    if not detail.id.startswith(ref):
        raise Failure(EXIT_REJECTED, "the peer shows another organisation than was asked for")
    records = [_deed(client, detail.id, version) for version in range(1, detail.first_version)]
    for deed in detail.deeds:
        signatures = tuple((bytes.fromhex(s.key), s.signature) for s in deed.signatures)
        records.append(DeedRecord(deed.payload, signatures, deed.height, deed.time_ms))
    history = replay(client.status().chain_id, records)
    if not history or history[-1].id.hex() != detail.id or history[-1].version != detail.version:
        raise Failure(EXIT_REJECTED, "the deeds that the peer shows do not lead to this organisation")
    shown = [(m.name, m.key, m.weight, m.holds) for m in detail.members]
    if shown != [(s.name, s.key.hex(), s.weight, s.holds) for s in history[-1].seats]:
        raise Failure(EXIT_REJECTED, "the peer shows other members than the signed deeds lead to")
    return history[-1]


def _deed(client: Client, organisation: str, version: int) -> DeedRecord:
    """An older deed, which the API's answer leaves out."""
    value = client.query(key_deed(bytes.fromhex(organisation), version), False).value
    try:
        return decode(DeedRecord, value or b"")
    except msgspec.MsgspecError:
        raise Failure(
            EXIT_REJECTED, f"the peer does not show deed {version} of {organisation[:12]}"
        ) from None
