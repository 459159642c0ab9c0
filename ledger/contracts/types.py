"""Shapes of a contract in its built form: what an author signs and `ledger.manifests.expansion.expand` reads.

Where a field is `int | str`, a string is a `${parameter}` reference that expansion replaces.
Units are those of `ledger.manifests.types`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ledger.codec import encode_json
from ledger.manifests.types import (
    Artifact,
    Disk,
    Health,
    Placement,
    Policies,
    Port,
    Restart,
    Runtime,
    UpdateStrategy,
)

ParameterType = Literal["string", "integer", "boolean", "size", "duration", "money", "country"]
Value = str | int | bool


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A question to the consumer. Sizes are bytes, durations seconds, money micro-credits.

    `default` None: the consumer must answer. `min` and `max` bound numbers, and the length of
    strings. `pattern` (ledger.text.pattern) must match the whole string. An empty `choices` is no limit.
    """

    name: str
    type: ParameterType
    default: Value | None = None
    min: int | None = None
    max: int | None = None
    pattern: str | None = None
    choices: tuple[str | int, ...] = ()
    description: str = ""
    unit: str = ""  # for people, beside the value


class ContractRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A stakeholder role: keys or an organisation fixed by the author, or bound by whoever orders."""

    name: str
    bind: Literal["author", "order"]
    keys: tuple[str, ...] = ()  # hex; empty when bound by the order, or an organisation holds it
    organisation: str = ""  # its id in hex
    organisation_role: str = ""  # which of its roles; "": all members hold this one


class ResourcesTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one slot needs."""

    cpu_millis: int | str
    memory_bytes: int | str
    disk_bytes: int | str
    pids: int | str


class VolumeTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A volume before expansion."""

    name: str
    path: str
    size_bytes: int | str
    storage: Disk = "ssd"
    if_lost: Literal["wait", "empty"] = "wait"
    rpo_s: int | str = 0


class WorkloadTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A workload before expansion. Paths, ports, names, keys and results never hold parameters."""

    name: str
    kind: Literal["service", "job"]
    runtime: Runtime
    replicas: int | str
    command: tuple[str, ...]
    environment: dict[str, str]
    artifacts: tuple[Artifact, ...]
    resources: ResourcesTemplate
    ports: tuple[Port, ...]
    health: Health | None
    restart: Restart
    placement: Placement  # countries and farms may hold ${parameter}
    results: tuple[str, ...]
    recheck_s: int
    depends_on: tuple[str, ...] = ()
    time_limit_s: int | str = 0
    agree: int | str = 0
    isolation: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    volumes: tuple[VolumeTemplate, ...] = ()
    update: UpdateStrategy = UpdateStrategy()
    fuel: int | str = 0
    working_dir: str = "/"
    user: str = ""
    available_s: int | str = 0


class PriceTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Caps of prices before expansion."""

    cpu_core_hour: int | str | None = None
    memory_gib_hour: int | str | None = None
    ssd_gib_hour: int | str | None = None
    hdd_gib_hour: int | str | None = None


def caps(price: PriceTemplate) -> tuple[tuple[str, int | str | None], ...]:
    """Each cap with its name in the source."""
    return (
        ("cpu", price.cpu_core_hour),
        ("memory", price.memory_gib_hour),
        ("ssd", price.ssd_gib_hour),
        ("hdd", price.hdd_gib_hour),
    )


class TermsTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The commercial side before expansion."""

    duration_s: int | str
    budget: int | str
    fee: int | str
    price: PriceTemplate = PriceTemplate()
    grace_s: int | str = 0
    extension_s: int | str = 0
    top_up: int | str = 0


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The expert's template, version `gridpact` of the language."""

    gridpact: Literal[1]
    name: str
    version: str
    title: str
    summary: str
    tags: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    roles: tuple[ContractRole, ...]
    workloads: tuple[WorkloadTemplate, ...]
    policies: Policies
    terms: TermsTemplate
    changes: str = ""  # since the version before, for people

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return encode_json(self)
