"""A compose file to a draft of a contract: what maps is taken over, the rest is named with its line and why.

Nothing of a compose file is dropped in silence. An image becomes an artifact that its author has to fetch;
what is built from a Dockerfile is not taken over. Form: the Compose Specification, compose-spec.io.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from ledger.errors import Refused
from ledger.limits import WORKLOADS_MAX
from ledger.manifests.check import ENVIRONMENT_NAME
from ledger.text.quantities import QuantityError, parse_cpu, parse_size
from ledger.text.yaml_tree import Mapping, Mark, Node, Scalar, Sequence, load
from node.client.compose_mounts import Mounts
from node.client.compose_variables import Kind, Remark, Variables, name_of
from node.client.compose_words import DROPPED, REFUSED, TOP, WAITS, why_not_public

_PORT: Final = re.compile(r"(?P<outside>(?:.*:)?)(?P<inside>[0-9]{1,5})(?:/tcp)?")
_COMPOSE_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([bkmgt]?)i?b?", re.IGNORECASE)
_UNITS: Final = {"": "B", "b": "B", "k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}
_CPU, _MEMORY = "250m", "128MiB"  # a draft's, where a service has no limits
_TAKEN: Final = frozenset(
    (
        "command", "entrypoint", "environment", "ports", "depends_on", "volumes", "restart", "deploy",
        "mem_limit", "cpus", "pids_limit", "scale", "secrets", "image", "user", "working_dir",
    )
)  # fmt: skip


@dataclass(slots=True)
class Draft:
    """A contract's source to go on from, and what its author should know. `contract` is what `text` says."""

    contract: dict[str, Any]
    remarks: list[Remark] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The draft as YAML."""
        return yaml.safe_dump(self.contract, sort_keys=False, allow_unicode=True, width=100)


def import_compose(text: str, filename: str, name: str, folder: str = "compose") -> Draft:
    """The contract is called `name`; when that is empty, as the file says, or else as its folder.

    Raises ContractError when it is no YAML of the strict kind (with anchors, aliases and merge keys), Refused
    (compose.…) when it is no compose file that can be taken over: no services, too many of them, names that
    would become the same."""
    root = load(text, filename, shared=True)
    services = root.entries.get("services") if isinstance(root, Mapping) else None
    if not isinstance(root, Mapping) or not isinstance(services, Mapping) or not services.entries:
        raise Refused("compose.services", "a mapping of services wanted", "services")
    if len(services.entries) > WORKLOADS_MAX:
        detail = f"{len(services.entries)} services, at most {WORKLOADS_MAX}: make several files of it"
        raise Refused("compose.too_many", detail, "services")
    return _Importer(root, services, name or _text(root.entries.get("name")) or folder).draft()


class _Importer:
    def __init__(self, root: Mapping, services: Mapping, name: str) -> None:
        self._root, self._services = root, services
        self._names = {service: name_of(service) for service in services.entries}
        self._remarks: list[Remark] = []
        self._variables = Variables(self._remark)
        self._mounts = Mounts(self._variables, self._remark)
        self._contract_name = name_of(name)
        self._awaited = set(self._ends(services))
        if len(set(self._names.values())) < len(self._names):
            raise Refused("compose.names", "two services whose names differ by signs only", "services")

    @staticmethod
    def _ends(services: Mapping) -> list[str]:
        """Services that others wait for until they have succeeded: jobs."""
        found = []
        for node in services.entries.values():
            waits = node.entries.get("depends_on") if isinstance(node, Mapping) else None
            for name, item in waits.entries.items() if isinstance(waits, Mapping) else ():
                condition = item.entries.get("condition") if isinstance(item, Mapping) else None
                if _text(condition) == "service_completed_successfully":
                    found.append(name)
        return found

    def draft(self) -> Draft:
        for key, mark in self._root.marks.items():
            if key.startswith("x-"):
                self._remark(mark, key, "dropped", "what refers to it has it; all else of it is lost")
            elif key in TOP:
                self._remark(mark, key, "dropped", TOP[key])
            elif key not in ("services", "name"):
                self._remark(mark, key, "refused", REFUSED.get(key, "a contract has no such part"))
        if len(self._names) > 1:
            why = "no workload reaches another by its name: each has its ports, and egress to the wide world"
            self._remark(self._root.marks["services"], "services", "to do", why)
        workloads = {
            self._names[service]: self._workload(service, node)
            for service, node in self._services.entries.items()
        }
        contract = {
            "gridpact": 1,
            "name": self._contract_name,
            "version": "0.1.0",
            "title": f"{self._contract_name}, from a compose file",
            "parameters": self._variables.parameters,
            "roles": {"owner": {"bind": "order"}},
            "workloads": workloads,
            "approval": {act: {"role": "owner"} for act in ("deploy", "signoff", "delete")},
            "terms": {"duration": "30d", "budget": "10 credits"},
        }
        self._remark(Mark(1, 1), "terms", "to do", "a draft's: 30 days, 10 credits, no fee")
        self._remark(
            Mark(1, 1), "approval", "to do", "a draft's: the role owner, bound by the order, signs all"
        )
        return Draft({k: v for k, v in contract.items() if v}, sorted(set(self._remarks)))

    def _remark(self, mark: Mark, where: str, kind: Kind, why: str) -> None:
        self._remarks.append(Remark(mark.line, where, kind, why))

    def _mark(self, where: str) -> Mark:
        """The line of a service, which may be one that another has, too."""
        return self._services.marks[where.removeprefix("services.")]

    def _workload(self, service: str, node: Node) -> dict[str, Any]:
        where = f"services.{service}"
        if not isinstance(node, Mapping):
            self._remark(node.mark, where, "refused", "a mapping wanted")
            return {}
        entries = node.entries
        job = service in self._awaited or (_text(entries.get("restart")) == "no" and "ports" not in entries)
        image = self._image(entries, where)
        boxed = {"runtime": "oci"} if image else {}
        read, volumes = self._mounts.take(entries.get("volumes"), f"{where}.volumes", job)
        out: dict[str, Any] = {
            "kind": "job" if job else "service",
            **boxed,
            "replicas": self._replicas(entries, where),
            "command": self._command(entries, where),
            "environment": self._environment(entries.get("environment"), f"{where}.environment"),
            "artifacts": [*image, *read],
            "resources": self._resources(entries, where),
            "ports": self._ports(entries.get("ports"), f"{where}.ports", job),
            "depends_on": self._depends_on(entries.get("depends_on"), f"{where}.depends_on"),
            "secrets": self._secrets(entries.get("secrets"), f"{where}.secrets"),
            "volumes": volumes,
            **self._person(entries, where, bool(boxed)),
        }
        if not job and "restart" in entries:
            why = "a service is started again as often as restart.attempts says (3)"
            self._remark(node.marks["restart"], f"{where}.restart", "dropped", why)
        if not boxed:
            why = "name the files that run, one of them executable"
            self._remark(self._mark(where), f"{where}.artifacts", "to do", why)
        self._rest(node, where)
        return {key: value for key, value in out.items() if value or key == "artifacts"}

    def _rest(self, node: Mapping, where: str) -> None:
        """Everything that no other method takes, and what is of another form than these know."""
        for key, mark in node.marks.items():
            if key not in _TAKEN:
                kind: Kind = "dropped" if key in DROPPED else "refused"
                why = DROPPED.get(key) or REFUSED.get(key) or "a contract has no such field"
                self._remark(mark, f"{where}.{key}", kind, why)
            elif not isinstance(node.entries[key], _FORMS[key]) and not _is_null(node.entries[key]):
                self._remark(mark, f"{where}.{key}", "refused", "another form is known here")

    def _image(self, entries: dict[str, Node], where: str) -> list[dict[str, Any]]:
        """An image becomes an artifact, which its author has to fetch or build: a 3node asks no registry."""
        node = entries.get("image")
        text = self._variables.fixed(node, f"{where}.image")
        if node is None or not text:
            if "build" not in entries:
                return []
            place = f"images/{self._names[where.removeprefix('services.')]}"
            why = f"save what you build as an OCI image layout at {place}: podman save --format oci-dir"
            self._remark(self._mark(where), f"{where}.image", "to do", why)
            return [{"path": "/", "image": place}]
        place = "images/" + re.sub(r"[^A-Za-z0-9._-]+", "-", text.rpartition("/")[2])[:80].strip(".-")
        why = f"save it there as an OCI image layout: skopeo copy docker://{text} oci:{place}"
        self._remark(node.mark, f"{where}.image", "to do", why)
        return [{"path": "/", "image": place}]

    def _person(self, entries: dict[str, Node], where: str, boxed: bool) -> dict[str, str]:
        """User and folder, which a container alone has."""
        found: dict[str, str] = {}
        for key in ("user", "working_dir"):
            if key in entries and boxed:
                found[key] = self._variables.fixed(entries[key], f"{where}.{key}")
            elif key in entries:
                why = "only a container has one: the sandbox gives a user of its own, and begins at /"
                self._remark(entries[key].mark, f"{where}.{key}", "refused", why)
        if boxed and "command" in entries and "entrypoint" not in entries:
            why = "it is the whole command line here: nothing of the image's entrypoint comes before it"
            self._remark(entries["command"].mark, f"{where}.command", "to do", why)
        return found

    def _command(self, entries: dict[str, Node], where: str) -> list[str]:
        words: list[str] = []
        for key in ("entrypoint", "command"):
            node, at = entries.get(key), f"{where}.{key}"
            if isinstance(node, Sequence):
                words += [self._variables.filled(_text(item), item.mark, at) for item in node.items]
            elif isinstance(node, Scalar) and node.value is not None:
                try:
                    parts = shlex.split(node.text)
                except ValueError as error:
                    self._remark(node.mark, at, "refused", str(error))
                    continue
                words += [self._variables.filled(part, node.mark, at) for part in parts]
        if not words and "image" not in entries and "build" not in entries:
            why = "an image's own command is not known: write it"
            self._remark(self._mark(where), f"{where}.command", "to do", why)
        return words

    def _environment(self, node: Node | None, where: str) -> dict[str, str]:
        pairs: list[tuple[str, str | None, Mark]] = []
        if isinstance(node, Mapping):
            pairs = [(k, None if _is_null(v) else _text(v), v.mark) for k, v in node.entries.items()]
        elif isinstance(node, Sequence):
            for item in node.items:
                key, sign, value = _text(item).partition("=")
                pairs.append((key, value if sign else None, item.mark))
        found = {}
        for key, text, mark in pairs:
            if not ENVIRONMENT_NAME.fullmatch(key):
                why = "a variable's name has letters, digits and _: put it into a file, an artifact"
                self._remark(mark, f"{where}.{key}", "refused", why)
                continue
            at = f"{where}.{key}"
            found[key] = self._variables.filled("${" + key + "}" if text is None else text, mark, at)
            if why := why_not_public(key, found[key]):
                self._remark(mark, at, "to do", why)
        return found

    def _replicas(self, entries: dict[str, Node], where: str) -> int:
        deploy = entries.get("deploy")
        inside = deploy if isinstance(deploy, Mapping) else None
        for key, mark in inside.marks.items() if inside else ():
            if key not in ("replicas", "resources"):
                why = "placement, restart and update say this"
                self._remark(mark, f"{where}.deploy.{key}", "refused", why)
        found = inside.entries.get("replicas") if inside else None
        node, field = (
            (found, f"{where}.deploy.replicas") if found else (entries.get("scale"), f"{where}.scale")
        )
        text = self._variables.fixed(node, field)
        if node is not None and not text.isdecimal():
            self._remark(node.mark, field, "refused", f"{text[:80]!r}: a number wanted")
        return int(text) if text.isdecimal() and len(text) < 10 else 1

    def _resources(self, entries: dict[str, Node], where: str) -> dict[str, Any]:
        found: dict[str, Node] = {}
        at: Node | None = entries.get("deploy")
        for key in ("resources", "limits"):
            at = at.entries.get(key) if isinstance(at, Mapping) else None
            for other, mark in at.marks.items() if isinstance(at, Mapping) else ():
                if other not in ("limits", "cpus", "memory", "pids"):
                    why = "what a slot needs is what it may use: write it into resources"
                    self._remark(mark, f"{where}.deploy.resources.{other}", "dropped", why)
            found = at.entries if isinstance(at, Mapping) else {}
        out: dict[str, Any] = {}
        for name, key, other, make, default in (
            ("cpu", "cpus", "cpus", _cpu, _CPU),
            ("memory", "memory", "mem_limit", _compose_size, _MEMORY),
            ("pids", "pids", "pids_limit", _count, None),
        ):
            node = found.get(key) or entries.get(other)
            field = f"{where}.deploy.resources.limits.{key}" if key in found else f"{where}.{other}"
            text = self._variables.fixed(node, field)
            made = make(text)
            if node is not None and made is None:
                why = f"{text[:80]!r} is no limit: write one"
                self._remark(node.mark, field, "refused", why)
            elif node is None and default is not None:
                why = f"no {other} there: a draft's {name} is {default}"
                self._remark(self._mark(where), f"{where}.resources", "to do", why)
            if made or default:
                out[name] = made or default
        return out

    def _ports(self, node: Node | None, where: str, job: bool) -> dict[str, int]:
        found: dict[str, int] = {}
        for item in node.items if isinstance(node, Sequence) else ():
            inside = item.entries if isinstance(item, Mapping) else {}
            text = self._variables.fixed(inside.get("target") if inside else item, where)
            match = _PORT.fullmatch(text)
            number = int(match["inside"]) if match else 0
            tcp = _text(inside.get("protocol")) in ("", "tcp")
            if job:
                self._remark(item.mark, where, "refused", f"{text!r}: a job has no ports")
            elif not tcp or not 1024 <= number <= 65_535:
                why = f"{text!r}: one TCP port from 1024 on wanted; below, it needs a capability"
                self._remark(item.mark, where, "refused", why)
            else:
                found[f"p{number}"] = number
                if match and (match["outside"] or "published" in inside):
                    why = f"{number} is the port inside; which one callers use is its portal's choice"
                    self._remark(item.mark, where, "dropped", why)
        return found

    def _depends_on(self, node: Node | None, where: str) -> list[str]:
        if not isinstance(node, Mapping):
            names = [_text(item) for item in node.items] if isinstance(node, Sequence) else []
            return self._known(names, node, where)
        for name, item in node.entries.items():
            for key, value in item.entries.items() if isinstance(item, Mapping) else ():
                text = _text(value)
                known = key == "condition" and text in WAITS
                why = WAITS[text] if known else f"{key}: nothing stops or starts when another does"
                if why:
                    self._remark(value.mark, f"{where}.{name}", "dropped", why)
        return self._known(list(node.entries), node, where)

    def _known(self, names: list[str], node: Node | None, where: str) -> list[str]:
        for name in names:
            if name not in self._names and node is not None:
                self._remark(node.mark, where, "refused", f"{name[:80]!r}: no service of this file")
        return [self._names[name] for name in names if name in self._names]

    def _secrets(self, node: Node | None, where: str) -> list[str]:
        """Their names alone; each is a file, at another place than compose has it."""
        names = []
        for item in node.items if isinstance(node, Sequence) else ():
            entry = item.entries.get("source") if isinstance(item, Mapping) else item
            names.append(name_of(_text(entry)))
            why = f"it is the file /secrets/{names[-1]}; give its value by: gridpact secrets set"
            self._remark(item.mark, where, "to do", why)
        return list(dict.fromkeys(names))


_FORMS: Final[dict[str, Any]] = {
    **dict.fromkeys(_TAKEN, Scalar),
    **dict.fromkeys(("command", "entrypoint"), Scalar | Sequence),
    **dict.fromkeys(("environment", "depends_on"), Mapping | Sequence),
    **dict.fromkeys(("ports", "volumes", "secrets"), Sequence),
    "deploy": Mapping,
}


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, Scalar) and node.value is not None else ""


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _compose_size(text: str) -> str | None:
    """compose counts k, m, g in powers of 1,024."""
    match = _COMPOSE_SIZE.fullmatch(text)
    return None if match is None else _parsed(parse_size, match[1] + _UNITS[match[2].lower()])


def _cpu(text: str) -> str | None:
    return _parsed(parse_cpu, text)


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _parsed(parse: Any, text: str) -> str | None:
    try:
        parse(text)
    except QuantityError:
        return None
    return text
