"""A manifest whose bytes drifted here is not run here again, until a person says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from node.cli.main import main
from node.executor.drivers.base import Feature, Fingerprint, Isolation
from node.executor.errors import ExecutorError
from node.executor.limits import QUARANTINE_MAX
from node.executor.quarantine import Quarantine
from node.home import Home

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


def test_it_holds_after_a_restart_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    held = Quarantine(path)
    assert held.reason(ONE) == "" and held.all() == ()
    held.add(ONE, "web/0", 5, "bytes drifted: /bin/a")
    again = Quarantine(path)
    assert again.reason(ONE) == "in quarantine: bytes drifted: /bin/a"
    assert again.reason(TWO) == ""
    # Another process lets it go; the one that runs sees it.
    assert again.release(ONE.hex()) is True
    assert held.reason(ONE) == ""
    assert held.release(ONE.hex()) is False


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    one, two = Quarantine(path), Quarantine(path)
    one.add(ONE, "a/0", 1, "first")
    two.add(TWO, "b/0", 2, "second")
    one.add(ONE, "a/1", 3, "again")
    assert [(held.slot, held.detail) for held in two.all()] == [("b/0", "second"), ("a/1", "again")]


def test_a_list_that_cannot_be_read_lets_nothing_through(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    Quarantine(path).add(ONE, "a/0", 1, "first")
    path.write_bytes(path.read_bytes()[:-5])
    held = Quarantine(path)
    assert "cannot be read" in held.reason(TWO)
    with pytest.raises(ExecutorError):
        held.add(TWO, "a/0", 1, "second")


def test_it_is_bounded(tmp_path: Path) -> None:
    held = Quarantine(tmp_path / "quarantine.json")
    for number in range(QUARANTINE_MAX + 2):
        held.add(number.to_bytes(32), "a/0", number, "\x00" * 10_000)
    assert len(held.all()) == QUARANTINE_MAX
    assert held.reason((1).to_bytes(32)) == "" and held.reason((2).to_bytes(32))
    assert Quarantine(tmp_path / "quarantine.json").all() == held.all()


def test_by_the_commands_that_a_person_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str]:
        code = main([*words, "--home", str(tmp_path), "-o", "json"])
        return code, capsys.readouterr().out

    held = Quarantine(Home(tmp_path).quarantine_file)
    held.add(ONE, "web/0", 5, "bytes drifted: /bin/a")
    held.add(bytes([1]) * 31 + b"\x02", "web/0", 6, "bytes drifted: /bin/b")
    code, text = run("node", "quarantine")
    assert code == 0
    assert [one["manifest"] for one in json.loads(text)] == [one.manifest for one in held.all()]
    assert run("node", "release", ONE.hex()[:8])[0] == 2  # two begin so
    assert run("node", "release", "ff")[0] == 2
    assert run("node", "release", ONE.hex())[0] == 0
    assert held.reason(ONE) == "" and len(held.all()) == 1
    assert main(["node", "quarantine", "--home", str(tmp_path / "none")]) == 2
    assert "no such home" in capsys.readouterr().err
    _, text = run("doctor")
    (found,) = [one for one in json.loads(text) if one["check"] == "quarantine"]
    assert found["state"] == "warning"
    assert "/bin/b" in found["detail"] and "gridpact node release" in found["detail"]


NO_SANDBOX = Fingerprint("sandbox", Isolation.SANDBOX, False, "none here", ())


def doctor(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Fingerprint
) -> dict[str, dict[str, str]]:
    """What doctor finds where the drivers are these, by check."""
    monkeypatch.setattr("node.testnet_market.sandbox_fingerprint", lambda: here)
    main(["doctor", "--home", str(home), "-o", "json"])
    return {one["check"].strip(): one for one in json.loads(capsys.readouterr().out)}


def test_doctor_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = (
        Feature("sealed-image", False, "mkfs.erofs is missing"),
        Feature("landlock", True, "version 7"),
        *(Feature(name, False, "the trial did not show it") for name in ("volumes", "secrets", "egress")),
    )
    beside = (
        Fingerprint("wasm", Isolation.WASM, True, "", (*features, Feature("fuel", True, "counted"))),
        Fingerprint(
            "oci",
            Isolation.CONTAINER,
            True,
            "",
            (
                Feature("landlock", False, "podman does not take it on"),
                Feature("volumes", True, "ext4 of its own size"),
                Feature("egress", False, "the trial did not show it"),
            ),
        ),
        Fingerprint("other", Isolation.CONTAINER, False, "nothing is installed", ()),
    )
    fingerprint = Fingerprint("sandbox", Isolation.SANDBOX, True, "", features, beside)
    found = doctor(tmp_path, capsys, monkeypatch, fingerprint)
    landlock = {"check": "  sandbox.landlock", "state": "ok", "detail": "version 7"}
    assert found["sandbox.landlock"] == landlock
    assert found["sandbox"]["state"] == found["wasm"]["state"] == found["wasm.fuel"]["state"] == "ok"
    assert found["other"]["state"] == "warning"
    assert "nothing is installed" in found["other"]["detail"]
    assert found["sandbox.sealed-image"]["state"] == "warning"
    sealed = found["sandbox.sealed-image"]["detail"]
    assert "not enforced: mkfs.erofs is missing; run the node as root" in sealed
    for name in ("volumes", "secrets", "egress"):
        assert found[f"sandbox.{name}"]["state"] == "warning"
        assert "not enforced: the trial did not show it; " in found[f"sandbox.{name}"]["detail"]
    # What a driver lacks or has otherwise than the first one is told of it by name; the rest is not repeated.
    assert found["oci.landlock"]["state"] == "warning"
    assert found["oci.landlock"]["detail"] == (
        "not enforced: podman does not take it on; runtime sandbox has it"
    )
    assert found["oci.volumes"] == {"check": "  oci.volumes", "state": "ok", "detail": "ext4 of its own size"}
    assert {name for name in found if name.startswith(("wasm.", "oci."))} == {
        "wasm.fuel",
        "oci.landlock",
        "oci.volumes",
    }
    assert "3node" not in found


def test_doctor_tells_of_the_other_drivers_where_there_is_no_sandbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = doctor(tmp_path, capsys, monkeypatch, NO_SANDBOX)
    assert found["3node"]["state"] == found["sandbox"]["state"] == "warning"
    assert "none here" in found["sandbox"]["detail"]
    container = Fingerprint("oci", Isolation.CONTAINER, True, "", (Feature("seccomp", True, "podman"),))
    only = replace(NO_SANDBOX, beside=(container,))
    found = doctor(tmp_path, capsys, monkeypatch, only)
    assert "3node" not in found
    assert found["oci"]["state"] == found["oci.seccomp"]["state"] == "ok"


def test_doctor_finds_tools_of_root_for_whoever_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's PATH has no /usr/sbin, where a node that is root finds them."""
    if not any(Path(folder, "mkfs.ext4").exists() for folder in ("/usr/sbin", "/sbin")):
        pytest.skip("e2fsprogs is not installed")
    monkeypatch.setenv("PATH", "/usr/bin")
    found = doctor(tmp_path, capsys, monkeypatch, NO_SANDBOX)
    assert found["mkfs.ext4"]["state"] == "ok"
