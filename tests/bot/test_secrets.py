"""Secrets from the consumer's bot to the holder of a slot, in whole networks: to it, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from bot.agent import Agent
from bot.errors import VaultError
from bot.secrets import SecretBook
from ledger import transactions as t
from ledger.codec import encode
from ledger.errors import Refused
from ledger.keys import Key
from ledger.manifests.types import UpdateStrategy
from ledger.records import Deployment, Slot, key_deployment, key_slot
from ledger.state import read
from node.api.bot_seam import SecretsRequest
from node.limits import SECRETS_DEPLOYMENTS_MAX
from node.peer import Peer
from node.sealed.secret_wire import ASK, HERE, Ask, Place, make_here
from p2p.errors import Refused as RequestRefused
from tests.ledger import world as people
from tests.node.executor_fixture import Fleet, fleet, receipts_of, service
from tests.node.network_fixture import CHAIN_ID, key, until

VALUE = b"correct horse battery staple"


def found_below(folder: Path, value: bytes) -> list[Path]:
    """Files with this value in them."""
    return [file for file in folder.rglob("*") if file.is_file() and value in file.read_bytes()]


@asynccontextmanager
async def with_bot(folder: Path, *nodes: str) -> AsyncIterator[tuple[Fleet, Agent]]:
    """A fleet whose nodes hand out secrets, and the bot that orders name."""
    async with fleet(folder, *nodes, executors=False) as net:
        peer = await net.net.start("bot")
        for name in nodes:
            net.execute(name, enforces=("secrets",))
        agent = Agent(peer, people.BOT, folder / "secrets")
        peer.handlers.methods.update(agent.methods())
        with trio.fail_after(60):
            await net.net.nursery.start(agent.run)
        yield net, agent


async def ordered(net: Fleet, **changes: object) -> bytes:
    return await net.approved(service(replicas=1, secrets=("token",), **changes))


async def give(agent: Agent, deployment: bytes, value: bytes = VALUE) -> None:
    request = SecretsRequest(deployment=deployment.hex(), values={"token": value})
    await until(lambda: agent.peer.state.get(b"deployment/" + deployment) is not None)
    assert (await agent.set_secrets(request)).given == {"token": True}


async def refusal(asker: Peer, of: Peer, method: str, body: bytes) -> str:
    """The rule by which a request is refused; nothing else is in the answer."""
    await until(lambda: any(n.peer_id == of.network.peer_id for n in asker.network.neighbours()))
    with pytest.raises(RequestRefused) as caught:
        await asker.network.request(of.network.peer_id, method, body, 5)
    assert VALUE.decode() not in str(caught.value)
    return str(caught.value).partition(":")[0]


async def test_a_workload_starts_only_with_its_secrets_which_are_nowhere_else(tmp_path: Path) -> None:
    async with with_bot(tmp_path, "node1") as (net, agent):
        deployment = await ordered(net)
        await until(lambda: net.slot(deployment, "web/0").status == "fetching")
        executor, driver = net.executors["node1"], net.drivers["node1"]
        await until(lambda: executor.status().slots[0].detail == "waits for its secrets")
        assert (await agent.secrets(deployment.hex())).given == {"token": False}
        assert not driver.tasks
        await give(agent, deployment)
        await net.until_statuses(deployment, "running")
        spec = driver.running[0].spec
        assert spec.secrets == {"token": VALUE}
        assert VALUE.decode() not in repr((spec, spec.command, spec.env))
        told = receipts_of(net, deployment, "web/0")[-1]
        assert len(told.secrets) == 64
        for name in ("node1", "bot", "validator0"):
            held = dict(net.net.stores[name].scan(b""))
            assert held
            assert not any(VALUE in data for data in held.values())
        assert not found_below(tmp_path, VALUE)


async def test_each_term_is_given_its_own(tmp_path: Path) -> None:
    async with with_bot(tmp_path, "node1") as (net, agent):
        deployment = await ordered(net)
        await give(agent, deployment)
        await net.until_statuses(deployment, "running")
        first = receipts_of(net, deployment, "web/0")[-1]
        await give(agent, deployment, b"another value")
        await net.decide(deployment, people.BUDGET, "budget", "revoked")
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        await net.decide(deployment, people.BUDGET, "budget")
        await net.until_statuses(deployment, "running")
        second = receipts_of(net, deployment, "web/0")[-1]
        assert (first.term, second.term) == (1, 2)
        assert first.secrets != second.secrets
        assert [task.spec.secrets["token"] for task in net.drivers["node1"].tasks] == [
            VALUE,
            b"another value",
        ]


async def test_an_update_has_secrets_of_its_own(tmp_path: Path) -> None:
    """Those of the manifest that a term is of, also while the one in force has others, or no such slot."""
    async with with_bot(tmp_path, "node1") as (net, agent):
        careful = UpdateStrategy(canary=1, min_healthy_s=1, deadline_s=60)
        anywhere = people.Placement(distinct="none")
        deployment = await ordered(net, placement=anywhere, update=careful)
        await give(agent, deployment)
        await net.until_statuses(deployment, "running")
        more = service(replicas=2, secrets=("other",), placement=anywhere, update=careful)
        await net.update(deployment, people.contract(more, budget=50_000_000, version="1.1.0"))

        def known() -> set[str]:
            record = read(agent.peer.state, Deployment, key_deployment(deployment))
            assert record is not None
            return agent.giver.names(record)

        await until(lambda: "other" in known())
        given = await agent.set_secrets(SecretsRequest(deployment=deployment.hex(), values={"other": b"new"}))
        assert given.given == {"other": True, "token": True}
        await until(lambda: net.last_update(deployment).status == "done", 60)
        assert net.statuses(deployment) == ["running", "running"]
        assert [task.spec.secrets for task in net.drivers["node1"].running] == [{"other": b"new"}] * 2
        assert net.executors["node1"].secrets.refused == 0  # nobody was blamed for what was right
        await until(lambda: known() == {"other"})
        await agent.set_secrets(SecretsRequest(deployment=deployment.hex(), values={"other": b"newer"}))
        assert agent.giver.book.get(deployment) == {"other": b"newer"}  # of no use any more: gone


async def test_who_does_not_hold_the_slot_gets_a_refusal_and_nothing_else(tmp_path: Path) -> None:
    async with with_bot(tmp_path, "node1", "node2") as (net, agent):
        deployment = await ordered(net, placement=people.Placement(distinct="none"))
        await give(agent, deployment)
        await net.until_statuses(deployment, "running")
        holder = net.name_of(net.slot(deployment, "web/0").holder)
        other = "node2" if holder == "node1" else "node1"
        peers, bot = net.net.peers, net.net.peers["bot"]
        await until(lambda: bot.height >= net.first.height)
        asks = {
            (other, "web/0", 1): "secrets.not_holder",
            ("validator0", "web/0", 1): "secrets.not_holder",
            (holder, "web/0", 0): "secrets.stale_term",
            (holder, "web/0", 2): "secrets.stale_term",
            (other, "web/0", 2): "secrets.stale_term",
            (holder, "web/7", 1): "secrets.unknown_slot",
        }
        for (name, slot, term), rule in asks.items():
            assert await refusal(peers[name], bot, ASK, encode(Ask(deployment, slot, term))) == rule
        body = encode(Ask(bytes(32), "web/0", 1))
        assert await refusal(peers[holder], bot, ASK, body) == "secrets.not_ours"
        assert await refusal(peers[holder], bot, ASK, b"garbage") == "secrets.malformed"
        assert await refusal(peers[holder], peers["validator0"], ASK, body) == "request.method"
        await net.do(people.CONSUMER, t.CancelDeployment(deployment, "enough"))
        await until(lambda: net.slot(deployment, "web/0").holder == b"")
        await until(lambda: bot.height >= net.first.height)
        body = encode(Ask(deployment, "web/0", 1))
        assert await refusal(peers[holder], bot, ASK, body) == "secrets.not_holder"
        await until(lambda: agent.giver.book.deployments() == ())  # what ended is forgotten


async def test_a_holder_whose_lease_is_over_is_refused_though_the_ledger_still_names_it(
    tmp_path: Path,
) -> None:
    """The bot's own view: a stale holder is one before anybody else holds the slot."""
    async with with_bot(tmp_path, "node1") as (net, agent):
        deployment = await ordered(net)
        await give(agent, deployment)
        await net.until_statuses(deployment, "running")
        peer = net.net.peers["node1"]
        ask = Ask(deployment, "web/0", 1)
        agent.giver._check(peer.network.peer_id, ask)
        slot = read(agent.peer.state, Slot, key_slot(deployment, "web/0"))
        assert slot is not None
        late = Late(agent.peer, slot.lease_until_ms)
        agent.giver._peer = late  # type: ignore[assignment]
        with pytest.raises(Refused) as caught:
            agent.giver._check(peer.network.peer_id, ask)
        assert caught.value.rule == "secrets.lease_over"


