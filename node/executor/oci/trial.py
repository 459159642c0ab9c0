"""Finds out whether podman can run containers here as they must be run, by running one and looking from
inside.

The trial's root holds the host's own shell with the libraries that it has mapped, and goes the whole way of
any other container: sealed, mounted, held back, hashed, let go.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

import trio

from ledger.manifests.services import NEVER_ENFORCED
from node.executor import limits
from node.executor.drivers import trial
from node.executor.drivers.base import (
    EgressSpec,
    Feature,
    FileSpec,
    Fingerprint,
    Handle,
    Isolation,
    PortSpec,
    Resources,
    TaskSpec,
    VolumeSpec,
)
from node.executor.drivers.launched import LaunchedDriver
from node.executor.errors import ExecutorError
from node.executor.host import cgroups
from node.executor.host.filesystem import find_mkfs, make_filesystem
from node.executor.host.seal import hash_fd
from node.executor.oci import engine

NAME = "oci"
_MIB = 1 << 20
_RESOURCES = Resources(cpu_millis=1000, memory_bytes=256 * _MIB, disk_bytes=_MIB, pids=64)
_VOLUME_BYTES = 16 * _MIB
_PT_INTERP = 3
_POLL_S = 0.01
_CHECK_S = 10.0  # the check's command takes some 10 ms, seconds on a busy machine that starts
_VOLUME = "/volume"
_WRITTEN, _WAITS = b"gridpact trial: written", b"waits: "
_NO_VOLUMES = "there are no volumes"
_COPIES = "written out and copied while all processes stand still"
_INSIDE = "in the container's namespaces and groups, under the same filters"
_SCRIPT = """
while read -r line; do echo "$line"; done < /proc/self/status
while read -r line; do echo "uid_map: $line"; done < /proc/self/uid_map
(echo x > /gridpact-trial) 2>/dev/null || echo "root: read-only"
echo "exit 0" > /tmp/trial && echo "scratch: written"
while read -r _ point kind options _; do
    [ "$point" = /tmp ] && echo "scratch-options: $options"
    [ "$point" = /secrets ] && echo "secrets-in: $kind $options"
    [ "$point" = /volume ] && echo "volume-options: $options"
