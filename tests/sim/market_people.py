"""People of the market behind two peers: an office (author, farmers, stakeholders, and somebody who carries
old documents in again), and the consumer's 3bot, which is production's `bot.policy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from bot.memory import Intent, Memory, Watch, at_rest
from bot.policy import Cancel, Order, Remember, decide
from bot.view import build_view, own_deployments
from ledger.codec import decode, encode
from ledger.consent import sign_consent
from ledger.contracts.types import Contract
from ledger.documents import sign_approval, sign_contract
from ledger.errors import Refused
from ledger.keys import Key
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import manifest_digest
from ledger.organisations.records import Organisation, key_organisation
from ledger.predicates import ApprovalPredicate
from ledger.records import Deployment, key_contract_name, key_deployment, key_farm
from ledger.state import read
from ledger.transactions import (
    CancelDeployment,
    Decide,
    OrderDeployment,
    PublishContract,
    RegisterFarm,
    RegisterNode,
    Tx,
    decode_tx,
    sign_tx,
    tx_id,
)
from tests.ledger.world import AUTHOR, BUDGET, CONSUMER, EXPERT, FARMERS, FARMS, LEGAL, STRANGER
from tests.sim.market_board import BOARD, HELD
from tests.sim.market_peer import MarketPeer
from tests.sim.node import Clock

if TYPE_CHECKING:
    from tests.sim.market import Market

ROLES: Final = {"budget": BUDGET, "it-expert": EXPERT, "legal": LEGAL}


@dataclass(frozen=True, slots=True)
class Word:
    """A stakeholder decides so long after the order is seen. `again_ms`: carried in once more after that."""

    after_ms: int
    role: str
    decision: str = "granted"
    act: str = "deploy"
    again_ms: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment's life as people plan it. `cancel_ms`: after the order; 0: never."""

    contract: Contract
    order_ms: int
    words: tuple[Word, ...]
    cancel_ms: int = 0
    later: tuple[Contract, ...] = ()  # other versions, to which it may be updated


def decision(peer: MarketPeer, record: Deployment, act: str, role: str, key: Key, **changes: Any) -> Decide:
    """A signed decision on what a deployment's record says now."""
    updating = act == "update"
    fields: dict[str, Any] = {
        "chain_id": peer.market.world.chain_id,
        "deployment": record.id.hex(),
        "act": act,
        "role": role,
        "decision": "granted",
        "made_ms": peer.wall_ms(),
        "update": record.updates if updating else record.generation,
    }
    subject = record.updating if updating else record.manifest
    return Decide(sign_approval(key, ApprovalPredicate(**(fields | changes)), subject))


class Office(MarketPeer):
    """Publishes, registers and decides, by plan."""

    def booted(self) -> None:
        self.seen: set[bytes] = set()
        self.published = {plan.contract.name: 0 for plan in self.market.plans}
        for plan in self.market.plans:
            self.send_as(AUTHOR, PublishContract(sign_contract(AUTHOR, plan.contract)))
        for farmer, (farm, country) in zip(FARMERS, FARMS, strict=True):
            self.send_as(farmer, RegisterFarm(farm, country))
        self.later(2_000, self._register)

    def _register(self) -> None:
        if not all(self.replica.state.get(key_farm(farm)) for farm, _ in FARMS):
            self.later(1_000, self._register)  # what is refused is not tried again
            return
        for number, node in enumerate(self.market.nodes):
            farmer, (farm, country) = FARMERS[number % 2], FARMS[number % 2]
            consent = sign_consent(node.key, self.market.world.chain_id, farm, farmer.public, country)
            self.send_as(farmer, RegisterNode(farm, node.key.public, country, consent))

    def look(self) -> None:
        """Stakeholders read of new orders; the author publishes each version when the former is there."""
        for plan in self.market.plans:
            count = self.published[plan.contract.name]
            newest = (plan.contract, *plan.later)[count]
            there = self.replica.state.get(key_contract_name(newest.name, newest.version)) is not None
            if there and count < len(plan.later):
                self.published[newest.name] += 1
                self.send_as(AUTHOR, PublishContract(sign_contract(AUTHOR, plan.later[count])))
        for deployment, plan in self.market.ordered.items():
            record = read(self.replica.state, Deployment, key_deployment(deployment))
            if record is not None and deployment not in self.seen:
                self.seen.add(deployment)
                for word in plan.words:
                    self.later(word.after_ms, self._decide, record.id, word)

    def _decide(self, deployment: bytes, word: Word) -> None:
        state = self.replica.state
        record = read(state, Deployment, key_deployment(deployment))
        assert record is not None
        key = ROLES[word.role]
        if HELD in self.market.ordered[deployment].contract.roles and word.role == HELD.name:
            seated = sorted(self.market.ring.seated(state).items())
            if not seated:
                return
            key = seated[word.after_ms % len(seated)][1]
        said, comment = {"decision": word.decision}, f"{word.after_ms}"
        body = decision(self, record, word.act, word.role, key, comment=comment, **said)
        self.send_as(STRANGER, body)
        if word.again_ms:
            self.later(word.again_ms, self.send_as, STRANGER, body)


