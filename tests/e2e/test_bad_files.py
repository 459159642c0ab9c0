"""Bad files under a user's hands: contracts, stores, keys. Each is refused in words and with an exit code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ledger.storage.store import KeyValue
from node.client.sdk import ApiError
from node.config import load_settings
from node.executor.volumes.marks import leave_marks
from node.executor.volumes.rooms import rooms_of
from node.home import Home, read_genesis
from tests.e2e.conftest import SITE
from tests.e2e.net import Net, gridpact

ANY_PORTS = ("--p2p.listen", "/ip4/127.0.0.1/tcp/0", "--api.listen", "127.0.0.1:0")

# What is replaced, by what; then the line, field and rule that the answer names.
MISTAKES = {
    "duplicate key": ("kind: service", "kind: service\n    kind: job", 19, "kind: contract.duplicate_key"),
    "unknown field": ("recheck: 1s", "rechek: 1s", 28, "workloads.web.rechek: contract.unknown_field"),
    "wrong type": ("http: 8080", 'http: "x"', 24, "workloads.web.ports.http: contract.value"),
    "no such role": (
        "role: budget\n",
        "role: bugdet\n",
        33,
        "approval.deploy.all[0].role: policy.unknown_role",
    ),
    "no YAML": ("gridpact: 1\n", "gridpact: [1\n", 2, "contract.yaml"),
}


def mistaken(folder: Path, old: str, new: str) -> Path:
    shutil.copytree(SITE, folder)
    file = folder / "contract.yaml"
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_malformed_contract(tmp_path: Path, name: str) -> None:
    old, new, line, fault = MISTAKES[name]
    folder = mistaken(tmp_path / "contract", old, new)
    for words in (("validate", str(folder)), ("build", str(folder), "--out", str(tmp_path / "out"))):
        said = gridpact("contract", *words)
        assert said.code == 4, said
        where = f"{folder / 'contract.yaml'}:{line}:"
        assert where in said.err and fault in said.err.partition(where)[2].splitlines()[0], said.err
        assert "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


def test_a_changed_artifact_is_not_published(net: Net, tmp_path: Path) -> None:
    """Built, then changed on the author's disk: what is published would not be what was signed."""
    folder, out = tmp_path / "contract", tmp_path / "out"
    shutil.copytree(SITE, folder)
    file = folder / "contract.yaml"
    file.write_text(file.read_text().replace("name: e2e-site", "name: e2e-tampered"))
    net.run("contract", "build", str(folder), "--out", str(out), home="v1")
    largest = max((f for f in out.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(data)
    words = ("contract", "publish", str(folder), "--built", str(out), "--key", "author")
    said = net.run(*words, home="v1", fails=4)
    assert largest.name in said.err or "sha256" in said.err, said.err
    with pytest.raises(ApiError) as unknown:
        net.api().contract("e2e-tampered")
    assert unknown.value.status == 404


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A founder's home that has run never."""
    said = gridpact("init", "--chain-id", "one", "--role", "validator", home=str(tmp_path / "home"))
    assert said.code == 0, said.err
    return Home(tmp_path / "home")


def start_refused(home: Home) -> str:
    """`gridpact start` ends with 1, in words; the words."""
    said = gridpact("start", *ANY_PORTS, home=str(home.root))
    assert said.code == 1, said
    assert said.err.startswith("gridpact: ") and "Traceback" not in said.err, said.err
    assert not home.run_file.exists()
    return said.err


def test_a_store_of_another_chain(home: Home, tmp_path: Path) -> None:
    KeyValue.open(home.store_dir, "chain other 00").close()
    said = start_refused(home)
    assert str(home.store_dir) in said and "'chain other 00'" in said and "Use another home" in said


def test_a_store_of_a_newer_format(home: Home) -> None:
    genesis = read_genesis(home.genesis_file)
    owner = f"chain {genesis.chain_id} {genesis.hash.hex()}"
    KeyValue.open(home.store_dir, owner, format_=2).close()
    said = start_refused(home)
    assert str(home.store_dir) in said and "store format 2, this program knows 1" in said
    KeyValue.open(home.store_dir, owner, format_=2).close()  # nothing was changed


def test_a_store_of_a_running_peer(net: Net) -> None:
    running = net.home("v3")
    said = gridpact("start", *ANY_PORTS, home=str(running.root))
    assert said.code == 1 and "in use by another process" in said.err, said
    assert "Traceback" not in said.err
    assert net.api("v3").is_ready()
    assert running.run_file.exists()  # the running peer's note was not taken away


def test_a_damaged_store(home: Home) -> None:
    KeyValue.open(home.store_dir, "chain one 00").close()
    (home.store_dir / "CURRENT").write_text("MANIFEST-999999\n")
    assert str(home.store_dir) in start_refused(home)


def test_sign_state_of_another_key(home: Home) -> None:
    """A validator's memory of what it signed is of no use to another key: nobody votes without their own."""
    KeyValue.open(home.data_dir / "sign_state", "validator another").close()
    said = start_refused(home)
    assert "sign_state" in said and "belongs to" in said


def test_a_genesis_that_is_none(home: Home) -> None:
    home.genesis_file.write_text('{"chain_id": "one", "chain_id": "two"}')
    assert "genesis.duplicate_key" in start_refused(home)


def test_a_port_that_is_taken(net: Net, home: Home) -> None:
    p2p, api = net.peer("v1").p2p.partition("/p2p/")[0], net.peer("v1").api
    for flags, named in (
        (("--p2p.listen", p2p, "--api.listen", "127.0.0.1:0"), p2p.split("/")[4]),
        (("--p2p.listen", "/ip4/127.0.0.1/tcp/0", "--api.listen", api), api),
    ):
        said = gridpact("start", *flags, home=str(home.root))
        assert said.code == 1 and "Traceback" not in said.err, said.err
        assert named in said.err


def test_a_key_that_others_can_read(home: Home) -> None:
    home.node_key_file.chmod(0o644)
    assert "chmod 600" in start_refused(home)


def test_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    """It was there at the first start; now an empty folder is in its place."""
    home, disk = Home(tmp_path / "home"), tmp_path / "disk"
    words = ("--chain-id", "one", "--role", "node", "--farm", "alpha", "--country", "BE")
    assert gridpact("init", *words, home=str(home.root)).code == 0
    text = home.config_file.read_text()
    home.config_file.write_text(text.replace('hdd_folder = ""', f'hdd_folder = "{disk}"'))
    disk.mkdir()
    key = home.node_key().public
    leave_marks(rooms_of(load_settings(home.config_file, {}).node, home.data_dir, key), home.data_dir, key)
    disk.rename(tmp_path / "unmounted")
    disk.mkdir()
    err = start_refused(home)
    assert "node.hdd_folder: this node has volumes elsewhere" in err
    assert f"mount the disk, or remove {home.data_dir}/volumes/hdd.mark when" in err
    assert not any(disk.iterdir())