class Late:
    """A peer whose newest block is of another time."""

    def __init__(self, peer: object, time_ms: int) -> None:
        self._peer = peer
        self.time_ms = time_ms

    def __getattr__(self, name: str) -> object:
        return getattr(self._peer, name)


async def test_a_stranger_cannot_send_a_holder_round_for_secrets(tmp_path: Path) -> None:
    async with with_bot(tmp_path, "node1") as (net, _):
        deployment = await ordered(net)
        executor, node = net.executors["node1"], net.net.peers["node1"]
        await until(lambda: bool(executor.status().slots))
        await until(lambda: executor.status().slots[0].detail == "waits for its secrets")
        place = Place(CHAIN_ID, deployment, "web/0", 1, node.node_key.public)
        stranger = net.net.peers["validator0"]
        for maker, changed, rule in (
            (people.STRANGER, place, "secrets.sender"),
            (people.BOT, Place(CHAIN_ID, deployment, "web/0", 2, place.node), "secrets.not_wanted"),
            (
                people.BOT,
                Place(CHAIN_ID, deployment, "web/0", 1, stranger.node_key.public),
                "secrets.not_wanted",
            ),
            (people.BOT, Place("other", deployment, "web/0", 1, place.node), "secrets.not_wanted"),
        ):
            body = encode(make_here(maker, changed))
            assert await refusal(stranger, node, HERE, body) == rule


