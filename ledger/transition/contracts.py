"""Publishing contracts, and expanding them for an order.

[K1] A contract is published by its author: the document's signer is the sender.
[K2] A name belongs to its first author; each version is newer than all before (semver.org, item 11).
[K3] The contract itself is valid (ledger.contracts.check).
[K4] Its author marks a version as deprecated, which warns, or as revoked, for ever: then nobody orders it any
     more. What was ordered before goes on by its own terms and approvals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, cast, get_args

from ledger.contracts.check import check_contract
from ledger.contracts.types import Contract, Value
from ledger.documents import open_document
from ledger.errors import Refused
from ledger.limits import DETAIL_CHARS_MAX
from ledger.manifests.expansion import expand
from ledger.records import (
    ContractMark,
    ContractOwner,
    ContractRecord,
    key_contract,
    key_contract_mark,
    key_contract_name,
    key_contract_owner,
)
from ledger.text.template import unsafe_character
from ledger.transactions import MarkContract, PublishContract
from ledger.transition.env import Env

Mark = Literal["deprecated", "revoked"]

_CACHED_MAX: Final = 128
_contracts: dict[bytes, Contract] = {}  # by id, a digest, so it is right for every chain and fork


def publish(env: Env, body: PublishContract) -> None:
    """[K1]–[K3] Raises Refused("document.…" | "contract.…")."""
    document = open_document(body.envelope, "contract")
    contract = document.predicate.contract
    if document.signer != env.sender:
        raise Refused("contract.not_author", "only its author publishes a contract", "envelope")
    check_contract(contract)
    if env.state.get(key_contract(document.id)) is not None:
        raise Refused("contract.exists", "this contract is published already", "envelope")
    owner = env.read(ContractOwner, key_contract_owner(contract.name))
    if owner is not None and owner.author != env.sender:
        raise Refused("contract.name_taken", f"the name {contract.name!r} belongs to another author", "name")
    if owner is not None and version_order(contract.version) <= version_order(owner.latest):
        raise Refused("contract.version_not_newer", f"{owner.latest} is published already", "version")
    record = ContractRecord(
        document.id, contract.name, contract.version, env.sender, body.envelope, env.height, env.time_ms
    )
    env.write(key_contract(document.id), record)
    env.state.put(key_contract_name(contract.name, contract.version), document.id)
    env.write(key_contract_owner(contract.name), ContractOwner(env.sender, contract.version))
    author = env.sender.hex()
    env.emit("contract.published", document.id, name=contract.name, version=contract.version, author=author)


def mark(env: Env, body: MarkContract) -> None:
    """[K4] Raises Refused("mark.…")."""
    detail = f"no contract {body.contract.hex()[:64]}"
    key = key_contract(body.contract)
    record = env.need(ContractRecord, key, "mark.unknown_contract", detail, "contract")
    if record.author != env.sender:
        raise Refused("mark.not_author", "only its author marks a contract", "contract")
    if body.mark not in get_args(Mark):
        raise Refused("mark.kind", f"one of {', '.join(get_args(Mark))} wanted", "mark")
    if not 1 <= len(body.reason) <= DETAIL_CHARS_MAX or unsafe_character(body.reason) is not None:
        raise Refused("mark.reason", f"1 to {DETAIL_CHARS_MAX} plain characters wanted", "reason")
    former = env.read(ContractMark, key_contract_mark(record.id))
    if former is not None and (former.mark == "revoked" or former.mark == body.mark):
        raise Refused("mark.done", f"the contract is {former.mark} already", "mark")
    made = ContractMark(cast(Mark, body.mark), body.reason, env.height, env.time_ms)
    env.write(key_contract_mark(record.id), made)
    env.emit(f"contract.{body.mark}", record.id, name=record.name, version=record.version, reason=body.reason)


def version_order(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """A key that sorts checked semantic versions by precedence (semver.org, item 11)."""
    core, dash, pre = version.partition("-")
    numbers = tuple(int(part) for part in core.split("."))
    if not dash:
        return numbers, True, ()
    parts = tuple((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in pre.split("."))
    return numbers, False, parts


def expand_contract(
    env: Env,
    contract_id: bytes,
    consumer: bytes,
    parameters: Mapping[str, Value],
    roles: Mapping[str, Sequence[str]],
) -> bytes:
    """A published contract's manifest. Raises Refused("order.unknown_contract"), Refused("order.revoked") and
    those of `expand`."""
    detail = f"no contract {contract_id.hex()[:64]}"
    record = env.need(ContractRecord, key_contract(contract_id), "order.unknown_contract", detail, "contract")
    taken_back = env.read(ContractMark, key_contract_mark(contract_id))
    if taken_back is not None and taken_back.mark == "revoked":
        raise Refused("order.revoked", f"its author has revoked it: {taken_back.reason}", "contract")
    contract = _contracts.get(contract_id)
    if contract is None:
        contract = open_document(record.envelope, "contract").predicate.contract
        if len(_contracts) >= _CACHED_MAX:
            _contracts.pop(next(iter(_contracts)))
        _contracts[contract_id] = contract
    return expand(contract, contract_id, record.author, consumer, parameters, roles)
