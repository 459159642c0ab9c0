"""The contract language `gridpact: 1`: YAML text to a Contract. ledger sees no file, only its text and name.

A source names its artifacts by local files and trees; `ContractSource.built` puts their digests in
their place, which gives the form that is signed and published.
"""

from __future__ import annotations

from typing import Any, Final, Literal, cast, get_args

from ledger.contracts.approval import read_policies
from ledger.contracts.check import report_files, report_problems
from ledger.contracts.health import read_health
from ledger.contracts.reader import Reader
from ledger.contracts.source import ContractSource, SourceArtifact
from ledger.contracts.types import (
    Contract,
    ContractRole,
    Parameter,
    ParameterType,
    PriceTemplate,
    ResourcesTemplate,
    TermsTemplate,
    Value,
    VolumeTemplate,
    WorkloadTemplate,
)
from ledger.contracts.update import read_update
from ledger.limits import CPU_MILLIS_MIN, FUEL_DEFAULT, MEMORY_BYTES_MIN, PATH_CHARS_MAX, VOLUME_BYTES_MIN
from ledger.manifests.services import ISOLATION
from ledger.manifests.types import (
    DISKS,
    Apart,
    ArtifactKind,
    Disk,
    Level,
    Placement,
    Port,
    Restart,
    Runtime,
    Spread,
)
from ledger.text.quantities import (
    parse_country,
    parse_cpu,
    parse_duration,
    parse_integer,
    parse_money,
    parse_size,
)
from ledger.text.template import has_template, unsafe_character
from ledger.text.yaml_tree import ContractError, Node, load

RECHECK_S_DEFAULT: Final = 15
PIDS_DEFAULT: Final = 32
PARAMETER_TYPES: Final[tuple[str, ...]] = get_args(ParameterType)
_PARSERS: Final[dict[str, Any]] = {
    "integer": parse_integer,
    "size": parse_size,
    "duration": parse_duration,
    "money": parse_money,
    "country": parse_country,
}
_CONTRACT_REQUIRED: Final = ("gridpact", "name", "version", "title", "workloads", "approval", "terms")
_CONTRACT_OPTIONAL: Final = ("summary", "changes", "tags", "parameters", "roles")
_PARAMETER_OPTIONAL: Final = ("default", "min", "max", "pattern", "choices", "description", "unit")
_WORKLOAD_REQUIRED: Final = ("kind", "artifacts", "resources")
_WORKLOAD_OPTIONAL: Final = (
    "command",  # an image has one of its own
    "runtime",
    "replicas",
    "environment",
    "ports",
    "health",
    "restart",
    "placement",
    "results",
    "recheck",
    "depends_on",
    "time_limit",
    "agree",
    "isolation",
    "secrets",
    "egress",
    "volumes",
    "update",
    "fuel",
    "working_dir",
    "user",
    "available",
)

RUNTIMES: Final[tuple[str, ...]] = get_args(Runtime)
_PLACEMENT: Final = (
    "country",
    "farm",
    "distinct",
    "attributes",
    "certified_by",
    "farm_certified_by",
    "spread",
    "apart",
    "min_farms",
)
_TERMS_MORE: Final = ("fee", "price", "grace", "extension", "top_up")
_LEVELS: Final[tuple[str, ...]] = get_args(Level)


def parse_contract(text: str, filename: str) -> ContractSource:
    """A contract's YAML source, all of its rules checked. Raises ContractError with every problem found."""
    reader = Reader()
    source = _read(reader, load(text, filename))
    report_problems(source.contract, reader.report)
    for workload in source.contract.workloads:
        mine = [a for a in source.artifacts if a.workload == workload.name]
        executables = [a.path for a in mine if a.executable]
        report_files(workload, [(a.path, a.kind) for a in mine], executables, reader.report, built=False)
    if reader.problems:
        raise ContractError(filename, reader.problems)
    return source


