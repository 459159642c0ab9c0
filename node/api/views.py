"""From committed records to what the API and the explorer show: the peer, the market, accounts, vault."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ledger import epochs
from ledger import records as r
from ledger.blocks import decode_header
from ledger.codec import decode
from ledger.contracts.types import Contract
from ledger.documents import open_document
from ledger.errors import Refused
from ledger.keys import public_key_from_hex
from ledger.proofs.certificate import ValidatorSet
from ledger.reputation import reputation
from ledger.state import read
from node.api import models as m
from node.api.limits import FINAL_AGE_MS_MIN, FINAL_AGE_VIEWS, PREFIX_DIGITS_MIN
from node.api.problems import ApiProblem, not_found
from node.api.show import show_record
from node.seam import PeerSeam
from p2p.ids import peer_id_of

T = TypeVar("T")


def page(
    peer: PeerSeam, prefix: bytes, kind: type[T], make: Callable[[T], Any], cursor: str, limit: int
) -> m.Page[Any]:
    """A page of the records under `prefix`, in key order."""
    start = b""
    if cursor:
        try:
            start = prefix + bytes.fromhex(cursor) + b"\0"
        except ValueError:
            raise ApiProblem(400, "query.cursor", "a cursor of an earlier answer wanted", "cursor") from None
    found = list(peer.state.scan(prefix, start, limit + 1))
    items = [make(decode(kind, data)) for _, data in found[:limit]]
    following = found[limit - 1][0][len(prefix) :].hex() if len(found) > limit else ""
    return m.Page(items=items, next=following)


def status(peer: PeerSeam) -> m.Status:
    """The peer's status with its readiness."""
    found = peer.status()
    reason = not_ready(peer)
    table = {name: getattr(found, name) for name in found.__dataclass_fields__}
    table |= {
        "genesis": peer.genesis.hash.hex(),
        "validators": len(peer.validators.members),
        "ready": not reason,
        "not_ready": reason,
    }
    return msgspec.convert(table, m.Status, from_attributes=True)


def not_ready(peer: PeerSeam) -> str:
    """Why the peer is not ready, "" when it is: caught up, and blocks become final."""
    found = peer.status()
    if found.stale:
        return f"the state here is not what the validators signed ({found.sync})"
    if found.catching_up:
        return f"catching up: height {found.height} of {found.best_height}"
    if found.last_final_ms == 0:
        return "no block became final since the start"
    timers = peer.genesis.consensus
    most_ms = max(FINAL_AGE_MS_MIN, FINAL_AGE_VIEWS * (timers.view_timeout_ms + timers.idle_ms))
    age_ms = time.time_ns() // 1_000_000 - found.last_final_ms
    if age_ms > most_ms:
        return f"no block became final for {age_ms // 1000} s: the BFT quorum is missing"
    return ""


def peers(peer: PeerSeam) -> m.Peers:
    """Neighbours, bans, and the peer book."""
    names = m.Neighbour.__struct_fields__
    book = m.KnownPeer.__struct_fields__
    return m.Peers(
        neighbours=[m.Neighbour(**{n: getattr(x, n) for n in names}) for x in peer.network.neighbours()],
        banned=[m.Banned(peer_id=b.peer_id, rule=b.rule, left_s=b.left_s) for b in peer.network.banned()],
        known=[
            m.KnownPeer(**{n: getattr(x, n) for n in book} | {"addresses": list(x.addresses)})
            for x in peer.network.operator.known()
        ],
    )


def validators(peer: PeerSeam) -> m.Validators:
    """The validators in force, and those that follow them."""
    shown = _validators(peer, peer.validators)
    pending = epochs.pending(peer.state)
    shown.next = None if pending is None else _validators(peer, pending)
    return shown


def _validators(peer: PeerSeam, found: ValidatorSet) -> m.Validators:
    return m.Validators(
        epoch=found.epoch,
        total=found.total,
        quorum=found.quorum,
        members=[
            m.ValidatorView(
                key=v.key.hex(),
                weight=v.weight,
                moniker=v.moniker,
                suspended_height=_suspended_height(peer, v.key),
            )
            for v in found.members
        ],
    )


def _suspended_height(peer: PeerSeam, validator: bytes) -> int | None:
    offence = read(peer.state, r.Offence, r.key_offence(validator))
    return None if offence is None else offence.height


def contract_of(record: r.ContractRecord) -> Contract:
    """The contract inside a published record."""
    return open_document(record.envelope, "contract").predicate.contract


def _mark(peer: PeerSeam, contract_id: bytes) -> tuple[str, str]:
    """What the author said of a version, and why."""
    found = read(peer.state, r.ContractMark, r.key_contract_mark(contract_id))
    return ("", "") if found is None else (found.mark, found.reason)


def contract_summary(peer: PeerSeam, record: r.ContractRecord) -> m.ContractSummary:
    """A line of the list."""
    mark, reason = _mark(peer, record.id)
    contract = contract_of(record)
    return m.ContractSummary(
        id=record.id.hex(),
        name=record.name,
        version=record.version,
        title=contract.title,
        summary=contract.summary,
        author=record.author.hex(),
        height=record.height,
        time_ms=record.time_ms,
        tags=contract.tags,
        runtimes=tuple(sorted({workload.runtime for workload in contract.workloads})),
        mark=mark,
        mark_reason=reason,
    )


