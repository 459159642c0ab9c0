"""Lives of orders on the ledger, blocks on time: as a plan expects them, or with nodes that fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bot.planner import Draft, make_plan
from bot.view import Template, market
from ledger.commitments import commitment_of
from ledger.contracts.types import Contract
from ledger.documents import sign_approval, sign_receipt
from ledger.fit import waits_for
from ledger.keys import Key
from ledger.manifests.expansion import workload_of
from ledger.manifests.types import Manifest
from ledger.predicates import ApprovalPredicate, ReceiptPredicate, ReceiptStatus
from ledger.records import Slot
from ledger.state import read
from ledger.trade_records import Agreement, key_agreement
from ledger.transactions import Claim, Decide, OrderDeployment, Renew, RenewItem, Report
from ledger.transition.deal import RUNS
from node.api.bot_seam import PlanRequest
from tests.ledger.world import AUTHOR, BOT, CHAIN_ID, CONSUMER, NONCE, World, result_file, stated

RENEW_MS = 10_000
Fails = Callable[[str], bool]
"""Asked for each slot that runs, after each block: whether its run has failed."""


def never(slot: str) -> bool:
    """Nothing fails."""
    return False


class Life:
    """One order from its plan to its end. `nodes`: the market's keys by public key. `holders`: of roles."""

    def __init__(
        self,
        world: World,
        source: Contract,
        nodes: Mapping[bytes, Key],
        holders: Mapping[str, Key],
        request: PlanRequest,
    ) -> None:
        self.world, self.nodes, self.holders, self.request = world, nodes, holders, request
        self.contract = world.publish(source)
        template = Template(self.contract, AUTHOR.public, source)
        balance, now_ms = world.balance(CONSUMER), world.now_ms
        self.draft: Draft = make_plan(
            template, request, CONSUMER.public, balance, market(world.state), now_ms
        )
        assert self.draft.manifest is not None
        self.manifest: Manifest = self.draft.manifest
        self.deployment = b""
        self._ends: dict[str, int] = {}  # when a job's run ends, ms

    def order(self) -> None:
        """The order, and as many grants as its policy asks for; approved with the last block."""
        plan, world = self.draft.plan, self.world
        digest, roles = bytes.fromhex(plan.manifest), self.request.roles
        body = OrderDeployment(self.contract, self.draft.parameters, roles, digest, plan.escrow, BOT.public)
        self.deployment = world.ok(CONSUMER, body).id
        for role, key in self.holders.items():
            if world.deployment(self.deployment).status == "awaiting_approval":
                world.ok(key, self._granted(key, role), step_ms=1)
        assert world.deployment(self.deployment).approved_ms == world.now_ms

    def _granted(self, key: Key, role: str) -> Decide:
        """For longer than the term: a renewal of approvals is no part of the price."""
        said = ApprovalPredicate(
            chain_id=CHAIN_ID,
            deployment=self.deployment.hex(),
            act="deploy",
            role=role,
            decision="granted",
            expires_ms=self.world.now_ms + 2_000 * self.manifest.terms.duration_s,
        )
        return Decide(sign_approval(key, said, bytes.fromhex(self.draft.plan.manifest)))

    def live(self, fails: Fails = never, *, all_claim: bool = False, renew_ms: int = RENEW_MS) -> None:
        """Blocks until the deployment has ended, one at each moment at which something is due. Claims come
        from the nodes of the plan, or from all nodes."""
        world = self.world
        ends_ms = world.deployment(self.deployment).ends_ms
        while True:
            self._claim(all_claim)
            for name in world.deployment(self.deployment).slots * 2:  # who has committed tells then
                self._report(name, fails)
            self._claim(all_claim)
            if world.deployment(self.deployment).status not in RUNS:
                return
            closing = [slot.window_closes_ms for slot in self._slots() if slot.window_closes_ms]
            ending = [at_ms for at_ms in self._ends.values() if at_ms > world.now_ms]
            next_ms = min(ends_ms, world.now_ms + renew_ms, *closing, *ending)
            assert next_ms > world.now_ms, "nothing comes to pass any more"
            world.run(step_ms=next_ms - world.now_ms)
            self._renew()

    def _slots(self) -> list[Slot]:
        record = self.world.deployment(self.deployment)
        return [self.world.slot(self.deployment, name) for name in record.slots]

    def _claim(self, all_claim: bool) -> None:
        slots = self._slots()
        statuses: dict[str, str] = {slot.name: slot.status for slot in slots}
        planned = {line.slot: bytes.fromhex(line.node) for line in self.draft.plan.lines}
        for slot in slots:
            waits = waits_for(self.manifest, workload_of(self.manifest, slot.name), statuses)
            if slot.status != "open" or slot.window_closes_ms or waits:
                continue
            body = Claim(self.deployment, slot.name, slot.term + 1)
            if all_claim:
                for key in self.nodes.values():
                    self.world.do(key, body, step_ms=0)  # who does not fit is refused
            else:
                self.world.ok(self.nodes[planned[slot.name]], body, step_ms=0)

    def _report(self, name: str, fails: Fails) -> None:
        """What the holder of a slot has to say now, in blocks at the time of the last."""
        slot, workload = self.world.slot(self.deployment, name), workload_of(self.manifest, name)
        kind = workload.kind
        done: ReceiptStatus = "committed" if workload.agree else "succeeded"
        said: tuple[ReceiptStatus, ...] = ()
        if slot.status == "committed":
            self._tell(slot)
        if not slot.holder:
            return
        if slot.status == "released":
            said = ("released",)
        elif slot.status == "claimed":
            self._ends[name] = self._ends_ms(slot)
            said = ("fetching", "verified", "running")
        elif slot.status == "running" and fails(name):
            said = ("failed",)
        elif slot.status == "running" and kind == "job" and self._ends[name] <= self.world.now_ms:
            said = (done,)
        for status in said:
            key = self.nodes[slot.holder]
            self.world.ok(key, self._receipt(slot, key, status), step_ms=0)
        if said[-1:] == ("running",) and kind == "job" and self._ends[name] <= self.world.now_ms:
            self._report(name, fails)

    def _tell(self, slot: Slot) -> None:
        """What a replica committed to, when all have."""
        key = key_agreement(self.deployment, slot.name.partition("/")[0])
        found = read(self.world.state, Agreement, key)
        if found is not None and found.reveals:
            node = self.nodes[slot.witness]
            self.world.ok(node, self._receipt(slot, node, "succeeded"), step_ms=0)

    def _ends_ms(self, slot: Slot) -> int:
        """A job takes its limit, one without the whole term."""
        workload = workload_of(self.manifest, slot.name)
        if workload.kind == "service":
            return 0
        if workload.time_limit_s:
            return slot.claimed_ms + workload.time_limit_s * 1000
        return 1 << 60

    def _receipt(self, slot: Slot, key: Key, status: ReceiptStatus) -> Report:
        record, workload = self.world.deployment(self.deployment), workload_of(self.manifest, slot.name)
        ports = [port.name for port in workload.ports] if status == "running" else []
        results = workload.results if status == "succeeded" else ()
        said = ReceiptPredicate(
            chain_id=CHAIN_ID,
            deployment=self.deployment.hex(),
            contract=record.contract.hex(),
            slot=slot.name,
            term=slot.term,
            node=key.public.hex(),
            status=status,
            time_ms=self.world.now_ms,
            endpoints=dict.fromkeys(ports, "127.0.0.1:1"),
            results={path: result_file() for path in results},
            nonce=NONCE.hex() if status == "succeeded" and workload.agree else "",
            commitment=self._bound(slot, key) if status == "committed" else "",
            **stated(workload, status),
        )
        return Report(sign_receipt(key, said, record.manifest))

    def _bound(self, slot: Slot, key: Key) -> str:
        results = dict.fromkeys(workload_of(self.manifest, slot.name).results, "33" * 32)
        place = (CHAIN_ID, self.deployment, slot.name, slot.term, key.public)
        return commitment_of(*place, NONCE, results).hex()

    def _renew(self) -> None:
        """In the block after; a slot that a renewal ended is told of in the next round."""
        for slot in self._slots():
            if slot.holder and slot.status not in ("released", "succeeded"):
                items = (RenewItem(self.deployment, slot.name, slot.term),)
                self.world.do(self.nodes[slot.holder], Renew(items), step_ms=0)

    def billed(self) -> dict[str, int]:
        """Micro-credits by slot; "" is the author's fee."""
        found: dict[str, int] = {}
        for bill in self.world.bills(self.deployment):
            found[bill.slot] = found.get(bill.slot, 0) + bill.amount
        return found
