"""`gridpact doctor`: is this machine fit for what its home is to be?"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from node.cli.main import main
from node.config import load_settings
from node.executor.drivers.base import Feature, Fingerprint, Isolation
from node.executor.volumes.marks import leave_marks
from node.executor.volumes.rooms import rooms_of
from node.home import Home

NO_SANDBOX = Fingerprint("sandbox", Isolation.SANDBOX, False, "none here", ())


def doctor(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Fingerprint
) -> dict[str, dict[str, str]]:
    """What doctor finds where the drivers are these, by check."""
    monkeypatch.setattr("node.testnet_market.sandbox_fingerprint", lambda: here)
    main(["doctor", "--home", str(home), "-o", "json"])
    return {one["check"].strip(): one for one in json.loads(capsys.readouterr().out)}


def test_each_driver_is_told_with_what_it_lacks_and_what_to_do(
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


def test_the_other_drivers_are_told_where_there_is_no_sandbox(
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


def test_tools_of_root_are_found_for_whoever_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's PATH has no /usr/sbin, where a node that is root finds them."""
    if not any(Path(folder, "mkfs.ext4").exists() for folder in ("/usr/sbin", "/sbin")):
        pytest.skip("e2fsprogs is not installed")
    monkeypatch.setenv("PATH", "/usr/bin")
    found = doctor(tmp_path, capsys, monkeypatch, NO_SANDBOX)
    assert found["mkfs.ext4"]["state"] == "ok"


def test_what_a_3node_offers_is_held_beside_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = str(tmp_path)
    words = ("--chain-id", "x", "--role", "node", "--farm", "alpha", "--country", "BE", "--home", home)
    assert main(["init", *words]) == 0
    capsys.readouterr()
    names = ("node.cpu", "node.memory", "node.ssd", "node.hdd", "node.listen_host")
    found = doctor(tmp_path, capsys, monkeypatch, NO_SANDBOX)
    assert [found[name]["state"] for name in names if name in found] == ["ok"] * 4, found["home"]
    assert "node.hdd" not in found  # a machine without hard disks offers none
    for variable, value in (("CPU", "4096"), ("MEMORY", "900TiB"), ("HDD", "8000TiB")):
        monkeypatch.setenv(f"GRIDPACT_NODE_{variable}", value)
    monkeypatch.setenv("GRIDPACT_NODE_LISTEN_HOST", "192.0.2.1")  # nobody's: RFC 5737
    found = doctor(tmp_path, capsys, monkeypatch, NO_SANDBOX)
    assert [found.get(name, found["home"])["state"] for name in names] == ["warning"] * 4 + ["fault"], found[
        "home"
    ]
    assert "900TiB offered, this machine has" in found["node.memory"]["detail"]
    assert "for both kinds" in found["node.ssd"]["detail"]  # in one file system here
    monkeypatch.setenv("GRIDPACT_NODE_HDD", "1MiB")
    found = doctor(tmp_path, capsys, monkeypatch, NO_SANDBOX)
    assert found["node.hdd"]["state"] == "warning"  # room for both, but one is not what it is sold as
    assert "let node.hdd_folder be on a hard disk" in found["node.hdd"]["detail"]
    monkeypatch.setenv("GRIDPACT_NODE_HDD", "0GiB")
    monkeypatch.setenv("GRIDPACT_NODE_SSD_FOLDER", str(tmp_path / "unmounted"))
    found = doctor(tmp_path, capsys, monkeypatch, NO_SANDBOX)
    assert found["disks"]["state"] == "fault" and "node.ssd_folder" in found["disks"]["detail"]


def test_a_disk_that_is_not_mounted_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, disk = tmp_path / "home", tmp_path / "disk"
    words = ("--chain-id", "x", "--role", "node", "--farm", "alpha", "--country", "BE", "--home", str(home))
    assert main(["init", *words]) == 0
    capsys.readouterr()
    monkeypatch.setenv("GRIDPACT_NODE_HDD_FOLDER", str(disk))
    disk.mkdir()
    assert "disks" not in doctor(home, capsys, monkeypatch, NO_SANDBOX)
    assert not any(disk.iterdir()), "it looks, and leaves no mark"
    settings = load_settings(home / "config" / "config.toml", os.environ)
    key = Home(home).node_key().public
    leave_marks(rooms_of(settings.node, home / "data", key), home / "data", key)
    assert "disks" not in doctor(home, capsys, monkeypatch, NO_SANDBOX)
    disk.rename(tmp_path / "unmounted")
    disk.mkdir()
    found = doctor(home, capsys, monkeypatch, NO_SANDBOX)
    assert found["disks"]["state"] == "fault"
    assert found["disks"]["detail"].startswith("node.hdd_folder: this node has volumes elsewhere, ")
    assert f"remove {home}/data/volumes/hdd.mark when" in found["disks"]["detail"]
