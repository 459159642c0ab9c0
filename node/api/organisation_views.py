"""Organisations as the state holds them, with the deeds that made them."""

from __future__ import annotations

from ledger.errors import LocalError
from ledger.organisations.history import replay
from ledger.organisations.organisation import decode_deed
from ledger.organisations.records import DeedRecord, Organisation, key_deed, key_organisation
from ledger.organisations.words import words_of_deed
from ledger.state import read
from node.api import organisation_models as m
from node.api.limits import DEEDS_SHOWN_MAX
from node.api.problems import not_found
from node.api.views import full_id
from node.seam import PeerSeam

PREFIX = b"organisation/"


def summary(found: Organisation) -> m.OrganisationSummary:
    """A line of the list."""
    return m.OrganisationSummary(
        id=found.id.hex(),
        name=found.name,
        version=found.version,
        members=len(found.seats),
        quorum=found.quorum,
        weight=sum(seat.weight for seat in found.seats),
        dissolved=found.dissolved,
        height=found.height,
        time_ms=found.time_ms,
    )


def detail(peer: PeerSeam, ref: str) -> m.OrganisationDetail:
    """All about one, by its id or the first digits of it. Raises ApiProblem 400, 404."""
    id_ = full_id(peer, PREFIX, ref, "organisation")
    found = read(peer.state, Organisation, key_organisation(id_))
    if found is None:
        raise not_found(f"no organisation {ref}", "organisation.unknown")
    members = [
        m.MemberView(
            name=seat.name,
            key=seat.key.hex(),
            weight=seat.weight,
            holds=seat.holds,
            earlier=[key.hex() for key in seat.earlier],
            lost=[key.hex() for key in seat.lost],
        )
        for seat in found.seats
    ]
    deeds = _deeds(peer, found)
    return m.OrganisationDetail(
        id=found.id.hex(),
        name=found.name,
        version=found.version,
        quorum=found.quorum,
        weight=sum(seat.weight for seat in found.seats),
        dissolved=found.dissolved,
        height=found.height,
        time_ms=found.time_ms,
        members=members,
        first_version=found.version - len(deeds) + 1,
        deeds=deeds,
    )


def _deeds(peer: PeerSeam, found: Organisation) -> list[m.DeedView]:
    records = []
    for version in range(1, found.version + 1):
        record = read(peer.state, DeedRecord, key_deed(found.id, version))
        if record is None:
            raise LocalError(f"the state holds no deed {version} of organisation {found.id.hex()}")
        records.append(record)
    history = [None, *replay(peer.genesis.chain_id, records)]
    shown = list(zip(history, records, strict=False))[-DEEDS_SHOWN_MAX:]
    return [_deed(before, record) for before, record in shown]


def _deed(before: Organisation | None, record: DeedRecord) -> m.DeedView:
    deed = decode_deed(record.payload)
    return m.DeedView(
        version=deed.version,
        act=deed.act,
        height=record.height,
        time_ms=record.time_ms,
        says=deed.says,
        words=words_of_deed(before, deed),
        payload=record.payload,
        signatures=[m.SignatureView(key=key.hex(), signature=sign) for key, sign in record.signatures],
    )
