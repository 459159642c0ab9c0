"""The rules of the contract language that hold for YAML sources and for published contracts alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ledger.codec import decode_exact_json
from ledger.contracts.health import check_exec
from ledger.contracts.parameters import parameter_value
from ledger.contracts.types import Contract, Parameter, TermsTemplate, Value, WorkloadTemplate, caps
from ledger.errors import Refused
from ledger.limits import (
    CHOICES_MAX,
    CONTRACT_BYTES_MAX,
    COUNTRIES_MAX,
    EXPRESSIONS_MAX,
    NAME_CHARS_MAX,
    NUMBER_MAX,
    PARAMETERS_MAX,
    ROLES_MAX,
    TAGS_MAX,
    TEXT_CHARS_MAX,
    TITLE_CHARS_MAX,
    WORKLOADS_MAX,
)
from ledger.manifests import check
from ledger.manifests.check import Report
from ledger.manifests.image import check_container
from ledger.manifests.places import check_order, check_release
from ledger.manifests.services import check_egress, check_isolation, check_rpo, check_secrets, check_volumes
from ledger.manifests.wasm import check_runtime
from ledger.policies.check import check_policies
from ledger.text.expression import KINDS, ExpressionError, Kind, Part, kind_of, names_in
from ledger.text.nearest import nearest
from ledger.text.pattern import PatternError, parse_pattern
from ledger.text.quantities import QuantityError, credits_text, parse_country
from ledger.text.template import TemplateError, expressions, has_template, references, whole

# Programs whose next argument after -c or -e is code.
_INTERPRETERS: Final = frozenset(
    ("sh", "ash", "bash", "dash", "hush", "ksh", "zsh", "perl", "python", "python3")
)


# Which types of parameter may stand where a number is wanted.
_TYPES: Final = {
    "replicas": ("integer",),
    "cpu": ("integer", "string"),
    "memory": ("size",),
    "disk": ("size",),
    "volume": ("size",),
    "rpo": ("duration",),
    "available": ("duration",),
    "pids": ("integer",),
    "duration": ("duration",),
    "time_limit": ("duration",),
    "budget": ("money", "integer"),
    "fee": ("money", "integer"),
    "price": ("money", "integer"),
    "extension": ("duration",),
    "grace": ("duration",),
    "top_up": ("money", "integer"),
    "agree": ("integer",),
    "fuel": ("integer",),
}


def check_contract(contract: Contract) -> None:
    """Raises Refused for the first rule that a built contract breaks."""

    def refuse(field: str, rule: str, detail: str, suggestion: str = "") -> None:
        raise Refused(rule, detail, field)

    size = len(contract.encode())
    if size > CONTRACT_BYTES_MAX:
        raise Refused("contract.too_long", f"{size} bytes, at most {CONTRACT_BYTES_MAX}")
    report_problems(contract, refuse)
    for workload in contract.workloads:
        field = f"workloads.{workload.name}"
        paths = [(artifact.path, artifact.kind) for artifact in workload.artifacts]
        executables = [artifact.path for artifact in workload.artifacts if artifact.executable]
        report_files(workload, paths, executables, refuse)
        check.check_artifact_digests(workload.artifacts, f"{field}.artifacts", refuse)


def decode_contract(data: bytes) -> Contract:
    """Foreign bytes (canonical JSON) to a checked contract. Raises Refused: contract.too_long,
    contract.malformed, contract.not_canonical, and the rules of `check_contract`."""
    contract = decode_exact_json(Contract, data, "contract", CONTRACT_BYTES_MAX)
    check_contract(contract)
    return contract


def report_files(
    workload: WorkloadTemplate,
    paths: Sequence[tuple[str, str]],
    executables: Iterable[str],
    report: Report,
    built: bool = True,
) -> None:
    """Artifacts of a workload by (path, kind), and the command that needs them. What a container's source
    does not name, its image does, when it is `built`."""
    field = f"workloads.{workload.name}"
    check.check_artifact_paths(paths, f"{field}.artifacts", report)
    check_container(workload, paths, field, report, built=built)
    if built or workload.runtime != "oci":
        check.check_command(workload.command, paths, executables, f"{field}.command", report)
    check_exec(workload.health, paths, executables, f"{field}.health", report)
    names = [path for path, _ in paths]
    check_egress(workload.egress, workload.ports, names, f"{field}.egress", report)
    check_volumes(workload.kind, workload.volumes, names, f"{field}.volumes", report)
    check_runtime(workload, paths, field, report)


def report_problems(contract: Contract, report: Report) -> None:
    """All rules but those about artifacts."""
    check.check_name(contract.name, "name", report)
    check.check_version(contract.version, "version", report)
    check.check_text(contract.title, TITLE_CHARS_MAX, "title", report)
    check.check_text(contract.summary, TEXT_CHARS_MAX, "summary", report)
    check.check_text(contract.changes, TEXT_CHARS_MAX, "changes", report)
    _check_count(contract.tags, TAGS_MAX, "tags", report)
    for index, tag in enumerate(contract.tags):
        check.check_name(tag, f"tags[{index}]", report)
    _check_parameters(contract.parameters, report)
    types: dict[str, str] = {parameter.name: parameter.type for parameter in contract.parameters}
    _check_count(contract.roles, ROLES_MAX, "roles", report)
    _check_distinct([role.name for role in contract.roles], "roles", report)
    for role in contract.roles:
        check.check_name(role.name, f"roles.{role.name}", report)
        if role.bind == "author" and not role.organisation and not role.organisation_role:
            check.check_keys(role.keys, f"roles.{role.name}.keys", report)
        elif role.bind == "author":
            held = (role.organisation, role.organisation_role)
            check.check_role(role.keys, *held, f"roles.{role.name}", report)
        elif role.keys or role.organisation or role.organisation_role:
            report(f"roles.{role.name}.keys", "contract.role_keys", "a role bound by the order has none here")
    rules = sum(text.count("${=") for text in _templates(contract))
    if rules > EXPRESSIONS_MAX:
        report("workloads", "contract.too_many", f"{rules} expressions, at most {EXPRESSIONS_MAX}")
    if not contract.workloads:
        report("workloads", "contract.workloads", "at least one workload wanted")
    _check_count(contract.workloads, WORKLOADS_MAX, "workloads", report)
    _check_distinct([workload.name for workload in contract.workloads], "workloads", report)
    for workload in contract.workloads:
        _check_workload(workload, types, report)
    check_policies(contract.policies, [role.name for role in contract.roles], report)
    check_release(contract.policies.release, contract.workloads, report)
    _check_terms(contract.terms, types, report)
    _check_fee(contract, report)
    check_order(contract.workloads, report)


def _templates(contract: Contract) -> Iterator[str]:
    """Every text in which expansion evaluates something."""
    terms = contract.terms
    found: list[int | str | None] = [
        terms.duration_s,
        terms.budget,
        terms.fee,
        terms.grace_s,
        terms.extension_s,
        terms.top_up,
    ]
    found += [cap for _, cap in caps(terms.price)]
    for workload in contract.workloads:
        need = workload.resources
        found += [workload.replicas, workload.agree, workload.time_limit_s, workload.fuel]
        found.append(workload.available_s)
        found += [need.cpu_millis, need.memory_bytes, need.disk_bytes, need.pids]
        found += [number for volume in workload.volumes for number in (volume.size_bytes, volume.rpo_s)]
        found += [*workload.command, *workload.environment.values()]
        found += [*workload.placement.countries, *workload.placement.farms]
    return (item for item in found if isinstance(item, str))


def _check_count(items: Sequence[object], most: int, field: str, report: Report) -> None:
    if len(items) > most:
        report(field, "contract.too_many", f"{len(items)}, at most {most}")


def _check_distinct(names: Sequence[str], field: str, report: Report) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            report(f"{field}.{name}", "contract.duplicate", f"{name} is there twice")


def _check_parameters(parameters: Sequence[Parameter], report: Report) -> None:
    _check_count(parameters, PARAMETERS_MAX, "parameters", report)
    _check_distinct([parameter.name for parameter in parameters], "parameters", report)
    for parameter in parameters[:PARAMETERS_MAX]:
        field = f"parameters.{parameter.name}"
        check.check_name(parameter.name, field, report)
        check.check_text(parameter.description, TEXT_CHARS_MAX, f"{field}.description", report)
        check.check_text(parameter.unit, NAME_CHARS_MAX, f"{field}.unit", report)
        if _check_bounds(parameter, field, report):
            _check_values(parameter, field, report)


def _check_bounds(parameter: Parameter, field: str, report: Report) -> bool:
    """min, max, pattern and choices fit the type. False when values cannot be judged by them."""
    sound = True
    for name, number in (("min", parameter.min), ("max", parameter.max)):
        if number is None:
            continue
        if parameter.type in ("boolean", "country"):
            report(f"{field}.{name}", "parameter.bounds", f"a {parameter.type} has no {name}")
        low = -NUMBER_MAX if parameter.type == "integer" else 0
        if not low <= number <= NUMBER_MAX:
            report(f"{field}.{name}", "contract.range", f"{low} to {NUMBER_MAX} wanted")
    if parameter.min is not None and parameter.max is not None and parameter.min > parameter.max:
        report(f"{field}.min", "parameter.bounds", f"min {parameter.min} is more than max {parameter.max}")
        sound = False
    if parameter.pattern is not None:
        if parameter.type != "string":
            report(f"{field}.pattern", "parameter.bounds", f"a {parameter.type} has no pattern")
        try:
            parse_pattern(parameter.pattern)
        except PatternError as error:
            report(f"{field}.pattern", "parameter.pattern", str(error))
            sound = False
    _check_count(parameter.choices, CHOICES_MAX, f"{field}.choices", report)
    return sound


def _check_values(parameter: Parameter, field: str, report: Report) -> None:
    """Default and choices are values that a consumer might give, in canonical form."""
    free = Parameter(
        name=parameter.name,
        type=parameter.type,
        min=parameter.min,
        max=parameter.max,
        pattern=parameter.pattern,
    )
    values: list[tuple[str, Parameter, Value]] = [
        (f"{field}.choices[{i}]", free, choice) for i, choice in enumerate(parameter.choices[:CHOICES_MAX])
    ]
    if parameter.default is not None:
        values.append((f"{field}.default", parameter, parameter.default))
    for where, against, value in values:
        try:
            if parameter_value(against, value, where) != value:
                report(where, "parameter.not_canonical", "a built contract holds values in base units")
        except Refused as error:
            report(where, error.rule, error.detail)


def _check_workload(workload: WorkloadTemplate, types: dict[str, str], report: Report) -> None:
    field = f"workloads.{workload.name}"
    check.check_name(workload.name, field, report)
    _check_number("replicas", workload.replicas, types, f"{field}.replicas", report)
    _check_number("agree", workload.agree, types, f"{field}.agree", report)
    for index, argument in enumerate(workload.command):
        where = f"{field}.command[{index}]"
        _check_references(argument, types, where, report)
        if has_template(argument) and _is_script(workload.command, index):
            detail = "a parameter in a script could become code; pass it by environment or as an argument"
            report(where, "contract.shell_parameter", detail)
    check.check_environment(workload.environment, f"{field}.environment", report)
    for name, text in workload.environment.items():
        _check_references(text, types, f"{field}.environment.{name}", report)
    need = workload.resources
    _check_number("cpu", need.cpu_millis, types, f"{field}.resources.cpu", report)
    _check_number("memory", need.memory_bytes, types, f"{field}.resources.memory", report)
    _check_number("disk", need.disk_bytes, types, f"{field}.resources.disk", report)
    _check_number("pids", need.pids, types, f"{field}.resources.pids", report)
    check.check_ports(workload.kind, workload.ports, workload.health, field, report)
    check.check_results(workload.kind, workload.results, f"{field}.results", report)
    _check_number("time_limit", workload.time_limit_s, types, f"{field}.time_limit", report)
    check.check_time_limit(workload.kind, workload.time_limit_s, f"{field}.time_limit", report)
    _check_number("available", workload.available_s, types, f"{field}.available", report)
    check.check_available(workload.kind, len(workload.volumes), workload.available_s, field, report)
    check_isolation(workload.isolation, workload.runtime, f"{field}.isolation", report)
    check_secrets(workload.secrets, f"{field}.secrets", report)
    for volume in workload.volumes:
        where = f"{field}.volumes.{volume.name}"
        _check_number("volume", volume.size_bytes, types, f"{where}.size", report)
        _check_number("rpo", volume.rpo_s, types, f"{where}.rpo", report)
        check_rpo(volume.size_bytes, volume.rpo_s, where, report)
    check.check_number("attempts", workload.restart.attempts, f"{field}.restart.attempts", report)
    check.check_number("recheck", workload.recheck_s, f"{field}.recheck", report)
    check.check_update(workload.update, f"{field}.update", report)
    _check_number("fuel", workload.fuel, types, f"{field}.fuel", report)
    _check_placement(workload, types, report)


def _is_script(command: Sequence[str], index: int) -> bool:
    """True for an argument that an interpreter reads as code."""
    before = command[index - 1] if index else ""
    option = before.startswith("-") and not before.startswith("--") and before.endswith(("c", "e"))
    return option and any(part.rpartition("/")[2] in _INTERPRETERS for part in command[: index - 1])


def _check_placement(workload: WorkloadTemplate, types: dict[str, str], report: Report) -> None:
    field = f"workloads.{workload.name}.placement"
    place = workload.placement
    _check_count(place.countries, COUNTRIES_MAX, f"{field}.country", report)
    _check_count(place.farms, COUNTRIES_MAX, f"{field}.farm", report)
    for country in place.countries:
        _check_place(country, ("country",), types, f"{field}.country", report)
        if not has_template(country):
            try:
                parse_country(country)
            except QuantityError as error:
                report(f"{field}.country", "contract.country", str(error))
    for farm in place.farms:
        _check_place(farm, ("string",), types, f"{field}.farm", report)
        if not has_template(farm):
            check.check_name(farm, f"{field}.farm", report)


def _check_terms(terms: TermsTemplate, types: dict[str, str], report: Report) -> None:
    _check_number("duration", terms.duration_s, types, "terms.duration", report)
    _check_number("budget", terms.budget, types, "terms.budget", report)
    _check_number("fee", terms.fee, types, "terms.fee", report)
    _check_number("grace", terms.grace_s, types, "terms.grace", report)
    _check_number("extension", terms.extension_s, types, "terms.extension", report)
    _check_number("top_up", terms.top_up, types, "terms.top_up", report)
    for name, cap in caps(terms.price):
        if cap is not None:
            _check_number("price", cap, types, f"terms.price.{name}", report)


def _check_fee(contract: Contract, report: Report) -> None:
    """A fee above all that the budget can be: nobody could ever order it."""
    fee, most = contract.terms.fee, contract.terms.budget
    if not isinstance(most, int):
        asked = [p.max for p in contract.parameters if most == f"${{{p.name}}}" and p.type == "money"]
        most = next((high for high in asked if high is not None), NUMBER_MAX)
    if isinstance(fee, int) and fee > most:
        detail = f"{credits_text(fee)} credits are more than the budget of {credits_text(most)}"
        report("terms.fee", "manifest.fee", detail)


def _check_number(kind: str, given: int | str, types: dict[str, str], field: str, report: Report) -> None:
    if isinstance(given, int):
        check.check_number(kind, given, field, report)
    else:
        _check_place(given, _TYPES[kind], types, field, report)


def _check_place(
    text: str, wanted: tuple[str, ...], types: dict[str, str], field: str, report: Report
) -> None:
    """Text with a template, where a value of one of these types must stand alone."""
    if not has_template(text):
        if wanted not in (("country",), ("string",)):
            report(field, "contract.type", f"{text[:40]!r}: a number or one parameter wanted")
        return
    names = _check_references(text, types, field, report)
    if names is None:
        return
    alone = whole(text)
    if alone is None:
        report(field, "contract.reference", "one parameter or expression alone wanted here, such as ${name}")
    elif isinstance(alone, Part):
        kind = kind_of(alone, _kinds(types))
        if kind != KINDS[wanted[0]]:
            detail = f"the expression gives a {kind}, wanted: a {KINDS[wanted[0]]}"
            report(field, "contract.reference_type", detail)
    elif types[alone] not in wanted:
        detail = f"{alone} is a {types[alone]}, wanted: {' or '.join(wanted)}"
        report(field, "contract.reference_type", detail)


def _check_references(text: str, types: dict[str, str], field: str, report: Report) -> tuple[str, ...] | None:
    """Names of the parameters in a text, or None when something was reported."""
    try:
        names, rules = references(text), expressions(text)
    except TemplateError as error:
        report(field, error.rule, str(error))
        return None
    in_rules = {name for expression in rules for name in names_in(expression)}
    for name in names:
        if name not in types and name not in in_rules:
            declared = ", ".join(types) or "none"
            report(
                field,
                "contract.unknown_parameter",
                f"no parameter {name}; declared: {declared}",
                nearest(name, types),
            )
            return None
    for expression in rules:
        try:
            kind_of(expression, _kinds(types))
        except ExpressionError as error:
            report(field, "contract.expression", str(error))
            return None
    return names


def _kinds(types: dict[str, str]) -> dict[str, Kind]:
    return {name: KINDS[kind] for name, kind in types.items()}
