"""`gridpact doctor`: is this machine fit, is this home sound?"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from ledger.text.quantities import parse_cpu, parse_size
from node.cli.context import EXIT_ERROR, EXIT_OK, current
from node.cli.output import emit
from node.client.amounts import cpu_text, size_text
from node.config import Node, load_settings, split_host_port
from node.errors import ConfigError
from node.home import Home, read_run

if TYPE_CHECKING:
    from node.executor.drivers.base import Feature

_PACKAGES = ("ledger", "consensus", "p2p", "node", "bot")
_TOOLS = (
    ("bwrap", "runs workloads"),
    ("mkfs.erofs", "seals the roots of workloads (Debian: erofs-utils)"),
    ("mkfs.ext4", "makes the volumes of workloads (Debian: e2fsprogs)"),
    ("podman", "runs containers (Debian: podman, and runc or crun)"),
    ("busybox", "is the examples' workload"),
    ("ssh-keygen", "signs approvals, too"),
)
_GROUPS = "run the node as root, on a host that lets it make control groups"
_ADVICE = {
    "landlock": "start Linux 5.19 or newer with landlock among lsm=",
    "oci.landlock": "runtime sandbox has it",
    "sealed-image": "run the node as root, with erofs-utils installed and loop devices there",
    "volumes": "run the node as root, with e2fsprogs installed and loop devices there",
    "secrets": "load ramfs, or start a kernel that has it; a node that is not root needs user namespaces",
    "egress": "let the node enter the network namespaces of its sandboxes: as root, or with user namespaces",
    "limit-memory": _GROUPS,
    "limit-cpu": _GROUPS,
    "limit-pids": _GROUPS,
    "freezer": _GROUPS,
    "volume-copies": f"see volumes; beside them, {_GROUPS}, on Linux 5.14 or newer",
    "health-exec": "let the node enter the namespaces of its sandboxes: as root, or with user namespaces",
}
"""What to do about a feature that is not enforced, where something can be done."""

_A_DISK = {"ssd": "an SSD", "hdd": "a hard disk"}
_CLOCK_EARLIEST_S = 1_735_689_600  # 2025-01-01: an unset clock is before it
_DISK_FREE_BYTES = 1 << 30

State = Literal["ok", "warning", "fault"]


class Finding(msgspec.Struct, frozen=True):
    """One check. Only a fault makes the command fail."""

    check: str
    state: State
    detail: str


def doctor() -> int:
    """Check this machine and the home."""
    checks: tuple[Callable[[], Iterator[Finding]], ...]
    checks = (_program, _tools, _machine, _home, _quarantine, _drivers)
    found = [finding for check in checks for finding in check()]
    emit(found, ("state", "check", "found"), [(f.state, f.check, f.detail) for f in found])
    return EXIT_ERROR if any(f.state == "fault" for f in found) else EXIT_OK


def _program() -> Iterator[Finding]:
    roots = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        where = None if spec is None or not spec.origin else Path(spec.origin).resolve().parents[1]
        roots[name] = where
    root = roots["node"]
    strangers = [f"{name} from {where}" for name, where in roots.items() if where != root]
    if strangers:
        yield Finding("packages", "fault", f"not all from {root}: {'; '.join(strangers)}")
    else:
        yield Finding("packages", "ok", f"all five from {root}")
    version = sys.version_info
    fit = (3, 11) <= (version.major, version.minor) < (3, 13)
    yield Finding("python", "ok" if fit else "fault", f"{platform.python_version()}, 3.11 or 3.12 wanted")


def _tools() -> Iterator[Finding]:
    for tool, use in _TOOLS:
        # The node looks for system tools there, whatever the PATH of who asks is.
        where = shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        yield Finding(
            tool,
            "ok" if where else "warning",
            where or f"missing; it {use}",
        )


def _machine() -> Iterator[Finding]:
    now_s = time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    yield Finding("clock", "ok" if now_s > _CLOCK_EARLIEST_S else "fault", text)
    yield Finding("cores", "ok", str(os.cpu_count()))


def _home() -> Iterator[Finding]:
    home = current.home()
    if not home.config_file.exists():
        yield Finding("home", "warning", f"{home.root}: not initialised; gridpact init makes it")
        return
    try:
        settings = load_settings(home.config_file, os.environ)
        genesis = home.read_genesis()
        home.node_key()
        home.token()
        if "validator" in settings.roles:
            home.validator_key()
        if "bot" in settings.roles:
            home.account_key(settings.bot.account)
    except ConfigError as error:
        yield Finding("home", "fault", str(error))
        return
    yield Finding(
        "home", "ok", f"{home.root}: chain {genesis.chain_id}, roles {', '.join(settings.roles) or 'none'}"
    )
    mode = stat.S_IMODE(home.config_dir.stat().st_mode)
    yield Finding(
        "home rights", "warning" if mode & 0o077 else "ok", f"{home.config_dir} is {mode:04o}, 0700 wanted"
    )
    free = shutil.disk_usage(home.root).free
    yield Finding("disk", "ok" if free > _DISK_FREE_BYTES else "warning", f"{free >> 20} MiB free")
    if "node" in settings.roles:
        yield from _offered(settings.node, home)
    running = read_run(home)
    if running is not None:
        yield Finding("peer", "ok", f"runs as process {running.pid}, API at {running.api}")
        return
    host, port = split_host_port(settings.api.listen)
    ports = [(host, port)]
    for address in settings.p2p.listen:
        _, kind, name, _, number = address.split("/")
        if kind.startswith("ip"):
            ports.append((name, int(number)))
    for name, found in ports:
        yield _port(name, found)


def _offered(node: Node, home: Home) -> Iterator[Finding]:
    """What a 3node offers beside what there is, and whether its services can be reached."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    for name, text, offered, there, shown in (
        ("node.cpu", node.cpu, parse_cpu(node.cpu), (os.cpu_count() or 1) * 1000, cpu_text),
        ("node.memory", node.memory, parse_size(node.memory), pages * page_bytes, size_text),
    ):
        state: State = "ok" if offered <= there else "warning"
        yield Finding(name, state, f"{text} offered, this machine has {shown(there)}")
    yield from _disks(node, home)
    found = _port(node.listen_host, 0)
    detail = f"services are reached at {node.listen_host}" if found.state == "ok" else found.detail
    yield Finding("node.listen_host", found.state, detail)


