"""What the API and a 3bot say to each other about updates (node.api.bot_seam)."""

from __future__ import annotations

from typing import Literal

import msgspec


class UpdateApprover(msgspec.Struct, kw_only=True):
    """A role that may sign; `act`: "update" by the manifest in force, "deploy" by the new one."""

    act: str
    role: str
    keys: list[str]
    organisation: str = ""  # in words, when its members hold the role


class UpdateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a deployment is to move to. `contract`: id, NAME@VERSION or NAME; "": the one that it is of.
    `parameters` and `roles` that are not given stay as they are, where the contract asks for them."""

    deployment: str
    contract: str = ""
    parameters: dict[str, str | int | bool] = {}
    roles: dict[str, tuple[str, ...]] = {}


class UpdateWish(UpdateRequest, kw_only=True, forbid_unknown_fields=True):
    """An update. `manifest`: digest of the plan that the consumer saw; another one is refused."""

    manifest: str


class SteerRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Stop the update under way, which reverts what it changed, or go on with one that is held."""

    deployment: str
    action: Literal["cancel", "go_on"]


class Changed(msgspec.Struct, kw_only=True):
    """A field of the manifest; "" where one of the two has none."""

    field: str
    before: str
    after: str


class SlotChange(msgspec.Struct, kw_only=True):
    """What becomes of a slot: kept (its term goes on), changes (a term of the new manifest follows), new,
    goes. Micro-credits an hour: what it takes now, and would take on the market's best node."""

    slot: str
    what: Literal["kept", "changes", "new", "goes"]
    rate_now: int
    rate_then: int


class UpdatePlan(msgspec.Struct, kw_only=True):
    """What an update would change. `locked`: goes into escrow with it; `returns`: would go back if all slots
    changed over now, micro-credits. `steps`: workloads in their order, how each changes over. `approvals`:
    what is asked for, in words. `missing`: what is in its way; empty when it can be asked for."""

    deployment: str
    former: str
    manifest: str
    contract: str
    name: str
    version_before: str
    version: str
    changes: list[Changed]
    slots: list[SlotChange]
    steps: list[str]
    approvals: list[str]
    approvers: list[UpdateApprover]
    fee: int  # more to the author
    locked: int
    returns: int
    balance: int
    missing: list[str]


class Updated(msgspec.Struct, kw_only=True):
    """A final wish for an update. `number`: which update of the deployment it is."""

    deployment: str
    number: int
    manifest: str
    locked: int
    status: str
    height: int
    time_ms: int


class Steered(msgspec.Struct, kw_only=True):
    """A final word on an update. `status`: of the update since then."""

    deployment: str
    number: int
    status: str
    height: int
    time_ms: int
