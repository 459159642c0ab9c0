"""Containers, for real: podman runs them from sealed roots, and what must not work does not."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from ledger.manifests import image as manifest_image
from ledger.manifests.types import Volume
from node.executor.drivers.base import (
    EgressSpec,
    ImageSpec,
    PortSpec,
    Resources,
    TaskSpec,
    VolumeSpec,
)
from node.executor.errors import SpecRefused, StartFailed, VerificationFailed
from node.executor.host import cgroups, procs
from node.executor.oci import engine
from node.executor.oci.driver import OciDriver
from node.executor.volumes.rooms import Room
from node.executor.volumes.volumes import VolumeShelf

from .conftest import Bench, sha256
from .oci_images import busybox_layer, image, layer, member

RESOURCES = Resources(cpu_millis=1000, memory_bytes=128 << 20, disk_bytes=4 << 20, pids=16)


def container(bench: Bench, script: str, *layers: bytes, **fields: object) -> TaskSpec:
    """A task that runs `script` in the shell of an image."""
    data = image(busybox_layer(), *layers)
    source = bench.folder / f"image-{sha256(data)[:8]}"
    source.write_bytes(data)
    bench.count += 1
    spec = TaskSpec(
        task_id=f"d{bench.count}.box.1",
        command=("/bin/sh", "-c", script),
        env={"PATH": "/bin", "GREETING": "hello  world"},
        files=(),
        trees=(),
        ports=(),
        resources=RESOURCES,
        runtime="oci",
        image=ImageSpec(sha256(data), len(data), source),
    )
    return dataclasses.replace(spec, **fields)  # type: ignore[arg-type]


async def test_a_container_is_what_its_image_and_its_task_say(oci: Bench) -> None:
    spec = container(
        oci,
        'id -u; id -g; pwd; echo "$GREETING"; cat /srv/private; cat /etc/extra; cat /secrets/key; exit 3',
        files=(oci.file("/etc/extra", b"laid over\n"),),
        user="1000:1000",
        working_dir="/srv",
        secrets={"key": b"hidden\n"},
    )
    async with oci.running(spec) as handle:
        ended = await oci.driver.wait(handle)
        assert (ended.code, ended.reason) == (3, "ended with code 3")
        found = oci.driver.logs(handle, 1 << 16).decode()
        assert found == "1000\n1000\n/srv\nhello  world\nfor one user alone\nlaid over\nhidden\n"
        assert (await oci.driver.attest_ended(handle)).ok
    nothing_is_left(oci)


def nothing_is_left(oci: Bench) -> None:
    """No record, and no group in any hierarchy, also those in which the engine alone made some."""
    assert not list((oci.folder / "run").iterdir())
    groups = oci.driver._examined().groups
    assert groups is not None and groups.leftovers() == {}
    mounts = (line.split(" ")[1:3] for line in Path("/proc/self/mounts").read_text().splitlines())
    tops = [Path(at) for at, kind in mounts if kind in ("cgroup", "cgroup2")]
    assert tops and not [top for top in tops if (top / cgroups.PARENT / groups.scope).exists()]


@pytest.mark.parametrize("runtime", engine.RUNTIMES)
async def test_each_runtime_that_is_here_runs_them_the_same(
    runtime: str, oci: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.find(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    monkeypatch.setattr(engine, "RUNTIMES", (runtime,))
    again = Bench(OciDriver(oci.folder / "run"), oci.folder)
    found = again.driver.fingerprint()
    assert found.usable, found.reason
    told = oci.driver.fingerprint()
    assert {f.name for f in found.features if f.enforced} == {f.name for f in told.features if f.enforced}
    spec = container(again, "id -u; echo up; sleep 100", user="5:5")
    async with again.running(spec) as handle:
        assert (await again.until_logged(handle, "up")).startswith("5\n")
        attested = await again.driver.attest(handle)
        assert attested.ok, attested.drifts
    assert (await again.driver.wait(handle)).signal == signal.SIGKILL
    nothing_is_left(again)


async def test_inside_there_is_no_privilege_and_no_network(oci: Bench) -> None:
    script = (
        "cat /proc/self/status /proc/self/uid_map; echo ifaces; cat /proc/net/dev | busybox wc -l;"
        "touch /x || echo no-root; touch /etc/x || echo no-etc;"
        "echo 'exit 0' >/tmp/t; busybox chmod 755 /tmp/t;/tmp/t || echo no-exec;"
        "busybox mount -t tmpfs none /srv || echo no-mount;"
        "busybox unshare -U true || echo no-userns; echo x > /proc/sys/kernel/hostname || echo no-sys;"
        "busybox mknod /tmp/null c 1 3 || echo no-device; busybox ls /sys/fs/cgroup/pids/ >/dev/null;"
        "busybox mkdir /sys/fs/cgroup/pids/x || echo no-cgroup; busybox ps"
    )
    found = await oci.output(container(oci, script))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t0000000000000000" in found
    assert "NoNewPrivs:\t1" in found and "Seccomp:\t2" in found
    assert str(engine.BASE_UID) in found
    assert "ifaces\n3\n" in found  # two lines of heading, and loopback
    for word in ("no-root", "no-etc", "no-exec", "no-mount", "no-userns", "no-sys", "no-device", "no-cgroup"):
        assert word in found, found


async def test_its_port_is_reached_and_it_reaches_nothing(oci: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"busybox nc -w 1 127.0.0.1 {port} </dev/null || echo shut; echo hi | busybox nc -l -p 8080"
        spec = container(oci, script, ports=(PortSpec("http", 8080),), egress=(EgressSpec("9.9.9.9", 53),))
        async with oci.running(spec) as handle:
            await oci.until_logged(handle, "shut")
            with trio.fail_after(60):
                data = b""
                while not data:
                    async with await trio.open_tcp_stream(*handle.ports["http"]) as stream:
                        data = await stream.receive_some(10)
            assert data == b"hi\n"


async def test_a_running_container_attests_and_drift_is_seen(oci: Bench) -> None:
    async with oci.running(container(oci, "echo up; sleep 100")) as handle:
        await oci.until_logged(handle, "up")
        found = await oci.driver.attest(handle)
        assert found.ok, found.drifts
        assert found.files_checked > 8 and found.processes_checked >= 1 and found.mappings_checked >= 1
        assert (await oci.driver.probe(handle)).alive
        baseline = handle.baseline
        assert baseline is not None
        # What another image, or another file in its place, would look like.
        other = dataclasses.replace(baseline.files["/etc/passwd"], digest="0" * 64)
        handle.baseline = dataclasses.replace(baseline, files={**baseline.files, "/etc/passwd": other})
        assert [drift.where for drift in (await oci.driver.attest(handle)).drifts] == ["/etc/passwd"]
        link = dataclasses.replace(baseline.files["/bin/ls"], target="elsewhere")
        handle.baseline = dataclasses.replace(baseline, files={**baseline.files, "/bin/ls": link})
        assert [drift.where for drift in (await oci.driver.attest(handle)).drifts] == ["/bin/ls"]
        left = {path: one for path, one in baseline.files.items() if path != "/bin/id"}
        handle.baseline = dataclasses.replace(baseline, files=left)
        assert [drift.where for drift in (await oci.driver.attest(handle)).drifts] == ["/bin/id"]
        handle.baseline = baseline


async def test_results_and_limits_hold(oci: Bench) -> None:
    script = (
        "echo found > /result/a; head -c 8000000 /dev/zero > /tmp/fill || echo disk;"
        "for n in $(busybox seq 25); do sleep 5 & done 2>/dev/null; echo tried"
    )
    async with oci.running(container(oci, script, results=("/result/a",))) as handle:
        ended = await oci.driver.wait(handle)
        text = oci.driver.logs(handle, 1 << 16).decode()
        assert "disk" in text and "tried" not in text, (ended, text)
        (result,) = await oci.driver.collect(handle)
        assert result.data == b"found\n"
    hog = "x=$(head -c 300000000 /dev/zero | busybox tr '\\0' x); echo survived"
    async with oci.running(container(oci, hog)) as handle:
        ended = await oci.driver.wait(handle)
        assert ended.oom and b"survived" not in oci.driver.logs(handle, 1000)
        assert (await oci.driver.usage(handle)).memory_bytes_max > 64 << 20


async def test_stop_is_gentle_first_and_in_time(oci: Bench) -> None:
    gentle = "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.05; done"
    handle = await oci.driver.start(await oci.driver.prepare(container(oci, gentle)))
    await oci.until_logged(handle, "up")
    assert (await oci.driver.stop(handle, 10)).code == 0
    assert oci.driver.logs(handle, 100).endswith(b"bye\n")
    handle = await oci.driver.start(await oci.driver.prepare(container(oci, "echo up; sleep 1000")))
    await oci.until_logged(handle, "up")
    with trio.fail_after(60):
        assert (await oci.driver.stop(handle, 0.2)).signal == signal.SIGKILL


async def test_the_launcher_kills_at_its_deadline(oci: Bench) -> None:
    spec = container(oci, "trap '' TERM; echo up; while true; do sleep 0.05; done")
    handle = await oci.driver.start(await oci.driver.prepare(spec))
    await oci.until_logged(handle, "up")
    oci.driver.keep(handle, 1)  # long past
    with trio.fail_after(60):
        ended = await oci.driver.wait(handle)
    assert ended.signal == signal.SIGKILL and "did not answer in time" in ended.reason
    await oci.driver.stop(handle, 0)


async def test_sigkill_of_the_launcher_ends_all_podmans_monitor_too(oci: Bench) -> None:
    """[Z5]"""
    spec = container(oci, "trap '' TERM HUP; echo up; while true; do sleep 0.05; done")
    handle = await oci.driver.start(await oci.driver.prepare(spec))
    await oci.until_logged(handle, "up")
    assert handle.launcher is not None and handle.baseline is not None
    (keeper,) = children_of(handle.launcher.pid)
    pids = [keeper, *children_of(keeper), handle.baseline.init_pid]
    assert any("conmon" in name_of(pid) for pid in pids)
    os.kill(handle.launcher.pid, signal.SIGKILL)
    try:
        with trio.fail_after(60):
            while any(procs.start_ticks(pid) is not None and not procs.is_zombie(pid) for pid in pids):
                await trio.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGKILL)  # where the rule is broken, nothing else would end it
        await oci.driver.stop(handle, 0)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


async def test_leftovers_are_found_by_group_and_killed(oci: Bench) -> None:
    """The launcher hangs and its node is gone: what remains is the group and the record."""
    handle = await oci.driver.start(await oci.driver.prepare(container(oci, "echo up; sleep 1000")))
    await oci.until_logged(handle, "up")
    assert handle.launcher is not None and handle.baseline is not None
    os.kill(handle.launcher.pid, signal.SIGSTOP)
    again = OciDriver(oci.folder / "run")
    again.trust(oci.driver._examined(), oci.driver._tools)
    assert await again.recover() == [handle.task_id]
    assert await again.recover() == []
    nothing_is_left(oci)
    assert procs.start_ticks(handle.baseline.init_pid) is None or procs.is_zombie(handle.baseline.init_pid)
    await oci.driver.stop(handle, 0)


def image_spec(data: bytes, path: Path) -> ImageSpec:
    return ImageSpec(sha256(data), len(data), path)


async def test_what_is_not_its_image_is_not_started(oci: Bench) -> None:
    spec = container(oci, "true")
    assert spec.image is not None
    path = spec.image.source
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(VerificationFailed):
        await oci.driver.prepare(spec)
    path.write_bytes(data)
    other = image(busybox_layer(), architecture="pdp11")
    path.write_bytes(other)
    with pytest.raises(VerificationFailed, match="pdp11"):
        await oci.driver.prepare(dataclasses.replace(spec, image=image_spec(other, path)))
    hidden = container(oci, "true", files=(oci.file("/etc/passwd", b"mine::0:0::/:/"),))
    with pytest.raises(SpecRefused, match="made by the container's engine"):
        await oci.driver.prepare(hidden)
    assert engine.MADE == manifest_image.MADE
    small = container(oci, "true", resources=dataclasses.replace(RESOURCES, memory_bytes=8 << 20))
    with pytest.raises(SpecRefused, match="memory"):
        await oci.driver.prepare(small)


async def test_an_images_own_mounts_and_hooks_lead_nowhere(oci: Bench) -> None:
    """A setuid program, a passwd of its own, a link where podman mounts: nothing of it gains anything."""
    upper = layer(
        member("bin/su", b"", mode=0o4755),
        member("etc/passwd", b"evil:x:0:0::/:/bin/sh\n"),
        member("run/.containerenv", b"mine"),
    )
    found = await oci.output(container(oci, "ls -l /bin/su; id -u; cat /etc/passwd", upper, user="7:7"))
    assert "-rwxr-xr-x" in found and "\n7\n" in found


async def test_volumes_belong_to_its_user_are_kept_and_can_be_copied(oci: Bench, tmp_path: Path) -> None:
    if not oci.driver.fingerprint().enforces("volumes"):
        pytest.skip("volumes are not enforced here")
    shelf = VolumeShelf({"ssd": Room(tmp_path / "volumes", 64 << 20)})
    data = Volume(name="data", path="/srv/data", size_bytes=16 << 20)
    volumes = (VolumeSpec("/srv/data", shelf.ensure(b"1" * 32, "db/0", data), data.size_bytes),)
    script = "id -u > /srv/data/who; echo up; while true; do echo x >> /srv/data/log; sleep 0.01; done"
    async with oci.running(container(oci, script, volumes=volumes, user="1000:1000")) as handle:
        await oci.until_logged(handle, "up")
        assert (await oci.driver.attest(handle)).ok
        copy = tmp_path / "copy"
        assert await oci.driver.copy_volumes(handle, {"/srv/data": copy}) < 10
        assert (await oci.driver.probe(handle)).alive
    assert copy.stat().st_size == data.size_bytes
    script = (
        "cat /srv/data/who; echo 'exit 0' > /srv/data/run;"
        "busybox chmod 755 /srv/data/run; /srv/data/run || echo no"
    )
    found = await oci.output(container(oci, script, volumes=volumes, user="7:7"))
    assert found.startswith("1000\n") and found.endswith("no\n")


async def test_a_kill_of_the_node_leaves_no_container(oci: Bench) -> None:
    """[Z5] The pipe ends: the launcher kills the keeper, and with it the kernel all that it made."""
    handle = await oci.driver.start(await oci.driver.prepare(container(oci, "echo up; sleep 1000")))
    await oci.until_logged(handle, "up")
    assert handle.launcher is not None and handle.baseline is not None
    pids = [*children_of(handle.launcher.pid), handle.baseline.init_pid]
    handle.launcher.end()
    with trio.fail_after(60):
        while any(procs.start_ticks(pid) is not None and not procs.is_zombie(pid) for pid in pids):
            await trio.sleep(0.01)
    await oci.driver.stop(handle, 0)
    assert handle.group is not None and not handle.group.pids()


async def test_a_start_that_cannot_be_leaves_nothing(oci: Bench) -> None:
    """A command that the image has not, a folder that is a file: told, and all is taken down."""
    for spec in (
        dataclasses.replace(container(oci, "true"), command=("/bin/nothing",)),
        container(oci, "true", working_dir="/etc/passwd"),
    ):
        with pytest.raises((StartFailed, VerificationFailed)) as caught:
            await oci.driver.start(await oci.driver.prepare(spec))
        assert str(caught.value)
    nothing_is_left(oci)


async def test_a_check_is_its_user_in_its_folder_and_no_more(oci: Bench) -> None:
    """[E8] A command beside the workload: the same numbers, groups and places, and none of the host's."""
    script = "{ id; pwd; cat /proc/self/cgroup; ulimit -a; echo $GREETING; cat /srv/private; } > /tmp/"
    spec = container(oci, f"{script}workload; echo up; sleep 100", user="1000:1000", working_dir="/srv")
    async with oci.running(spec) as handle:
        await oci.until_logged(handle, "up")
        sh = ("/bin/sh", "-c")
        assert await oci.driver.check(handle, (*sh, f"{script}check"), 10) == 0
        assert await oci.driver.check(handle, (*sh, "busybox cmp /tmp/workload /tmp/check"), 5) == 0
        for refused in ("touch /srv/x", "echo x > /sys/fs/cgroup/pids/cgroup.procs", "busybox chroot / ls"):
            assert await oci.driver.check(handle, (*sh, refused), 5) not in (0, None), refused
        attested = await oci.driver.attest(handle)
        assert attested.ok, attested.drifts


async def test_checks_are_within_the_containers_limits(oci: Bench) -> None:
    """[E8] A check that forks or eats without end meets the limits of its task, and leaves nothing."""
    async with oci.running(container(oci, "echo up; sleep 100")) as handle:
        await oci.until_logged(handle, "up")
        assert handle.baseline is not None
        forks = "n=0; while [ $n -lt 40 ]; do sleep 30 & n=$((n+1)); done"
        assert await oci.driver.check(handle, ("/bin/sh", "-c", forks), 10) not in (0, None)
        eats = "x=$(head -c 300000000 /dev/zero | busybox tr '\\0' x)"
        assert await oci.driver.check(handle, ("/bin/sh", "-c", eats), 20) != 0
        with trio.fail_after(60):
            while len(procs.members(handle.baseline.namespace)) > 2 and handle.exit is None:
                await trio.sleep(0.02)
