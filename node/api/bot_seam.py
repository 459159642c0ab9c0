"""What a 3bot offers to the API of its peer. The bot implements `BotSeam`; the API only passes on."""

from __future__ import annotations

from typing import Protocol

import msgspec

from node.api.update_seam import Steered, SteerRequest, Updated, UpdatePlan, UpdateRequest, UpdateWish


class PlanRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the consumer wants. `contract`: id, NAME@VERSION or NAME. `roles`: keys in hex, by role.
    `budget`: the most micro-credits that may be escrowed; None: what the contract says."""

    contract: str
    parameters: dict[str, str | int | bool] = {}
    roles: dict[str, tuple[str, ...]] = {}
    budget: int | None = None


class DeployRequest(PlanRequest, kw_only=True, forbid_unknown_fields=True):
    """An order. `manifest`: digest of the plan that the consumer saw; another one is refused."""

    manifest: str


class CancelRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Stop a deployment."""

    deployment: str
    reason: str = ""


class SecretsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Values for secrets of a deployment, by name; in JSON they stand in base64."""

    deployment: str
    values: dict[str, bytes]


class SecretsView(msgspec.Struct, kw_only=True):
    """Secrets of a deployment that its contract names: whether this bot has a value for each."""

    deployment: str
    given: dict[str, bool]


class PlanLine(msgspec.Struct, kw_only=True):
    """Where one slot would run as the market stands. `cost`: when it is held for the whole duration.
    `expected`: when nothing fails, as it will be billed then."""

    slot: str
    node: str
    farm: str
    country: str
    rate_hour: int
    cost: int
    expected: int


class Candidate(msgspec.Struct, kw_only=True):
    """A node that can take a slot of a workload, and what it asks an hour; the likeliest comes first."""

    node: str
    farm: str
    country: str
    workload: str
    rate_hour: int


class Excluded(msgspec.Struct, kw_only=True):
    """A node that cannot take a workload, and why."""

    node: str
    farm: str
    workload: str
    reasons: list[str]


class Approver(msgspec.Struct, kw_only=True):
    """A role that may sign, for which act, and its keys, or in words the organisation whose members do."""

    act: str
    role: str
    keys: list[str]
    organisation: str = ""


class Plan(msgspec.Struct, kw_only=True):
    """What an order would buy. `missing`: what is in its way; empty when it can be ordered.

    `policies`: by act, the approval rule in words. `expected`: the whole bill, the fee in it, when nothing
    fails; the escrow is the most that it can be, whatever fails.
    """

    contract: str
    name: str
    version: str
    manifest: str
    lines: list[PlanLine]
    candidates: list[Candidate]
    excluded: list[Excluded]
    approvers: list[Approver]
    policies: dict[str, str]
    missing: list[str]
    rate_hour: int
    cost: int
    expected: int
    fee: int
    escrow: int
    balance: int
    duration_s: int


class Deployed(msgspec.Struct, kw_only=True):
    """A final order."""

    deployment: str
    manifest: str
    escrow: int
    height: int
    time_ms: int


class Cancelled(msgspec.Struct, kw_only=True):
    """A final cancellation."""

    deployment: str
    height: int
    time_ms: int


class Watched(msgspec.Struct, kw_only=True):
    """A deployment that the bot looks after. `doing`: its last decision in words."""

    deployment: str
    name: str
    status: str
    doing: str
    since_ms: int


class BotStatus(msgspec.Struct, kw_only=True):
    """The bot itself. `vault_version`: of its encrypted state on the notary."""

    account: str
    balance: int
    vault_version: int
    watched: list[Watched]


class BotSeam(Protocol):
    """A 3bot. Raises ledger.errors.Refused with a rule and a clear text, or node.seam.NotFinal."""

    async def plan(self, request: PlanRequest) -> Plan:
        """What an order would buy now; nothing is sent."""

    async def deploy(self, request: DeployRequest) -> Deployed:
        """Order, pay into escrow, look after it from now on. Returns when the order is final."""

    async def cancel(self, request: CancelRequest) -> Cancelled:
        """Cancel for the consumer. Returns when that is final."""

    async def plan_update(self, request: UpdateRequest) -> UpdatePlan:
        """What an update would change now; nothing is sent."""

    async def update(self, wish: UpdateWish) -> Updated:
        """Ask for it, and lock what it costs more. Returns when that is final."""

    async def steer_update(self, request: SteerRequest) -> Steered:
        """Stop the update under way, or go on with one that is held. Returns when that is final."""

    async def status(self) -> BotStatus:
        """What it looks after."""

    async def set_secrets(self, request: SecretsRequest) -> SecretsView:
        """Keep these values, in the place of those of the same names. Later terms are given them."""

    async def secrets(self, deployment: str) -> SecretsView:
        """Which secrets this bot has. The values are never shown."""