async def test_a_term_that_is_given_nothing_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.executor.secrets.SECRETS_WAIT_S", 1.0)
    async with with_bot(tmp_path, "node1") as (net, _):
        deployment = await ordered(net)
        await until(lambda: any(r.status == "released" for r in receipts_of(net, deployment, "web/0")))
        told = receipts_of(net, deployment, "web/0")[-1]
        assert told.detail.startswith("secrets.not_given: not within 1 s")
        assert not net.drivers["node1"].tasks


async def test_a_node_that_does_not_enforce_secrets_claims_nothing_that_has_some(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await ordered(net)
        slot = f"{deployment.hex()}/web/0"
        refused = net.executors["node1"].status
        await until(lambda: refused().refused.get(slot, "").startswith("claim.feature"))


async def test_only_names_of_the_contract_and_own_deployments_are_kept(tmp_path: Path) -> None:
    async with with_bot(tmp_path) as (net, agent):
        deployment = await ordered(net)
        await until(lambda: agent.peer.state.get(b"deployment/" + deployment) is not None)
        for id_, values, rule in (
            (deployment, {"other": b"x"}, "secrets.names"),
            (deployment, {"token": bytes(1 << 20)}, "secrets.too_long"),
            (bytes(32), {"token": b"x"}, "secrets.not_ours"),
        ):
            with pytest.raises(Refused) as caught:
                await agent.set_secrets(SecretsRequest(deployment=id_.hex(), values=values))
            assert caught.value.rule == rule
        assert (await agent.secrets(deployment.hex())).given == {"token": False}


def test_a_book_keeps_secrets_over_restarts_and_for_its_key_alone(tmp_path: Path) -> None:
    book = SecretBook(tmp_path / "book", key("a"))
    assert book.get(b"d" * 32) == {}
    book.put(b"d" * 32, {"token": VALUE})
    book.put(b"d" * 32, {"more": b"x"})
    (file,) = (tmp_path / "book").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "book").stat().st_mode & 0o777 == 0o700
    assert VALUE not in file.read_bytes()
    again = SecretBook(tmp_path / "book", key("a"))
    assert again.deployments() == (b"d" * 32,)
    assert again.get(b"d" * 32) == {"token": VALUE, "more": b"x"}
    with pytest.raises(VaultError):
        SecretBook(tmp_path / "book", Key(b"b" * 32)).get(b"d" * 32)
    file.rename(file.with_name(f"{'ee' * 32}.box"))  # the secrets of one are none of another
    with pytest.raises(VaultError):
        again.get(b"\xee" * 32)
    again.drop(b"d" * 32)
    assert again.get(b"d" * 32) == {}


def test_a_book_is_bounded(tmp_path: Path) -> None:
    book = SecretBook(tmp_path, key("a"))
    for number in range(SECRETS_DEPLOYMENTS_MAX):
        book._held.add(number.to_bytes(32, "big"))
    with pytest.raises(Refused) as caught:
        book.put(b"d" * 32, {"token": b"x"})
    assert caught.value.rule == "secrets.too_many"


async def test_a_bot_that_is_cut_off_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it knows of who holds the slot may be long over."""
    async with with_bot(tmp_path, "node1") as (net, agent):
        deployment = await ordered(net)
        await give(agent, deployment)
        await net.until_statuses(deployment, "running")
        monkeypatch.setattr("bot.secrets.wall_ms", lambda: agent.peer.status().last_final_ms + 30_001)
        with pytest.raises(Refused) as caught:
            agent.giver._check(net.net.peers["node1"].network.peer_id, Ask(deployment, "web/0", 1))
        assert caught.value.rule == "secrets.behind"
