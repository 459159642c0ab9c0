"""Expansion: a contract, its parameters and roles, to the manifest that stakeholders approve.

Pure and deterministic: same input, same bytes, on every peer. Also what a slot costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

import msgspec

from ledger.codec import decode_exact_json
from ledger.contracts.check import check_contract
from ledger.contracts.health import check_exec
from ledger.contracts.parameters import resolve_parameters
from ledger.contracts.types import (
    Contract,
    ContractRole,
    PriceTemplate,
    Value,
    VolumeTemplate,
    WorkloadTemplate,
    caps,
)
from ledger.errors import LocalError, Refused
from ledger.limits import (
    ARGUMENT_CHARS_MAX,
    COUNTRIES_MAX,
    MANIFEST_BYTES_MAX,
    NAME_CHARS_MAX,
    PARAMETERS_MAX,
    ROLES_MAX,
    SLOTS_MAX,
    WORKLOADS_MAX,
)
from ledger.manifests import check
from ledger.manifests.image import check_container
from ledger.manifests.places import check_order, check_release
from ledger.manifests.services import check_egress, check_isolation, check_rpo, check_secrets, check_volumes
from ledger.manifests.types import Manifest, PriceCaps, Resources, Role, Terms, Volume, Workload
from ledger.manifests.wasm import check_runtime
from ledger.policies.check import check_policies
from ledger.policies.decision import About, check_reachable, excluded_signers
from ledger.policies.people import as_if_many, role_of
from ledger.policies.types import ACTS
from ledger.text.expression import ExpressionError, Part, evaluate
from ledger.text.quantities import (
    QuantityError,
    credits_text,
    parse_country,
    parse_cpu,
    parse_duration,
    parse_integer,
    parse_money,
    parse_size,
)
from ledger.text.template import starts_with_reference, substitute, whole
from ledger.transactions import Price

HOUR_MS: Final = 3_600_000
GIB: Final = 2**30


def expand(
    contract: Contract,
    contract_id: bytes,
    author: bytes,
    consumer: bytes,
    parameters: Mapping[str, Value],
    roles: Mapping[str, Sequence[str]],
) -> bytes:
    """Canonical JSON of the manifest; `manifest_digest` of it is what is approved.

    `roles` binds the roles that the contract leaves to the order, to hex public keys or to an organisation
    (ledger.policies.people.role_of). Raises Refused naming the field: the rules of contract.*, parameter.*,
    policy.* and manifest.*.
    """
    check_contract(contract)
    values = resolve_parameters(contract, parameters)
    bound = _bind_roles(contract.roles, roles)
    manifest = Manifest(
        gridpact=1,
        contract=contract_id.hex(),
        name=contract.name,
        version=contract.version,
        author=author.hex(),
        consumer=consumer.hex(),
        parameters=values,
        workloads=tuple(_expand_workload(workload, values) for workload in contract.workloads),
        roles=bound,
        policies=contract.policies,
        terms=Terms(
            duration_s=_number(contract.terms.duration_s, values, parse_duration, "terms.duration"),
            budget=_number(contract.terms.budget, values, parse_money, "terms.budget"),
            fee=_number(contract.terms.fee, values, parse_money, "terms.fee"),
            price=_expand_price(contract.terms.price, values),
            grace_s=_number(contract.terms.grace_s, values, parse_duration, "terms.grace"),
            extension_s=_number(contract.terms.extension_s, values, parse_duration, "terms.extension"),
            top_up=_number(contract.terms.top_up, values, parse_money, "terms.top_up"),
        ),
    )
    check_manifest(manifest)
    excluded = excluded_signers(manifest.policies, author, consumer)
    about = About(author=author, consumer=consumer, budget=most_spent(manifest.terms))
    for act in ACTS:
        rule = manifest.policies.of(act)
        if rule is not None:
            check_reachable(rule, as_if_many(bound), excluded, f"approval.{act}", about)
    data = manifest.encode()
    if len(data) > MANIFEST_BYTES_MAX:
        raise Refused("manifest.too_long", f"{len(data)} bytes, at most {MANIFEST_BYTES_MAX}")
    return data


def decode_manifest(data: bytes) -> Manifest:
    """Foreign bytes to a manifest within all limits. Raises Refused: manifest.too_long,
    manifest.malformed, manifest.not_canonical, and the rules of `check_manifest`."""
    manifest = decode_exact_json(Manifest, data, "manifest", MANIFEST_BYTES_MAX)
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Raises Refused for the first rule that a manifest breaks."""
    for field in ("contract", "author", "consumer"):
        check.check_keys((getattr(manifest, field),), field, _refuse)
    check.check_name(manifest.name, "name", _refuse)
    check.check_version(manifest.version, "version", _refuse)
    if len(manifest.parameters) > PARAMETERS_MAX or len(manifest.roles) > ROLES_MAX:
        raise Refused("contract.too_many", f"at most {PARAMETERS_MAX} parameters and {ROLES_MAX} roles")
    names = [workload.name for workload in manifest.workloads]
    if not 1 <= len(names) <= WORKLOADS_MAX or len(set(names)) != len(names):
        raise Refused("contract.workloads", f"1 to {WORKLOADS_MAX} with names of their own", "workloads")
    for workload in manifest.workloads:
        _check_workload(workload, f"workloads.{workload.name}")
    check_order(manifest.workloads, _refuse)
    if sum(workload.replicas for workload in manifest.workloads) > SLOTS_MAX:
        raise Refused("manifest.slots", f"more than {SLOTS_MAX} replicas in all", "workloads")
    role_names = [role.name for role in manifest.roles]
    if len(set(role_names)) != len(role_names):
        raise Refused("contract.duplicate", "a role is there twice", "roles")
    for role in manifest.roles:
        check.check_name(role.name, f"roles.{role.name}", _refuse)
        check.check_role(role.keys, role.organisation, role.organisation_role, f"roles.{role.name}", _refuse)
    check_policies(manifest.policies, role_names, _refuse)
    check_release(manifest.policies.release, manifest.workloads, _refuse)
    terms = manifest.terms
    check.check_number("duration", terms.duration_s, "terms.duration", _refuse)
    check.check_number("budget", terms.budget, "terms.budget", _refuse)
    check.check_number("fee", terms.fee, "terms.fee", _refuse)
    check.check_number("grace", terms.grace_s, "terms.grace", _refuse)
    check.check_number("extension", terms.extension_s, "terms.extension", _refuse)
    check.check_number("top_up", terms.top_up, "terms.top_up", _refuse)
    for name in terms.price.__struct_fields__:
        cap = getattr(terms.price, name)
        if cap is not None:
            check.check_number("price", cap, f"terms.price.{name}", _refuse)
    if terms.fee > terms.budget:
        fee, budget = credits_text(terms.fee), credits_text(terms.budget)
        raise Refused("manifest.fee", f"{fee} credits are more than the budget of {budget}", "terms.fee")


