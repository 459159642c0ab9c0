"""Logs of workloads: the consumer reads them, wherever it asks, and nobody else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ledger import transactions as t
from ledger.codec import encode
from ledger.errors import Refused
from ledger.keys import Key
from node.limits import LOG_ASK_BLOCKS_MAX, LOG_TAIL_BYTES_MAX
from node.peer import Peer
from node.reach import request_of_node
from node.sealed.log_wire import (
    ANSWER_BYTES_MAX,
    LOGS,
    Question,
    Tail,
    make_answer,
    make_question,
    open_answer,
    read_question,
)
from node.sealed.sealing import seal
from p2p.errors import Refused as RequestRefused
from tests.ledger import world as people
from tests.node.executor_fixture import Fleet, fleet, receipts_of, service
from tests.node.network_fixture import CHAIN_ID, until

SPOKEN = b"it speaks"  # what the fake driver's workloads write
CONSUMER = people.CONSUMER


@dataclass
class Site:
    """A running service, and the peers around it."""

    net: Fleet
    deployment: bytes
    node: Peer
    peer: Peer  # through which is asked

    def question(self, **changes: Any) -> Question:
        fields: dict[str, Any] = {
            "chain_id": CHAIN_ID,
            "deployment": self.deployment,
            "slot": "web/0",
            "node": self.node.node_key.public,
            "account": CONSUMER.public,
            "last_bytes": 100,
            "height": self.peer.height,
            "nonce": bytes(16),
        }
        return Question(**(fields | changes))

    async def ask(self, body: bytes) -> bytes:
        return await request_of_node(self.peer, self.node.node_key.public, LOGS, body, 5)

    async def read(self, question: Question, key: Key = CONSUMER) -> Tail:
        return open_answer(key, question, await self.ask(make_question(key, question)))

    async def refusal(self, question: Question, key: Key = CONSUMER) -> str:
        with pytest.raises(RequestRefused) as caught:
            await self.ask(make_question(key, question))
        assert SPOKEN.decode() not in str(caught.value)
        return str(caught.value).partition(":")[0]


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    async with fleet(folder, "node1") as net:
        deployment = await net.approved(service(replicas=1))
        await net.until_statuses(deployment, "running")
        peer = net.net.peers["validator1"]
        await until(lambda: peer.height >= net.first.height)
        yield Site(net, deployment, net.net.peers["node1"], peer)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers as fast as they are asked for, but where a test is about that."""
    monkeypatch.setattr("node.executor.logs.LOGS_EVERY_S", 0.0)


