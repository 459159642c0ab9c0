"""Finds out what the sandbox driver enforces here, by starting a sandbox and looking from the inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.executor import limits
from node.executor.drivers import bwrap, entry, seccomp
from node.executor.drivers.base import Feature, Fingerprint, Isolation, Resources
from node.executor.drivers.process import python_argv
from node.executor.drivers.still import sync_volume
from node.executor.errors import DriverUnavailable, VolumeRefused
from node.executor.host import cgroups, landlock, procs
from node.executor.host.filesystem import find_mkfs, make_filesystem
from node.executor.host.seal import seal_bytes

_NAMESPACES = ("user", "pid", "net", "mnt", "ipc", "uts", "cgroup")
_SCRIPT = """
while read -r line; do echo "$line"; done < /proc/self/status
for name in user pid net mnt ipc uts cgroup; do echo "ns-$name: $(readlink /proc/self/ns/$name)"; done
(echo x > /gridpact-trial) 2>/dev/null || echo "root: read-only"
echo "exit 0" > /tmp/trial; chmod 755 /tmp/trial
/tmp/trial 2>/dev/null || echo "scratch: not executable"
read -r word < /tmp/secrets/trial && echo "secret: $word"
(echo x > /tmp/secrets/trial) 2>/dev/null || echo "secrets: read-only"
if [ -d /tmp/volume ]; then
    (echo x > /tmp/volume/small) 2>/dev/null \
        && ! (head -c 33554432 /dev/zero > /tmp/volume/fill) 2>/dev/null && echo "volume: full"
    rm -f /tmp/volume/fill; cp /tmp/trial /tmp/volume/trial; chmod 755 /tmp/volume/trial
    /tmp/volume/trial 2>/dev/null || echo "volume-code: not executable"
fi
while read -r _ path kind _; do
    [ "$path" = /tmp/secrets ] && echo "secrets-in: $kind"
done < /proc/self/mounts
for name in open shut; do
    (echo x > /tmp/$name/file) 2>/dev/null && echo "$name: written" || echo "$name: denied"
