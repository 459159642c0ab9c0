"""`gridpact inspect`, `rollback` and `reset` on homes; a validator that was reset keeps its promises."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.blocks import Batch, Header, batch_digest
from ledger.codec import encode
from ledger.proofs.certificate import (
    VOTE_DOMAIN,
    Ed25519Scheme,
    Scheme,
    Statement,
    VoteKind,
    vote_message,
)
from ledger.records import be
from ledger.storage.store import Store
from ledger.storage.store_files import next_path
from ledger.storage.stored import Tip
from node.cli.main import main
from node.home import Home, RunInfo, start_ticks, write_run
from node.notary import Notary
from node.peer import Peer
from node.voting.safety_store import SafetyStore
from tests.node.network_fixture import transfer, until, world


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Home:
    """Of a validator that has made twenty blocks and stopped cleanly."""
    for name in [name for name in os.environ if name.startswith("GRIDPACT_")]:
        monkeypatch.delenv(name)
    made = Home(tmp_path / "home")
    assert run(made, "init", "--chain-id", "alone", "--role", "validator") == 0
    grow(made, 20)
    key = made.validator_key().public
    SafetyStore.open(made.data_dir / "sign_state", "alone", key, create=True).close()
    capsys.readouterr()
    return made


def run(home: Home, *words: str) -> int:
    return main([*words, "--home", str(home.root)])


def opened(home: Home) -> Store:
    genesis = home.read_genesis()
    return Store.open(home.store_dir, genesis.chain_id, genesis.hash)


def grow(home: Home, blocks: int) -> Tip:
    """Final blocks by the only validator; closed cleanly."""
    store = opened(home)
    scheme: Scheme = Ed25519Scheme()
    notary = Notary.open(home.read_genesis(), store, scheme)
    key, members = home.validator_key(), notary.validators
    for _ in range(blocks):
        tip = store.tip
        root = store.root(max(0, tip.height - 1))
        assert root is not None
        batch = encode(Batch((b"tx %d" % tip.height,)))
        header = Header(
            chain_id="alone",
            epoch=0,
            height=tip.height + 1,
            view=tip.view + 1,
            parent_view=tip.view,
            parent_hash=tip.hash,
            time_ms=tip.time_ms + 1,
            proposer=key.public,
            state_height=max(0, tip.height - 1),
            state_root=root,
            validators=members.hash,
            next_validators=members.hash,
            batches=(batch_digest(batch),),
        )
        statement = Statement(VoteKind.FINAL, 0, header.view, header.hash)
        vote = key.sign(VOTE_DOMAIN, "alone", vote_message(statement))
        notary.commit(header, scheme.assemble(statement, {0: vote}, 1), (batch,), {})
    found = store.tip
    store.close()
    return found


def inspected(home: Home, capsys: pytest.CaptureFixture[str], code: int = 0) -> Any:
    capsys.readouterr()
    assert run(home, "inspect", "-o", "json") == code
    return json.loads(capsys.readouterr().out)


def test_inspect_tells_what_is_there(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(home, capsys)
    assert (found["chain_id"], found["height"], found["first_height"]) == ("alone", 20, 1)
    assert found["genesis"] == home.read_genesis().hash.hex()
    assert found["rollback_blocks"] == 16
    assert found["sign_state"] == {"floor": 0, "notar": 0, "skip": 0, "final": 0}
    assert found["torn_logs"] == {"chain": 0, "sign state": 0}
    assert [c["height"] for c in found["certificates"]] == [20, 19, 18]
    assert found["certificates"][0]["signers"] == ["peer"]
    assert found["damage"] == []
    assert found["sizes"]["headers"] > 0
    assert inspected(home, capsys) == found  # looking changes nothing
    assert run(home, "inspect", "--blocks", "5") == 0
    said = capsys.readouterr().out
    assert "heights 16 to 20" in said
    assert "none found" in said


@pytest.mark.parametrize(
    ("space", "height", "change", "word"),
    [
        (b"B", 7, None, "misses batch"),
        (b"b", 9, None, "height 9: no header"),
        (b"c", 12, b"\x01" * 40, "height 12"),
        (b"R", 15, b"\x07" * 32, "its state root is not ours"),
    ],
)
def test_inspect_finds_damage(
    home: Home, capsys: pytest.CaptureFixture[str], space: bytes, height: int, change: bytes | None, word: str
) -> None:
    genesis = home.read_genesis()
    kv = Store.open_raw(home.store_dir, genesis.chain_id, genesis.hash)
    key = space + be(height)
    if space == b"B":
        key = b"B" + batch_digest(encode(Batch((b"tx %d" % (height - 1),))))
    assert kv.get(key) is not None
    kv.write({} if change is None else {key: change}, [key] if change is None else [])
    kv.close()
    damage = inspected(home, capsys, 1)["damage"]
    assert any(word in problem for problem in damage), damage


def test_inspect_says_that_a_store_is_in_use_or_missing(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    store = opened(home)
    for command in ("inspect", "rollback"):
        assert run(home, command) == 1
        assert "in use by another process" in capsys.readouterr().err
    store.close()
    assert run(home, "reset", "--yes") == 0
    assert run(home, "inspect") == 1
    assert "no store here" in capsys.readouterr().err
    assert run(home, "inspect", "--blocks", "-1") == 2


def test_rollback_goes_back_and_the_same_blocks_come_again(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    before = inspected(home, capsys)
    assert run(home, "rollback", "--blocks", "17") == 1
    assert "17 blocks cannot be taken back" in capsys.readouterr().err
    assert inspected(home, capsys) == before
    assert run(home, "rollback", "--blocks", "5") == 0
    found = inspected(home, capsys)
    assert (found["height"], found["rollback_blocks"], found["damage"]) == (15, 11, [])
    tip = grow(home, 5)
    assert (tip.height, tip.hash.hex()) == (20, before["block_hash"])
    assert tip.root.hex() == before["state_root"]
    assert inspected(home, capsys)["damage"] == []


def test_reset_removes_the_chain_and_nothing_else(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.artifacts_dir.mkdir()
    (home.artifacts_dir / "some").write_text("bytes")
    (home.data_dir / "peers.json").write_text("[]")
    half = home.data_dir / ".gone-store.1"  # what a crash has left
    half.mkdir()
    kept = sorted(p for p in home.root.rglob("*") if p != half and not p.is_relative_to(home.store_dir))
    assert run(home, "reset") == 2
    assert "pass --yes" in capsys.readouterr().err
    assert home.store_dir.exists()
    assert run(home, "reset", "--yes") == 0
    assert sorted(home.root.rglob("*")) == kept
    assert run(home, "reset", "--yes", "--artifacts") == 0
    assert not home.artifacts_dir.exists()
    assert (home.data_dir / "sign_state" / "CURRENT").exists()
    assert grow(home, 3).height == 3


def test_reset_also_removes_a_state_that_was_being_fetched(home: Home) -> None:
    following = next_path(home.store_dir)
    following.mkdir()
    (following / "half").write_bytes(b"a state")
    assert run(home, "reset", "--yes") == 0
    assert not following.exists()


def test_a_reset_that_a_kill_cuts_short_brings_no_fetched_state_into_its_place(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store is gone, a whole one beside it takes its place at the next start."""
    following = next_path(home.store_dir)
    following.mkdir()

    def cut_short(source: Path, target: Path) -> None:
        assert source == following
        raise OSError(5, "killed here", str(source))

    monkeypatch.setattr("node.reset.os.rename", cut_short)
    assert run(home, "reset", "--yes") == 1
    assert home.store_dir.exists()