async def test_the_consumer_reads_the_newest_bytes_through_any_peer(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        question = made.question()
        sent = await made.ask(make_question(CONSUMER, question))
        assert SPOKEN not in sent
        assert open_answer(CONSUMER, question, sent) == Tail(1, True, SPOKEN)
        assert (await made.read(made.question(last_bytes=6))).data == b"speaks"
        made.peer = made.node  # the node itself may be asked, too
        assert (await made.read(made.question(last_bytes=0))).data == b""


async def test_nobody_else_reads_them(tmp_path: Path) -> None:
    """Nor the bot, the author, who approved it, the farmer, or who has a question of the consumer."""
    async with site(tmp_path) as made:
        for other in (people.BOT, people.AUTHOR, people.EXPERT, people.STRANGER, people.FARMERS[0]):
            assert await made.refusal(made.question(account=other.public), other) == "logs.not_yours"
            forged = made.question()  # in the consumer's name, signed by another
            assert await made.refusal(forged, other) == "logs.not_yours"
        unknown = made.question(deployment=bytes(32))
        assert await made.refusal(unknown) == "logs.not_yours"
        question = made.question()
        answer = await made.ask(make_question(CONSUMER, question))
        for other in (people.BOT, made.node.node_key, made.peer.node_key):
            with pytest.raises(Refused, match=r"seal\.not_ours"):
                open_answer(other, question, answer)


async def test_a_question_is_for_one_node_and_chain_and_some_minutes(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        height = made.peer.height
        for changes, rule in (
            ({"node": made.peer.node_key.public}, "logs.not_here"),
            ({"chain_id": "other"}, "logs.not_here"),
            ({"height": height + LOG_ASK_BLOCKS_MAX + 1_000}, "logs.stale"),
            ({"last_bytes": LOG_TAIL_BYTES_MAX + 1}, "logs.malformed"),
            ({"last_bytes": -1}, "logs.malformed"),
            ({"nonce": b""}, "logs.malformed"),
            ({"slot": "web/1"}, "logs.unknown"),
        ):
            assert await made.refusal(made.question(**changes)) == rule, changes
        with pytest.raises(RequestRefused, match=r"logs\.malformed"):
            await made.ask(b"garbage")


async def test_answers_are_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path) as made:
        monkeypatch.setattr("node.executor.logs.LOGS_EVERY_S", 3_600.0)
        for _ in range(3):  # strangers cannot keep the consumer from it
            await made.refusal(made.question(account=people.BOT.public), people.BOT)
        await made.read(made.question())
        assert await made.refusal(made.question()) == "logs.too_often"
        monkeypatch.setattr("node.executor.logs.LOGS_EVERY_S", 0.0)
        await made.read(made.question())


async def test_an_answer_to_another_question_or_of_another_node_is_not_believed(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        question = made.question()
        answer = await made.ask(make_question(CONSUMER, question))
        for changes in ({"nonce": b"n" * 16}, {"slot": "web/1"}, {"node": made.peer.node_key.public}):
            with pytest.raises(Refused, match=r"logs\.signature"):
                open_answer(CONSUMER, replace(question, **changes), answer)
        forged = make_answer(made.peer.node_key, question, Tail(1, True, b"all is well"))
        with pytest.raises(Refused, match=r"logs\.signature"):
            open_answer(CONSUMER, question, forged)


async def test_a_log_is_kept_when_its_term_is_over_and_never_stands_in_a_receipt(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        net, driver = made.net, made.net.drivers["node1"]
        driver.running[0].end(3)
        await until(lambda: len(driver.tasks) == 2 and bool(driver.running))
        await until(lambda: net.executors["node1"].status().slots[0].phase == "running")
        assert (await made.read(made.question())).data == 2 * SPOKEN  # of both runs
        await net.do(CONSUMER, t.CancelDeployment(made.deployment, "enough"))
        await until(lambda: net.slot(made.deployment, "web/0").holder == b"")
        await until(lambda: bool(net.executors["node1"].status().ended))
        tail = await made.read(made.question())
        assert (tail.term, tail.runs, tail.data) == (1, False, 2 * SPOKEN)
        for told in receipts_of(net, made.deployment, "web/0"):
            assert SPOKEN.decode() not in told.detail


def test_what_is_sealed_and_signed_but_no_log_is_refused() -> None:
    node = people.NODES[0]
    question = Question(CHAIN_ID, bytes(32), "web/0", node.public, CONSUMER.public, 1, 1, bytes(16))
    answer = make_answer(node, question, Tail(1, True, SPOKEN))
    assert open_answer(CONSUMER, question, answer) == Tail(1, True, SPOKEN)
    for inside in (b"", b"garbage", encode((1, True))):
        sealed = seal(CONSUMER.public, inside)
        word = node.sign("logs-answer/1", CHAIN_ID, encode(question) + sealed)
        with pytest.raises(Refused, match=r"logs\.malformed"):
            open_answer(CONSUMER, question, encode((sealed, word)))
    with pytest.raises(Refused, match=r"logs\.too_long"):
        open_answer(CONSUMER, question, bytes(ANSWER_BYTES_MAX + 1))


def test_a_question_says_who_asks_what() -> None:
    question = Question(CHAIN_ID, bytes(32), "web/0", bytes(32), CONSUMER.public, 1, 1, bytes(16))
    assert read_question(make_question(CONSUMER, question)).question == question
