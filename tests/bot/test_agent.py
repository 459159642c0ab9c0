"""The 3bot on a real network in one process: it plans, orders, watches, and survives the loss of its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.agent import Agent
from bot.errors import VaultError
from bot.vault import NAME
from bot.view import find_contract
from ledger.contracts.types import Contract
from ledger.errors import Refused
from ledger.manifests.expansion import expand
from ledger.manifests.types import manifest_digest
from ledger.records import VaultRecord, key_vault
from ledger.state import read
from ledger.transactions import OrderDeployment, PutVault, WithdrawOffer
from node.api.bot_seam import CancelRequest, DeployRequest, PlanRequest
from node.peer import Peer
from tests.bot.bot_fixture import (
    BUDGET,
    CONSUMER,
    EXPERT,
    NODES,
    ROLES,
    example,
    market,
    order,
    saved,
    says,
)
from tests.node.network_fixture import until


@pytest.fixture
def site(checkout: Path, tmp_path: Path) -> Contract:
    return example(checkout / "examples/site", tmp_path)


async def test_from_plan_to_running_at_the_planned_price(site: Contract) -> None:
    async with market(site) as trade:
        agent = await trade.bot("bot")
        plan = await agent.plan(PlanRequest(contract="site", parameters={"replicas": "2"}, roles=ROLES))
        assert [(line.slot, line.farm) for line in plan.lines] == [("web/0", "alpha"), ("web/1", "beta")]
        done = await order(agent)
        assert done.escrow == 5_000_000
        assert trade.deployment(done.deployment).status == "awaiting_approval"
        await says(agent, done.deployment, "waits for approval")
        await trade.approve(done.deployment)
        await says(agent, done.deployment, "2 of 2 waiting for a node")
        for line in plan.lines:
            node = next(key for key in NODES.values() if key.public.hex() == line.node)
            await trade.run(done.deployment, line.slot, node)
            assert trade.slot(done.deployment, line.slot).rate_hour == line.rate_hour
        await says(agent, done.deployment, "2 of 2 running")
        status = await agent.status()
        assert [(w.deployment, w.status) for w in status.watched] == [(done.deployment, "active")]
        await saved(agent, lambda memory: memory.watches[0].status == "active")


async def test_an_empty_disk_goes_on_where_the_bot_stopped(site: Contract) -> None:
    async with market(site) as trade:
        agent = await trade.bot("bot")
        done = await order(agent)
        await says(agent, done.deployment, "waits for approval")
        await saved(agent, lambda memory: len(memory.watches) == 1 and not memory.intents)
        before = agent.memory
        await trade.kill("bot")
        again = await trade.bot("bot")
        await until(lambda: again.memory == before)
        await trade.approve(done.deployment)
        await says(again, done.deployment, "waiting for a node")
        cancelled = await again.cancel(CancelRequest(deployment=done.deployment, reason="enough"))
        assert cancelled.deployment == done.deployment
        await says(again, done.deployment, "cancelled: enough")


async def test_a_lost_slot_is_told_and_warned_of_until_it_is_placed_again(site: Contract) -> None:
    async with market(site) as trade:
        agent = await trade.bot("bot")
        id_ = (await order(agent, replicas=1)).deployment
        await trade.approve(id_)
        await trade.run(id_, "web/0", NODES["n0"])
        await says(agent, id_, "1 of 1 running")
        for name in NODES:
            await trade.ok(NODES[name], WithdrawOffer())
        await trade.report(id_, "web/0", NODES["n0"], "failed")
        await says(agent, id_, "placed again (web/0 as term 2)")
        watch = agent.memory.watch(bytes.fromhex(id_))
        assert watch is not None
        assert watch.warned == ("no_capacity.web",)
        await trade.offer("n2")
        await until(lambda: (w := agent.memory.watch(bytes.fromhex(id_))) is not None and w.warned == ())
        await trade.run(id_, "web/0", NODES["n2"])
        await says(agent, id_, "1 of 1 running")


async def test_a_job_from_plan_to_settled_sign_off(checkout: Path, tmp_path: Path) -> None:
    async with market(example(checkout / "examples/mining", tmp_path)) as trade:
        agent = await trade.bot("bot")
        before = (await agent.status()).balance
        id_ = (await order(agent, "mining", top="10", budget="2 credits")).deployment
        assert (await agent.status()).balance == before - 2_000_000
        assert trade.manifest(id_).workloads[0].environment == {"TOP": "10"}
        await trade.approve(id_)
        await trade.run(id_, "mine/0", NODES["n0"])
        await trade.report(id_, "mine/0", NODES["n0"], "succeeded")
        await says(agent, id_, "done, waits for sign-off: needs 1 of role it-expert")
        await trade.decide(id_, EXPERT, "it-expert", "signoff")
        await says(agent, id_, "completed")
        await until(lambda: agent.memory.watches[0].doing == "completed")
        assert (await agent.status()).balance == before - trade.deployment(id_).spent


async def test_what_cannot_be_ordered_is_refused_before_anything_is_sent(site: Contract) -> None:
    async with market(site) as trade:
        agent = await trade.bot("bot")
        wanted = DeployRequest(contract="site", roles=ROLES, parameters={"country": "CH"}, manifest="")
        with pytest.raises(Refused, match=r"bot\.missing.*no node for web/0"):
            await agent.deploy(wanted)
        with pytest.raises(Refused, match=r"bot\.manifest_changed"):
            await agent.deploy(DeployRequest(contract="site", roles=ROLES, manifest="00" * 32))
        with pytest.raises(Refused, match=r"contract\.unknown"):
            await agent.plan(PlanRequest(contract="nowhere@1.0.0"))
        with pytest.raises(Refused, match=r"parameter\.range at parameters\.replicas"):
            await agent.plan(PlanRequest(contract="site", roles=ROLES, parameters={"replicas": "9"}))
        with pytest.raises(Refused, match=r"cancel\.unknown_deployment"):
            await agent.cancel(CancelRequest(deployment="00" * 32))
        assert agent.memory.intents == ()
        assert not list(trade.peer.state.scan(b"deployment/"))


async def test_a_plan_tells_what_the_ledger_would_refuse(site: Contract) -> None:
    """Of an organisation that is not there, or has nobody for a role, a plan told nothing."""
    async with market(site) as trade:
        agent = await trade.bot("bot")
        held = ROLES | {"legal": (f"organisation:{'ab' * 32}/legal",)}
        plan = await agent.plan(PlanRequest(contract="site", roles=held))
        assert plan.missing == [f"order.organisation: organisation {'ab' * 32} is not there"]
        assert plan.lines and plan.manifest
        assert (await agent.plan(PlanRequest(contract="site", roles=ROLES))).missing == []
        assert not list(trade.peer.state.scan(b"deployment/"))


async def test_a_plan_has_no_effects(site: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked as often as one likes, whole or with answers missing: nothing is sent, nothing remembered."""
    async with market(site) as trade:
        agent = await trade.bot("bot")
        peer = trade.net.peers["bot"]
        before, memory, sent = dict(trade.peer.state.scan(b"")), agent.memory, []

        async def submit(peer: Peer, raw: bytes) -> None:
            sent.append(raw)

        monkeypatch.setattr(Peer, "submit", submit)
        plans = [await agent.plan(PlanRequest(contract="site", roles=ROLES)) for _ in range(3)]
        assert plans[0].missing == [] and plans[0] == plans[1] == plans[2]
        assert (await agent.plan(PlanRequest(contract="site"))).missing
        height = peer.height  # blocks come while it is idle, too
        await until(lambda: trade.peer.height > height + 1)
        assert (sent, agent.memory) == ([], memory)
        assert dict(trade.peer.state.scan(b"")) == before