def test_inspect_counts_logs_that_a_power_cut_tore(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """[J1] of ledger.storage.store_log, of the sign state: cut, counted, and nothing to repair by hand."""
    path = home.data_dir / "sign_state"
    safety = SafetyStore.open(path, "alone", home.validator_key().public, create=False)
    safety.kv.write({b"v/": bytes(2_000)})
    logs = [(log.name, log.read_bytes()) for log in path.glob("*.log")]
    safety.close()
    for log in path.glob("*.log"):
        log.unlink()
    for name, data in logs:
        whole = len(data) - 1_024
        (path / name).write_bytes(data[:whole] + bytes(1_024))
    found = inspected(home, capsys)
    assert found["torn_logs"] == {"chain": 0, "sign state": 1}
    assert found["sign_state"] == {"floor": 0, "notar": 0, "skip": 0, "final": 0}
    assert run(home, "inspect") == 0
    assert "sign state 1" in capsys.readouterr().out


def test_reset_refuses_while_it_runs_and_without_the_sign_state(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    store = opened(home)
    # LevelDB's lock is its process's own, so another process has to ask.
    child = os.fork()
    if child == 0:
        os._exit(run(home, "reset", "--yes"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert home.store_dir.exists()
    store.close()
    info = RunInfo(
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()) or 0,
        moniker="peer",
        peer_id="",
        api="",
        p2p=(),
        started_ms=0,
    )
    write_run(home, info)
    assert run(home, "reset", "--yes") == 1
    assert "Stop it first" in capsys.readouterr().err
    home.run_file.unlink()
    os.rename(home.data_dir / "sign_state", home.root / "elsewhere")
    assert run(home, "reset", "--yes") == 1
    assert "the sign state is gone" in capsys.readouterr().err
    assert home.store_dir.exists()
    found = inspected(home, capsys, 1)
    assert any("sign state" in problem for problem in found["damage"])


def _is_above(peer: Peer, height: int) -> bool:
    return peer.height > height


async def test_a_validator_that_was_reset_votes_only_above_its_floor() -> None:
    """Its chain is gone, its sign state is not: it fetches all, and votes where it never voted before."""
    names = [f"validator{i}" for i in range(4)]
    async with world(names, seed=3) as net:
        peers = net.peers
        for height in range(0, 12, 2):
            await peers["validator0"].submit(transfer(peers["validator0"], 1, height))
            await until(partial(_is_above, peers["validator3"], height))
        net.stop("validator3")
        await until(lambda: len(peers["validator0"].network.neighbours()) == 2)
        safety = SafetyStore(net.stores["validator3/safety"])
        promised = max([safety.floor, *safety.highest().values()])
        old = dict(net.stores["validator3/safety"].scan(b"v/"))
        del net.stores["validator3"]
        seen: dict[bytes, bytes] = {}
        fresh = await net.start("validator3")  # from an empty chain; it may have caught up already

        def votes_again() -> bool:
            """Also collects each vote that is written meanwhile."""
            seen.update(net.stores["validator3/safety"].scan(b"v/"))
            return any(int.from_bytes(key[2:10], "big") > promised for key in seen)

        await until(votes_again)
        await until(lambda: fresh.height >= peers["validator0"].height > 8)
        assert all(int.from_bytes(k[2:10], "big") > promised or old.get(k) == v for k, v in seen.items())
        height = min(fresh.height, peers["validator0"].height)
        assert fresh.store.root(height) == peers["validator0"].store.root(height)
