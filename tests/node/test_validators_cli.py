"""How validators agree on their next set, by the commands they would type; proofs that outlive the peer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from ledger.epochs import current
from ledger.proofs.light import Trust, decode_epoch_proof
from ledger.transactions import ReportEvidence
from node.cli.main import main
from tests.ledger.chain_fixture import MORE_KEYS, member
from tests.ledger.test_evidence import NOTAR, A, B, vote, votes
from tests.ledger.world import STRANGER
from tests.node import shell_fixture
from tests.node.api_fixture import api_client, served
from tests.node.fake_peer import FakePeer
from tests.node.shell_fixture import make_home


class Shell(shell_fixture.Shell):
    """With validators' keys."""

    def key(self, number: int) -> str:
        """The file of a validator's key."""
        return str(self.home / "config" / "keys" / f"validator{number}")


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    peer = FakePeer()
    seats = {f"validator{number}": f"validator {number}" for number in range(6)}
    home = make_home(tmp_path / "home", peer, {"anybody": "stranger"} | seats)
    with served(peer, tmp_path) as address:
        yield Shell(address, home, capsys, peer)


def test_validators_agree_on_a_change_by_a_file(shell: Shell, tmp_path: Path) -> None:
    file = str(tmp_path / "change.json")
    newcomer = MORE_KEYS[4].public.hex()
    out = shell.ok(
        "validators",
        "propose",
        "-f",
        file,
        "--add",
        f"{newcomer}:2:new",
        "--remove",
        "v0",
        "--weight",
        "v1:3",
    )
    assert f"new ({newcomer}) joins with weight 2" in out
    assert "v0 (" in out and "leaves" in out
    assert "v1: weight 1 becomes 3" in out
    assert "then 4 validators of weight 7: 5 decide, up to 2 may be faulty" in out
    assert "warning: without the heaviest one nothing becomes final" in out
    assert "nobody yet" in out and "weight 3 of 3" in out
    assert shell.run("validators", "propose", "-f", file, "--remove", "v0")[0] == 1, "it exists"
    code, _, err = shell.run("validators", "submit", file, "--key", "anybody")
    assert (code, "change.no_quorum" in err) == (4, True)
    assert shell.run("validators", "sign", file, "--key", shell.key(5), "-y")[0] == 4, "no validator yet"
    for number in (2, 0, 2):
        shell.ok("validators", "sign", file, "--key", shell.key(number), "-y")
    assert "weight 1 of 3" in shell.ok("validators", "show", file)
    shell.ok("validators", "sign", file, "--key", shell.key(3), "-y")
    shown = shell.json("validators", "show", file)
    assert (shown["signed_by"], shown["weight"], shown["quorum"]) == (["v0", "v2", "v3"], 3, 3)
    assert shell.json("validators", "submit", file, "--key", "anybody")["ok"]

    table = shell.ok("validators")
    assert "joins: 2" in table and "leaves" in table and "weight 3" in table and "stays" in table
    found = shell.json("validators")
    assert (found["epoch"], found["next"]["epoch"]) == (0, 1)
    assert [v["moniker"] for v in found["next"]["members"]] == ["v1", "v2", "v3", "new"]
    for _ in range(3):
        shell.peer.block()
    found = shell.json("validators")
    assert (found["epoch"], found["next"], found["total"]) == (1, None, 7)
    code, _, err = shell.run("validators", "submit", file, "--key", "anybody")
    assert (code, "change.epoch" in err) == (4, True), "it was for the epoch before"
    assert shell.run("validators", "sign", file, "--key", shell.key(1), "-y")[0] == 4


def test_a_change_that_cannot_be_is_refused_before_anybody_signs(shell: Shell, tmp_path: Path) -> None:
    propose = ("validators", "propose", "-f", str(tmp_path / "change.json"))
    key = MORE_KEYS[4].public.hex()
    for words, code, text in (
        ((), 4, "change.same"),
        (("--valid", "31d", "--remove", "v0"), 4, "change.valid_until"),
        (("--valid", "soon", "--remove", "v0"), 2, "a duration wanted"),
        (("--remove", "nobody"), 2, "found 0"),
        (("--add", "abc:1"), 4, "key.malformed"),
        (("--add", f"{key}:x:new"), 2, "a weight is a whole number"),
        (("--add", f"{key}:0:new"), 4, "validators.member"),
        (("--add", f"{MORE_KEYS[1].public.hex()}:1:twin"), 4, "validators.duplicate"),
        (("--remove", "v0", "--remove", "v1", "--remove", "v2", "--remove", "v3"), 4, "validators.count"),
    ):
        found, _, err = shell.run(*propose, *words)
        assert (found, text in err) == (code, True), err
    assert not (tmp_path / "change.json").exists()
    twice = vote(NOTAR, A, MORE_KEYS[3]), vote(NOTAR, B, MORE_KEYS[3])
    shell.peer.block(shell.peer.world.tx(STRANGER, ReportEvidence(votes(*twice, MORE_KEYS[3]))).raw)
    assert "change.suspended" in shell.run(*propose, "--remove", "v0")[2]
    assert "v3" in shell.ok(*propose, "--remove", "v3")