def _disks(node: Node, home: Home) -> Iterator[Finding]:
    """Both kinds beside their file systems, which may be one."""
    from node.executor.volumes.marks import check_marks
    from node.executor.volumes.rooms import existing, rooms_of

    try:
        key = home.node_key().public
        rooms = rooms_of(node, home.data_dir, key)
        check_marks(rooms, home.data_dir, key)
    except ConfigError as error:
        yield Finding("disks", "fault", str(error))
        return
    at = {disk: existing(room.folder) for disk, room in rooms.items()}
    for disk, room in rooms.items():
        if not room.size_bytes_max:
            continue  # not offered
        here = at[disk].stat().st_dev
        beside = [r for other, r in rooms.items() if r.size_bytes_max and at[other].stat().st_dev == here]
        there = shutil.disk_usage(at[disk]).total
        state: State = "ok" if sum(other.size_bytes_max for other in beside) <= there else "warning"
        text = f"{size_text(room.size_bytes_max)} offered, {at[disk]} has {size_text(there)}"
        if len(beside) > 1:
            state = "warning"  # one of them is not what it is sold as
            text += f" for both kinds: let node.{disk}_folder be on {_A_DISK[disk]}, or offer one kind"
        yield Finding(f"node.{disk}", state, text)


def _port(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding("port", "fault", f"{host}:{port}: {error.strerror}")
    return Finding("port", "ok", f"{host}:{port} is free")


def _drivers() -> Iterator[Finding]:
    """Each driver: whether workloads of its runtime run here, and all that it enforces or does not."""
    from node.testnet_market import sandbox_fingerprint

    found = sandbox_fingerprint()
    if not found.runtimes:
        yield Finding("3node", "warning", "this machine cannot be a 3node: no driver can be used")
    for each in (found, *found.beside):
        if not each.usable:
            detail = f"no workload of runtime {each.driver} runs here: {each.reason}"
            yield Finding(each.driver, "warning", detail)
            continue
        more = "" if each is found else f"; what is not told again is as with {found.driver}"
        yield Finding(each.driver, "ok", f"workloads of runtime {each.driver} run here{more}")
        told = found.features if each is not found else ()
        yield from (_feature(each.driver, one) for one in each.features if one not in told)


def _feature(driver: str, feature: Feature) -> Finding:
    check = f"  {driver}.{feature.name}"
    if feature.enforced:
        return Finding(check, "ok", feature.how)
    advice = _ADVICE.get(f"{driver}.{feature.name}") or _ADVICE.get(feature.name, "")
    return Finding(check, "warning", f"not enforced: {feature.how}" + (f"; {advice}" if advice else ""))


def _quarantine() -> Iterator[Finding]:
    from node.executor.errors import ExecutorError
    from node.executor.quarantine import Quarantine

    try:
        held = Quarantine(current.home().quarantine_file).all()
    except ExecutorError as error:
        yield Finding("quarantine", "fault", str(error))
        return
    for one in held:
        text = f"this node runs no more of {one.manifest[:16]}: {one.detail}"
        advice = "find out who changed it, then: gridpact node release " + one.manifest[:16]
        yield Finding("quarantine", "warning", f"{text}; {advice}")
