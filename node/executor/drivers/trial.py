"""Finds out what the sandbox driver enforces here, by starting a sandbox and looking from the inside."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from dataclasses import dataclass
from typing import Any

from node.executor import cgroups, limits
from node.executor.drivers import bwrap, seccomp
from node.executor.drivers.base import Feature, Fingerprint, Isolation, Resources
from node.executor.drivers.process import python_argv
from node.executor.errors import DriverUnavailable
from node.executor.seal import seal_bytes

_NAMESPACES = ("user", "pid", "net", "mnt", "ipc", "uts", "cgroup")
_SCRIPT = """
while read -r line; do echo "$line"; done < /proc/self/status
for name in user pid net mnt ipc uts cgroup; do echo "ns-$name: $(readlink /proc/self/ns/$name)"; done
(echo x > /gridpact-trial) 2>/dev/null || echo "root: read-only"
echo "exit 0" > /tmp/trial; chmod 755 /tmp/trial
/tmp/trial 2>/dev/null || echo "scratch: not executable"
"""
_RESOURCES = Resources(cpu_millis=1000, memory_bytes=1 << 30, disk_bytes=1 << 20, pids=64)


@dataclass(frozen=True)
class Host:
    """What this host offers: the fingerprint to show, and the groups to use (None: prlimit only)."""

    fingerprint: Fingerprint
    groups: cgroups.Cgroups | None


def examine(driver: str, scope: str) -> Host:
    """Try everything once; blocks for some 100 ms. A lacking host is told, never raised."""
    groups, found = cgroups.detect(scope)
    if groups is not None:
        groups.remove_scope()
    try:
        inside = _look_inside()
        reason = _verdict(inside)
    except (DriverUnavailable, OSError, subprocess.SubprocessError) as error:
        inside, reason = {}, str(error)
    features = (*_isolation(inside, reason), *_limits(groups, found))
    usable = not reason
    return Host(Fingerprint(driver, Isolation.SANDBOX, usable, reason, features), groups)


def launcher_uid() -> int | None:
    """Return whom the launcher makes the sandbox belong to, or None when the node is not root."""
    return bwrap.HOST_UID if os.geteuid() == 0 else None


def _look_inside() -> dict[str, str]:
    """Return what a shell in a trial sandbox says, as names and values. Raises DriverUnavailable."""
    programs = [seal_bytes(program, "seccomp") for program in seccomp.filters()]
    options = [*bwrap.isolation_options(tuple(programs), {}), *bwrap.trial_mounts()]
    fds = [*programs, seal_bytes(bwrap.encode(options), "options")]
    log = os.memfd_create("log", os.MFD_CLOEXEC)
    config: dict[str, Any] = {
        "fds": [*fds, log],
        "bwrap_fds": fds,
        "argv": [bwrap.find(), "--args", str(fds[-1]), "--", "/bin/sh", "-c", _SCRIPT],
        "root": bwrap.root_sizes(0, 16, _RESOURCES) | {"files": [], "trees": []},
        "uid": launcher_uid(),
        "cgroup_procs": [],
        "rlimits": bwrap.rlimits(_RESOURCES, memory_by_cgroup=True),
        "nproc": None,
        "log_fd": log,
        "log_bytes": limits.LOG_BYTES_MAX,
        "log_rate_bytes_s": limits.LOG_RATE_BYTES_S,
        "start_timeout_s": limits.TRIAL_TIMEOUT_S,
    }
    fds += [log, seal_bytes(json.dumps(config).encode(), "config")]
    try:
        _run(python_argv("node.executor.drivers.launcher", str(fds[-1])), fds)
        text = os.pread(log, limits.LOG_BYTES_MAX, 8).rstrip(b"\x00").decode(errors="replace")
    finally:
        for fd in fds:
            os.close(fd)
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _run(argv: list[str], fds: list[int]) -> None:
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=fds,
        env={},
        cwd="/",
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # However the trial hangs, the reads below come to an end.
        timer = threading.Timer(limits.TRIAL_TIMEOUT_S, process.kill)
        timer.start()
        try:
            first = process.stdout.readline()
            said = json.loads(first) if first else {"event": "failed", "reason": "the launcher said nothing"}
            if said["event"] == "failed":
                raise DriverUnavailable(_explain(str(said["reason"])))
            process.stdin.write(b"G")
            process.stdin.flush()
            process.stdout.readline()
            process.communicate()
        finally:
            timer.cancel()
            process.kill()


def _explain(reason: str) -> str:
    """Add the usual cause when user namespaces are closed."""
    for path, closed in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("/proc/sys/user/max_user_namespaces", "0"),
    ):
        try:
            with open(path) as file:
                value = file.read().strip()
        except OSError:
            continue
        if value == closed:
            return f"{reason} (user namespaces are closed: {path} is {value})"
    return reason


def _verdict(inside: dict[str, str]) -> str:
    """Return the first thing without which nothing may start, or an empty text."""
    missing = [feature.name for feature in _isolation(inside, "") if not feature.enforced]
    required = [name for name in missing if name not in ("landlock", "sealed-image")]
    return f"the trial sandbox lacks {', '.join(required)}" if required else ""


def _isolation(inside: dict[str, str], reason: str) -> list[Feature]:
    def feature(name: str, holds: bool, how: str) -> Feature:
        return Feature(name, holds, how if holds else reason or "the trial did not show it")

    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES}
    found = [
        feature(f"{name}-namespace", inside.get(f"ns-{name}", own[name]) != own[name], "bubblewrap")
        for name in _NAMESPACES
    ]
    held = {inside.get(name, "1").strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    uid = f"host uid {bwrap.HOST_UID if os.geteuid() == 0 else os.geteuid()}, uid {bwrap.INSIDE_UID} inside"
    found += [
        feature("no-capabilities", held == {""}, uid),
        feature("no-new-privileges", inside.get("NoNewPrivs") == "1", "bubblewrap"),
        feature("seccomp", inside.get("Seccomp") == "2", "allow-list and W^X by libseccomp"),
        feature("read-only-root", inside.get("root") == "read-only", "private tmpfs, remounted read-only"),
        feature("noexec-scratch", inside.get("scratch") == "not executable", "private tmpfs, noexec"),
        feature("limit-disk", inside.get("scratch") == "not executable", "size of the scratch tmpfs"),
        Feature("sealed-image", False, "artifacts are copied from sealed memfds into a private tmpfs"),
        Feature("landlock", False, "not used by this driver yet"),
    ]
    return found


def _limits(groups: cgroups.Cgroups | None, found: dict[str, str]) -> list[Feature]:
    used = groups.mounts if groups is not None else {}
    features = [
        Feature(f"limit-{name}", name in used, found[name].removeprefix("no: ")) for name in cgroups.LIMITS
    ]
    if "memory" not in used:
        features.append(Feature("limit-memory-per-process", True, "prlimit (RLIMIT_AS), not in sum"))
    if "pids" not in used:
        how = "prlimit (RLIMIT_NPROC), counted in the sandbox's own user namespace"
        features[1] = Feature("limit-pids", True, how)
    freezer = found["freezer"]
    features.append(Feature("freezer", not freezer.startswith("no: "), freezer.removeprefix("no: ")))
    return features