def slots(manifest: Manifest) -> tuple[str, ...]:
    """Names of all slots, "workload/index", in the order of the manifest."""
    return tuple(f"{workload.name}/{i}" for workload in manifest.workloads for i in range(workload.replicas))


def workload_of(manifest: Manifest, slot: str) -> Workload:
    """The workload of a slot's name. Raises Refused(manifest.unknown_slot)."""
    name, _, index = slot.partition("/")
    for workload in manifest.workloads:
        if workload.name == name and index in {str(i) for i in range(workload.replicas)}:
            return workload
    raise Refused("manifest.unknown_slot", f"no slot {slot[:80]!r} in this manifest", "slot")


def slot_rate(workload: Workload, price: Price) -> int:
    """Micro-credits per hour for one slot at this price, rounded up."""
    need = workload.needs
    disks = need.ssd_bytes * price.ssd_gib_hour + need.hdd_bytes * price.hdd_gib_hour
    per_gib = need.memory_bytes * price.memory_gib_hour + disks
    return -(-(need.cpu_millis * price.cpu_core_hour * GIB + per_gib * 1000) // (1000 * GIB))


def cost(rate_hour: int, from_ms: int, to_ms: int) -> int:
    """Micro-credits for a stretch of time at an hourly rate, rounded up; 0 when it is empty."""
    return -(-rate_hour * (to_ms - from_ms) // HOUR_MS) if to_ms > from_ms else 0


def _refuse(field: str, rule: str, detail: str, suggestion: str = "") -> NoReturn:
    raise Refused(rule, detail, field)


def _bind_roles(declared: Sequence[ContractRole], given: Mapping[str, Sequence[str]]) -> tuple[Role, ...]:
    """All roles with who holds them, sorted, so that the order in which keys were given changes nothing."""
    by_order = {role.name for role in declared if role.bind == "order"}
    for name in sorted(given):
        if name not in by_order:
            fixed = any(role.name == name for role in declared)
            rule = "role.fixed" if fixed else "role.unknown"
            asked = ", ".join(sorted(by_order)) or "none"
            detail = "its keys are fixed by the contract" if fixed else f"the order names holders of: {asked}"
            raise Refused(rule, detail, f"roles.{name[:NAME_CHARS_MAX]}")
    bound = []
    for role in declared:
        if role.bind == "order" and role.name not in given:
            raise Refused("role.unbound", "the order must name the keys of this role", f"roles.{role.name}")
        if role.bind == "order":
            found = role_of(role.name, given[role.name])
        else:
            held = (role.organisation, role.organisation_role)
            found = Role(
                name=role.name, keys=tuple(sorted(role.keys)), organisation=held[0], organisation_role=held[1]
            )
        check.check_role(
            found.keys, found.organisation, found.organisation_role, f"roles.{role.name}", _refuse
        )
        bound.append(found)
    return tuple(bound)


def _expand_workload(template: WorkloadTemplate, values: Mapping[str, Value]) -> Workload:
    field = f"workloads.{template.name}"
    need = template.resources
    return Workload(
        name=template.name,
        kind=template.kind,
        runtime=template.runtime,
        replicas=_number(template.replicas, values, parse_integer, f"{field}.replicas"),
        command=tuple(
            _argument(argument, values, f"{field}.command[{i}]")
            for i, argument in enumerate(template.command)
        ),
        environment={
            name: _text(text, values, f"{field}.environment.{name}")
            for name, text in template.environment.items()
        },
        artifacts=template.artifacts,
        resources=Resources(
            cpu_millis=_number(need.cpu_millis, values, parse_cpu, f"{field}.resources.cpu"),
            memory_bytes=_number(need.memory_bytes, values, parse_size, f"{field}.resources.memory"),
            disk_bytes=_number(need.disk_bytes, values, parse_size, f"{field}.resources.disk"),
            pids=_number(need.pids, values, parse_integer, f"{field}.resources.pids"),
        ),
        ports=template.ports,
        health=template.health,
        restart=template.restart,
        placement=msgspec.structs.replace(
            template.placement,
            countries=tuple(
                _text(c, values, f"{field}.placement.country") for c in template.placement.countries
            ),
            farms=tuple(_text(f, values, f"{field}.placement.farm") for f in template.placement.farms),
        ),
        results=template.results,
        recheck_s=template.recheck_s,
        depends_on=template.depends_on,
        time_limit_s=_number(template.time_limit_s, values, parse_duration, f"{field}.time_limit"),
        agree=_number(template.agree, values, parse_integer, f"{field}.agree"),
        isolation=template.isolation,
        secrets=template.secrets,
        egress=template.egress,
        volumes=tuple(_expand_volume(v, values, f"{field}.volumes.{v.name}") for v in template.volumes),
        update=template.update,
        fuel=_number(template.fuel, values, parse_integer, f"{field}.fuel"),
        working_dir=template.working_dir,
        user=template.user,
        available_s=_number(template.available_s, values, parse_duration, f"{field}.available"),
    )


def _expand_volume(template: VolumeTemplate, values: Mapping[str, Value], field: str) -> Volume:
    return Volume(
        name=template.name,
        path=template.path,
        size_bytes=_number(template.size_bytes, values, parse_size, f"{field}.size"),
        storage=template.storage,
        if_lost=template.if_lost,
        rpo_s=_number(template.rpo_s, values, parse_duration, f"{field}.rpo"),
    )


def _expand_price(price: PriceTemplate, values: Mapping[str, Value]) -> PriceCaps:
    cpu, memory, ssd, hdd = (
        None if cap is None else _number(cap, values, parse_money, f"terms.price.{name}")
        for name, cap in caps(price)
    )
    return PriceCaps(cpu_core_hour=cpu, memory_gib_hour=memory, ssd_gib_hour=ssd, hdd_gib_hour=hdd)


def _number(given: int | str, values: Mapping[str, Value], parse: Callable[[object], int], field: str) -> int:
    """A literal and an expression's value are in their unit already; a reference's value is read as if it
    stood in the source."""
    if isinstance(given, int):
        return given
    name = whole(given)
    if name is None:
        raise LocalError(f"{field}: {given!r} passed the contract's check")
    if isinstance(name, Part):
        return int(_evaluated(lambda: evaluate(name, values), given, field))
    try:
        return parse(values[name])
    except QuantityError as error:
        raise Refused("manifest.value", f"{error} (from parameter {name})", field) from None


def _evaluated(run: Callable[[], Value], text: str, field: str) -> Value:
    try:
        return run()
    except ExpressionError as error:
        raise Refused("manifest.expression", f"{text[:80]}: {error}", field) from None


def _text(text: str, values: Mapping[str, Value], field: str) -> str:
    out = str(_evaluated(lambda: substitute(text, values), text, field))
    if len(out) > ARGUMENT_CHARS_MAX:  # here, before all of them together are some 16 MiB
        raise Refused("manifest.value", f"{len(out)} characters, at most {ARGUMENT_CHARS_MAX}", field)
    return out


def _argument(text: str, values: Mapping[str, Value], field: str) -> str:
    """One argument stays one argument, and a value never becomes an option."""
    out = _text(text, values, field)
    if starts_with_reference(text) and out.startswith("-"):
        raise Refused(
            "manifest.option_injection", "a value that begins an argument may not begin with -", field
        )
    return out


def _check_workload(workload: Workload, field: str) -> None:
    check.check_name(workload.name, field, _refuse)
    check.check_number("replicas", workload.replicas, f"{field}.replicas", _refuse)
    check.check_number("agree", workload.agree, f"{field}.agree", _refuse)
    paths = [(artifact.path, artifact.kind) for artifact in workload.artifacts]
    check.check_artifact_paths(paths, f"{field}.artifacts", _refuse)
    check.check_artifact_digests(workload.artifacts, f"{field}.artifacts", _refuse)
    executables = [artifact.path for artifact in workload.artifacts if artifact.executable]
    check_container(workload, paths, field, _refuse)
    check.check_command(workload.command, paths, executables, f"{field}.command", _refuse)
    check_exec(workload.health, paths, executables, f"{field}.health", _refuse)
    check.check_environment(workload.environment, f"{field}.environment", _refuse)
    need = workload.resources
    check.check_number("cpu", need.cpu_millis, f"{field}.resources.cpu", _refuse)
    check.check_number("memory", need.memory_bytes, f"{field}.resources.memory", _refuse)
    check.check_number("disk", need.disk_bytes, f"{field}.resources.disk", _refuse)
    check.check_number("pids", need.pids, f"{field}.resources.pids", _refuse)
    check.check_ports(workload.kind, workload.ports, workload.health, field, _refuse)
    check.check_results(workload.kind, workload.results, f"{field}.results", _refuse)
    check.check_number("time_limit", workload.time_limit_s, f"{field}.time_limit", _refuse)
    check.check_time_limit(workload.kind, workload.time_limit_s, f"{field}.time_limit", _refuse)
    check.check_number("available", workload.available_s, f"{field}.available", _refuse)
    check.check_available(workload.kind, len(workload.volumes), workload.available_s, field, _refuse)
    check_isolation(workload.isolation, workload.runtime, f"{field}.isolation", _refuse)
    check_secrets(workload.secrets, f"{field}.secrets", _refuse)
    names = [path for path, _ in paths]
    check_egress(workload.egress, workload.ports, names, f"{field}.egress", _refuse)
    check_volumes(workload.kind, workload.volumes, names, f"{field}.volumes", _refuse)
    for volume in workload.volumes:
        where = f"{field}.volumes.{volume.name}"
        check.check_number("volume", volume.size_bytes, f"{where}.size", _refuse)
        check.check_number("rpo", volume.rpo_s, f"{where}.rpo", _refuse)
        check_rpo(volume.size_bytes, volume.rpo_s, where, _refuse)
    check.check_number("attempts", workload.restart.attempts, f"{field}.restart.attempts", _refuse)
    check.check_number("recheck", workload.recheck_s, f"{field}.recheck", _refuse)
    check.check_update(workload.update, f"{field}.update", _refuse)
    check.check_number("fuel", workload.fuel, f"{field}.fuel", _refuse)
    check_runtime(workload, paths, field, _refuse)
    place = workload.placement
    if len(place.countries) > COUNTRIES_MAX or len(place.farms) > COUNTRIES_MAX:
        raise Refused(
            "contract.too_many", f"at most {COUNTRIES_MAX} countries and farms", f"{field}.placement"
        )
    for country in place.countries:
        try:
            parse_country(country)
        except QuantityError as error:
            raise Refused("manifest.value", str(error), f"{field}.placement.country") from None
    for farm in place.farms:
        check.check_name(farm, f"{field}.placement.farm", _refuse)


def extension_cost(terms: Terms, extra_s: int) -> int:
    """Micro-credits that extending a term by `extra_s` costs: as much in proportion as the term itself may,
    so that every slot's share ([C5]) pays for the longer term, too. `terms` as they are before it."""
    return -(-(terms.budget - terms.fee) * extra_s // terms.duration_s)


def most_spent(terms: Terms) -> int:
    """Micro-credits that a deployment may cost at the very most: topped up and extended as far as its
    manifest lets it."""
    funded = msgspec.structs.replace(terms, budget=terms.budget + terms.top_up)
    return funded.budget + extension_cost(funded, terms.extension_s)