def _read(reader: Reader, root: Node) -> ContractSource:
    top = reader.mapping(root, "", _CONTRACT_REQUIRED, _CONTRACT_OPTIONAL)
    language = reader.parsed(top.get("gridpact"), "gridpact", parse_integer, 1)
    if language != 1:
        reader.report(
            "gridpact", "contract.language", f"version {language} of the language is not known", "1"
        )
    parameters = tuple(
        _parameter(reader, name, node)
        for name, node in reader.mapping(top.get("parameters"), "parameters").items()
    )
    roles = tuple(
        _role(reader, name, node) for name, node in reader.mapping(top.get("roles"), "roles").items()
    )
    artifacts: list[SourceArtifact] = []
    workloads = tuple(
        _workload(reader, name, node, artifacts)
        for name, node in reader.mapping(top.get("workloads"), "workloads").items()
    )
    terms = reader.mapping(top.get("terms"), "terms", ("duration", "budget"), _TERMS_MORE)
    price = reader.mapping(terms.get("price"), "terms.price", (), ("cpu", "memory", *DISKS))
    contract = Contract(
        gridpact=1,
        name=reader.text(top.get("name"), "name", "unnamed"),
        version=reader.text(top.get("version"), "version", "0.0.0"),
        title=reader.text(top.get("title"), "title"),
        summary=reader.text(top.get("summary"), "summary").strip(),
        changes=reader.text(top.get("changes"), "changes").strip(),
        tags=reader.texts(top.get("tags"), "tags"),
        parameters=parameters,
        roles=roles,
        workloads=workloads,
        policies=read_policies(reader, top.get("approval")),
        terms=TermsTemplate(
            duration_s=reader.number(terms.get("duration"), "terms.duration", parse_duration, 60),
            budget=reader.number(terms.get("budget"), "terms.budget", parse_money, 0),
            fee=reader.number(terms.get("fee"), "terms.fee", parse_money, 0),
            grace_s=reader.number(terms.get("grace"), "terms.grace", parse_duration, 0),
            extension_s=reader.number(terms.get("extension"), "terms.extension", parse_duration, 0),
            top_up=reader.number(terms.get("top_up"), "terms.top_up", parse_money, 0),
            price=PriceTemplate(
                cpu_core_hour=_cap(reader, price.get("cpu"), "terms.price.cpu"),
                memory_gib_hour=_cap(reader, price.get("memory"), "terms.price.memory"),
                ssd_gib_hour=_cap(reader, price.get("ssd"), "terms.price.ssd"),
                hdd_gib_hour=_cap(reader, price.get("hdd"), "terms.price.hdd"),
            ),
        ),
    )
    return ContractSource(contract, tuple(artifacts), reader.marks)


def _cap(reader: Reader, node: Node | None, field: str) -> int | str | None:
    return None if node is None else reader.number(node, field, parse_money, 0)


def _parameter(reader: Reader, name: str, node: Node) -> Parameter:
    field = f"parameters.{name}"
    entries = reader.mapping(node, field, ("type",), _PARAMETER_OPTIONAL)
    kind = reader.choice(entries.get("type"), f"{field}.type", PARAMETER_TYPES, "string")
    bound = _PARSERS[kind] if kind in ("size", "duration", "money") else parse_integer
    pattern = entries.get("pattern")
    choices = [
        _value(reader, item, path, kind)
        for item, path in reader.sequence(entries.get("choices"), f"{field}.choices")
    ]
    return Parameter(
        name=name,
        type=cast(ParameterType, kind),
        default=_value(reader, entries["default"], f"{field}.default", kind)
        if "default" in entries
        else None,
        min=reader.parsed(entries.get("min"), f"{field}.min", bound, None),
        max=reader.parsed(entries.get("max"), f"{field}.max", bound, None),
        pattern=None if pattern is None else reader.text(pattern, f"{field}.pattern"),
        choices=tuple(choice for choice in choices if choice is not None),
        description=reader.text(entries.get("description"), f"{field}.description"),
        unit=reader.text(entries.get("unit"), f"{field}.unit"),
    )


def _value(reader: Reader, node: Node, field: str, kind: str) -> Value | None:
    """A default or choice in base units."""
    if kind == "string":
        return reader.text(node, field)
    if kind == "boolean":
        return reader.boolean(node, field, False)
    return cast("Value | None", reader.parsed(node, field, _PARSERS[kind], None))


