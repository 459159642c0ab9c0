"""The 3bot and updates: planned from the ledger's own rules, asked for, followed, steered."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.contracts.types import Contract
from ledger.documents import sign_approval
from ledger.errors import Refused
from ledger.predicates import ApprovalPredicate
from ledger.transactions import Decide
from node.api.update_seam import SteerRequest, UpdateRequest, UpdateWish
from tests.bot.bot_fixture import BUDGET, EXPERT, NODES, Market, example, market, order, says
from tests.node.network_fixture import CHAIN_ID, until


@pytest.fixture
def site(checkout: Path, tmp_path: Path) -> Contract:
    return example(checkout / "examples/site", tmp_path)


async def approve_update(trade: Market, id_: str) -> None:
    """What the example's policy asks for, about the update under way."""
    for signer, role in ((BUDGET, "budget"), (EXPERT, "it-expert")):
        record = trade.deployment(id_)
        predicate = ApprovalPredicate(
            chain_id=CHAIN_ID,
            deployment=id_,
            act="update",
            role=role,
            decision="granted",
            update=record.updates,
        )
        await trade.ok(signer, Decide(sign_approval(signer, predicate, record.updating)))


async def test_more_replicas_from_plan_to_done(site: Contract) -> None:
    """[B6] The one that runs is kept, one is new; cancelled first, then asked for again and approved."""
    async with market(site) as trade:
        agent = await trade.bot("bot")
        id_ = (await order(agent, replicas=1)).deployment
        request = UpdateRequest(deployment=id_, parameters={"replicas": "2"})
        assert "update.not_running" in (await agent.plan_update(request)).missing[0]
        await trade.approve(id_)
        await trade.run(id_, "web/0", NODES["n0"])
        await says(agent, id_, "1 of 1 running")
        plan = await agent.plan_update(request)
        assert plan.missing == []
        assert {(change.slot, change.what) for change in plan.slots} == {("web/0", "kept"), ("web/1", "new")}
        assert {"parameters.replicas", "workloads.web.replicas"} <= {c.field for c in plan.changes}
        assert {approver.role for approver in plan.approvers} >= {"budget", "it-expert"}
        assert (plan.locked, plan.version, plan.version_before) == (0, site.version, site.version)
        wish = UpdateWish(deployment=id_, parameters={"replicas": "2"}, manifest=plan.manifest)
        with pytest.raises(Refused, match=r"bot\.manifest_changed"):
            await agent.update(UpdateWish(deployment=id_, parameters={"replicas": "2"}, manifest="00" * 32))
        done = await agent.update(wish)
        assert (done.number, done.status, done.manifest) == (1, "awaiting_approval", plan.manifest)
        await says(agent, id_, "update 1 to")
        with pytest.raises(Refused, match=r"update\.pending"):
            await agent.update(wish)
        steered = await agent.steer_update(SteerRequest(deployment=id_, action="cancel"))
        assert (steered.number, steered.status) == (1, "cancelled")
        with pytest.raises(Refused, match=r"update\.none"):
            await agent.steer_update(SteerRequest(deployment=id_, action="cancel"))
        assert (await agent.update(wish)).number == 2
        await approve_update(trade, id_)
        assert trade.deployment(id_).updating
        await trade.run(id_, "web/1", NODES["n2"])
        await until(lambda: trade.deployment(id_).generation == 2)
        assert trade.slot(id_, "web/0").term == 1
        await says(agent, id_, "2 of 2 running")
        assert not agent.memory.intents
