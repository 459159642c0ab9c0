"""A suspended validator is shown as such by API, explorer and CLI; the others are not."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ledger.blocks import ZERO_HASH
from ledger.codec import sha256
from ledger.evidence import SignedVote, TwoVotes
from ledger.proofs.certificate import VOTE_DOMAIN, Statement, VoteKind, vote_message
from ledger.transactions import ReportEvidence
from node.api import models as m
from node.cli.main import main
from tests.ledger.chain_fixture import VALIDATOR_KEYS
from tests.ledger.world import CHAIN_ID, STRANGER
from tests.node.api_fixture import TOKEN, api_client, served
from tests.node.fake_peer import FakePeer

BAD = VALIDATOR_KEYS[1]


def vote(kind: VoteKind, block: bytes) -> SignedVote:
    statement = Statement(kind, 0, 7, block)
    return SignedVote(statement, BAD.sign(VOTE_DOMAIN, CHAIN_ID, vote_message(statement)))


@pytest.fixture
def peer() -> FakePeer:
    """A peer whose ledger holds an offence of v1."""
    found = FakePeer()
    votes = vote(VoteKind.SKIP, ZERO_HASH), vote(VoteKind.FINAL, sha256(b"a"))
    found.world.ok(STRANGER, ReportEvidence(TwoVotes(BAD.public, *votes)))
    return found


async def test_api_and_explorer(peer: FakePeer, tmp_path: Path) -> None:
    async with api_client(peer, tmp_path) as client:
        found = msgspec.json.decode((await client.get("/v1/validators")).content, type=m.Validators)
        assert [v.suspended_height for v in found.members] == [None, peer.height, None, None]
        page = (await client.get("/")).text
        assert page.count("suspended since") == 1
        assert f"suspended since {peer.height}" in page
        shown = (await client.get(f"/v1/query?path=offence/{BAD.public.hex()}")).json()["shown"]
        assert (shown["validator"], shown["height"]) == (BAD.public.hex(), peer.height)
        assert len(shown["evidence"]["second"]["signature"]) == 128
        events = (await client.get("/v1/blocks/latest")).json()
        assert events["txs"][0]["kind"] == "evidence.report"
        tx = (await client.get(f"/v1/tx/{events['txs'][0]['id']}")).json()
        assert tx["events"][0]["kind"] == "validator.suspended"
        assert tx["events"][0]["fields"]["offence"] == "skip_and_final"


def test_cli(peer: FakePeer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "api_token").write_text(TOKEN)
    with served(peer, tmp_path) as address:
        flags = ["--home", str(tmp_path), "--api", address, "validators", "-o"]
        assert main([*flags, "table"]) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        assert "suspended since height" in head.lower()
        assert [row.split()[-1] for row in rows if "v" in row] == ["-", str(peer.height), "-", "-"]
        assert main([*flags, "json"]) == 0
        members = json.loads(capsys.readouterr().out)["members"]
        assert [v["suspended_height"] for v in members] == [None, peer.height, None, None]