async def test_two_bots_of_one_owner_keep_one_memory(site: Contract) -> None:
    async with market(site) as trade:
        first, second = await trade.bot("bot"), await trade.bot("bot2")
        one = (await order(first)).deployment
        await says(second, one, "waits for approval")
        two = (await order(second, replicas=1)).deployment
        for agent in (first, second):
            await says(agent, one, "waits for approval")
            await says(agent, two, "waits for approval")
        await until(lambda: first.memory == second.memory)
        await saved(first, lambda memory: len(memory.watches) == 2 and not memory.intents)


async def test_an_order_that_was_begun_is_made_once_by_the_successor(site: Contract) -> None:
    async with market(site) as trade:
        agent = await trade.bot("bot")
        plan = await agent.plan(PlanRequest(contract="site", roles=ROLES))
        wanted = DeployRequest(contract="site", roles=ROLES, manifest=plan.manifest)
        intent = agent._intend(wanted, await agent._draft(wanted))
        agent._ring()
        await saved(agent, lambda memory: memory.intents and memory.intents[0].id == intent.id)
        assert not list(trade.peer.state.scan(b"deployment/"))  # remembered, never sent
        await trade.kill("bot")
        again = await trade.bot("bot")
        await says(again, intent.id.hex(), "waits for approval")
        assert again.memory.intents == ()
        assert len(list(trade.peer.state.scan(b"deployment/"))) == 1


async def test_orders_that_name_the_bot_are_found_whoever_made_them_and_whenever(site: Contract) -> None:
    async with market(site) as trade:
        early = await trade.bot("bot", EXPERT)  # plans for an account that the orders below do not belong to
        template = find_contract(trade.peer.state, "site")
        data = expand(site, template.id, template.author, CONSUMER.public, {}, ROLES)
        body = OrderDeployment(template.id, {}, ROLES, manifest_digest(data), 5_000_000, EXPERT.public)
        first = (await trade.ok(CONSUMER, body)).id.hex()
        await says(early, first, "waits for approval")  # seen as it happened
        await trade.kill("bot")
        second = (await trade.ok(CONSUMER, body)).id.hex()
        late = await trade.bot("bot", EXPERT)
        await says(late, second, "waits for approval")  # found at the start
        await late.cancel(CancelRequest(deployment=second))
        assert trade.deployment(second).status == "cancelled"


async def test_a_withdrawn_approval_is_told(site: Contract) -> None:
    async with market(site) as trade:
        agent = await trade.bot("bot")
        id_ = (await order(agent, replicas=1)).deployment
        await trade.approve(id_)
        await trade.run(id_, "web/0", NODES["n0"])
        await trade.decide(id_, BUDGET, "budget", "revoked")
        await says(agent, id_, "an approval was withdrawn or ran out: needs 1 of role budget")


async def test_a_record_that_another_program_put_stops_the_bot_loudly(site: Contract) -> None:
    async with market(site) as trade:
        await trade.ok(CONSUMER, PutVault(NAME, 1, b"not what we wrote" * 8))
        await trade.net.start("bot")
        peer = trade.net.peers["bot"]
        key = key_vault(CONSUMER.public, NAME)
        await until(lambda: read(peer.state, VaultRecord, key) is not None and bool(peer.handlers.members))
        with pytest.raises(VaultError, match="does not open"):
            await Agent(peer, CONSUMER, Path("no-secrets-here")).run()
