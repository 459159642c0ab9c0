"""What a workload may have beside its files: rules that hold for contracts and manifests alike, and what a
node must enforce for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final

from ledger.contracts.types import VolumeTemplate
from ledger.limits import (
    COPIED_VOLUME_BYTES_MAX,
    EGRESS_MAX,
    NAME_CHARS_MAX,
    RPO_S_MIN,
    SECRETS_MAX,
    VOLUMES_MAX,
)
from ledger.manifests.check import RESERVED_PATHS, Report, check_name, check_path, under
from ledger.manifests.types import Port, Volume, Workload
from ledger.text.nearest import nearest

HOSTS_PATH: Final = "/etc/hosts"  # where a workload finds the addresses of the names it may connect to
_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TARGET: Final = re.compile(r"(?P<host>\[[0-9a-f:]+\]|[0-9a-z.-]+):(?P<port>[1-9][0-9]{0,4})")
ISOLATION: Final = ("landlock", "sealed-image", "limit-memory", "limit-cpu", "limit-pids")
"""What a node may lack and yet be a 3node, so that a contract may insist on it. All else that a sandbox is,
namespaces, filters, no capabilities, every 3node enforces or offers nothing."""


NEVER_ENFORCED: Final = {"oci": {"landlock": "podman does not take it on"}}
"""By runtime: of ISOLATION, what its driver enforces on no node, and why. A slot that insists on it would
wait for ever."""


ASKED_FOR: Final = (*ISOLATION, "secrets", "egress", "volumes", "volume-copies", "health-exec")
"""What a driver enforces, each for itself, and a workload may need."""


def check_secrets(secrets: Sequence[str], field: str, report: Report) -> None:
    """Names of secrets: each becomes a file name, so that nothing but a name may stand there."""
    if len(secrets) > SECRETS_MAX:
        report(field, "contract.too_many", f"{len(secrets)} secrets, at most {SECRETS_MAX}")
        return
    for index, name in enumerate(secrets):
        check_name(name, f"{field}[{index}]", report)
        if name in secrets[:index]:
            report(f"{field}[{index}]", "contract.duplicate", f"{name} is there twice")


def check_isolation(features: Sequence[str], runtime: str, field: str, report: Report) -> None:
    """[C10] Names of features, each one that nodes tell of, that some node enforces for this runtime, and
    once."""
    never = NEVER_ENFORCED.get(runtime, {})
    for index, name in enumerate(features):
        if name not in ISOLATION:
            detail = f"{name[:NAME_CHARS_MAX]!r}; there are: {', '.join(ISOLATION)}"
            report(f"{field}[{index}]", "contract.isolation", detail, nearest(name, ISOLATION))
            return
        if name in never:
            detail = f"no node enforces {name} for runtime {runtime}: {never[name]}"
            report(f"{field}[{index}]", "contract.isolation_runtime", detail)
            return
        if name in features[:index]:
            report(f"{field}[{index}]", "contract.duplicate", f"{name} is there twice")
            return


def split_target(text: str) -> tuple[str, int]:
    """Host and port of a checked egress target; an IPv6 address without its brackets."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_egress(
    egress: Sequence[str], ports: Sequence[Port], paths: Sequence[str], field: str, report: Report
) -> None:
    """Where it may connect to: addresses or names, each with a port, in one spelling only."""
    if len(egress) > EGRESS_MAX:
        report(field, "contract.too_many", f"{len(egress)} targets, at most {EGRESS_MAX}")
        return
    own = {port.port for port in ports}
    for index, text in enumerate(egress):
        where = f"{field}[{index}]"
        found = _TARGET.fullmatch(text)
        if found is None or not 1 <= int(found["port"]) <= 65_535 or not _is_host(found["host"]):
            report(
                where, "contract.egress", f"{text[:80]!r}: a name or address with a port, as in a.example:443"
            )
        elif int(found["port"]) in own:
            report(
                where, "contract.egress_port", f"{found['port']} is one of its own ports, on which it listens"
            )
        elif text in egress[:index]:
            report(where, "contract.duplicate", f"{text} is there twice")
    for path in paths if egress else ():
        if under(HOSTS_PATH, path) or under(path, HOSTS_PATH):
            report(
                field,
                "contract.path_reserved",
                f"{HOSTS_PATH} is made by the node; an artifact is in its way",
            )


