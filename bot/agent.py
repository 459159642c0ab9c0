"""The 3bot at work: looks at each new block, decides, acts; and serves its consumer through the API."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path

import structlog
import trio
from msgspec.structs import replace

from bot.keeper import Keeper
from bot.limits import (
    CANCEL_EXPIRY_BLOCKS,
    INTENTS_MAX,
    KNOWN_MAX,
    LOOK_EVERY_S,
    ORDER_EXPIRY_BLOCKS,
    START_WAIT_S,
    WATCHED_MAX,
)
from bot.memory import Intent, Memory, Watch
from bot.planner import Draft, make_plan
from bot.policy import Action, Cancel, Note, Order, Remember, Warn, decide
from bot.secrets import SecretBook, SecretGiver
from bot.trial import Here, refusal
from bot.update_desk import UpdateDesk
from bot.vault import Vault
from bot.view import (
    balance_of,
    build_view,
    farms_of,
    find_contract,
    is_own,
    is_settled,
    market,
    own_deployments,
)
from bot.wallet import Wallet
from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.keys import Key, public_key_from_hex
from ledger.limits import TEXT_CHARS_MAX
from ledger.records import Deployment, key_deployment
from ledger.state import read
from ledger.transactions import CancelDeployment, OrderDeployment, Tx, tx_id
from ledger.transition.deal import ENDED
from ledger.transition.deployments import order
from node.api.bot_seam import (
    BotStatus,
    Cancelled,
    CancelRequest,
    Deployed,
    DeployRequest,
    Plan,
    PlanRequest,
    SecretsRequest,
    SecretsView,
    Watched,
)
from node.api.update_seam import Steered, SteerRequest, Updated, UpdatePlan, UpdateRequest, UpdateWish
from node.handlers import Serve
from node.sealed.secret_wire import ASK
from node.seam import Gap, NotFinal, Overloaded, PeerSeam, TxOutcome
from p2p.network import Started

log = structlog.get_logger("bot")


class Agent:
    """A 3bot of one account on one peer (node.api.bot_seam.BotSeam). It lives in `run`."""

    def __init__(self, peer: PeerSeam, account_key: Key, secrets: Path) -> None:
        """`secrets`: the folder in which it keeps what workloads are given."""
        self.peer = peer
        self.account = account_key.public
        self.wallet = Wallet(peer, account_key)
        self.keeper = Keeper(peer, self.wallet, Vault(account_key, peer.chain_id))
        self.giver = SecretGiver(peer, account_key, SecretBook(secrets, account_key), self._mine)
        self._updates = UpdateDesk(peer, self.wallet, self.keeper, self._order, self._ring)
        self._known: set[bytes] = set()  # deployments to look at, beside those in memory
        self._bell = trio.Event()
        self._ready = trio.Event()

    def _mine(self) -> set[bytes]:
        """Deployments that it looks after."""
        return {*self._known, *(watch.deployment for watch in self.memory.watches)}

    @property
    def memory(self) -> Memory:
        """What it remembers now."""
        return self.keeper.memory

    def methods(self) -> Mapping[str, Serve]:
        """What PeerHandlers.methods takes: holders ask for secrets."""
        return {ASK: self.giver.serve}

    # ------------------------------------------------------------------ life

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; `started` once its state is loaded. Raises VaultError when that does not open."""
        await self._caught_up()
        self.keeper.recall()
        log.info(
            "bot_up", account=self.account.hex(), vault=self.keeper.version, watched=len(self.memory.watches)
        )
        self._ready.set()
        task_status.started(None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._discover)
            nursery.start_soon(self._blocks)
            nursery.start_soon(self.giver.run)
            while True:
                bell = self._bell
                self._look(nursery)
                await self.keeper.save()
                await trio.sleep(LOOK_EVERY_S)
                await bell.wait()

    async def _caught_up(self) -> None:
        """What an old state says is not worth acting on."""
        while True:
            status = self.peer.status()
            if status.height and status.neighbours and not status.catching_up:
                return
            await self.peer.next_block(status.height)

    async def _blocks(self) -> None:
        height = self.peer.height
        while True:
            height = await self.peer.next_block(height)
            self._ring()

    async def _discover(self) -> None:
        """Deployments that name this bot, whoever ordered them, also while it was away."""
        height = self.peer.height
        self._learn(own_deployments(self.peer.state, self.account))
        async with aclosing(self.peer.events(f"{height}.0")) as events:  # type: ignore[type-var]
            async for item in events:
                if isinstance(item, Gap):
                    self._learn(own_deployments(self.peer.state, self.account))
                elif item.event.kind == "deployment.ordered":
                    deployment = bytes.fromhex(item.event.subject)
                    if is_own(self.peer.state, deployment, self.account):
                        self._learn((deployment,))

    def _learn(self, deployments: tuple[bytes, ...]) -> None:
        room = max(0, KNOWN_MAX - len(self._known))
        self._known.update(deployments[:room])
        self._ring()

    def _ring(self) -> None:
        self._bell.set()
        self._bell = trio.Event()

    # ------------------------------------------------------------------ look, decide, act

    def _look(self, nursery: trio.Nursery) -> None:
        self.keeper.recall()
        peer, memory = self.peer, self.memory
        ids = dict.fromkeys((*(w.deployment for w in memory.watches), *(i.id for i in memory.intents)))
        ids |= dict.fromkeys(sorted(self._known))
        view = build_view(peer.state, peer.height, peer.time_ms, self.account, ids)
        for action in decide(view, memory):
            self._act(action, nursery)
        self._known = {own.record.id for own in view.own if not is_settled(own.record)}

    def _act(self, action: Action, nursery: trio.Nursery) -> None:
        match action:
            case Remember(memory):
                self.keeper.memory = memory
            case Note(deployment, status, doing):
                log.info("deployment", id=deployment.hex(), status=status, doing=doing)
            case Warn(deployment, kind, reason):
                log.warning("deployment_warning", id=deployment.hex(), kind=kind, reason=reason)
            case Order(intent):
                nursery.start_soon(self._order_again, intent)
            case Cancel(deployment, reason):
                nursery.start_soon(self._cancel_again, deployment, reason)

    async def _order_again(self, intent: Intent) -> None:
        """Carry on with an order that another process of this bot began."""
        try:
            await self._order(intent)
        except (Refused, Overloaded, NotFinal) as error:
            log.warning("order_failed", id=intent.id.hex(), name=intent.name, error=str(error))

    async def _order(self, intent: Intent) -> TxOutcome:
        """Raises Refused when it can't become final any more; then the intent is forgotten."""
        try:
            outcome = await self.wallet.send(decode(Tx, intent.payload))
            if not outcome.receipt.ok:
                raise Refused(outcome.receipt.rule, outcome.receipt.detail)
        except Refused:
            self.keeper.memory = self.memory.without_intent(intent.id)
            raise
        return outcome

    async def _cancel_again(self, deployment: bytes, reason: str) -> None:
        try:
            body = CancelDeployment(deployment, reason)
            outcome = await self.wallet.send(self.wallet.make(body, CANCEL_EXPIRY_BLOCKS))
        except (Refused, Overloaded, NotFinal) as error:
            log.warning("cancel_failed", id=deployment.hex(), error=str(error))
            return
        if not outcome.receipt.ok:
            log.warning("cancel_refused", id=deployment.hex(), rule=outcome.receipt.rule)

    # ------------------------------------------------------------------ the seam

    async def plan(self, request: PlanRequest) -> Plan:
        """See BotSeam.plan."""
        return (await self._draft(request)).plan

    async def _loaded(self) -> None:
        """Returns once the bot knows the chain and its own state. Raises Refused("bot.starting")."""
        with trio.move_on_after(START_WAIT_S):
            await self._ready.wait()
            return
        raise Refused("bot.starting", "the bot still catches up with the chain")

    async def _draft(self, request: PlanRequest) -> Draft:
        await self._loaded()
        state = self.peer.state
        template = find_contract(state, request.contract)
        balance, nodes, now_ms = balance_of(state, self.account), market(state), self.peer.time_ms
        # In a thread: a large market must not hold up the peer.
        draft = await trio.to_thread.run_sync(
            make_plan, template, request, self.account, balance, nodes, now_ms, farms_of(state, nodes)
        )
        if draft.manifest is None or draft.plan.missing:
            return draft
        peer = self.peer
        here = Here(state, peer.chain_id, peer.height + 1, peer.time_ms, self.account, balance)
        if refused := refusal(here, order, _body(request, draft)):
            draft.plan.missing.append(refused)
        return draft

    async def deploy(self, request: DeployRequest) -> Deployed:
        """See BotSeam.deploy. Raises Refused("bot.…") before anything is sent, or the ledger's rule."""
        draft = await self._draft(request)
        plan = draft.plan
        if plan.missing:
            raise Refused("bot.missing", "; ".join(plan.missing))
        if plan.manifest != request.manifest:
            detail = f"the order is for {plan.manifest}: plan again"
            raise Refused("bot.manifest_changed", detail, "manifest")
        intent = self._intend(request, draft)
        self._ring()  # the order under way goes into the vault, too
        outcome = await self._order(intent)
        self._learn((intent.id,))
        return Deployed(
            deployment=intent.id.hex(),
            manifest=plan.manifest,
            escrow=plan.escrow,
            height=outcome.height,
            time_ms=outcome.time_ms,
        )

    def _intend(self, request: DeployRequest, draft: Draft) -> Intent:
        """Remember the order before it is sent."""
        live = sum(1 for watch in self.memory.watches if watch.status not in ENDED)
        if len(self.memory.intents) >= INTENTS_MAX or live >= WATCHED_MAX:
            detail = f"at most {INTENTS_MAX} orders under way and {WATCHED_MAX} deployments at once"
            raise Refused("bot.too_many", detail)
        tx = self.wallet.make(_body(request, draft), ORDER_EXPIRY_BLOCKS)
        payload = encode(tx)
        intent = Intent(tx_id(payload), draft.plan.name, tx.expires, payload, sent=True)
        memory = self.memory.with_intent(intent)
        self.keeper.check_fits(memory)
        self.keeper.memory = memory
        return intent

    async def cancel(self, request: CancelRequest) -> Cancelled:
        """See BotSeam.cancel. Raises Refused("cancel.…")."""
        if len(request.reason) > TEXT_CHARS_MAX:
            raise Refused("cancel.reason", f"at most {TEXT_CHARS_MAX} characters", "reason")
        deployment = public_key_from_hex(request.deployment, "deployment")
        await self._loaded()
        record = read(self.peer.state, Deployment, key_deployment(deployment))
        if record is None:
            raise Refused("cancel.unknown_deployment", f"no deployment {request.deployment}", "deployment")
        if self.account not in (record.consumer, record.bot):
            raise Refused("cancel.not_yours", "only its consumer or its bot may cancel a deployment")
        if record.status in ENDED:
            raise Refused("cancel.ended", f"it is {record.status}")
        tx = self.wallet.make(CancelDeployment(deployment, request.reason), CANCEL_EXPIRY_BLOCKS)
        watch = self.memory.watch(deployment) or Watch(deployment, "", "", "", 0)
        # Remembered first: should this process end now, its successor cancels.
        wish = replace(watch, cancel=request.reason, asked_until=tx.expires, tries=1)
        self.keeper.memory = self.memory.with_watch(wish)
        self._ring()
        outcome = await self.wallet.send(tx)
        if not outcome.receipt.ok:
            raise Refused(outcome.receipt.rule, outcome.receipt.detail)
        return Cancelled(deployment=request.deployment, height=outcome.height, time_ms=outcome.time_ms)

    async def plan_update(self, request: UpdateRequest) -> UpdatePlan:
        """See BotSeam.plan_update."""
        await self._loaded()
        return await self._updates.plan(request)

    async def update(self, wish: UpdateWish) -> Updated:
        """See BotSeam.update."""
        await self._loaded()
        return await self._updates.update(wish)

    async def steer_update(self, request: SteerRequest) -> Steered:
        """See BotSeam.steer_update."""
        await self._loaded()
        return await self._updates.steer(request)

    async def status(self) -> BotStatus:
        """See BotSeam.status."""
        return BotStatus(
            account=self.account.hex(),
            balance=balance_of(self.peer.state, self.account),
            vault_version=self.keeper.version,
            watched=[
                Watched(
                    deployment=watch.deployment.hex(),
                    name=watch.name,
                    status=watch.status,
                    doing=watch.doing,
                    since_ms=watch.since_ms,
                )
                for watch in reversed(self.memory.watches)
            ],
        )

    async def set_secrets(self, request: SecretsRequest) -> SecretsView:
        """See BotSeam.set_secrets. Raises Refused("secrets.…")."""
        record = await self._own(request.deployment)
        names = self.giver.names(record)
        unknown = sorted(set(request.values) - names)
        if unknown:
            raise Refused("secrets.names", f"its contract names no secret {unknown[0][:64]!r}", "values")
        if record.status in ENDED:
            raise Refused("secrets.not_running", f"it is {record.status}")
        await trio.to_thread.run_sync(self.giver.book.put, record.id, request.values, names)
        self._ring()
        return await self.secrets(request.deployment)

    async def secrets(self, deployment: str) -> SecretsView:
        """See BotSeam.secrets. Raises Refused("secrets.…")."""
        record = await self._own(deployment)
        held = await trio.to_thread.run_sync(self.giver.book.get, record.id)
        given = {name: name in held for name in sorted(self.giver.names(record))}
        return SecretsView(deployment=deployment, given=given)

    async def _own(self, deployment: str) -> Deployment:
        """A deployment of which this bot may give secrets. Raises Refused: secrets.not_ours."""
        await self._loaded()
        id_ = public_key_from_hex(deployment, "deployment")
        record = read(self.peer.state, Deployment, key_deployment(id_))
        if record is None or self.account not in (record.consumer, record.bot):
            raise Refused("secrets.not_ours", "no deployment of this bot", "deployment")
        return record


def _body(request: PlanRequest | DeployRequest, draft: Draft) -> OrderDeployment:
    """The order of a plan."""
    return OrderDeployment(
        contract=bytes.fromhex(draft.plan.contract),
        parameters=draft.parameters,
        roles=request.roles,
        manifest=bytes.fromhex(draft.plan.manifest),
        escrow=draft.plan.escrow,
        bot=b"",
    )
