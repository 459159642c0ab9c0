"""`gridpact secrets` and `gridpact logs`, as a user would run them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from ledger.keys import Key
from node.client.sdk import ApiError, Client
from node.limits import SECRET_BYTES_MAX
from node.sealed.log_wire import Tail, make_answer, make_question, read_question
from p2p.errors import PeerGone
from p2p.errors import Refused as RequestRefused
from tests.ledger.world import BOT, NODES, STRANGER, contract
from tests.node.fake_peer import FakePeer
from tests.node.test_cli import FakeBot, Shell, bot, peer, shell

__all__ = ("bot", "peer", "shell")  # fixtures


@pytest.fixture
def deployment(peer: FakePeer) -> str:
    peer.world.add_nodes()
    return peer.world.running(contract()).hex()


def test_secrets_are_given_from_files_and_never_shown(
    shell: Shell,
    bot: FakeBot,
    deployment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"correct horse\x00\xff")
    assert shell.json("secrets", "list", deployment[:12])["given"] == {"tls-key": False, "token": False}
    out = shell.ok("secrets", "set", deployment[:12], f"token={file}")
    assert bot.secret_values == {"token": b"correct horse\x00\xff"}
    assert "given" in out and "missing" in out and "horse" not in out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"battery staple")))
    shell.ok("secrets", "set", deployment, "tls-key=-")
    assert bot.secret_values["tls-key"] == b"battery staple"
    assert shell.json("secrets", "list", deployment)["given"] == {"tls-key": True, "token": True}


def test_what_is_no_file_is_refused_without_being_repeated(
    shell: Shell,
    bot: FakeBot,
    deployment: str,
    tmp_path: Path,
) -> None:
    """A value on the command line is seen by others of the machine: at least it is not shown again."""
    large = tmp_path / "large"
    large.write_bytes(bytes(SECRET_BYTES_MAX + 1))
    for words, code in (
        ([], 2),
        (["hunter2"], 2),
        (["token="], 2),
        ([f"token={large}"], 2),
        (["token=/no/hunter2"], 1),
    ):
        found, out, err = shell.run("secrets", "set", deployment, *words)
        assert found == code, (words, err)
        assert "hunter2" not in out + err or words == ["hunter2"]
    assert bot.secret_values == {}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The node that holds the slot. Tests say what it answers, and with which key it signs."""
    said: dict[str, Any] = {"key": NODES[0], "tail": Tail(1, True, b"it speaks\x1b[2J\nand more\n")}

    async def request(peer: object, key: bytes, method: str, body: bytes, timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        said["asked"] = read_question(body).question
        if "error" in said:
            raise said["error"]
        return make_answer(said["key"], said["asked"], said["tail"])

    monkeypatch.setattr("node.api.logs.request_of_node", request)
    return said


def test_the_consumer_sees_its_log_and_the_terminal_is_not_driven(
    shell: Shell,
    deployment: str,
    node: dict[str, Any],
) -> None:
    out = shell.ok("logs", deployment[:12], "web/0", "--key", "consumer")
    assert out == "it speaks\N{REPLACEMENT CHARACTER}[2J\nand more\n"
    found = shell.json("logs", deployment, "web/0", "--key", "consumer", "--last-bytes", "100")
    assert (found["term"], found["runs"], found["log"]) == (1, True, "it speaks\x1b[2J\nand more\n")
    asked = node["asked"]
    assert (asked.node, asked.last_bytes, asked.slot) == (NODES[0].public, 100, "web/0")
    assert len(asked.nonce) == 16


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--key", "consumer"], 2),  # which slot?
        (["web/9", "--key", "consumer"], 2),
        (["web/0", "--key", "consumer", "--last-bytes", "0"], 2),
        (["web/0", "--key", "stranger"], 4),
    ],
)
def test_what_is_asked_wrongly_is_said(
    shell: Shell,
    deployment: str,
    node: dict[str, Any],
    words: list[str],
    code: int,
) -> None:
    assert shell.run("logs", deployment, *words)[0] == code
    assert "asked" not in node


def test_a_peer_carries_nobody_elses_question(shell: Shell, deployment: str, node: dict[str, Any]) -> None:
    """In its own name, or in the consumer's: the node is not even asked."""
    shell.ok("logs", deployment, "web/0", "--key", "consumer")
    asked = node.pop("asked")
    client = Client(shell.globals[1])
    for account in (STRANGER, BOT, NODES[0]):
        for question in (replace(asked, account=account.public), asked):
            with pytest.raises(ApiError) as refused:
                client.ask_logs(make_question(account, question))
            assert refused.value.problem.rule == "logs.not_yours"
    assert "asked" not in node


def test_an_answer_of_another_node_is_not_believed(
    shell: Shell,
    deployment: str,
    node: dict[str, Any],
) -> None:
    node["key"] = STRANGER
    code, out, err = shell.run("logs", deployment, "web/0", "--key", "consumer")
    assert (code, out) == (4, "")
    assert "logs.signature" in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RequestRefused("logs.unknown: this node holds no log of that slot"), 4, "holds no log"),
        (PeerGone("no offer says where this node is"), 6, "no offer says"),
    ],
)
def test_what_the_node_says_is_told(
    shell: Shell,
    deployment: str,
    node: dict[str, Any],
    error: Exception,
    code: int,
    said: str,
) -> None:
    node["error"] = error
    found, out, err = shell.run("logs", deployment, "web/0", "--key", "consumer")
    assert (found, out) == (code, "")
    assert said in err


def test_the_peer_carries_nobody_elses_question(peer: FakePeer, shell: Shell, deployment: str) -> None:
    """It would dial nodes for whoever asks."""
    from node.client.sdk import ApiError, Client
    from node.sealed.log_wire import Question, make_question

    client = Client(shell.globals[1])
    key: Key = STRANGER
    question = Question(
        chain_id=peer.chain_id,
        deployment=bytes.fromhex(deployment),
        slot="web/0",
        node=NODES[0].public,
        account=key.public,
        last_bytes=10,
        height=1,
        nonce=bytes(16),
    )
    for body in (make_question(key, question), b"garbage", bytes(100_000)):
        with pytest.raises(ApiError):
            client.ask_logs(body)
