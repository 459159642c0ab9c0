"""`gridpact init --join`: the genesis comes from one peer, is held to the hash, and nothing is half made."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ledger.genesis import Genesis, decode_genesis
from node.cli.main import main
from node.wire import GENESIS_PROTOCOL
from p2p.host import Host, HostConfig
from tests.ledger.world import World


class _Source:
    """A host in a thread of its own that hands a genesis out."""

    def __init__(self, value: bytes) -> None:
        self._value = value
        self._up = threading.Event()
        self.address = ""
        self._thread = threading.Thread(target=trio.run, args=(self._run,))

    async def _run(self) -> None:
        config = HostConfig(seed=b"\x07" * 32, public=((GENESIS_PROTOCOL, self._value),))
        host = Host(config)
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as nursery:
            self.address = (await nursery.start(host.run, None))[0]
            self._up.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def __enter__(self) -> _Source:
        self._thread.start()
        assert self._up.wait(60)
        return self

    def __exit__(self, *error: object) -> None:
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def genesis() -> Genesis:
    return World().genesis


@pytest.fixture
def source(genesis: Genesis) -> Iterator[_Source]:
    with _Source(genesis.encode()) as made:
        yield made


def test_one_address_and_the_hash_are_enough(
    source: _Source, genesis: Genesis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    words = ["init", "--home", str(home), "--join", source.address, "-o", "json"]
    wrong = "00" * 32
    assert main([*words, "--genesis-hash", wrong]) == 4
    assert "genesis.hash" in capsys.readouterr().err
    assert not home.exists()
    assert main([*words, "--genesis-hash", "AB"]) == 2
    capsys.readouterr()
    assert main([*words, "--genesis-hash", genesis.hash.hex()]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["genesis"] == genesis.hash.hex()
    assert "Compare" not in said.err
    assert decode_genesis((home / "config" / "genesis.json").read_bytes()) == genesis
    assert source.address in (home / "config" / "config.toml").read_text()


def test_without_a_hash_it_says_what_it_took(
    source: _Source, genesis: Genesis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--home", str(tmp_path / "home"), "--join", source.address]) == 0
    assert f"genesis {genesis.hash.hex()}" in capsys.readouterr().err
    other = ["init", "--home", str(tmp_path / "other"), "--join", source.address, "--chain-id", "another"]
    assert main(other) == 2
    assert not (tmp_path / "other").exists()


def test_a_genesis_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _Source(b'{"chain_id": "x"}') as liar:
        assert main(["init", "--home", str(tmp_path / "home"), "--join", liar.address]) == 4
    assert "genesis.malformed" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
    assert main(["init", "--home", str(tmp_path / "home"), "--join", liar.address]) == 3  # it is gone
    assert main(["init", "--home", str(tmp_path / "home"), "--join", "/ip4/127.0.0.1/tcp/1"]) == 2
    assert not (tmp_path / "home").exists()


def test_a_file_is_held_to_the_hash_too(genesis: Genesis, tmp_path: Path) -> None:
    file = tmp_path / "genesis.json"
    file.write_bytes(genesis.encode())
    words = ["init", "--home", str(tmp_path / "home"), "--genesis", str(file), "--genesis-hash"]
    assert main([*words, "00" * 32]) == 4
    assert not (tmp_path / "home").exists()
    assert main([*words, genesis.hash.hex()]) == 0
