"""What the 3bot sees: a plain snapshot of committed state, built once and then only read.

`bot.matcher`, `bot.planner` and `bot.policy` work on these structs alone, so each decision can be
repeated from its view.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import msgspec

from bot.limits import MARKET_NODES_MAX
from ledger.codec import decode
from ledger.contracts.types import Contract
from ledger.documents import open_document
from ledger.errors import LocalError, Refused
from ledger.fit import NO_FARMS, Farms
from ledger.keys import public_key_from_hex
from ledger.manifests.expansion import decode_manifest
from ledger.manifests.types import Manifest
from ledger.policies.decision import Decision
from ledger.policies.people import Roll, organisations_of
from ledger.policies.records import (
    about_update,
    approval_of,
    change_sides,
    judge_change,
    judge_records,
    roll_of,
)
from ledger.policies.types import Act
from ledger.records import (
    Account,
    ApprovalRecord,
    ContractMark,
    ContractOwner,
    ContractRecord,
    Deployment,
    Farm,
    Node,
    Slot,
    key_account,
    key_contract,
    key_contract_mark,
    key_contract_name,
    key_contract_owner,
    key_deployment,
    key_farm,
    key_manifest,
    key_slot,
)
from ledger.state import Reader, read
from ledger.trade_records import UpdateRecord, key_update
from ledger.transition.deal import ENDED, RUNS

_NODES: Final = b"node/"
_DEPLOYMENTS: Final = b"deployment/"


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that this bot looks after. `approvals`: of both acts."""

    record: Deployment
    manifest: Manifest
    slots: tuple[Slot, ...]
    approvals: tuple[ApprovalRecord, ...]
    roll: Roll | None = None  # who holds its roles; None: they name their keys themselves
    update: UpdateRecord | None = None  # the last that was asked for
    next: Manifest | None = None  # of the update under way
    next_roll: Roll | None = None

    @property
    def ended(self) -> bool:
        """Nothing more is to be decided but the sign-off of what completed."""
        return self.record.status in ENDED

    def judge(self, act: Act, at_ms: int) -> Decision:
        """What the act's policy says at a time, as the ledger will."""
        roll = self.roll if self.roll is not None else Roll(self.manifest.roles)
        if act == "update" and self.update is not None and self.next is not None:
            mine = [approval_of(x) for x in self.approvals if x.generation == self.update.number]
            about = about_update(self.next, self.record, self.update)
            new = self.next_roll if self.next_roll is not None else Roll(self.next.roles)
            rolls = {id(self.manifest): roll, id(self.next): new}
            sides = change_sides(self.manifest, self.next, lambda manifest: rolls[id(manifest)])
            return judge_change(sides, about, mine, at_ms)
        return judge_records(self.manifest, self.record, act, self.approvals, at_ms, roll)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Committed state at one height. `nodes`: the market, when a slot of ours is open; else none."""

    height: int
    time_ms: int
    account: bytes
    balance: int
    own: tuple[Own, ...]
    nodes: tuple[Node, ...] = ()
    farms: Farms = NO_FARMS  # of these nodes


class Template(msgspec.Struct, frozen=True):
    """A published contract."""

    id: bytes
    author: bytes
    contract: Contract


def build_view(
    state: Reader, height: int, time_ms: int, account: bytes, deployments: Iterable[bytes]
) -> View:
    """The snapshot. Deployments that the state does not hold are left out."""
    own = tuple(x for x in (_own(state, id_) for id_ in deployments) if x is not None)
    wanted = any(o.record.status in RUNS and any(s.status == "open" for s in o.slots) for o in own)
    nodes = market(state) if wanted else ()
    return View(
        height=height,
        time_ms=time_ms,
        account=account,
        balance=balance_of(state, account),
        own=own,
        nodes=nodes,
        farms=farms_of(state, nodes),
    )


def balance_of(state: Reader, account: bytes) -> int:
    """Micro-credits of an account; 0 when there is none."""
    found = read(state, Account, key_account(account))
    return 0 if found is None else found.balance


def market(state: Reader) -> tuple[Node, ...]:
    """Nodes that have an offer (perhaps expired) or hold slots, of the first MARKET_NODES_MAX."""
    found = (decode(Node, data) for _, data in state.scan(_NODES, limit=MARKET_NODES_MAX))
    return tuple(node for node in found if node.valid_until_ms or node.slots_held)


def farms_of(state: Reader, nodes: Iterable[Node]) -> Farms:
    """Who stands for the farms of these nodes."""
    found = {name: read(state, Farm, key_farm(name)) for name in {node.farm for node in nodes}}
    return {name: farm.certified for name, farm in found.items() if farm is not None and farm.certified}


def awaits_signoff(record: Deployment) -> bool:
    """A completed job whose escrow is kept until somebody signs off, or its term is over."""
    return record.status == "completed" and not record.signed_off_ms and bool(record.ends_ms)


def is_settled(record: Deployment) -> bool:
    """Ended, and nothing of its money is open any more, nor the release of its results."""
    return record.status in ENDED and not awaits_signoff(record) and not record.release_until_ms


def own_deployments(state: Reader, account: bytes) -> tuple[bytes, ...]:
    """Ids of all that name this account as their bot and are not settled: its own orders first, then the
    oldest. Walks over all deployments there are."""
    records = (decode(Deployment, data) for _, data in state.scan(_DEPLOYMENTS))
    mine = [record for record in records if record.bot == account and not is_settled(record)]
    mine.sort(key=lambda record: (record.consumer != account, record.ordered_ms, record.id))
    return tuple(record.id for record in mine)


def is_own(state: Reader, deployment: bytes, account: bytes) -> bool:
    """True when a deployment names this account as its bot."""
    record = read(state, Deployment, key_deployment(deployment))
    return record is not None and record.bot == account


def find_contract(state: Reader, ref: str) -> Template:
    """By id in hex, NAME@VERSION, or NAME (its newest). Raises Refused("contract.unknown"), and
    Refused("order.revoked") as the ledger would."""
    try:
        id_: bytes | None = public_key_from_hex(ref, "contract")
    except Refused:
        name, mark, version = ref.partition("@")
        if not mark:
            owner = read(state, ContractOwner, key_contract_owner(name))
            version = "" if owner is None else owner.latest
        id_ = state.get(key_contract_name(name, version)) if version else None
    record = None if id_ is None else read(state, ContractRecord, key_contract(id_))
    if record is None:
        raise Refused("contract.unknown", f"no contract {ref[:100]!r} is published", "contract")
    marked = read(state, ContractMark, key_contract_mark(record.id))
    if marked is not None and marked.mark == "revoked":
        raise Refused("order.revoked", f"its author has revoked it: {marked.reason}", "contract")
    return Template(record.id, record.author, open_document(record.envelope, "contract").predicate.contract)


def _own(state: Reader, deployment: bytes) -> Own | None:
    record = read(state, Deployment, key_deployment(deployment))
    if record is None:
        return None
    manifest = state.get(key_manifest(record.manifest))
    slots = tuple(read(state, Slot, key_slot(deployment, name)) for name in record.slots)
    if manifest is None or None in slots:
        raise LocalError(f"the state holds deployment {deployment.hex()} without its manifest or slots")
    approvals = tuple(
        decode(ApprovalRecord, data) for _, data in state.scan(b"approval/" + deployment + b"/")
    )
    found, coming = _manifest(manifest), _next(state, record)
    return Own(
        record=record,
        manifest=found,
        roll=roll_of(state, found) if organisations_of(found.roles) else None,
        slots=tuple(slot for slot in slots if slot is not None),
        approvals=approvals,
        update=read(state, UpdateRecord, key_update(deployment, record.updates)) if record.updates else None,
        next=coming,
        next_roll=roll_of(state, coming) if coming and organisations_of(coming.roles) else None,
    )


def _next(state: Reader, record: Deployment) -> Manifest | None:
    data = state.get(key_manifest(record.updating)) if record.updating else None
    return None if data is None else _manifest(data)


@lru_cache(maxsize=256)
def _manifest(data: bytes) -> Manifest:
    """Decoding checks every rule of a manifest, and a view is built for each block."""
    return decode_manifest(data)