@dataclass(slots=True)
class Wish:
    """An order that the consumer wants, and its cancel."""

    plan: Plan
    deployment: bytes | None = None
    is_cancelled: bool = False

    def is_to_cancel(self, now_ms: int) -> bool:
        """The consumer wants it no longer, and has not said so yet."""
        plan = self.plan
        return bool(plan.cancel_ms) and not self.is_cancelled and now_ms >= plan.order_ms + plan.cancel_ms


class Bot(MarketPeer):
    """The consumer's 3bot: its memory, and production's `decide` at each new height."""

    def __init__(self, market: Market, clock: Clock) -> None:
        super().__init__(market, "bot", CONSUMER, clock)
        self.memory = Memory()
        self.wishes = [Wish(plan) for plan in market.plans]

    def booted(self) -> None:
        self.memory = at_rest(self.memory)  # as from the vault
        self.later(500, self._wish)

    def _wish(self) -> None:
        """What the consumer asks for, when it is time."""
        now_ms = self.market.world.now_us // 1_000
        for wish in self.wishes:
            if wish.deployment is None and now_ms >= wish.plan.order_ms:
                self._order(wish)
            elif wish.deployment is not None and wish.is_to_cancel(now_ms):
                wish.is_cancelled = True
                watch = self.memory.watch(wish.deployment) or Watch(wish.deployment, "", "", "", 0)
                self.memory = self.memory.with_watch(replace(watch, cancel="no longer wanted"))
        self.later(500, self._wish)

    def _order(self, wish: Wish) -> None:
        contract = wish.plan.contract
        found = self.replica.state.get(key_contract_name(contract.name, contract.version))
        board = read(self.replica.state, Organisation, key_organisation(BOARD))
        if found is None or (HELD in contract.roles and board is None):
            return
        try:
            data = expand(contract, found, AUTHOR.public, self.key.public, {}, {})
        except Refused as error:
            raise AssertionError(f"the sample contract does not expand: {error}") from error
        escrow = decode_manifest(data).terms.budget
        body = OrderDeployment(found, {}, {}, manifest_digest(data), escrow, b"")
        salt = b"order" + len(self.market.ordered).to_bytes(8, "big")
        tx = Tx(self.market.world.chain_id, self.key.public, self.replica.height + 1_000, salt, body)
        payload = encode(tx)
        wish.deployment = tx_id(payload)
        self.market.ordered[wish.deployment] = wish.plan
        intent = Intent(wish.deployment, contract.name, tx.expires, payload)
        self.memory = self.memory.with_intent(intent)

    def look(self) -> None:
        replica = self.replica
        known = {watch.deployment for watch in self.memory.watches}
        known.update(intent.id for intent in self.memory.intents)
        known.update(own_deployments(replica.state, self.key.public))
        view = build_view(replica.state, replica.height, replica.time_ms, self.key.public, sorted(known))
        for action in decide(view, self.memory):
            if isinstance(action, Order):
                self._send_intent(action.intent)
            elif isinstance(action, Cancel):
                self.send(CancelDeployment(action.deployment, action.reason))
                self.market.count("bot cancels")
            elif isinstance(action, Remember):
                self.memory = action.memory
            else:
                self.market.count(f"bot {type(action).__name__.lower()}")

    def _send_intent(self, intent: Intent) -> None:
        raw = sign_tx(self.key, decode(Tx, intent.payload))
        assert decode_tx(raw, self.market.world.chain_id).id == intent.id
        self.send_raw(raw, intent.expires)
        self.market.count("bot orders")