def _role(reader: Reader, name: str, node: Node) -> ContractRole:
    field = f"roles.{name}"
    entries = reader.mapping(node, field, (), ("bind", "keys", "organisation", "role"))
    if sum(word in entries for word in ("bind", "keys", "organisation")) != 1:
        hint = "'bind: order' lets the order name the keys or the organisation"
        reader.report(field, "contract.role", "one of keys, organisation and bind wanted", hint)
    if "role" in entries and "organisation" not in entries:
        reader.report(f"{field}.role", "contract.role", "a role of an organisation stands beside it")
    bind = reader.choice(entries.get("bind"), f"{field}.bind", ("order",), "author")
    role_keys = reader.texts(entries.get("keys"), f"{field}.keys")
    return ContractRole(
        name=name,
        bind="order" if bind == "order" else "author",
        keys=role_keys,
        organisation=reader.text(entries.get("organisation"), f"{field}.organisation"),
        organisation_role=reader.text(entries.get("role"), f"{field}.role"),
    )


def _workload(reader: Reader, name: str, node: Node, artifacts: list[SourceArtifact]) -> WorkloadTemplate:
    field = f"workloads.{name}"
    entries = reader.mapping(node, field, _WORKLOAD_REQUIRED, _WORKLOAD_OPTIONAL)
    kind = reader.choice(entries.get("kind"), f"{field}.kind", ("service", "job"), "service")
    runtime = reader.choice(entries.get("runtime"), f"{field}.runtime", RUNTIMES, "sandbox")
    for item, path in reader.sequence(entries.get("artifacts"), f"{field}.artifacts"):
        artifacts.append(_artifact(reader, name, item, path))
    need = reader.mapping(entries.get("resources"), f"{field}.resources", ("cpu", "memory"), ("disk", "pids"))
    restart = reader.mapping(entries.get("restart"), f"{field}.restart", (), ("attempts",))
    return WorkloadTemplate(
        name=name,
        kind="job" if kind == "job" else "service",
        runtime=cast(Runtime, runtime),
        replicas=reader.number(entries.get("replicas"), f"{field}.replicas", parse_integer, 1),
        command=reader.texts(entries.get("command"), f"{field}.command"),
        environment={
            key: reader.text(value, f"{field}.environment.{key}")
            for key, value in reader.mapping(entries.get("environment"), f"{field}.environment").items()
        },
        artifacts=(),
        resources=ResourcesTemplate(
            cpu_millis=reader.number(need.get("cpu"), f"{field}.resources.cpu", parse_cpu, CPU_MILLIS_MIN),
            memory_bytes=reader.number(
                need.get("memory"), f"{field}.resources.memory", parse_size, MEMORY_BYTES_MIN
            ),
            disk_bytes=reader.number(need.get("disk"), f"{field}.resources.disk", parse_size, 0),
            pids=reader.number(need.get("pids"), f"{field}.resources.pids", parse_integer, PIDS_DEFAULT),
        ),
        ports=tuple(
            Port(name=port, port=reader.parsed(value, f"{field}.ports.{port}", parse_integer, 0))
            for port, value in reader.mapping(entries.get("ports"), f"{field}.ports").items()
        ),
        health=read_health(reader, entries.get("health"), f"{field}.health"),
        restart=Restart(
            attempts=reader.parsed(restart.get("attempts"), f"{field}.restart.attempts", parse_integer, 3)
        ),
        placement=_placement(reader, entries.get("placement"), f"{field}.placement"),
        results=reader.texts(entries.get("results"), f"{field}.results"),
        recheck_s=reader.parsed(
            entries.get("recheck"), f"{field}.recheck", parse_duration, RECHECK_S_DEFAULT
        ),
        depends_on=reader.texts(entries.get("depends_on"), f"{field}.depends_on"),
        time_limit_s=reader.number(entries.get("time_limit"), f"{field}.time_limit", parse_duration, 0),
        agree=reader.number(entries.get("agree"), f"{field}.agree", parse_integer, 0),
        isolation=reader.words(entries.get("isolation"), f"{field}.isolation", ISOLATION),
        secrets=reader.texts(entries.get("secrets"), f"{field}.secrets"),
        egress=reader.texts(entries.get("egress"), f"{field}.egress"),
        volumes=_volumes(reader, entries.get("volumes"), f"{field}.volumes"),
        update=read_update(reader, entries.get("update"), f"{field}.update"),
        fuel=reader.number(
            entries.get("fuel"), f"{field}.fuel", parse_integer, FUEL_DEFAULT if runtime == "wasm" else 0
        ),
        working_dir=reader.text(entries.get("working_dir"), f"{field}.working_dir", ""),
        user=reader.text(entries.get("user"), f"{field}.user"),
        available_s=reader.number(entries.get("available"), f"{field}.available", parse_duration, 0),
    )