done < /proc/self/mounts
read -r word < /secrets/trial && echo "secret: $word"
(echo "gridpact trial: written" > /volume/small) 2>/dev/null && echo "volume: written"
while read -r name _; do echo "interface: $name"; done < /proc/net/dev
echo "waits: for a check"
while [ ! -e /tmp/over ]; do :; done
"""


def examine(scope: str) -> tuple[trial.Host, tuple[str, str]]:
    """Try everything once, with each OCI runtime until one works; blocks for a second. Returns what the host
    offers, with the paths of podman and of the runtime to use. A lacking host is told, never raised."""
    groups, told = cgroups.detect(scope)
    if groups is not None:
        groups.remove_scope()
    podman, runtimes = engine.find("podman") or "", [p for p in map(engine.find, engine.RUNTIMES) if p]
    if reason := _lacks(podman, runtimes, groups):
        return _host(reason, (), groups, None), ("", "")
    mkfs, image_how = trial.image_maker()
    reasons: list[str] = []
    for runtime in runtimes:
        for volumes in (True, False):
            try:
                seen = _look_inside((podman, runtime), groups, mkfs, scope, volumes)
            except (ExecutorError, OSError, subprocess.SubprocessError) as error:
                reasons.append(f"podman with {Path(runtime).name}: {error}")
                continue
            features = [*_features(seen, runtime), Feature("sealed-image", mkfs is not None, image_how)]
            features += [Feature(name, False, why) for name, why in NEVER_ENFORCED[NAME].items()]
            features += trial.limit_features(groups, told)
            missing = [f.name for f in features if not f.enforced and f.name in _MUST]
            if not missing:
                return _host("", tuple(features), groups, mkfs), (podman, runtime)
            reasons.append(f"podman with {Path(runtime).name} lacks {', '.join(missing)}")
            break
    return _host("; ".join(dict.fromkeys(reasons)), (), groups, None), ("", "")


def _host(
    reason: str, features: tuple[Feature, ...], groups: cgroups.Cgroups | None, mkfs: str | None
) -> trial.Host:
    return trial.Host(
        Fingerprint(NAME, Isolation.CONTAINER, not reason, reason, features), groups, False, mkfs
    )


def _lacks(podman: str, runtimes: list[str], groups: cgroups.Cgroups | None) -> str:
    if os.geteuid() != 0:
        return "only a node that is root runs containers: their users are mapped to numbers that nobody has"
    if not podman:
        return "podman is not installed (Debian package: podman)"
    if not runtimes:
        return "no OCI runtime is installed (Debian package: runc)"
    lacking = [name for name in cgroups.LIMITS if groups is None or name not in groups.mounts]
    if lacking:
        return f"containers need control groups, and there are none for {', '.join(lacking)}"
    return ""


_MUST = (
    "no-capabilities",
    "no-new-privileges",
    "seccomp",
    "user-namespace",
    "net-namespace",
    "read-only-root",
    "noexec-scratch",
    "limit-memory",
    "limit-pids",
    "limit-cpu",
)


def _features(seen: dict[str, str], runtime: str) -> list[Feature]:
    how = f"podman with {Path(runtime).name}"
    held = {seen.get(name, "1").strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    options = seen.get("scratch-options", "").split(",")
    volume = seen.get("volume-options", "").split(",")
    secret = seen.get("secrets-in", "").split(" ")
    mapped = seen.get("uid_map", "").split() == ["0", str(engine.BASE_UID), str(engine.IDS)]
    kept = seen.get("volume") == "written" and "noexec" in volume
    copied, check = seen.get("copied", _NO_VOLUMES), seen.get("check", "it was not tried")
    found = [
        ("user-namespace", mapped, f"users from {engine.BASE_UID} on"),
        ("net-namespace", seen.get("interfaces") == "lo:", "its own, with nothing but loopback"),
        ("no-capabilities", held == {""}, how),
        ("no-new-privileges", seen.get("NoNewPrivs") == "1", how),
        ("seccomp", seen.get("Seccomp") == "2", "the sandbox's allow-list and W^X"),
        ("read-only-root", seen.get("root") == "read-only", how),
        ("noexec-scratch", seen.get("scratch") == "written" and "noexec" in options, "tmpfs of its own size"),
        ("secrets", seen.get("secret") == "trial" and secret[0] == "ramfs", "files in memory never swapped"),
        ("egress", seen.get("outlet") == "open", "a relay to named addresses, and no other way"),
        ("volumes", kept, "ext4 of its own size"),
        ("volume-copies", kept and copied == "ready", copied if copied != "ready" else _COPIES),
        ("health-exec", check == "ready", check if check != "ready" else _INSIDE),
    ]
    return [Feature(name, holds, said) for name, holds, said in found]


def _look_inside(
    found: tuple[str, str], groups: cgroups.Cgroups | None, mkfs: str | None, scope: str, volumes: bool
) -> dict[str, str]:
    """Return what a shell in a trial container says. Raises ExecutorError, OSError."""
    result: list[dict[str, str] | BaseException] = []

    def run() -> None:
        try:
            result.append(trio.run(_trial, found, groups, mkfs, scope, volumes))
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the thread
            result.append(error)

    # A thread of its own: whoever asks may be inside a loop already.
    thread = threading.Thread(target=run, name="oci-trial")
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


async def _trial(
    found: tuple[str, str], groups: cgroups.Cgroups | None, mkfs: str | None, scope: str, volumes: bool
) -> dict[str, str]:
    from node.executor.oci.driver import OciDriver

    with tempfile.TemporaryDirectory(prefix="gridpact-trial-") as name:
        folder = Path(name)
        driver = OciDriver(folder)
        driver.trust(_host("", (), groups, mkfs), found)
        made: tuple[VolumeSpec, ...] = ()
        tool = find_mkfs()
        if volumes and tool is not None:
            path = folder / "volume"
            path.touch()
            os.truncate(path, _VOLUME_BYTES)
            await trio.to_thread.run_sync(make_filesystem, tool, str(path))
            made = (VolumeSpec(_VOLUME, path, _VOLUME_BYTES),)
        spec = TaskSpec(
            task_id=f"trial-{os.getpid()}-{threading.get_ident()}",
            command=("/bin/sh", "-c", _SCRIPT),
            env={},
            files=await trio.to_thread.run_sync(_shell),
            trees=(),
            ports=(PortSpec("trial", 1_024),),
            resources=_RESOURCES,
            secrets={"trial": b"trial\n"},
            egress=(EgressSpec("9.9.9.9", 9),),  # nothing is sent there: nobody inside connects
            volumes=made,
            runtime=NAME,
            user="1:1",
        )
        handle = await driver.start(await driver.prepare(spec))
        tried: dict[str, str] = {}
        try:
            with trio.fail_after(limits.TRIAL_TIMEOUT_S + limits.FREEZE_WITHIN_S + _CHECK_S):
                while _WAITS not in driver.logs(handle, limits.LOG_BYTES_MAX):
                    if not (await driver.probe(handle)).alive:
                        raise ExecutorError("the trial container ended early")
                    await trio.sleep(_POLL_S)
                tried["copied"] = await _try_copy(driver, handle, folder / "copy") if made else _NO_VOLUMES
                tried["check"] = await _try_check(driver, handle)
                if tried["check"] == "ready":  # it has made an end of the waiting
                    await driver.wait(handle)
            text = driver.logs(handle, limits.LOG_BYTES_MAX).decode(errors="replace")
        except trio.TooSlowError:
            raise ExecutorError("the trial container does not end") from None
        finally:
            await driver.stop(handle, 0)
    pairs = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    seen = {key.strip(): value.strip() for key, value in pairs}
    faces = [v.strip() for k, v in pairs if k.strip() == "interface" and v.strip().endswith(":")]
    return seen | tried | {"outlet": "open", "interfaces": " ".join(faces)}


async def _try_copy(driver: LaunchedDriver, handle: Handle, copy: Path) -> str:
    """Return `ready` when the running container's volume can be copied with what it wrote, else why not."""
    try:
        await driver.copy_volumes(handle, {_VOLUME: copy})
        data = await trio.to_thread.run_sync(copy.read_bytes)
    except (ExecutorError, OSError) as error:
        return str(error)
    return "ready" if _WRITTEN in data else "the copy lacks what was written"


