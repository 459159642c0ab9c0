"""Plans: what an order would buy, where, at what price, who must approve, and what is in its way. Pure.

Prices are computed by the functions that bill later (`ledger.manifests.expansion.slot_rate` and `cost`), for
the life that is expected (`bot.forecast`); what cannot be exceeded, whatever happens, is the escrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from bot.forecast import held_ms
from bot.limits import NODES_SHOWN_MAX
from bot.matcher import Matching, match
from bot.view import Template
from ledger.contracts.parameters import parameter_value, parameters_from_text
from ledger.contracts.types import Contract, Value
from ledger.errors import Refused
from ledger.fit import NO_FARMS, Farms
from ledger.manifests.expansion import cost, decode_manifest, expand, workload_of
from ledger.manifests.types import Manifest, Rule, manifest_digest
from ledger.policies.decision import describe, excluded_signers, named_keys, rules_in
from ledger.policies.people import names_of
from ledger.policies.types import ACTS, Act
from ledger.records import Node
from ledger.text.template import whole_reference
from node.api.bot_seam import Approver, Candidate, Excluded, Plan, PlanLine, PlanRequest
from node.client.amounts import credits_text


class Draft(msgspec.Struct, frozen=True):
    """A plan and what its order would hold: typed parameters, and the manifest (None: not expandable yet)."""

    plan: Plan
    parameters: dict[str, Value]
    manifest: Manifest | None


def make_plan(
    template: Template,
    request: PlanRequest,
    consumer: bytes,
    balance: int,
    nodes: Iterable[Node],
    now_ms: int,
    farms: Farms = NO_FARMS,
) -> Draft:
    """The plan as the market stands at `now_ms`. No side effects.

    What is absent (answers, keys of roles, capacity, funds) is named in `plan.missing`; what is wrong is
    Refused by the rule and field that the ledger would name.
    """
    contract = template.contract
    parameters = typed_parameters(contract, request)
    missing = [*_unanswered(contract, parameters), *_unbound(contract, request)]
    if missing:
        _check_given(contract, parameters)
        return Draft(_open_plan(template, missing, balance), parameters, None)
    data = expand(contract, template.id, template.author, consumer, parameters, request.roles)
    manifest = decode_manifest(data)
    matching = match(manifest, nodes, now_ms, farms)
    missing += _short_of(manifest, request, balance, matching)
    return Draft(
        _plan(template, manifest, manifest_digest(data), matching, missing, balance), parameters, manifest
    )


def typed_parameters(contract: Contract, request: PlanRequest) -> dict[str, Value]:
    """The request's parameters as the contract's types. A budget that is asked for answers the parameter
    that the contract's budget refers to, unless that is given. Raises Refused("parameter.…")."""
    known = {parameter.name: parameter for parameter in contract.parameters}
    given: dict[str, Value] = dict(request.parameters)
    budget = contract.terms.budget
    name = whole_reference(budget) if isinstance(budget, str) else None
    if name is not None and name not in given and request.budget is not None:
        given[name] = request.budget
    out: dict[str, Value] = {}
    for name, value in given.items():
        parameter = known.get(name)
        if parameter is None:
            wanted = ", ".join(sorted(known)) or "none"
            raise Refused("parameter.unknown", f"this contract asks for: {wanted}", f"parameters.{name[:64]}")
        if isinstance(value, str):
            only = msgspec.structs.replace(contract, parameters=(parameter,))
            out |= parameters_from_text(only, {name: value})
        else:
            out[name] = parameter_value(parameter, value, f"parameters.{name}")
    return out


def _unanswered(contract: Contract, given: dict[str, Value]) -> Iterator[str]:
    for parameter in contract.parameters:
        if parameter.default is None and parameter.name not in given:
            about = f" ({parameter.description})" if parameter.description else ""
            yield f"parameter {parameter.name}: a {parameter.type} wanted{about}"


def _unbound(contract: Contract, request: PlanRequest) -> Iterator[str]:
    for role in contract.roles:
        if role.bind == "order" and not request.roles.get(role.name):
            yield f"role {role.name}: the order must name who holds it"


def _check_given(contract: Contract, parameters: dict[str, Value]) -> None:
    """Values that are there are checked even while others are missing."""
    for parameter in contract.parameters:
        if parameter.name in parameters:
            parameter_value(parameter, parameters[parameter.name], f"parameters.{parameter.name}")


