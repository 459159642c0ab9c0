"""What the cases of `make scenario-approvals` are made of: a deployment under a policy, and who signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from ledger.keys import Key
from ledger.limits import LEASE_MS
from ledger.manifests.types import Rule
from ledger.transactions import Renew, RenewItem
from tests.ledger.invariants import check
from tests.ledger.world import BUDGET, EXPERT, LEGAL, NODES, POLICIES, STRANGER, World, contract

HOUR_S = 3_600
R_BUDGET, R_EXPERT, R_LEGAL = (Rule(role=name) for name in ("budget", "it-expert", "legal"))
NAMES = {BUDGET: "budget", EXPERT: "it-expert", LEGAL: "legal"}
APPROVED, WAITING = "approved", "awaiting_approval"


class Case(NamedTuple):
    """One row: what is played, what must come out of it, and how to play it."""

    name: str
    expected: str
    play: Callable[[], str]


CASES: list[Case] = []


def case(
    name: str, expected: str, table: list[Case] = CASES
) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Add a row."""

    def add(play: Callable[[], str]) -> Callable[[], str]:
        table.append(Case(name, expected, play))
        return play

    return add


class Play:
    """A deployment under one policy, and what people do to it."""

    def __init__(self, deploy: Rule | None, *, running: bool = False, **policies: object) -> None:
        self.world = World()
        self.world.add_nodes()
        self.source = contract(policies=replace(POLICIES, deploy=deploy, **policies))
        self.contract_id = self.world.publish(self.source)
        self.id = self.world.order(self.source, self.contract_id)
        if running:
            self.sign(BUDGET)
            self.sign(EXPERT)
            for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
                self.world.claimed(self.id, name, [node])
                self.world.report(self.id, name, node, "fetching", "verified", "running")

    def sign(self, key: Key, decision: str = "granted", act: str = "deploy", role: str | None = None) -> str:
        """An empty text when the ledger took it, else the rule."""
        body = self.world.decide(self.id, key, NAMES.get(key, "") if role is None else role, decision, act)
        receipt = self.world.do(STRANGER, body)
        check(self.world.state, self.world.now_ms)
        return receipt.rule

    def wait(self, seconds: int) -> None:
        self.world.run(step_ms=seconds * 1000)
        check(self.world.state, self.world.now_ms)

    def renew(self, seconds: int) -> str:
        """Holders renew every 10 s, as long as they may; how the last renewal of web/0 went."""
        last = ""
        for _ in range(seconds // 10):
            for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
                item = RenewItem(self.id, name, 1)
                receipt = self.world.do(node, Renew((item,)), step_ms=LEASE_MS // 6)
                last = ("renewed" if receipt.ok else receipt.rule) if name == "web/0" else last
            check(self.world.state, self.world.now_ms)
        return last

    @property
    def status(self) -> str:
        return self.world.deployment(self.id).status

    @property
    def slots(self) -> str:
        return ",".join(self.world.slot(self.id, name).status for name in ("web/0", "web/1"))
