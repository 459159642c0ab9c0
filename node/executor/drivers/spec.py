"""The rules that a task's specification must meet, whatever the driver. Pure: nothing is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping

from node.executor import limits
from node.executor.doors.addresses import is_allowed
from node.executor.drivers.base import EgressSpec, FileSpec, PortSpec, Resources, TaskSpec, TreeSpec
from node.executor.errors import SpecRefused
from node.executor.tree import check_relative

RESERVED = ("/proc", "/dev", "/sys", "/tmp", "/result", "/secrets")
"""Mounted by the driver itself; no artifact may stand there or below."""

_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_USER = re.compile(r"(?:0|[1-9][0-9]{0,4}):(?:0|[1-9][0-9]{0,4})")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORT_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SECRET_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def check_spec(spec: TaskSpec) -> None:
    """Return nothing when every rule holds; raises SpecRefused that names the field and the rule."""
    _need(
        _TASK_ID.fullmatch(spec.task_id) is not None and len(spec.task_id) <= limits.TASK_ID_CHARS_MAX,
        "task_id",
        f"1 to {limits.TASK_ID_CHARS_MAX} letters, digits, '.', '_' or '-', first a letter or digit",
    )
    _check_command(spec)
    _need(len(spec.files) <= limits.FILES_MAX, "files", f"at most {limits.FILES_MAX}")
    _need(len(spec.trees) <= limits.TREES_MAX, "trees", f"at most {limits.TREES_MAX}")
    for index, file in enumerate(spec.files):
        _check_artifact(file, f"files[{index}]")
        _need(file.mode in (0o444, 0o555), f"files[{index}].mode", "0o444 or 0o555")
    for index, tree in enumerate(spec.trees):
        _check_artifact(tree, f"trees[{index}]")
    _check_overlap(spec)
    _check_container(spec)
    total = sum(file.size_bytes for file in spec.files) + sum(tree.size_bytes for tree in spec.trees)
    total += spec.image.size_bytes if spec.image is not None else 0
    _need(total <= limits.ARTIFACT_BYTES_MAX, "files", f"all artifacts at most {limits.ARTIFACT_BYTES_MAX} B")
    _check_ports(spec.ports)
    _check_resources(spec.resources)
    _check_results(spec.results)
    _check_secrets(spec.secrets)
    _check_egress(spec.egress)
    _check_volumes(spec)
    _need(
        4_096 <= spec.log_bytes_max <= limits.LOG_BYTES_MAX,
        "log_bytes_max",
        f"4096 to {limits.LOG_BYTES_MAX}",
    )


def _need(holds: bool, field: str, rule: str) -> None:
    if not holds:
        raise SpecRefused(field, rule)


def _check_command(spec: TaskSpec) -> None:
    words_max = limits.COMMAND_ARGS_MAX
    _need(1 <= len(spec.command) <= words_max, "command", f"1 to {words_max} words")
    _need(spec.command[0].startswith("/"), "command[0]", "an absolute path inside the root")
    _need(len(spec.env) <= limits.ENV_MAX, "env", f"at most {limits.ENV_MAX}")
    words = [*spec.command, *spec.env, *spec.env.values()]
    _need(all("\x00" not in word for word in words), "command", "no zero character, nor in env")
    size = sum(len(word.encode(errors="surrogateescape")) + 1 for word in words)
    _need(size <= limits.COMMAND_BYTES_MAX, "command", f"with env at most {limits.COMMAND_BYTES_MAX} B")
    for name in spec.env:
        _need(_ENV_NAME.fullmatch(name) is not None, "env", "names of letters, digits and '_'")


def _check_artifact(artifact: FileSpec | TreeSpec, field: str) -> None:
    path = artifact.path
    _need(path.startswith("/") and path != "/", f"{field}.path", "absolute, and not the root itself")
    rule = check_relative(path[1:])
    _need(rule is None, f"{field}.path", str(rule))
    _need(
        not any(path == reserved or path.startswith(reserved + "/") for reserved in RESERVED),
        f"{field}.path",
        f"not at or below {', '.join(RESERVED)}",
    )
    _need(_DIGEST.fullmatch(artifact.digest) is not None, f"{field}.digest", "64 hex digits in lower case")
    _need(
        0 <= artifact.size_bytes <= limits.ARTIFACT_BYTES_MAX,
        f"{field}.size_bytes",
        f"0 to {limits.ARTIFACT_BYTES_MAX}",
    )


def _check_container(spec: TaskSpec) -> None:
    here = spec.runtime == "oci"
    _need(here or spec.image is None, "image", "only a container has one")
    _need(here or (spec.working_dir, spec.user) == ("/", ""), "user", "only a container has one")
    if spec.image is not None:
        _need(_DIGEST.fullmatch(spec.image.digest) is not None, "image.digest", "64 hex digits in lower case")
    rule = check_relative(spec.working_dir[1:]) if spec.working_dir != "/" else None
    _need(spec.working_dir.startswith("/") and rule is None, "working_dir", f"absolute; {rule}")
    ids = [int(part) for part in spec.user.split(":")] if _USER.fullmatch(spec.user) else []
    _need(not spec.user or (bool(ids) and max(ids) <= 65_535), "user", "UID:GID, each up to 65535")


def _check_overlap(spec: TaskSpec) -> None:
    paths = sorted([file.path for file in spec.files] + [tree.path for tree in spec.trees])
    taken: set[str] = set()
    for path in paths:
        parts = path.split("/")
        above = ("/".join(parts[:depth]) for depth in range(2, len(parts) + 1))
        _need(not any(parent in taken for parent in above), "files", f"{path} is at or below another")
        taken.add(path)


def _check_ports(ports: tuple[PortSpec, ...]) -> None:
    _need(len(ports) <= limits.PORTS_MAX, "ports", f"at most {limits.PORTS_MAX}")
    for index, port in enumerate(ports):
        field = f"ports[{index}]"
        named = _PORT_NAME.fullmatch(port.name) is not None
        _need(named, f"{field}.name", "a-z, then a-z, 0-9, '-'; 32 at most")
        _need(1 <= port.inside <= 65_535, f"{field}.inside", "1 to 65535")
        _need(0 <= port.listen_port <= 65_535, f"{field}.listen_port", "0 to 65535")
    _need(len({port.name for port in ports}) == len(ports), "ports", "each name once")


def _check_resources(resources: Resources) -> None:
    _need(
        limits.CPU_MILLIS_MIN <= resources.cpu_millis <= 1_000_000,
        "resources.cpu_millis",
        f"{limits.CPU_MILLIS_MIN} to 1000000",
    )
    _need(
        limits.MEMORY_BYTES_MIN <= resources.memory_bytes <= 1 << 50,
        "resources.memory_bytes",
        f"{limits.MEMORY_BYTES_MIN} to 2^50",
    )
    _need(4_096 <= resources.disk_bytes <= 1 << 50, "resources.disk_bytes", "4096 to 2^50")
    _need(1 <= resources.pids <= limits.PIDS_MAX, "resources.pids", f"1 to {limits.PIDS_MAX}")


def _check_results(results: tuple[str, ...]) -> None:
    _need(len(results) <= limits.RESULTS_MAX, "results", f"at most {limits.RESULTS_MAX}")
    _need(len(set(results)) == len(results), "results", "each path once")
    for index, path in enumerate(results):
        inside = path.removeprefix("/result/")
        _need(inside != path, f"results[{index}]", "a path below /result/")
        rule = check_relative(inside)
        _need(rule is None, f"results[{index}]", str(rule))


def _check_secrets(secrets: Mapping[str, bytes]) -> None:
    _need(len(secrets) <= limits.SECRETS_MAX, "secrets", f"at most {limits.SECRETS_MAX}")
    for name in secrets:
        _need(_SECRET_NAME.fullmatch(name) is not None, "secrets", "names of a-z, 0-9, '-' and '_'")
    total = sum(map(len, secrets.values()))
    _need(total <= limits.SECRETS_BYTES_MAX, "secrets", f"at most {limits.SECRETS_BYTES_MAX} B together")


def _check_egress(egress: tuple[EgressSpec, ...]) -> None:
    _need(len(egress) <= limits.EGRESS_ADDRESSES_MAX, "egress", f"at most {limits.EGRESS_ADDRESSES_MAX}")
    _need(len(set(egress)) == len(egress), "egress", "each address and port once")
    for index, way in enumerate(egress):
        field = f"egress[{index}]"
        _need(is_allowed(way.address), f"{field}.address", "an address of the wide world")
        _need(1 <= way.port <= 65_535, f"{field}.port", "1 to 65535")


def _check_volumes(spec: TaskSpec) -> None:
    _need(len(spec.volumes) <= limits.VOLUMES_MAX, "volumes", f"at most {limits.VOLUMES_MAX}")
    taken = [*(file.path for file in spec.files), *(tree.path for tree in spec.trees)]
    for index, volume in enumerate(spec.volumes):
        field, path = f"volumes[{index}]", volume.path
        _need(path.startswith("/") and path != "/", f"{field}.path", "absolute, and not the root itself")
        rule = check_relative(path[1:])
        _need(rule is None, f"{field}.path", str(rule))
        for other in (*RESERVED, *taken):
            apart = path != other and not path.startswith(other + "/") and not other.startswith(path + "/")
            _need(apart, f"{field}.path", f"not at, above or below {other}")
        taken.append(path)
