"""From order to running: one replica of examples/site, ordered by the 3bot, approved by two, sandboxed."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import percentile
from ledger.documents import sign_approval, sign_contract
from ledger.predicates import ApprovalPredicate
from ledger.transactions import Decide, PublishContract
from node.api.bot_seam import Cancelled, CancelRequest, Deployed, DeployRequest, Plan, PlanRequest
from node.client.build import build
from node.client.sdk import Client
from node.testnet import Testnet, client_of, key_of

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("it-expert", "legal", "budget")
POLL_S = 0.02


def measure(net: Testnet, orders: int) -> dict[str, Any]:
    """Wall times in ms over `orders` orders, one after the other, as the consumer's peer sees them."""
    bot = client_of(net.peer("bot1"))
    publish(net)
    rows = [_one(net, bot) for _ in range(orders)]
    figures: dict[str, Any] = {"orders": orders}
    for name in rows[0]:
        values = [row[name] for row in rows]
        figures[f"{name}_p50_ms"] = round(percentile(values, 0.5))
        figures[f"{name}_p99_ms"] = round(percentile(values, 0.99))
    return figures


def publish(net: Testnet) -> None:
    """Build and publish the example."""
    author = key_of(net, "author")
    client = client_of(net.peer("v1"))
    with tempfile.TemporaryDirectory() as folder:
        built = build(ROOT / "examples" / "site", Path(folder))
        for item in built.artifacts:
            client.put_artifact(item.artifact.sha256, item.file)
        client.send(author, PublishContract(sign_contract(author, built.contract)))


def _one(net: Testnet, bot: Client) -> dict[str, float]:
    roles: dict[str, tuple[str, ...]] = {role: (key_of(net, role).public.hex(),) for role in ROLES}
    parameters: dict[str, str | int | bool] = {"replicas": 1, "second_country": "BE", "budget": 5_000_000}
    wanted = PlanRequest(contract="site", parameters=parameters, roles=roles)
    begin = time.perf_counter()
    plan = bot.post("/v1/bot/plan", wanted, Plan)
    order = DeployRequest(
        contract=wanted.contract, parameters=parameters, roles=roles, manifest=plan.manifest
    )
    done = bot.post("/v1/bot/deploy", order, Deployed)
    ordered = time.perf_counter()
    for role in ("it-expert", "budget"):
        predicate = ApprovalPredicate(
            chain_id=net.chain_id,
            deployment=done.deployment,
            act="deploy",
            role=role,
            decision="granted",
            made_ms=time.time_ns() // 1_000_000,
        )
        envelope = sign_approval(key_of(net, role), predicate, bytes.fromhex(done.manifest))
        bot.send(key_of(net, role), Decide(envelope))
    approved = time.perf_counter()
    _until(bot, done.deployment, "claimed_ms")
    claimed = time.perf_counter()
    _until(bot, done.deployment, "running_ms")
    running = time.perf_counter()
    bot.post("/v1/bot/cancel", CancelRequest(deployment=done.deployment), Cancelled)
    return {
        "order": (ordered - begin) * 1000,
        "two_approvals": (approved - ordered) * 1000,
        "approved_to_claimed": (claimed - approved) * 1000,
        "claimed_to_running": (running - claimed) * 1000,
        "order_to_running": (running - begin) * 1000,
    }


def _until(client: Client, deployment: str, field: str) -> None:
    deadline = time.perf_counter() + 60
    while not getattr(client.deployment(deployment).timings, field):
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{deployment}: no {field} within 60 s")
        time.sleep(POLL_S)
