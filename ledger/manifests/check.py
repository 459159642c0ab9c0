"""The rules of workloads and terms that hold for every manifest, and for a contract's fixed parts.

Each check reports (field, rule, detail) through `report`, so that the contract compiler can
tell several problems at once and the ledger can stop at the first.

[E9] Only what has no state may run on past its lease, where the notary is out of reach: a service without
     volumes, for at most AVAILABLE_S_MAX. Beside it, its slot may run elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from ledger.contracts.suggestions import named, versioned
from ledger.limits import (
    ARGUMENT_CHARS_MAX,
    ARTIFACT_BYTES_MAX,
    ARTIFACTS_MAX,
    AVAILABLE_S_MAX,
    COMMAND_ARGUMENTS_MAX,
    CPU_MILLIS_MAX,
    CPU_MILLIS_MIN,
    DISK_BYTES_MAX,
    DURATION_S_MAX,
    ENVIRONMENT_MAX,
    GRACE_S_MAX,
    INTERVAL_S_MAX,
    MEMORY_BYTES_MAX,
    MEMORY_BYTES_MIN,
    MIB,
    NAME_CHARS_MAX,
    NUMBER_MAX,
    PATH_CHARS_MAX,
    PIDS_MAX,
    PORTS_MAX,
    PRICE_MAX,
    REPLICAS_MAX,
    RESTARTS_MAX,
    RESULTS_MAX,
    ROLE_KEYS_MAX,
    RPO_S_MAX,
    VOLUME_BYTES_MIN,
)
from ledger.manifests.types import Artifact, Health, Port, UpdateStrategy
from ledger.text.nearest import nearest
from ledger.text.template import NAME, has_template, unsafe_character


class Report(Protocol):
    """Where a check tells of a broken rule, with a way out if it knows a better one than the rule has."""

    def __call__(self, field: str, rule: str, detail: str, suggestion: str = "", /) -> None: ...


_HEX64: Final = re.compile(r"[0-9a-f]{64}")
ENVIRONMENT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_VERSION: Final = re.compile(
    r"(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
# What the sandbox mounts itself; an artifact there would hide it or be hidden.
RESERVED_PATHS: Final = ("/proc", "/dev", "/sys", "/tmp", "/result", "/secrets")
NUMBERS: Final = {
    "replicas": (1, REPLICAS_MAX),
    "cpu": (CPU_MILLIS_MIN, CPU_MILLIS_MAX),
    "memory": (MEMORY_BYTES_MIN, MEMORY_BYTES_MAX),
    "disk": (0, DISK_BYTES_MAX),
    "volume": (VOLUME_BYTES_MIN, DISK_BYTES_MAX),
    "rpo": (0, RPO_S_MAX),
    "available": (0, AVAILABLE_S_MAX),
    "pids": (1, PIDS_MAX),
    "fuel": (0, NUMBER_MAX),
    "duration": (60, DURATION_S_MAX),
    "time_limit": (0, DURATION_S_MAX),
    "budget": (0, NUMBER_MAX),
    "fee": (0, NUMBER_MAX),
    "grace": (0, GRACE_S_MAX),
    "extension": (0, DURATION_S_MAX),
    "top_up": (0, NUMBER_MAX),
    "price": (0, PRICE_MAX),
    "agree": (0, REPLICAS_MAX),
    "interval": (1, INTERVAL_S_MAX),
    "timeout": (1, 60),
    "failures": (1, 100),
    "attempts": (0, RESTARTS_MAX),
    "recheck": (1, INTERVAL_S_MAX),
    "validity": (60, DURATION_S_MAX),
    "max_parallel": (1, REPLICAS_MAX),
    "canary": (0, REPLICAS_MAX),
    "min_healthy": (0, INTERVAL_S_MAX),
    "deadline": (10, INTERVAL_S_MAX),
}
_SECONDS: Final = (
    "duration", "time_limit", "grace", "extension", "interval", "timeout", "recheck", "validity",
    "min_healthy", "deadline", "rpo", "available",
)  # fmt: skip


def check_name(name: str, field: str, report: Report) -> None:
    """A name: lower-case words joined by - or _."""
    if len(name) > NAME_CHARS_MAX or not NAME.fullmatch(name):
        detail = f"lower-case letters, digits, - and _ wanted, at most {NAME_CHARS_MAX}"
        report(field, "contract.name", detail, named(name))


def check_version(version: str, field: str, report: Report) -> None:
    """Semantic version 2.0.0 without build metadata (which has no order)."""
    if len(version) > NAME_CHARS_MAX or not _VERSION.fullmatch(version):
        report(field, "contract.version", "a semantic version wanted, such as 1.0.0", versioned(version))


def check_number(kind: str, number: int, field: str, report: Report) -> None:
    """A number in the range of its kind."""
    least, most = NUMBERS[kind]
    if not least <= number <= most:
        bound = least if number < least else most
        given, low, high = (_written(kind, n) for n in (number, least, most))
        detail = f"{given} is not in {low} to {high}"
        report(field, "contract.range", detail, f"as in {_written(kind, bound)}")


def _written(kind: str, number: int) -> str:
    """A number as a source may have it."""
    if kind in ("memory", "disk", "volume") and number % MIB == 0:
        return f"{number // MIB}MiB"
    return f"{number}m" if kind == "cpu" else f"{number}s" if kind in _SECONDS else str(number)


def check_text(text: str, most: int, field: str, report: Report) -> None:
    """Bounded, with no control or invisible character."""
    if len(text) > most:
        report(field, "contract.too_long", f"{len(text)} characters, at most {most}")
    unsafe = unsafe_character(text)
    if unsafe is not None:
        report(field, "contract.character", f"the control or invisible character {unsafe}")


def check_path(path: str, field: str, report: Report) -> bool:
    """An absolute, normal path with no parameter in it. True when it is."""
    parts = path.split("/")[1:]
    if has_template(path):
        report(field, "contract.parameter_in_path", "a path never holds a parameter")
    elif len(path) > PATH_CHARS_MAX or unsafe_character(path) is not None:
        report(field, "contract.path", f"at most {PATH_CHARS_MAX} plain characters")
    elif not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        report(field, "contract.path", "an absolute path wanted, without //, . or .. and not /")
    else:
        return True
    return False


def under(path: str, folder: str) -> bool:
    """True when `path` is `folder` or below it."""
    return path == folder or path.startswith(folder + "/")


def check_artifact_paths(paths: Sequence[tuple[str, str]], field: str, report: Report) -> None:
    """(path, kind) of a workload's artifacts: normal, apart from each other and from the sandbox's own."""
    if len(paths) > ARTIFACTS_MAX:
        report(field, "contract.too_many", f"{len(paths)} artifacts, at most {ARTIFACTS_MAX}")
        return
    for index, (path, kind) in enumerate(paths):
        where = f"{field}[{index}].path"
        if kind == "image":
            continue  # it is the root; see ledger.manifests.image
        if not check_path(path, where, report):
            continue
        for reserved in RESERVED_PATHS:
            if under(path, reserved):
                report(where, "contract.path_reserved", f"{reserved} belongs to the sandbox")
        for other, other_kind in paths[:index]:
            if other_kind != "image" and (under(path, other) or under(other, path)):
                report(where, "contract.path_overlap", f"overlaps with {other}")


def check_artifact_digests(artifacts: Sequence[Artifact], field: str, report: Report) -> None:
    """Digests and sizes of built artifacts."""
    for index, artifact in enumerate(artifacts):
        where = f"{field}[{index}]"
        for name in ("sha256", "chunks"):
            if not _HEX64.fullmatch(getattr(artifact, name)):
                report(f"{where}.{name}", "contract.digest", "64 lower-case hex digits wanted")
        if not 0 <= artifact.size_bytes <= ARTIFACT_BYTES_MAX:
            report(f"{where}.size_bytes", "contract.range", f"0 to {ARTIFACT_BYTES_MAX} wanted")
        if artifact.kind != "file" and artifact.executable:
            detail = "a tree or an image keeps the modes of its own files"
            report(f"{where}.executable", "contract.executable", detail)


def check_command(
    command: Sequence[str],
    paths: Sequence[tuple[str, str]],
    executables: Iterable[str],
    field: str,
    report: Report,
) -> None:
    """The program is one of the artifacts: nothing else exists in the sandbox."""
    if not 1 <= len(command) <= COMMAND_ARGUMENTS_MAX:
        report(field, "contract.command", f"1 to {COMMAND_ARGUMENTS_MAX} arguments wanted")
        return
    for index, argument in enumerate(command):
        check_text(argument, ARGUMENT_CHARS_MAX, f"{field}[{index}]", report)
    where = f"{field}[0]"
    if not check_path(command[0], where, report):
        return
    if any(kind == "image" for _, kind in paths):
        return  # what an image holds, the build looks up, and the node before it starts
    trees = [path for path, kind in paths if kind == "tree"]
    if command[0] not in set(executables) and not any(under(command[0], tree) for tree in trees):
        found = command[0] in {path for path, _ in paths}
        detail = "mark this artifact 'executable: true'" if found else "the program must be an artifact"
        way = (
            "write {path: …, file: …, executable: true}"
            if found
            else nearest(command[0], [p for p, _ in paths])
        )
        report(where, "contract.command_artifact", detail, way)


def check_environment(environment: dict[str, str], field: str, report: Report) -> None:
    """Names fixed by the author, values bounded."""
    if len(environment) > ENVIRONMENT_MAX:
        report(field, "contract.too_many", f"{len(environment)} variables, at most {ENVIRONMENT_MAX}")
    for name, value in environment.items():
        if not ENVIRONMENT_NAME.fullmatch(name):
            report(f"{field}.{name}", "contract.environment_name", "letters, digits and _ wanted")
        check_text(value, ARGUMENT_CHARS_MAX, f"{field}.{name}", report)


def check_ports(kind: str, ports: Sequence[Port], health: Health | None, field: str, report: Report) -> None:
    """Ports, and the health check that uses one."""
    if len(ports) > PORTS_MAX:
        report(f"{field}.ports", "contract.too_many", f"{len(ports)} ports, at most {PORTS_MAX}")
    names = [port.name for port in ports]
    numbers = [port.port for port in ports]
    for index, port in enumerate(ports):
        where = f"{field}.ports.{port.name}"
        check_name(port.name, where, report)
        # Below 1024 would need a capability, and a workload has none.
        if not 1024 <= port.port <= 65_535:
            near = 65_535 if port.port > 65_535 else port.port + 8000 if 0 < port.port < 1024 else 8080
            report(where, "contract.range", f"{port.port} is not in 1024 to 65535", f"as in {near}")
        if port.port in numbers[:index] or port.name in names[:index]:
            report(where, "contract.duplicate", f"{port.name}: {port.port} is there twice")
    if kind == "job" and (ports or health is not None):
        report(f"{field}.ports", "contract.job_ports", "a job has no ports and no health check")
    if health is None:
        return
    if health.port not in names and not health.command:
        report(
            f"{field}.health.port",
            "contract.unknown_port",
            f"no port {health.port!r}",
            nearest(health.port, names),
        )
    if health.http_path is not None:
        check_text(health.http_path, PATH_CHARS_MAX, f"{field}.health.http", report)
        if not health.http_path.startswith("/") or " " in health.http_path or has_template(health.http_path):
            report(f"{field}.health.http", "contract.path", "a path wanted, from / on, without parameters")
    check_number("interval", health.interval_s, f"{field}.health.interval", report)
    check_number("timeout", health.timeout_s, f"{field}.health.timeout", report)
    check_number("failures", health.failures, f"{field}.health.failures", report)


def check_results(kind: str, results: Sequence[str], field: str, report: Report) -> None:
    """Result files of a job, all under /result."""
    if kind == "service" and results:
        report(field, "contract.service_results", "a service has no results; a job has")
    if len(results) > RESULTS_MAX:
        report(field, "contract.too_many", f"{len(results)} results, at most {RESULTS_MAX}")
        return
    for index, path in enumerate(results):
        where = f"{field}[{index}]"
        if check_path(path, where, report) and (path == "/result" or not under(path, "/result")):
            report(where, "contract.path", "results stand under /result/")
        if path in results[:index]:
            report(where, "contract.duplicate", f"{path} is there twice")


def check_update(update: UpdateStrategy, field: str, report: Report) -> None:
    """How replicas change over."""
    check_number("max_parallel", update.max_parallel, f"{field}.max_parallel", report)
    check_number("canary", update.canary, f"{field}.canary", report)
    check_number("min_healthy", update.min_healthy_s, f"{field}.min_healthy", report)
    check_number("deadline", update.deadline_s, f"{field}.deadline", report)
    if update.deadline_s <= update.min_healthy_s:
        report(f"{field}.deadline", "contract.update", "the deadline leaves no time to be healthy")


def check_time_limit(kind: str, limit_s: int | str, field: str, report: Report) -> None:
    """Only a job has one."""
    if kind != "job" and limit_s != 0:
        report(field, "contract.time_limit", "a service runs until its term ends; a job has a time limit")


def check_available(kind: str, volumes: int, available_s: int | str, field: str, report: Report) -> None:
    """[E9]"""
    if available_s != 0 and (kind != "service" or volumes):
        what = "a job" if kind != "service" else "a service with volumes"
        report(f"{field}.available", "contract.available", f"{what} stops when its lease ends")


def check_role(
    keys: Sequence[str], organisation: str, organisation_role: str, field: str, report: Report
) -> None:
    """Who holds a role: keys, or an organisation."""
    if not organisation and not organisation_role:
        check_keys(keys, field, report)
        return
    if keys or not _HEX64.fullmatch(organisation):
        detail = "an organisation's id wanted, 64 lower-case hex digits, and no keys beside it"
        report(f"{field}.organisation", "contract.role_organisation", detail)
    if organisation_role:
        check_name(organisation_role, f"{field}.role", report)


def check_keys(keys: Sequence[str], field: str, report: Report) -> None:
    """A role's public keys."""
    if not 1 <= len(keys) <= ROLE_KEYS_MAX:
        report(field, "contract.role_keys", f"1 to {ROLE_KEYS_MAX} keys wanted, found {len(keys)}")
        return
    for index, key in enumerate(keys):
        if not _HEX64.fullmatch(key):
            report(f"{field}[{index}]", "contract.role_keys", "a public key wanted: 64 lower-case hex digits")
    if len(set(keys)) != len(keys):
        report(field, "contract.duplicate", "a key is there twice")
