"""A workload in words, for whoever is to sign for it: every field of it, but what is as it always is."""

from __future__ import annotations

from collections.abc import Iterator

from ledger.manifests.types import Health, Placement, Restart, UpdateStrategy, Volume, Workload
from node.cli.output import clean
from node.client.amounts import cpu_text, duration_text, room_text, size_text
from node.files.cid import cid_of

_APART = {
    "none": "anywhere",
    "node": "each on another node",
    "farm": "each on another farm",
    "country": "each in another country",
}
_KINDS = {"file": "", "tree": "folder ", "image": "image "}
_DISKS = {"ssd": "SSD", "hdd": "hard disk"}
_RECHECK_S = 15  # as the language has it where nothing is written


def workload_lines(workload: Workload) -> list[str]:
    """What will run, where, with what and until when; the first line is its heading."""
    need, place = workload.resources, workload.placement
    heading = (
        f"{workload.name}: {workload.replicas} x {workload.kind}, {cpu_text(need.cpu_millis)}, "
        f"{room_text(need.memory_bytes)}, in {', '.join(place.countries) or 'any country'}, "
        f"{_APART[place.distinct]}"
    )
    lines = [heading, " ".join(workload.command), *_runtime(workload), *_where(place), *_course(workload)]
    if workload.secrets:
        lines.append(f"is given secrets by the consumer: {', '.join(workload.secrets)}")
    if workload.egress:
        lines.append(f"may connect to {', '.join(workload.egress)}")
    lines += [f"with {name}={value}" for name, value in workload.environment.items()]
    lines += [_volume(volume) for volume in workload.volumes]
    lines += [
        f"{_KINDS[a.kind]}{a.path} ({size_text(a.size_bytes)}) sha256 {a.sha256} cid {cid_of(a.sha256)}"
        + (", a program" if a.executable else "")
        for a in workload.artifacts
    ]
    return [clean(line) for line in lines]


def _runtime(workload: Workload) -> Iterator[str]:
    need = workload.resources
    if workload.runtime == "oci":
        yield f"in a container, as user {workload.user}, in {workload.working_dir}"
    if workload.runtime == "wasm":
        yield f"as a program of WebAssembly, {workload.fuel} instructions at most"
    yield f"has {room_text(need.disk_bytes)} to write to, and {need.pids} processes at most"
    if workload.isolation:
        yield f"only on nodes that enforce {', '.join(workload.isolation)}"
    if workload.recheck_s != _RECHECK_S:
        yield f"its files are verified again each {duration_text(workload.recheck_s)}"


def _where(place: Placement) -> Iterator[str]:
    if place.farms:
        yield f"only on the farms {', '.join(place.farms)}"
    for name, value in place.attributes.items():
        yield f"only on nodes whose {name} is {value}"
    if place.certified_by:
        yield f"only on nodes that are certified by {' or '.join(place.certified_by)}"
    if place.farm_certified_by:
        yield f"only on farms that are certified by {' or '.join(place.farm_certified_by)}"
    if place.spread is not None:
        yield f"at most {place.spread.most} on one {place.spread.by}"
    if place.apart is not None:
        yield f"on no {place.apart.by} with {', '.join(place.apart.workloads)}"
    if place.min_farms > 1:
        yield f"on {place.min_farms} farms at least"


def _course(workload: Workload) -> Iterator[str]:
    """From its start to its end."""
    if workload.depends_on:
        yield f"begins when {', '.join(workload.depends_on)} ran or succeeded"
    for port in workload.ports:
        yield f"is reached at port {port.name} ({port.port})"
    if workload.health is not None:
        yield _health(workload.health)
    if workload.restart != Restart():
        yield f"is restarted {workload.restart.attempts} times before it has failed"
    if workload.available_s:
        yield f"runs on without the notary for at most {duration_text(workload.available_s)}, unasked"
    if workload.time_limit_s:
        yield f"is stopped after {duration_text(workload.time_limit_s)}"
    if workload.agree:
        yield f"{workload.agree} of {workload.replicas} must find the same results, and are paid"
    if workload.results:
        yield f"leaves the results {', '.join(workload.results)}"
    update = workload.update
    if update != UpdateStrategy():
        yield (
            f"is updated {update.canary} first, then {update.max_parallel} at a time, each healthy for "
            f"{duration_text(update.min_healthy_s)}, within {duration_text(update.deadline_s)}, else "
            + ("all goes back" if update.on_failure == "revert" else "it waits for the consumer")
        )


def _health(health: Health) -> str:
    if health.command:
        how = f"{' '.join(health.command)} ends with 0"
    else:
        how = f"port {health.port} answers {health.http_path or 'a connection'}"
    return (
        f"is healthy while {how}, asked each {duration_text(health.interval_s)}, within "
        f"{duration_text(health.timeout_s)}, {health.failures} failures in a row are too many"
    )


def _volume(volume: Volume) -> str:
    kept = f"{room_text(volume.size_bytes)} of {_DISKS[volume.storage]}"
    text = f"keeps {volume.path} ({volume.name}, {kept}) from term to term"
    if volume.rpo_s:
        lost = duration_text(volume.rpo_s)
        text += f", with encrypted copies on other nodes: with its node, the last {lost} may be lost"
    elif volume.if_lost == "wait":
        text += ", on its node alone"
    return text + (", and may begin empty" if volume.if_lost == "empty" else "")