def _is_host(text: str) -> bool:
    """A host name in lower case with a dot in it, or an address in its one shortest form."""
    bare = text.removeprefix("[").removesuffix("]")
    try:
        address = ip_address(bare)
    except ValueError:
        return len(text) <= 253 and _HOST.fullmatch(text) is not None
    if isinstance(address, IPv6Address):
        # One that holds an IPv4 address is written in two ways, by one version of Python or another.
        return address.ipv4_mapped is None and text == f"[{address}]"
    return text == str(address)


def check_volumes(
    kind: str,
    volumes: Sequence[Volume | VolumeTemplate],
    paths: Sequence[str],
    field: str,
    report: Report,
) -> None:
    """A service's volumes: each at a place of its own, beside all artifacts. Sizes are checked as numbers."""
    if kind == "job" and volumes:
        report(
            field, "contract.job_volumes", "a job begins with nothing and leaves results: it has no volumes"
        )
    if len(volumes) > VOLUMES_MAX:
        report(field, "contract.too_many", f"{len(volumes)} volumes, at most {VOLUMES_MAX}")
        return
    taken = [*paths]
    for volume in volumes:
        where = f"{field}.{volume.name}"
        check_name(volume.name, where, report)
        if not check_path(volume.path, f"{where}.path", report):
            continue
        for reserved in (*RESERVED_PATHS, HOSTS_PATH):
            if under(volume.path, reserved) or under(reserved, volume.path):
                report(f"{where}.path", "contract.path_reserved", f"{reserved} belongs to the sandbox")
        for other in taken:
            if under(volume.path, other) or under(other, volume.path):
                report(f"{where}.path", "contract.path_overlap", f"overlaps with {other}")
        taken.append(volume.path)
    names = [volume.name for volume in volumes]
    if len(set(names)) != len(names):
        report(field, "contract.duplicate", "a volume is there twice")


def check_rpo(size_bytes: int | str, rpo_s: int | str, field: str, report: Report) -> None:
    """[C12] A volume with copies, as far as its numbers are known: not too often, and not too large."""
    if not rpo_s:
        return
    if isinstance(rpo_s, str):
        return
    if rpo_s < RPO_S_MIN:
        report(f"{field}.rpo", "contract.rpo", f"{rpo_s} s, at least {RPO_S_MIN} s, or none")
    if isinstance(size_bytes, int) and size_bytes > COPIED_VOLUME_BYTES_MAX:
        detail = f"{size_bytes} bytes, at most {COPIED_VOLUME_BYTES_MAX} with an rpo"
        report(f"{field}.size", "contract.rpo", detail)


def copied_volumes(workload: Workload) -> tuple[Volume, ...]:
    """[C12] Those of which copies are kept elsewhere."""
    return tuple(volume for volume in workload.volumes if volume.rpo_s)


def features_needed(workload: Workload) -> tuple[str, ...]:
    """[C10] Attributes of an offer that must say `enforced` for a slot of this workload."""
    secrets = ("secrets",) if workload.secrets else ()
    egress = ("egress",) if workload.egress else ()
    volumes = ("volumes",) if workload.volumes else ()
    copies = ("volume-copies",) if copied_volumes(workload) else ()
    health = ("health-exec",) if workload.health is not None and workload.health.command else ()
    names = (*workload.isolation, *secrets, *egress, *volumes, *copies, *health)
    # Those of the embedded driver stand alone, others' under the driver's name.
    prefix = "" if workload.runtime == "sandbox" else f"{workload.runtime}."
    return tuple(prefix + name for name in names)