def contract(peer: PeerSeam, ref: str) -> m.ContractDetail:
    """A contract by id, NAME@VERSION, or NAME. Raises ApiProblem 404."""
    record = find_contract(peer, ref)
    mark, reason = _mark(peer, record.id)
    return m.ContractDetail(
        id=record.id.hex(),
        name=record.name,
        version=record.version,
        author=record.author.hex(),
        height=record.height,
        time_ms=record.time_ms,
        contract=contract_of(record),
        envelope=record.envelope,
        mark=mark,
        mark_reason=reason,
    )


def find_contract(peer: PeerSeam, ref: str) -> r.ContractRecord:
    """The record that a reference names. Raises ApiProblem 404."""
    id_ = _hex32(ref)
    if id_ is None:
        name, mark, version = ref.partition("@")
        if not mark:
            owner = read(peer.state, r.ContractOwner, r.key_contract_owner(name))
            version = "" if owner is None else owner.latest
        id_ = peer.state.get(r.key_contract_name(name, version)) if version else None
    record = None if id_ is None else read(peer.state, r.ContractRecord, r.key_contract(id_))
    if record is None:
        raise not_found(f"no contract {ref[:100]!r} is published", "contract.unknown")
    return record


def _hex32(text: str) -> bytes | None:
    try:
        return public_key_from_hex(text, "")
    except Refused:
        return None


def hex32(text: str, field: str) -> bytes:
    """32 bytes of 64 hex digits. Raises ApiProblem 400."""
    found = _hex32(text)
    if found is None:
        raise ApiProblem(400, "query.hex", "64 lower-case hex digits wanted", field)
    return found


def full_id(peer: PeerSeam, prefix: bytes, ref: str, what: str) -> bytes:
    """The one id under `prefix` that begins with the digits `ref`. Raises ApiProblem 400, 404."""
    found = _hex32(ref)
    if found is not None:
        return found
    if not PREFIX_DIGITS_MIN <= len(ref) < 64 or any(c not in "0123456789abcdef" for c in ref):
        raise ApiProblem(
            400, "query.id", f"64 hex digits wanted, or the first {PREFIX_DIGITS_MIN} or more", what
        )
    even = bytes.fromhex(ref[: len(ref) // 2 * 2])
    matches = [
        key[len(prefix) :]
        for key, _ in peer.state.scan(prefix + even, limit=64)
        if key[len(prefix) :].hex().startswith(ref)
    ]
    if not matches:
        raise not_found(f"no {what} begins with {ref}", f"{what}.unknown")
    if len(matches) > 1:
        raise ApiProblem(409, f"{what}.ambiguous", f"{len(matches)} begin with {ref}: give more digits", what)
    return matches[0]


def node_view(peer: PeerSeam, node: r.Node) -> m.NodeView:
    """A node with its offer."""
    skipped = ("key", "peer_id", "price", "runtimes", "offering", "reputation")
    plain = {n: getattr(node, n) for n in m.NodeView.__struct_fields__ if n not in skipped}
    price = m.PriceView(**{n: getattr(node.price, n) for n in m.PriceView.__struct_fields__})
    return m.NodeView(
        key=node.key.hex(),
        peer_id=peer_id_of(node.key),
        price=price,
        runtimes=list(node.runtimes),
        offering=node.valid_until_ms > peer.time_ms,
        reputation=reputation(node),
        **plain,
    )


def farm_view(farm: r.Farm) -> m.FarmView:
    """A farm."""
    return m.FarmView(name=farm.name, owner=farm.owner.hex(), country=farm.country, certified=farm.certified)


def account(peer: PeerSeam, key: str) -> m.AccountView:
    """An account; one that is not there holds nothing."""
    found = read(peer.state, r.Account, r.key_account(hex32(key, "key")))
    return m.AccountView(key=key, balance=0 if found is None else found.balance)


def vault(peer: PeerSeam, owner: str, name: str) -> m.VaultView:
    """An owner's encrypted record. Raises ApiProblem 404."""
    found = read(peer.state, r.VaultRecord, r.key_vault(hex32(owner, "owner"), name))
    if found is None:
        raise not_found(f"no record {name[:64]!r} of this owner", "vault.unknown")
    return m.VaultView(owner=owner, name=name, version=found.version, ciphertext=found.ciphertext)


def query(peer: PeerSeam, key: bytes, prove: bool) -> m.QueryView:
    """What the state holds under a key; with `prove`, at a height that a final header commits to."""
    if not prove:
        value = peer.state.get(key)
        return m.QueryView(key=key.hex(), value=value, shown=show_record(key, value), height=peer.height)
    found = peer.store.prove(key)
    return m.QueryView(
        key=key.hex(),
        value=found.value,
        shown=show_record(key, found.value),
        height=decode_header(found.finality.header).state_height,
        proof=found.encode(),
    )