def _volumes(reader: Reader, node: Node | None, field: str) -> tuple[VolumeTemplate, ...]:
    found = []
    for name, item in reader.mapping(node, field).items():
        where = f"{field}.{name}"
        entries = reader.mapping(item, where, ("path", "size"), ("class", "if_lost", "rpo"))
        if_lost = reader.choice(entries.get("if_lost"), f"{where}.if_lost", ("wait", "empty"), "wait")
        found.append(
            VolumeTemplate(
                name=name,
                path=reader.text(entries.get("path"), f"{where}.path", "/missing"),
                size_bytes=reader.number(entries.get("size"), f"{where}.size", parse_size, VOLUME_BYTES_MIN),
                storage=cast(Disk, reader.choice(entries.get("class"), f"{where}.class", DISKS, "ssd")),
                if_lost="empty" if if_lost == "empty" else "wait",
                rpo_s=reader.number(entries.get("rpo"), f"{where}.rpo", parse_duration, 0),
            )
        )
    return tuple(found)


def _artifact(reader: Reader, workload: str, node: Node, field: str) -> SourceArtifact:
    entries = reader.mapping(node, field, ("path",), ("file", "tree", "image", "executable"))
    if sum(word in entries for word in ("file", "tree", "image")) != 1:
        reader.report(field, "contract.artifact", "one of file, tree and image wanted")
    kind: ArtifactKind = "tree" if "tree" in entries else "image" if "image" in entries else "file"
    source = reader.text(entries.get(kind), f"{field}.{kind}")
    parts = source.split("/")
    if ".." in parts or has_template(source) or unsafe_character(source) or len(source) > PATH_CHARS_MAX:
        detail = "a plain path wanted, absolute or inside the contract's folder, without parameters"
        reader.report(f"{field}.{kind}", "contract.source_path", detail)
    path = reader.text(entries.get("path"), f"{field}.path", "/missing")
    executable = reader.boolean(entries.get("executable"), f"{field}.executable", False)
    if kind != "file" and executable:
        detail = "a tree or an image keeps the modes of its own files"
        reader.report(f"{field}.executable", "contract.executable", detail)
    return SourceArtifact(workload, path, kind, source, executable, f"{field}.{kind}")


def _placement(reader: Reader, node: Node | None, field: str) -> Placement:
    entries = reader.mapping(node, field, (), _PLACEMENT)
    countries = reader.some(entries.get("country"), f"{field}.country")
    farms = reader.some(entries.get("farm"), f"{field}.farm")
    distinct = reader.choice(entries.get("distinct"), f"{field}.distinct", ("none", *_LEVELS), "node")
    spread = reader.mapping(entries.get("spread"), f"{field}.spread", ("by", "most"))
    apart = reader.mapping(entries.get("apart"), f"{field}.apart", ("by", "from"))
    attributes = reader.mapping(entries.get("attributes"), f"{field}.attributes")
    return Placement(
        countries=tuple(reader.text(item, path) for item, path in countries),
        farms=tuple(reader.text(item, path) for item, path in farms),
        distinct=cast(Literal["none", "node", "farm", "country"], distinct),
        attributes={
            name: reader.text(value, f"{field}.attributes.{name}") for name, value in attributes.items()
        },
        certified_by=reader.texts(entries.get("certified_by"), f"{field}.certified_by"),
        farm_certified_by=reader.texts(entries.get("farm_certified_by"), f"{field}.farm_certified_by"),
        spread=Spread(
            by=cast(Level, reader.choice(spread.get("by"), f"{field}.spread.by", _LEVELS, "farm")),
            most=reader.parsed(spread.get("most"), f"{field}.spread.most", parse_integer, 1),
        )
        if "spread" in entries
        else None,
        apart=Apart(
            by=cast(Level, reader.choice(apart.get("by"), f"{field}.apart.by", _LEVELS, "node")),
            workloads=reader.texts(apart.get("from"), f"{field}.apart.from"),
        )
        if "apart" in entries
        else None,
        min_farms=reader.parsed(entries.get("min_farms"), f"{field}.min_farms", parse_integer, 1),
    )
