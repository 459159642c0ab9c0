"""Local networks: what is written, what fits together, and that only our own processes are ever signalled."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ledger.text.quantities import CREDIT
from node import testnet as t
from node.cli.main import main
from node.config import load_settings
from node.errors import ConfigError
from node.executor.limits import COPY_LAST_S
from node.home import Home, load_key, start_ticks
from p2p.ids import peer_id_of, peer_of_address


@pytest.fixture
def net(tmp_path: Path) -> t.Testnet:
    return t.init_testnet(tmp_path / "net", "local", validators=4, nodes=3, bots=1)


def test_homes_fit_together(net: t.Testnet) -> None:
    assert [peer.name for peer in net.peers] == ["v1", "v2", "v3", "v4", "node1", "node2", "node3", "bot1"]
    homes = {peer.name: Home(Path(peer.home)) for peer in net.peers}
    genesis = homes["v1"].read_genesis()
    assert {home.read_genesis().hash for home in homes.values()} == {genesis.hash}
    assert [v.key for v in genesis.validators] == [
        p.validator_key for p in net.peers if p.kind == "validator"
    ]
    for peer in net.peers:
        home = homes[peer.name]
        settings = load_settings(home.config_file, {})
        assert settings.roles == (peer.kind,)
        assert peer_id_of(home.node_key().public) == peer.peer_id == peer_of_address(peer.p2p)[1]
        assert home.token()
        assert home.validator_key_file.exists() == (peer.kind == "validator")
        known = settings.p2p.persistent_peers + settings.p2p.bootstrap
        assert set(known) <= {p.p2p for p in net.peers if p.kind == "validator"} - {peer.p2p}
        assert len(known) == {"validator": 3, "node": 2, "bot": 1}[peer.kind]
    farms = {(peer.farm, peer.country) for peer in net.peers if peer.kind == "node"}
    assert farms == {("alpha", "BE"), ("beta", "CH")}
    assert homes["bot1"].account_key("consumer").public == load_key(net.key_file("consumer")).public


def test_named_accounts_are_funded(net: t.Testnet) -> None:
    genesis = Home(Path(net.peer("v1").home)).read_genesis()
    for name, amount in t.ACCOUNTS.items():
        file = net.key_file(name)
        assert genesis.accounts[load_key(file).public.hex()] == amount * CREDIT
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_ports_are_distinct_free_and_out_of_the_way(net: t.Testnet) -> None:
    ports = [int(peer.api.rpartition(":")[2]) for peer in net.peers]
    ports += [int(peer.p2p.split("/")[4]) for peer in net.peers]
    assert len(set(ports)) == 16
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port in t.PORTS and port < low for port in ports)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", t.free_ports(1)[0]))
        holder.listen()
        taken = holder.getsockname()[1]
        assert taken not in t.free_ports(50)


def test_a_network_is_not_made_twice_or_beyond_bounds(net: t.Testnet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already"):
        t.init_testnet(Path(net.folder), "other", validators=1, nodes=0, bots=0)
    assert t.read_testnet(Path(net.folder)) == net
    for counts in ((0, 1, 1), (60, 5, 0)):
        with pytest.raises(ConfigError, match="at least one validator"):
            t.init_testnet(tmp_path / "x", "x", validators=counts[0], nodes=counts[1], bots=counts[2])
    with pytest.raises(ConfigError, match="no test network"):
        t.read_testnet(tmp_path / "none")
    with pytest.raises(ConfigError, match="no peer"):
        net.peer("v9")


@pytest.fixture
def sleeper() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Real processes that stand for peers."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            f"import signal, time\n{code}\nprint('up', flush=True)\ntime.sleep(60)",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def adopt(peer: t.TestnetPeer, process: subprocess.Popen[bytes]) -> None:
    peer.pid, peer.start_ticks = process.pid, start_ticks(process.pid) or 0


def test_stop_asks_first_and_kills_what_does_not_go(
    net: t.Testnet, sleeper: Callable[[str], subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(t, "STOP_GRACE_S", 0.5)
    polite, stubborn = sleeper(""), sleeper("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    adopt(net.peer("v1"), polite)
    adopt(net.peer("v2"), stubborn)
    assert t.stop_peers(net, ["v1", "v2", "v3"]) == ["v2"]
    assert polite.wait(60) == -signal.SIGTERM
    assert stubborn.wait(60) == -signal.SIGKILL
    assert not t.is_up(net.peer("v1"))
    assert t.read_testnet(Path(net.folder)).peer("v2").pid == 0


def test_a_stop_outlasts_the_last_copies_of_volumes() -> None:
    """`testnet down` killed 3nodes that were still at it: what was written since the last copy was lost."""
    assert t.STOP_GRACE_S > COPY_LAST_S


def test_a_reused_process_id_is_left_alone(
    net: t.Testnet, sleeper: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    stranger = sleeper("")
    peer = net.peer("v1")
    adopt(peer, stranger)
    peer.start_ticks += 1
    assert not t.is_up(peer)
    assert t.stop_peers(net, ["v1"], kill=True) == []
    assert stranger.poll() is None


def test_a_peer_that_cannot_start_is_told_with_its_last_words(
    net: t.Testnet, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(Path(net.peer("v1").home))
    home.genesis_file.write_text("{")
    assert main(["testnet", "start", "v1", "--dir", net.folder, "--timeout", "20"]) == 1
    told = capsys.readouterr().err
    assert "v1 ended while starting" in told
    assert "genesis.json" in told
    assert not t.is_up(t.read_testnet(Path(net.folder)).peer("v1"))


def test_status_and_logs_of_a_network_that_is_down(
    net: t.Testnet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["testnet", "status", "--dir", net.folder, "-o", "json"]) == 0
    rows = msgspec.json.decode(capsys.readouterr().out)
    assert {row["state"] for row in rows} == {"down"}
    Home(Path(net.peer("v2").home)).log_file.write_text("".join(f"line {n}\x1b[31m\n" for n in range(100)))
    assert main(["testnet", "logs", "v2", "--lines", "3", "--dir", net.folder]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("line 97")
    assert "\x1b" not in out
    assert main(["testnet", "down", "--dir", net.folder]) == 0


def test_following_a_log_ends_with_its_peer(
    net: t.Testnet, sleeper: Callable[[str], subprocess.Popen[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    process = sleeper("")
    adopt(net.peer("v1"), process)
    t.save_testnet(net)
    Home(Path(net.peer("v1").home)).log_file.write_text("first\n")
    process.kill()
    process.wait()
    assert main(["testnet", "logs", "v1", "-f", "--dir", net.folder]) == 1
    assert "first" in capsys.readouterr().out
    assert os.getpid() != process.pid


def test_a_taken_port_is_told_in_one_line(net: t.Testnet, capfd: pytest.CaptureFixture[str]) -> None:
    """A started peer's faults come out of nested task groups; a person gets the one that counts."""
    peer = net.peer("bot1")
    for taken in (int(peer.p2p.split("/")[4]), int(peer.api.rpartition(":")[2])):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", taken))
            holder.listen()
            command = [
                sys.executable,
                "-m",
                "node.cli.main",
                "start",
                "--home",
                peer.home,
                "--log.level",
                "error",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert str(taken) in done.stderr