async def _try_check(driver: LaunchedDriver, handle: Handle) -> str:
    """Return `ready` when a command can be run inside the running container, else why not."""
    command = ("/bin/sh", "-c", "echo over > /tmp/over && exit 42")
    try:
        status = await driver.check(handle, command, _CHECK_S)
    except ExecutorError as error:
        return str(error)
    return "ready" if status == 42 else f"the command ended with {status}, not with 42"


def _shell() -> tuple[FileSpec, ...]:
    """The host's shell and what it needs, at the paths at which it is looked for. Raises OSError."""
    with subprocess.Popen(["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(b"echo\n")
        shell.stdin.flush()
        shell.stdout.readline()  # by now all is mapped
        lines = Path(f"/proc/{shell.pid}/maps").read_text().splitlines()
        shell.stdin.close()
    mapped = {line.split(None, 5)[5] for line in lines if len(line.split(None, 5)) == 6}
    real = os.path.realpath("/bin/sh")
    libraries = {path for path in mapped if path.startswith("/") and path != real}
    wanted = {"/bin/sh": Path(real)} | {path: Path(path) for path in sorted(libraries)}
    interpreter = _interpreter(Path(real))
    if interpreter:
        wanted[interpreter] = Path(os.path.realpath(interpreter))
    found = []
    for path, source in wanted.items():
        with source.open("rb") as file:
            digest, size = hash_fd(file.fileno()), os.fstat(file.fileno()).st_size
        found.append(FileSpec(path, digest, size, 0o555, source))
    return tuple(found)


def _interpreter(program: Path) -> str:
    """The dynamic loader that a 64-bit ELF program names, elf(5); "" when it names none."""
    with program.open("rb") as file:
        head = file.read(64)
        offset, size, count = struct.unpack_from("=Q", head, 32)[0], *struct.unpack_from("=HH", head, 54)
        for number in range(count):
            file.seek(offset + number * size)
            part = file.read(size)
            if struct.unpack_from("=I", part)[0] == _PT_INTERP:
                at, length = struct.unpack_from("=Q", part, 8)[0], struct.unpack_from("=Q", part, 32)[0]
                file.seek(at)
                return file.read(length).rstrip(b"\x00").decode()
    return ""
