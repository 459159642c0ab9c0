"""The 3bot's part in updates: plans, asks, steers (node.api.bot_seam). The agent owns one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from bot.keeper import Keeper
from bot.limits import CANCEL_EXPIRY_BLOCKS, INTENTS_MAX, ORDER_EXPIRY_BLOCKS
from bot.memory import Intent
from bot.trial import Here
from bot.updates import UpdateDraft, make_update_plan
from bot.view import Own, balance_of, build_view, find_contract
from bot.wallet import Wallet
from ledger.codec import encode
from ledger.errors import Refused
from ledger.keys import public_key_from_hex
from ledger.state import read
from ledger.trade_records import UpdateRecord, key_update
from ledger.transactions import SteerUpdate, tx_id
from node.api.update_seam import Steered, SteerRequest, Updated, UpdatePlan, UpdateRequest, UpdateWish
from node.seam import PeerSeam, TxOutcome


class Sends(Protocol):
    """How the agent carries an intent through: final, or Refused and forgotten."""

    def __call__(self, intent: Intent) -> Awaitable[TxOutcome]: ...


class UpdateDesk:
    """See the module. `send` carries an intent through; `ring` makes the bot look."""

    def __init__(
        self, peer: PeerSeam, wallet: Wallet, keeper: Keeper, send: Sends, ring: Callable[[], None]
    ) -> None:
        self._peer = peer
        self._wallet = wallet
        self._keeper = keeper
        self._send = send
        self._ring = ring

    async def plan(self, request: UpdateRequest) -> UpdatePlan:
        """See BotSeam.plan_update."""
        return self._draft(request).plan

    async def update(self, wish: UpdateWish) -> Updated:
        """See BotSeam.update. Raises Refused("bot.…") before anything is sent, or the ledger's rule."""
        draft = self._draft(wish)
        plan = draft.plan
        if plan.missing:
            raise Refused("bot.missing", "; ".join(plan.missing))
        if plan.manifest != wish.manifest:
            raise Refused("bot.manifest_changed", f"it is {plan.manifest} now: plan again", "manifest")
        if len(self._keeper.memory.intents) >= INTENTS_MAX:
            raise Refused("bot.too_many", f"at most {INTENTS_MAX} orders and updates under way at once")
        tx = self._wallet.make(draft.body, ORDER_EXPIRY_BLOCKS)
        payload = encode(tx)
        intent = Intent(tx_id(payload), f"update of {plan.name}", tx.expires, payload, sent=True)
        # Remembered first: should this process end now, its successor asks.
        memory = self._keeper.memory.with_intent(intent)
        self._keeper.check_fits(memory)
        self._keeper.memory = memory
        self._ring()
        outcome = await self._send(intent)
        self._ring()
        found = self._last(draft.body.deployment)
        return Updated(
            deployment=plan.deployment,
            number=found.number,
            manifest=plan.manifest,
            locked=found.locked,
            status=found.status,
            height=outcome.height,
            time_ms=outcome.time_ms,
        )

    async def steer(self, request: SteerRequest) -> Steered:
        """See BotSeam.steer_update. Raises Refused("update.…")."""
        own = self._own(request.deployment)
        if own.update is None or own.update.ended_ms:
            raise Refused("update.none", "no update of it is under way", "deployment")
        body = SteerUpdate(own.record.id, own.update.number, request.action)
        outcome = await self._wallet.send(self._wallet.make(body, CANCEL_EXPIRY_BLOCKS))
        if not outcome.receipt.ok:
            raise Refused(outcome.receipt.rule, outcome.receipt.detail)
        self._ring()
        found = self._last(own.record.id)
        return Steered(
            deployment=request.deployment,
            number=found.number,
            status=found.status,
            height=outcome.height,
            time_ms=outcome.time_ms,
        )

    def _draft(self, request: UpdateRequest) -> UpdateDraft:
        own, peer = self._own(request.deployment), self._peer
        template = find_contract(peer.state, request.contract or own.record.contract.hex())
        here = Here(
            peer.state,
            peer.chain_id,
            peer.height,
            peer.time_ms,
            self._wallet.account,
            balance_of(peer.state, self._wallet.account),
        )
        return make_update_plan(here, own, template, request)

    def _own(self, deployment: str) -> Own:
        """Raises Refused("update.unknown_deployment" | "update.not_yours")."""
        id_, peer = public_key_from_hex(deployment, "deployment"), self._peer
        view = build_view(peer.state, peer.height, peer.time_ms, self._wallet.account, (id_,))
        if not view.own:
            raise Refused("update.unknown_deployment", f"no deployment {deployment}", "deployment")
        record = view.own[0].record
        if self._wallet.account not in (record.consumer, record.bot):
            raise Refused("update.not_yours", "only its consumer or its bot may update a deployment")
        return view.own[0]

    def _last(self, deployment: bytes) -> UpdateRecord:
        """The last update that was asked for."""
        own = build_view(self._peer.state, 0, 0, self._wallet.account, (deployment,)).own[0]
        found = read(self._peer.state, UpdateRecord, key_update(deployment, own.record.updates))
        if found is None:
            raise Refused("update.none", "the update is not final here yet", "deployment")
        return found
