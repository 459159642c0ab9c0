"""A compose file to a draft of a contract: what maps is taken over, the rest is named with its line and why.

Nothing of a compose file is dropped in silence. Images are not taken over: a contract names the files that
run, so its author adds artifacts to the draft. Form: the Compose Specification, compose-spec.io.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import yaml

from ledger.errors import Refused
from ledger.limits import PARAMETERS_MAX, WORKLOADS_MAX
from ledger.quantities import CREDIT, QuantityError, parse_size
from ledger.template import NAME
from ledger.yaml_tree import Mapping, Mark, Node, Scalar, Sequence, load

_VARIABLE: Final = re.compile(
    r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?::?([-?+])([^${}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))"
)
_PORT: Final = re.compile(r"(?:[^:]*:)?(?:[0-9-]*:)?([0-9]{1,5})(?:/tcp)?")
_COMPOSE_SIZE: Final = re.compile(r"([0-9]+)([bkmg]?)b?", re.IGNORECASE)
_TAKEN: Final = frozenset(
    (
        "command", "entrypoint", "environment", "ports", "depends_on", "volumes", "restart", "deploy",
        "mem_limit", "cpus", "pids_limit", "scale", "secrets", "image", "user", "working_dir",
    )
)  # fmt: skip
_DROPPED: Final = {
    "container_name": "slots have names of their own",
    "hostname": "a slot has no host name",
    "labels": "a contract has tags",
    "logging": "logs are kept by the 3node, bounded",
    "expose": "a port is reached by its portal when it stands under ports",
    "stop_grace_period": "the lease rules say how long a stop may take",
    "init": "the sandbox has its own first process",
    "read_only": "always so",
    "security_opt": "no new privileges, always",
    "cap_drop": "no capability is there, always",
    "tmpfs": "/tmp is there, within resources.disk",
    "version": "compose files have no version any more",
}
_REFUSED: Final = {
    "build": "nothing is built on a 3node: build it, then name the files as artifacts",
    "privileged": "no workload has privileges",
    "cap_add": "no workload has capabilities",
    "devices": "no device reaches a workload",
    "network_mode": "a workload has no network but its loopback and its ports",
    "networks": "a workload has no network but its loopback and its ports",
    "pid": "no workload sees other processes",
    "ipc": "no workload shares memory with others",
    "secrets": "their values are given to the 3bot: gridpact secrets set",
    "env_file": "its variables belong into environment",
    "healthcheck": "a health check asks a port, or is a program of the artifacts: write health",
    "extends": "one file says all",
}


@dataclass(frozen=True, slots=True, order=True)
class Remark:
    """Something that was not taken over as it stands."""

    line: int
    field: str
    kind: Literal["dropped", "refused", "to do"]
    why: str


@dataclass(slots=True)
class Draft:
    """A contract's source to go on from, and what its author should know. `contract` is what `text` says."""

    contract: dict[str, Any]
    remarks: list[Remark] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The draft as YAML."""
        return yaml.safe_dump(self.contract, sort_keys=False, allow_unicode=True, width=100)


def import_compose(text: str, filename: str, name: str) -> Draft:
    """Raises ContractError when it is no YAML of the strict kind, Refused(compose.…) when it is no compose
    file that can be taken over: no services, too many of them, names that would become the same."""
    root = load(text, filename)
    services = root.entries.get("services") if isinstance(root, Mapping) else None
    if not isinstance(root, Mapping) or not isinstance(services, Mapping) or not services.entries:
        raise Refused("compose.services", "a mapping of services wanted", "services")
    if len(services.entries) > WORKLOADS_MAX:
        raise Refused(
            "compose.too_many", f"{len(services.entries)} services, at most {WORKLOADS_MAX}", "services"
        )
    return _Importer(root, services, name).draft()


class _Importer:
    def __init__(self, root: Mapping, services: Mapping, name: str) -> None:
        self._root, self._services = root, services
        self._names = {service: _name(service) for service in services.entries}
        self._parameters: dict[str, dict[str, Any]] = {}
        self._remarks: list[Remark] = []
        self._variables: dict[str, str] = {}  # parameter: the variable that it stands for
        self._contract_name = _name(name)
        if len(set(self._names.values())) < len(self._names):
            raise Refused("compose.names", "two services whose names differ by signs only", "services")

    def draft(self) -> Draft:
        for key, mark in self._root.marks.items():
            if key not in ("services", "name"):
                why = _DROPPED.get(key, _REFUSED.get(key, "a contract has no such part"))
                self._remark(mark, key, "dropped" if key in _DROPPED else "refused", why)
        workloads = {
            self._names[service]: self._workload(service, node)
            for service, node in self._services.entries.items()
        }
        contract = {
            "gridpact": 1,
            "name": self._contract_name,
            "version": "0.1.0",
            "title": f"{self._contract_name}, from a compose file",
            "parameters": self._parameters,
            "roles": {"owner": {"bind": "order"}},
            "workloads": workloads,
            "approval": {act: {"role": "owner"} for act in ("deploy", "signoff", "delete")},
            "terms": {"duration": "30d", "budget": "10 credits"},
        }
        self._remark(Mark(1, 1), "terms", "to do", f"a draft's: 30 days, {10 * CREDIT} micro-credits, no fee")
        self._remark(
            Mark(1, 1), "approval", "to do", "a draft's: the role owner, bound by the order, signs all"
        )
        return Draft({k: v for k, v in contract.items() if v}, sorted(set(self._remarks)))

    def _remark(self, mark: Mark, where: str, kind: Literal["dropped", "refused", "to do"], why: str) -> None:
        self._remarks.append(Remark(mark.line, where, kind, why))

    def _workload(self, service: str, node: Node) -> dict[str, Any]:
        where = f"services.{service}"
        if not isinstance(node, Mapping):
            self._remark(node.mark, where, "refused", "a mapping wanted")
            return {}
        entries = node.entries
        job = _text(entries.get("restart")) == "no" and "ports" not in entries
        artifacts = self._image(entries.get("image"), where)
        boxed = {"runtime": "oci"} if artifacts else {}
        out: dict[str, Any] = {
            "kind": "job" if job else "service",
            **boxed,
            "replicas": self._at(entries, "deploy", "replicas", where, 1),
            "command": self._command(entries, where),
            "environment": self._environment(entries.get("environment"), where),
            "artifacts": artifacts,
            "resources": self._resources(entries, where),
            "ports": {} if job else self._ports(entries.get("ports"), where),
            "depends_on": self._depends_on(entries.get("depends_on"), where),
            "secrets": self._secrets(entries.get("secrets"), where),
            **self._person(entries, where, bool(boxed)),
        }
        self._volumes(entries.get("volumes"), where, artifacts)
        if not job and "restart" in entries:
            why = "a service is started again as often as restart.attempts says (3)"
            self._remark(node.marks["restart"], f"{where}.restart", "dropped", why)
        if not boxed:
            why = "name the files that run, one of them executable"
            self._remark(node.mark, f"{where}.artifacts", "to do", why)
        self._rest(node, where)
        return {key: value for key, value in out.items() if value or key == "artifacts"}

    def _rest(self, node: Mapping, where: str) -> None:
        """Everything that no other method takes."""
        for key, mark in node.marks.items():
            if key in _TAKEN:
                continue
            kind: Literal["dropped", "refused"] = "dropped" if key in _DROPPED else "refused"
            why = _DROPPED.get(key) or _REFUSED.get(key) or "a contract has no such field"
            self._remark(mark, f"{where}.{key}", kind, why)

    def _image(self, node: Node | None, where: str) -> list[dict[str, Any]]:
        """An image becomes an artifact, which its author has to fetch: a 3node asks no registry."""
        text = _text(node)
        if node is None or not text:
            return []
        place = "images/" + re.sub(r"[^A-Za-z0-9._-]+", "-", text.rpartition("/")[2])[:80].strip(".-")
        why = f"save it there as an OCI image layout: skopeo copy docker://{text} oci:{place}"
        self._remark(node.mark, f"{where}.image", "to do", why)
        return [{"path": "/", "image": place}]

    def _person(self, entries: dict[str, Node], where: str, boxed: bool) -> dict[str, str]:
        """User and folder, which a container alone has."""
        found: dict[str, str] = {}
        for key in ("user", "working_dir"):
            if key in entries and boxed:
                found[key] = _text(entries[key])
            elif key in entries:
                why = "only a container has one: the sandbox gives a user of its own, and begins at /"
                self._remark(entries[key].mark, f"{where}.{key}", "refused", why)
        if boxed and "command" in entries and "entrypoint" not in entries:
            why = "it is the whole command line here: nothing of the image's entrypoint comes before it"
            self._remark(entries["command"].mark, f"{where}.command", "to do", why)
        return found

    def _at(self, entries: dict[str, Node], first: str, second: str, where: str, default: Any) -> Any:
        inside = entries.get(first)
        node = inside.entries.get(second) if isinstance(inside, Mapping) else entries.get("scale")
        if isinstance(inside, Mapping):
            for key, mark in inside.marks.items():
                if key not in (second, "resources"):
                    self._remark(mark, f"{where}.{first}.{key}", "refused", "placement and restart say this")
        value = node.value if isinstance(node, Scalar) else None
        return value if isinstance(value, int) else default

    def _command(self, entries: dict[str, Node], where: str) -> list[str]:
        words: list[str] = []
        for key in ("entrypoint", "command"):
            node = entries.get(key)
            if isinstance(node, Sequence):
                words += [self._filled(_text(item), item.mark, f"{where}.{key}") for item in node.items]
            elif isinstance(node, Scalar) and node.value is not None:
                try:
                    parts = shlex.split(node.text)
                except ValueError as error:
                    self._remark(node.mark, f"{where}.{key}", "refused", str(error))
                    continue
                words += [self._filled(part, node.mark, f"{where}.{key}") for part in parts]
        if not words and "image" not in entries:
            mark = self._services.marks[where.removeprefix("services.")]
            self._remark(mark, f"{where}.command", "to do", "an image's own command is not known: write it")
        return words

    def _environment(self, node: Node | None, where: str) -> dict[str, str]:
        found: dict[str, str] = {}
        pairs: list[tuple[str, str | None, Mark]] = []
        if isinstance(node, Mapping):
            pairs = [(k, None if _is_null(v) else _text(v), v.mark) for k, v in node.entries.items()]
        elif isinstance(node, Sequence):
            for item in node.items:
                key, sign, value = _text(item).partition("=")
                pairs.append((key, value if sign else None, item.mark))
        for key, text, mark in pairs:
            found[key] = self._filled(
                "${" + key + "}" if text is None else text, mark, f"{where}.environment"
            )
        return found

    def _filled(self, text: str, mark: Mark, where: str) -> str:
        """Variables of the caller's shell become parameters."""

        def one(match: re.Match[str]) -> str:
            if match[1]:
                return "$"
            variable, sign, rest = match[2] or match[5], match[3], match[4] or ""
            if sign == "+":
                self._remark(mark, where, "refused", f"${{{variable}:+…}} has no counterpart")
                return ""
            name = _name(variable)
            if self._variables.setdefault(name, variable) != variable:
                detail = f"${variable} and ${self._variables[name]} differ by signs only"
                raise Refused("compose.names", detail, where)
            known = self._parameters.setdefault(name, {"type": "string", "description": f"from ${variable}"})
            if sign == "-":
                known.setdefault("default", rest)
            return "${" + name + "}"

        # A plain `${` that is not a variable would be read as a reference.
        out = _VARIABLE.sub(one, text)
        if len(self._parameters) > PARAMETERS_MAX:
            raise Refused("compose.too_many", f"more than {PARAMETERS_MAX} variables", where)
        return out

    def _resources(self, entries: dict[str, Node], where: str) -> dict[str, Any]:
        limits: Node | None = entries.get("deploy")
        for key in ("resources", "limits"):
            limits = limits.entries.get(key) if isinstance(limits, Mapping) else None
        found = dict(limits.entries) if isinstance(limits, Mapping) else {}
        cpu = _text(found.get("cpus") or entries.get("cpus"))
        memory = _text(found.get("memory") or entries.get("mem_limit"))
        pids = _text(found.get("pids") or entries.get("pids_limit"))
        mark = self._services.marks[where.removeprefix("services.")]
        size = _compose_size(memory)
        if not cpu or size is None:
            self._remark(
                mark, f"{where}.resources", "to do", "no limits there: a draft's are 250m and 128MiB"
            )
        out: dict[str, Any] = {"cpu": cpu or "250m", "memory": size or "128MiB"}
        return out | ({"pids": int(pids)} if pids.isdecimal() else {})

    def _ports(self, node: Node | None, where: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for item in node.items if isinstance(node, Sequence) else ():
            target = item.entries.get("target") if isinstance(item, Mapping) else item
            match = _PORT.fullmatch(_text(target))
            number = int(match[1]) if match else 0
            if 1024 <= number <= 65_535:
                found[f"p{number}"] = number
            else:
                why = f"{_text(target)!r}: one TCP port from 1024 on wanted; below, it needs a capability"
                self._remark(item.mark, f"{where}.ports", "refused", why)
        return found

    def _depends_on(self, node: Node | None, where: str) -> list[str]:
        if isinstance(node, Sequence):
            names = [_text(item) for item in node.items]
        else:
            names = list(node.entries) if isinstance(node, Mapping) else []
        return [self._names.get(name, name) for name in names]

    def _secrets(self, node: Node | None, where: str) -> list[str]:
        """Their names alone; each is a file, at another place than compose has it."""
        names = []
        for item in node.items if isinstance(node, Sequence) else ():
            entry = item.entries.get("source") if isinstance(item, Mapping) else item
            names.append(_name(_text(entry)))
            why = f"it is the file /secrets/{names[-1]}; give its value by: gridpact secrets set"
            self._remark(item.mark, f"{where}.secrets", "to do", why)
        return list(dict.fromkeys(names))

    def _volumes(self, node: Node | None, where: str, artifacts: list[dict[str, Any]]) -> None:
        for item in node.items if isinstance(node, Sequence) else ():
            source, target, mode = (
                [*_text(item).split(":"), "", ""][:3] if isinstance(item, Scalar) else ("",) * 3
            )
            if source.startswith(("./", "/")) and ".." not in source.split("/") and mode == "ro":
                artifacts.append({"path": target, "tree": source.removeprefix("./")})
                self._remark(item.mark, f"{where}.volumes", "to do", f"{source} became a tree; is it a file?")
            else:
                why = "write it as a volume with a size; what is only read (:ro) becomes an artifact"
                self._remark(item.mark, f"{where}.volumes", "refused", why)


def _name(text: str) -> str:
    """The nearest name of the language."""
    found = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60]
    return found if NAME.fullmatch(found) else f"x{found}" if found else "unnamed"


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, Scalar) and node.value is not None else ""


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _compose_size(text: str) -> str | None:
    """compose counts k, m, g in powers of 1,024."""
    match = _COMPOSE_SIZE.fullmatch(text)
    if match is None:
        return None
    made = match[1] + {"": "B", "b": "B", "k": "KiB", "m": "MiB", "g": "GiB"}[match[2].lower()]
    try:
        parse_size(made)
    except QuantityError:
        return None
    return made
