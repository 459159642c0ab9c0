"""Secrets inside the real sandbox: files that are read-only, not executable, never swapped, gone with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.executor import limits
from node.executor.errors import SpecRefused

from .conftest import Bench, found_below

VALUE = b"correct horse battery staple"


async def test_a_workload_reads_its_secrets_and_can_do_nothing_else_with_them(bench: Bench) -> None:
    script = """
    cat /secrets/token; echo; wc -c < /secrets/tls-key; ls /secrets
    echo x > /secrets/token || echo "not written"
    echo x > /secrets/new || echo "not made"
    rm /secrets/token || echo "not removed"
    chmod 777 /secrets/token || echo "not opened"
    /secrets/program || echo "not executed"
    grep ' /secrets ' /proc/self/mounts
    env; cat /proc/self/cmdline /proc/1/cmdline | tr '\\0' ' '; echo
    """
    secrets = {"token": VALUE, "tls-key": bytes(10_000), "program": b"#!/bin/busybox sh\necho executed\n"}
    text = await bench.output(replace(bench.shell(script), secrets=secrets))
    lines = text.splitlines()
    assert lines[0] == VALUE.decode()
    assert lines[1:5] == ["10000", "program", "tls-key", "token"]
    for said in ("written", "made", "removed", "opened", "executed"):
        assert f"not {said}" in lines
    (mount,) = [line.split() for line in lines if line.startswith(("ramfs /secrets", "none /secrets"))]
    assert mount[2] == "ramfs"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount[3].split(","))
    assert text.count(VALUE.decode()) == 1  # in no argument and no variable


async def test_the_bytes_stay_verified_with_secrets_beside_them(bench: Bench) -> None:
    spec = replace(bench.shell("echo up; sleep 60"), secrets={"token": VALUE})
    async with bench.running(spec) as handle:
        await bench.until_logged(handle, "up")
        found = await bench.driver.attest(handle)
        assert found.ok, found.drifts


async def test_nothing_of_a_secret_is_on_the_hosts_disk_or_seen_from_the_host(
    bench: Bench, tmp_path: Path
) -> None:
    spec = replace(bench.shell("echo up; sleep 60"), secrets={"token": VALUE})
    async with bench.running(spec) as handle:
        await bench.until_logged(handle, "up")
        assert not found_below(tmp_path, VALUE)
        assert not await trio.Path("/secrets/token").exists()
        assert not await trio.Path("/mnt/secrets").exists()
        assert VALUE.decode() not in repr(handle.spec)
        assert handle.launcher is not None
        for pid in (handle.launcher.pid, handle.baseline.init_pid if handle.baseline else 0):
            for name in ("cmdline", "environ"):
                assert VALUE not in await trio.Path(f"/proc/{pid}/{name}").read_bytes()


async def test_a_workload_without_secrets_has_no_such_folder(bench: Bench) -> None:
    assert "none" in await bench.output(bench.shell("ls /secrets || echo none"))


async def test_two_tasks_do_not_see_each_others_secrets(bench: Bench) -> None:
    one = replace(bench.shell("echo up; sleep 60"), secrets={"token": VALUE})
    two = replace(bench.shell("ls /secrets; cat /secrets/*"), secrets={"mine": b"mine alone"})
    async with bench.running(one) as handle:
        await bench.until_logged(handle, "up")
        assert await bench.output(two) == "mine\nmine alone"


@pytest.mark.parametrize("name", ["../token", "a/b", "", ".", "A", "a" * 65, "a\n"])
async def test_a_name_is_no_path(bench: Bench, name: str) -> None:
    with pytest.raises(SpecRefused, match="secrets"):
        await bench.driver.prepare(replace(bench.shell("true"), secrets={name: b"x"}))


async def test_secrets_are_bounded(bench: Bench) -> None:
    for secrets in (
        {"token": bytes(limits.SECRETS_BYTES_MAX + 1)},
        {f"s{n}": b"" for n in range(limits.SECRETS_MAX + 1)},
    ):
        with pytest.raises(SpecRefused, match="secrets"):
            await bench.driver.prepare(replace(bench.shell("true"), secrets=secrets))


def test_it_is_advertised_as_it_was_seen(bench: Bench) -> None:
    assert bench.driver.fingerprint().enforces("secrets")