def _short_of(manifest: Manifest, request: PlanRequest, balance: int, matching: Matching) -> Iterator[str]:
    escrow = manifest.terms.budget
    if request.budget is not None and escrow > request.budget:
        most = credits_text(request.budget)
        yield f"budget: the contract asks for {credits_text(escrow)} credits, at most {most} given"
    if escrow > balance:
        held = credits_text(balance)
        yield f"funds: {credits_text(escrow)} credits go into escrow, the account holds {held}"
    for slot in matching.unplaced:
        yield f"capacity: no node for {slot.slot} ({'; '.join(slot.reasons)})"


def _plan(
    template: Template,
    manifest: Manifest,
    digest: bytes,
    matching: Matching,
    missing: list[str],
    balance: int,
) -> Plan:
    policies = manifest.policies
    lines = _lines(manifest, matching)
    return Plan(
        contract=template.id.hex(),
        name=manifest.name,
        version=manifest.version,
        manifest=digest.hex(),
        lines=lines,
        candidates=[
            Candidate(
                node=c.node.key.hex(),
                farm=c.node.farm,
                country=c.node.country,
                workload=c.workload,
                rate_hour=c.rate_hour,
            )
            for c in matching.candidates[:NODES_SHOWN_MAX]
        ],
        excluded=[
            Excluded(node=x.node.key.hex(), farm=x.node.farm, workload=x.workload, reasons=list(x.reasons))
            for x in matching.misfits[:NODES_SHOWN_MAX]
        ],
        approvers=list(approvers_of(manifest, ACTS)),
        policies={act: describe(policies.of(act)) for act in ACTS},
        missing=missing,
        rate_hour=sum(line.rate_hour for line in lines),
        cost=sum(line.cost for line in lines),
        expected=sum(line.expected for line in lines) + manifest.terms.fee,
        fee=manifest.terms.fee,
        escrow=manifest.terms.budget,
        balance=balance,
        duration_s=manifest.terms.duration_s,
    )


def _lines(manifest: Manifest, matching: Matching) -> list[PlanLine]:
    spans_ms = held_ms(manifest)
    return [
        PlanLine(
            slot=m.slot,
            node=m.node.key.hex(),
            farm=m.node.farm,
            country=m.node.country,
            rate_hour=m.rate_hour,
            cost=m.cost,
            expected=cost(m.rate_hour, *spans_ms[workload_of(manifest, m.slot).name]),
        )
        for m in matching.matches
    ]


def _open_plan(template: Template, missing: list[str], balance: int) -> Plan:
    """What can be said before the contract can be expanded."""
    contract = template.contract
    policies = contract.policies
    return Plan(
        contract=template.id.hex(),
        name=contract.name,
        version=contract.version,
        manifest="",
        lines=[],
        candidates=[],
        excluded=[],
        approvers=[],
        policies={act: describe(policies.of(act)) for act in ACTS},
        missing=missing,
        rate_hour=0,
        cost=0,
        expected=0,
        fee=0,
        escrow=0,
        balance=balance,
        duration_s=0,
    )


def approvers_of(manifest: Manifest, acts: Sequence[Act]) -> Iterator[Approver]:
    """Roles that the policies of these acts name, with the keys that count; those that one names by key come
    last."""
    policies = manifest.policies
    excluded = excluded_signers(policies, bytes.fromhex(manifest.author), bytes.fromhex(manifest.consumer))
    for act in acts:
        rule = policies.of(act)
        wanted = set(_roles_in(rule))
        for role in manifest.roles:
            if role.name in wanted:
                keys = [key for key in role.keys if bytes.fromhex(key) not in excluded]
                holder = names_of((role,)).get(role.name, "")
                yield Approver(act=act, role=role.name, keys=keys, organisation=holder)
        by_key = sorted(key.hex() for key in named_keys(rule) - excluded)
        if by_key:
            yield Approver(act=act, role="named by key", keys=by_key)


def _roles_in(rule: Rule | None) -> Iterator[str]:
    """Roles that fill a place of a policy, or have a veto on it."""
    for node in rules_in(rule):
        if node.role is not None:
            yield node.role
        yield from (entry.role for entry in node.weigh if entry.role is not None)
        yield from node.veto