done
"""
_RULES = [("/", "code"), ("/proc", "read"), ("/dev", "device"), ("/tmp/open", "write")]
_WAY_OUT = "a relay to named addresses, and no other way"
_VOLUMES = "ext4 of its own size behind a loop device, never executable"
_VOLUME_BYTES = 16 << 20
_INSIDE = "in the task's namespaces and groups, under its filters and rules"
_MAY_LACK = ("secrets", "egress", "health-exec")
_FAR = ("192.0.2.1", "9")  # an address that nobody has (RFC 5737)
_RESOURCES = Resources(cpu_millis=1000, memory_bytes=1 << 30, disk_bytes=1 << 20, pids=64)


@dataclass(frozen=True)
class Host:
    """What this host offers: the fingerprint to show, the groups to use (None: prlimit only), whether
    Landlock was seen to deny, and what makes sealed images (None: the root is a tmpfs)."""

    fingerprint: Fingerprint
    groups: cgroups.Cgroups | None
    landlock: bool = False
    mkfs: str | None = None


def examine(driver: str, scope: str) -> Host:
    """Try everything once; blocks for some 100 ms. A lacking host is told, never raised."""
    groups, found = cgroups.detect(scope)
    if groups is not None:
        groups.remove_scope()
    mkfs, image_how = image_maker()
    denies, rules_how, reason = False, "", ""
    try:
        try:
            inside = _look_inside(mkfs=mkfs)
        except DriverUnavailable as error:
            if mkfs is None:
                raise
            mkfs, image_how = None, str(error)
            inside = _look_inside()
        reason = _verdict(inside)
        denies, rules_how = _try_landlock(inside)
    except (DriverUnavailable, OSError, subprocess.SubprocessError) as error:
        inside, mkfs, reason = {}, None, str(error)
    sealed = mkfs is not None
    features = [*_isolation(inside, reason), Feature("sealed-image", sealed, image_how)]
    kept, volumes_how, synced = (False, reason, reason) if reason else _try_volumes()
    features += [Feature("landlock", denies, rules_how or reason), Feature("volumes", kept, volumes_how)]
    features += [_copies(kept, synced, found["freezer"]), *limit_features(groups, found)]
    fingerprint = Fingerprint(driver, Isolation.SANDBOX, not reason, reason, tuple(features))
    return Host(fingerprint, groups, denies, mkfs)


def image_maker() -> tuple[str | None, str]:
    """Return what makes images here, and how they are sealed; or None and why the root is a tmpfs."""
    if os.geteuid() != 0:
        return None, "only root mounts images; artifacts are copied from sealed memfds into a private tmpfs"
    path = shutil.which("mkfs.erofs", path=f"{os.defpath}:/usr/sbin:/sbin:/usr/local/bin")
    if path is None:
        return None, "mkfs.erofs is missing (Debian: erofs-utils); artifacts are copied into a private tmpfs"
    return path, "erofs in a sealed memfd, behind a read-only loop device"


def launcher_uid() -> int | None:
    """Return whom the launcher makes the sandbox belong to, or None when the node is not root."""
    return bwrap.HOST_UID if os.geteuid() == 0 else None


def _try_landlock(free: dict[str, str]) -> tuple[bool, str]:
    """Return whether Landlock denies what all else lets pass (`free` tells), and how or why not."""
    version = landlock.abi()
    if version < landlock.ABI_LEAST:
        return False, f"the kernel speaks version {version} of it, {landlock.ABI_LEAST} is the least"
    if not entry.supported():
        return False, f"there is no entry program for {os.uname().machine}"
    try:
        ruled = _look_inside(_RULES)
    except DriverUnavailable as error:
        return False, str(error)
    if free.get("shut") != "written" or ruled.get("open") != "written" or ruled.get("shut") != "denied":
        return False, "the trial did not show it"
    return True, f"version {version}: code, reading, writing and devices, each where it belongs"


def _look_inside(
    rules: list[landlock.Rule] | None = None, mkfs: str | None = None, volumes: Sequence[int] = ()
) -> dict[str, str]:
    """Return what a shell in a trial sandbox says, as names and values. Raises DriverUnavailable."""
    programs = [seal_bytes(program, "seccomp") for program in seccomp.filters()]
    options = [*bwrap.isolation_options(tuple(programs), {}), *bwrap.trial_mounts(bool(volumes))]
    secret = seal_bytes(b"trial\n", "secret")
    fds = [*programs, seal_bytes(bwrap.encode(options), "options")]
    log = os.memfd_create("log", os.MFD_CLOEXEC)
    config: dict[str, Any] = {
        "fds": [*fds, secret, *volumes, log],
        "bwrap_fds": list(fds),
        "secrets": [{"fd": secret, "name": "trial"}],
        "volumes": list(volumes),
        "argv": [bwrap.find(), "--args", str(fds[-1]), "--"],
        "command": ["/bin/sh", "-c", _SCRIPT],
        "rules": rules,
        "kill_at_ms": None,
        "root": bwrap.root_sizes(0, 16, _RESOURCES) | {"files": [], "trees": [], "points": [], "mkfs": mkfs},
        "uid": launcher_uid(),
        "cgroup_procs": [],
        "rlimits": bwrap.rlimits(_RESOURCES, memory_by_cgroup=True, volume_bytes=2 * _VOLUME_BYTES),
        "nproc": None,
        "log_fd": log,
        "log_bytes": limits.LOG_BYTES_MAX,
        "log_rate_bytes_s": limits.LOG_RATE_BYTES_S,
        "start_timeout_s": limits.TRIAL_TIMEOUT_S,
    }
    fds += [secret, log, seal_bytes(json.dumps(config).encode(), "config")]
    try:
        held = _run(
            python_argv("node.executor.drivers.launcher", str(fds[-1])), [*fds, *volumes], bool(volumes)
        )
        text = os.pread(log, limits.LOG_BYTES_MAX, 8).rstrip(b"\x00").decode(errors="replace")
    finally:
        for fd in fds:
            os.close(fd)
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs} | held


def _try_volumes() -> tuple[bool, str, str]:
    """Return whether a volume can be written, up to its size, and not executed; how, or why not; and `ready`
    when it could be written out to its file, else why not."""
    missing = "" if os.geteuid() == 0 else "only root mounts volumes"
    mkfs = find_mkfs()
    if missing or mkfs is None:
        missing = missing or "mkfs.ext4 is missing (Debian: e2fsprogs)"
        return False, missing, missing
    fd = os.memfd_create("volume", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, _VOLUME_BYTES)
        make_filesystem(mkfs, f"/proc/self/fd/{fd}", (fd,))
        inside = _look_inside(volumes=[fd])
    except (DriverUnavailable, OSError, subprocess.SubprocessError, VolumeRefused) as error:
        return False, str(error), str(error)
    finally:
        os.close(fd)
    kept = inside.get("volume") == "full" and inside.get("volume-code") == "not executable"
    return kept, _VOLUMES if kept else "the trial did not show it", inside.get("synced", "")


def _copies(kept: bool, synced: str, freezer: str) -> Feature:
    """Whether volumes can be copied while their task runs."""
    name = "volume-copies"
    if not kept or synced != "ready":
        return Feature(name, False, synced if kept else "there are no volumes")
    if freezer.startswith("no: "):
        return Feature(name, False, f"no freezer: {freezer.removeprefix('no: ')}")
    return Feature(name, True, f"written out and copied while all processes stand still ({freezer})")


def _run(argv: list[str], fds: list[int], has_volume: bool) -> dict[str, str]:
    """Run one trial; return what came of opening a way out of it, and of writing its volume out. Raises
    DriverUnavailable."""
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
            init_pid = int(said["init"])
            held = {"outlet": _try_outlet(init_pid), "synced": _try_sync(init_pid) if has_volume else ""}
            held["check"] = _try_check(init_pid)
            process.stdin.write(b"G")
            process.stdin.flush()
            process.stdout.readline()
            process.communicate()
            return held
        finally:
            timer.cancel()
            process.kill()


def _try_outlet(init_pid: int) -> str:
    """Return `ready` when a way out of the held sandbox can be opened, else why not. It ends at once."""
    uid = launcher_uid()
    argv = python_argv("node.executor.doors.outlet", str(init_pid), str(-1 if uid is None else uid), *_FAR)
    try:
        done = subprocess.run(
            argv, input=b"", capture_output=True, timeout=limits.TRIAL_TIMEOUT_S, env={}, cwd="/", check=False
        )
    except subprocess.TimeoutExpired:
        return "the outlet said nothing"
    return (done.stdout or done.stderr).decode(errors="replace").strip()[-200:]


def _try_sync(init_pid: int) -> str:
    """Return `ready` when the volume of the held sandbox can be written out to its file, else why not."""
    try:
        sync_volume(init_pid, "/tmp/volume")
    except OSError as error:
        return str(error)
    return "ready"


def _try_check(init_pid: int) -> str:
    """Return `ready` when a command can be run inside the held sandbox, else why not."""
    filters = [seal_bytes(program, "seccomp") for program in seccomp.filters()]
    config: dict[str, Any] = {
        "init": init_pid,
        "start_ticks": procs.start_ticks(init_pid),
        "rules": None,
        "cgroup_procs": [],
        "rlimits": {},
        "filters": filters,
        "uid": bwrap.INSIDE_UID,
        "gid": bwrap.INSIDE_UID,
        "groups": [],
        "folder": "/",
        "command": ["/bin/sh", "-c", "exit 42"],
        "env": {},
        "timeout_s": limits.TRIAL_TIMEOUT_S,
    }
    fds = [*filters, seal_bytes(json.dumps(config).encode(), "config")]
    try:
        argv = python_argv("node.executor.inside", str(fds[-1]))
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds, env={}, cwd="/"
        ) as process:
            timer = threading.Timer(limits.TRIAL_TIMEOUT_S, process.kill)
            timer.start()
            assert process.stdout is not None
            said = process.stdout.read().decode(errors="replace")
            timer.cancel()
    except OSError as error:
        return str(error)
    finally:
        for fd in fds:
            os.close(fd)
    return "ready" if said == "ran\n42\n" else said.strip()[-200:] or "it said nothing"


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
    missing = [f.name for f in _isolation(inside, "") if not f.enforced and f.name not in _MAY_LACK]
    return f"the trial sandbox lacks {', '.join(missing)}" if missing else ""


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
    hidden = inside.get("secret") == "trial" and inside.get("secrets") == "read-only"
    hidden = hidden and inside.get("secrets-in") == "ramfs"
    outlet, check = inside.get("outlet", ""), inside.get("check", "")
    found += [
        feature("no-capabilities", held == {""}, uid),
        feature("no-new-privileges", inside.get("NoNewPrivs") == "1", "bubblewrap"),
        feature("seccomp", inside.get("Seccomp") == "2", "allow-list and W^X by libseccomp"),
        feature("read-only-root", inside.get("root") == "read-only", "its own, mounted read-only"),
        feature("noexec-scratch", inside.get("scratch") == "not executable", "private tmpfs, noexec"),
        feature("limit-disk", inside.get("scratch") == "not executable", "size of the scratch tmpfs"),
        feature("secrets", hidden, "read-only files in memory that is never swapped (ramfs)"),
        Feature("health-exec", check == "ready", _INSIDE if check == "ready" else check or reason),
        Feature("egress", outlet == "ready", _WAY_OUT if outlet == "ready" else outlet or reason),
    ]
    return found


def limit_features(groups: cgroups.Cgroups | None, found: dict[str, str]) -> list[Feature]:
    """Return how each limit is held, and whether all processes can be stopped at once; `found` as
    `cgroups.detect` tells it."""
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
