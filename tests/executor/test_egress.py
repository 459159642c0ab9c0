"""The way out of a sandbox: what a contract names is reached, and nothing else is. In own namespaces only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from node.executor import limits
from node.executor.doors.addresses import is_address, is_allowed
from node.executor.doors.egress import check_target, find_ways
from node.executor.drivers.base import EgressSpec
from node.executor.errors import EgressRefused, SpecRefused

from .conftest import Bench

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1",
        "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "2002:7f00:1::",
        "64:ff9b::7f00:1", "64:ff9b:1::1", "2001::1", "2001:db8::1", "fe80::1%lo", "fec0::1", "localhost",
        "8.8.8.8 ", "08.8.8.8", "8.8.8", "", "0x8080808",
    ],
)  # fmt: skip
def test_what_is_not_the_wide_world_is_never_allowed(address: str) -> None:
    assert not is_allowed(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "1.0.0.1"])
def test_the_wide_world_is_allowed(address: str) -> None:
    assert is_address(address) and is_allowed(address)


async def resolver(name: str) -> list[str]:
    """What names are, in these tests."""
    await trio.lowlevel.checkpoint()
    known = {
        "good.example": ["93.184.216.34", "2606:2800:220:1::1"],
        "rebound.example": ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1"],
        "half.example": ["10.0.0.1", "93.184.216.34"],
        "many.example": [f"93.184.216.{n}" for n in range(100)],
    }
    if name not in known:
        raise OSError("no such name")
    return known[name]


async def test_names_are_pinned_with_all_their_allowed_addresses() -> None:
    found = await find_ways(
        ("good.example:443", "good.example:80", "8.8.8.8:53", "half.example:443"), resolver
    )
    assert EgressSpec("93.184.216.34", 443) in found.ways
    assert EgressSpec("2606:2800:220:1::1", 80) in found.ways
    assert EgressSpec("8.8.8.8", 53) in found.ways
    assert all(way.address != "10.0.0.1" for way in found.ways)
    assert len(set(found.ways)) == len(found.ways) == 5
    assert found.told["good.example:443"] == "93.184.216.34 2606:2800:220:1::1"
    assert found.hosts.decode().splitlines() == [
        "127.0.0.1\tlocalhost",
        "93.184.216.34\tgood.example",
        "2606:2800:220:1::1\tgood.example",
        "93.184.216.34\thalf.example",
    ]
    assert (await find_ways(("8.8.8.8:53",), resolver)).hosts == b""
    assert (await find_ways((), resolver)).ways == ()


@pytest.mark.parametrize(
    "target", ["rebound.example:80", "unknown.example:80", "127.0.0.1:80", "169.254.169.254:80", "[::1]:80"]
)
async def test_what_leads_into_the_farmers_network_is_refused_by_name(target: str) -> None:
    """Also when a name does: a resolver that is asked by whoever owns the name opens nothing."""
    with pytest.raises(EgressRefused, match="egress"):
        await find_ways(("good.example:443", target), resolver)


async def test_addresses_and_time_are_bounded(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await find_ways(("many.example:1",), resolver)
    assert len(found.ways) == limits.EGRESS_NAME_ADDRESSES_MAX
    monkeypatch.setattr("node.executor.doors.egress.EGRESS_ADDRESSES_MAX", 10)
    with pytest.raises(EgressRefused, match="at most 10"):
        await find_ways(("many.example:1", "many.example:2"), resolver)

    async def never(name: str) -> list[str]:
        await trio.sleep_forever()
        return []

    with pytest.raises(EgressRefused, match="not resolved within"):
        await find_ways(("good.example:1",), never)


def test_a_literal_address_is_judged_before_anything_is_claimed() -> None:
    check_target("8.8.8.8:53")
    check_target("good.example:53")
    with pytest.raises(EgressRefused, match=r"10\.0\.0\.1"):
        check_target("10.0.0.1:53")


@pytest.mark.parametrize("way", [EgressSpec("127.0.0.1", 80), EgressSpec("8.8.8.8", 0), EgressSpec("x", 80)])
async def test_a_driver_refuses_such_ways_itself(bench: Bench, way: EgressSpec) -> None:
    from dataclasses import replace

    with pytest.raises(SpecRefused, match="egress"):
        await bench.driver.prepare(replace(bench.shell("true"), egress=(way,)))


def test_in_a_namespace_of_its_own(bench: Bench, tmp_path: Path) -> None:
    """`egress_inside.py`, where addresses of the wide world are on a loopback of its own."""
    if not bench.driver.fingerprint().enforces("egress"):
        pytest.skip("the driver cannot open a way out here")
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        pytest.skip("unshare or ip is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root makes a network namespace with addresses of its own")
    command = [unshare, "--net", sys.executable, "-B", str(HERE / "egress_inside.py"), str(tmp_path / "own")]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all as it should be"