def test_a_tampered_change_file_gets_no_signature(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "change.json"
    shell.ok("validators", "propose", "-f", str(file), "--remove", "v0")
    shell.ok("validators", "sign", str(file), "--key", shell.key(1), "-y")
    good = json.loads(file.read_text())
    for change, text in (
        ({"format": "gridpact-validators/9"}, "format"),
        ({"more": 1}, "no change of the validators"),
        ({"members": []}, "validators.count"),
        ({"chain_id": "another"}, "is for chain"),
        ({"epoch": 7}, "change.epoch"),
        ({"valid_until_ms": 1}, "change.expired"),
        ({"valid_until_ms": -1}, "no change of the validators"),
        ({"valid_until_ms": 1 << 60}, "change.valid_until"),
    ):
        file.write_text(json.dumps(good | change))
        code, _, err = shell.run("validators", "sign", str(file), "--key", shell.key(2), "-y")
        assert (code in (1, 4), text in err) == (True, True), err
    file.write_text(json.dumps(good | {"members": good["members"][1:]}))
    assert "does not hold" in shell.ok("validators", "show", str(file)), "v1 signed another set"
    file.write_text("x" * 1_000_000)
    assert shell.run("validators", "show", str(file))[0] == 1


def test_a_proof_file_is_checked_with_no_peer_at_all(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = shell.peer.world
    world.turn([member(n) for n in range(1, 6)], 2)
    world.turn([member(n, n) for n in range(2, 6)])
    for _ in range(2):
        shell.peer.block()
    file, genesis = tmp_path / "proof", tmp_path / "alone.json"
    genesis.write_bytes(shell.peer.genesis.encode())
    path = f"account/{STRANGER.public.hex()}"
    assert "proved: present" in shell.run("query", path, "--out", str(file))[2]
    alone = ("verify", str(file), "--genesis", str(genesis), "--home", str(tmp_path / "none"))
    shell.capsys.readouterr()
    for days, code, text in ((0, 0, "VALID"), (15, 4, "light.stale"), (-1, 4, "light.from_future")):
        then_ms = world.now_ms + days * 86_400_000
        fixed = SimpleNamespace(time_ns=lambda at=then_ms: at * 1_000_000)
        monkeypatch.setattr("node.cli.verify.time", fixed)
        assert main([*alone]) == code
        assert text in shell.capsys.readouterr().err
    assert main([*alone, "--any-age", "-o", "json"]) == 0
    found = json.loads(shell.capsys.readouterr().out)
    assert (found["present"], found["shown"]["balance"]) == (True, world.balance(STRANGER))
    shell.ok("query", "farm/none", "--out", str(file))
    assert main([*alone, "--any-age"]) == 0
    assert "present  no" in shell.capsys.readouterr().out
    data = file.read_bytes()
    file.write_bytes(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    assert main([*alone, "--any-age"]) == 4
    file.write_bytes(data)
    genesis.write_bytes(replace(shell.peer.genesis, time_ms=5).encode())
    assert main([*alone, "--any-age"]) == 4
    assert "proof_file.foreign_chain" in shell.capsys.readouterr().err


def test_the_api_shows_how_epochs_ended_page_by_page(tmp_path: Path) -> None:
    peer = FakePeer()
    for number in range(5):
        peer.world.turn([member(n, 1 + number) for n in range(1 + number, 5 + number)])
    peer.block()

    async def ask() -> None:
        async with api_client(peer, tmp_path) as client:
            items: list[dict[str, Any]] = []
            cursor = "0"
            while cursor:
                page = (await client.get("/v1/epochs", params={"cursor": cursor, "limit": 2})).json()
                assert len(page["items"]) <= 2
                items += page["items"]
                cursor = page["next"]
            assert [item["epoch"] for item in items] == list(range(5))
            assert (items[1]["joined"], items[1]["left"]) == (["v5"], ["v1"])
            assert items[1]["reweighted"] == ["v2", "v3", "v4"]
            trust = Trust.of(peer.genesis)
            from base64 import b64decode

            for item in items:
                trust.advance(decode_epoch_proof(b64decode(item["proof"])))
            assert trust.latest == current(peer.state) == peer.validators
            for bad in ({"limit": "21"}, {"limit": "0"}, {"cursor": "x"}, {"cursor": "-1"}):
                assert (await client.get("/v1/epochs", params=bad)).status_code == 400
            assert (await client.get("/v1/epochs", params={"cursor": "99"})).json()["items"] == []
            ended = (await client.get(f"/v1/blocks/{trust.ends[0].height}")).json()
            assert ended["signers"] == ["v0", "v1", "v2"], "members of the epoch that it ended"
            assert ended["moniker"] in {"v0", "v1", "v2", "v3"}

    trio.run(ask)
