"""The oci driver advertises nothing that it has not seen: what is missing or does not work is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from node.executor.errors import ExecutorError, StartFailed
from node.executor.host import cgroups
from node.executor.oci import engine, profile, trial
from node.executor.oci.driver import OciDriver

from .conftest import Bench

PATHS = {"podman": "/usr/bin/podman", "runc": "/usr/sbin/runc", "crun": "/usr/bin/crun"}
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gets as far as this")


def with_tools(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(engine, "find", lambda name: PATHS[name] if name in names else None)


@ROOT
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "podman is not installed (Debian package: podman)"),
        (("runc",), "podman is not installed (Debian package: podman)"),
        (("podman",), "no OCI runtime is installed (Debian package: runc)"),
    ],
)
def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple[str, ...], reason: str
) -> None:
    with_tools(monkeypatch, *names)
    found = OciDriver(tmp_path).fingerprint()
    assert (found.driver, found.usable, found.reason, found.runtimes) == ("oci", False, reason, ())


def test_who_is_not_root_runs_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(
        cgroups, "detect", lambda scope: (None, dict.fromkeys(cgroups.LIMITS, "no: not root"))
    )
    assert "only a node that is root" in OciDriver(tmp_path).fingerprint().reason


@ROOT
def test_without_control_groups_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_tools(monkeypatch, *PATHS)
    monkeypatch.setattr(cgroups, "detect", lambda scope: (None, dict.fromkeys(cgroups.LIMITS, "no: none")))
    assert "there are none for memory, pids, cpu" in OciDriver(tmp_path).fingerprint().reason


@ROOT
def test_the_second_runtime_is_tried_when_the_first_fails(
    monkeypatch: pytest.MonkeyPatch, oci: Bench
) -> None:
    with_tools(monkeypatch, *PATHS)
    real, asked = trial._look_inside, []

    def look(found: tuple[str, str], *rest: object) -> dict[str, str]:
        asked.append(found[1])
        if found[1] == PATHS["runc"]:
            raise StartFailed("no such thing here")
        return seen

    seen = real((engine.find("podman") or "", PATHS["runc"]), *host(oci))
    monkeypatch.setattr(trial, "_look_inside", look)
    made, tools = trial.examine("scope")
    assert made.fingerprint.usable and tools == (PATHS["podman"], PATHS["crun"])
    assert asked == [PATHS["runc"], PATHS["runc"], PATHS["crun"]]


def host(oci: Bench) -> tuple[cgroups.Cgroups | None, str | None, str, bool]:
    made = oci.driver._examined()
    return made.groups, made.mkfs, "trial-of-a-test", False


@ROOT
@pytest.mark.parametrize(
    ("line", "other", "lacks"),
    [
        ("CapBnd", "00000000a80425fb", "no-capabilities"),
        ("NoNewPrivs", "0", "no-new-privileges"),
        ("Seccomp", "0", "seccomp"),
        ("uid_map", "0 0 4294967295", "user-namespace"),
        ("interfaces", "lo: eth0:", "net-namespace"),
        ("root", "", "read-only-root"),
        ("scratch-options", "rw,nosuid", "noexec-scratch"),
    ],
)
def test_one_lack_makes_it_unusable(
    monkeypatch: pytest.MonkeyPatch, oci: Bench, line: str, other: str, lacks: str
) -> None:
    seen = _seen()
    monkeypatch.setattr(trial, "_look_inside", lambda *given: seen | {line: other})
    made, _ = trial.examine("scope")
    assert not made.fingerprint.usable and lacks in made.fingerprint.reason


def _seen() -> dict[str, str]:
    zero = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0000000000000000")
    return zero | {
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "uid_map": f"0 {engine.BASE_UID} {engine.IDS}",
        "interfaces": "lo:",
        "root": "read-only",
        "scratch": "written",
        "scratch-options": "rw,nosuid,nodev,noexec",
    }


@ROOT
def test_what_only_some_need_may_be_missing(monkeypatch: pytest.MonkeyPatch, oci: Bench) -> None:
    monkeypatch.setattr(trial, "_look_inside", lambda *given: _seen())
    found = trial.examine("scope")[0].fingerprint
    assert found.usable
    lacking = ("secrets", "volumes", "volume-copies", "health-exec", "egress", "landlock")
    assert not any(found.enforces(name) for name in lacking)
    kept = {"volume": "written", "volume-options": "rw,noexec"}
    for name, told in (("volume-copies", "copied"), ("health-exec", "check")):
        for said, holds in (("ready", True), ("it did not stand still", False)):
            seen = _seen() | kept | {told: said}
            monkeypatch.setattr(trial, "_look_inside", lambda *given, seen=seen: seen)
            found = trial.examine("scope")[0].fingerprint
            assert found.enforces("volumes") and found.enforces(name) == holds
            assert holds or said in {feature.how for feature in found.features}


@ROOT
def test_a_trial_that_fails_everywhere_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*given: object) -> dict[str, str]:
        raise ExecutorError("podman init: nothing goes")

    with_tools(monkeypatch, *PATHS)
    monkeypatch.setattr(trial, "_look_inside", fails)
    reason = OciDriver(tmp_path).fingerprint().reason
    assert "podman with runc: podman init: nothing goes" in reason and "podman with crun" in reason


def test_terminal_injection_alone_is_cut_out_of_ioctl() -> None:
    """The profile has only comparisons that allow: one must hold for each value but two, none for these."""
    rules = [r for r in json.loads(profile.profile())["syscalls"] if r["names"] == ["ioctl"]]

    def allowed(value: int) -> bool:
        return any(all(value & a["value"] == a["valueTwo"] for a in rule["args"]) for rule in rules)

    refused = (0x5412, 0x541C)
    near = [value ^ (1 << bit) for value in refused for bit in range(32)] + list(range(0x5400, 0x5430)) + [0]
    assert all(allowed(value) for value in near if value not in refused)
    high = [value | 7 << 32 for value in refused]  # the kernel looks at the low half alone
    assert not any(allowed(value) for value in (*refused, *high))
