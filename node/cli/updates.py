"""`gridpact deployment update`, `update-cancel`, `update-resume`: a running deployment moves to another
manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from cyclopts import Parameter

from ledger.contracts.parameters import parameters_from_text
from ledger.transactions import SteerUpdate
from node.api.update_seam import Steered, SteerRequest, Updated, UpdatePlan, UpdateRequest, UpdateWish
from node.cli.answers import Pairs, pair, roles_from
from node.cli.context import EXIT_REJECTED, Failure, current
from node.cli.output import confirm, emit, emit_facts, print_table, say
from node.client.amounts import credits_text, term_text, time_text

Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask.")]
KeyName = Annotated[str, Parameter(help="Name of the consumer's key, to do it without the 3bot.")]


def update(
    deployment: str,
    contract: str = "",
    /,
    *,
    param: Annotated[Pairs, Parameter(name=["--param", "-p"])] = (),
    role: Annotated[Pairs, Parameter(name=["--role", "-r"])] = (),
    plan_only: Annotated[bool, Parameter(negative="")] = False,
    yes: Yes = False,
) -> int:
    """Move a running deployment to another version of its contract, or to other parameters, with the 3bot.

    What would change is shown first. Stakeholders approve it with `gridpact approve --update`.

    Args:
        deployment: Its id, or the first 6 or more digits.
        contract: Id, NAME@VERSION, or NAME (default: the one that it is of).
        param: NAME=VALUE, another answer; what is not given stays as it is. May be repeated.
        role: NAME=KEY[,KEY…], who holds a role from then on; may be repeated.
        plan_only: Show the plan and ask for nothing.
    """
    client = current.client()
    found = client.deployment(deployment)
    detail = client.contract(contract or found.contract)
    if detail.mark:
        say(f"{detail.name}@{detail.version} is {detail.mark}: {detail.mark_reason}")
    request = UpdateRequest(
        deployment=found.id,
        contract=detail.id,
        parameters=parameters_from_text(detail.contract, dict(pair(item, "--param") for item in param)),
        roles=roles_from(role),
    )
    plan = client.post("/v1/bot/plan-update", request, UpdatePlan)
    if current.output == "table":
        print_update_plan(plan, {asked.name: asked.type for asked in detail.contract.parameters})
    if plan_only:
        if current.output != "table":
            emit(plan)
        return 0
    if plan.missing:
        raise Failure(EXIT_REJECTED, "it cannot be updated: " + "; ".join(plan.missing))
    confirm(f"Ask for it, and put {credits_text(plan.locked)} credits more into escrow?", yes)
    wish = UpdateWish(
        deployment=request.deployment,
        contract=request.contract,
        parameters=request.parameters,
        roles=request.roles,
        manifest=plan.manifest,
    )
    done = client.post("/v1/bot/update", wish, Updated, timeout_s=current.timeout_s + 5)
    emit_facts(
        done,
        (
            ("deployment", done.deployment),
            ("update", f"{done.number}, {done.status}"),
            ("manifest", done.manifest),
            ("locked", f"{credits_text(done.locked)} credits"),
            ("asked", f"{time_text(done.time_ms)} UTC, height {done.height}"),
        ),
    )
    say(f"follow it: gridpact deployment show {done.deployment[:12]}")
    return 0


def print_update_plan(plan: UpdatePlan, kinds: Mapping[str, str]) -> None:
    """The plan, for people. `kinds`: the type of each parameter."""
    print(f"Update of {plan.name} {plan.version_before} to {plan.version}, deployment {plan.deployment[:12]}")
    changes = [
        (c.field, term_text(c.field, c.before, kinds), term_text(c.field, c.after, kinds))
        for c in plan.changes
    ]
    print_table(("field", "before", "after"), changes)
    rows = [
        (
            c.slot,
            c.what,
            credits_text(c.rate_now) if c.rate_now else "-",
            credits_text(c.rate_then) if c.rate_then > 0 else "-",
        )
        for c in plan.slots
    ]
    print_table(("slot", "what", "credits an hour now", "then"), rows)
    for step in plan.steps:
        print(f"steps {step}")
    for words in plan.approvals:
        print(f"update approval {words}")
    for approver in plan.approvers:
        print(f"  {approver.role}: {', '.join(key[:10] for key in approver.keys)} ({approver.act})")
    print(
        f"{credits_text(plan.locked)} credits more go into escrow, of a balance of "
        f"{credits_text(plan.balance)}; {credits_text(plan.fee)} more to the author; "
        f"{credits_text(plan.returns)} come back when it is done, if that were now"
    )
    for missing in plan.missing:
        print(f"missing: {missing}")


def update_cancel(deployment: str, /, *, key: KeyName = "", yes: Yes = False) -> int:
    """Stop the update of a deployment that is under way; what it changed is reverted.

    Args:
        deployment: Its id, or the first 6 or more digits.
    """
    return _steer(deployment, "cancel", key, yes)


def update_resume(deployment: str, /, *, key: KeyName = "", yes: Yes = False) -> int:
    """Go on with an update that is held because a slot failed.

    Args:
        deployment: Its id, or the first 6 or more digits.
    """
    return _steer(deployment, "go_on", key, yes)


def _steer(ref: str, action: Literal["cancel", "go_on"], key: str, yes: bool) -> int:
    client = current.client()
    found = client.deployment(ref)
    if not found.updates or found.updates[-1].ended_ms:
        raise Failure(EXIT_REJECTED, f"no update of {found.id[:12]} is under way")
    update = found.updates[-1]
    verb = "Stop" if action == "cancel" else "Go on with"
    confirm(f"{verb} update {update.number} of {found.manifest.name} {found.id[:12]} ({update.status})?", yes)
    if key:
        body = SteerUpdate(bytes.fromhex(found.id), update.number, action)
        result = client.send(current.key(key), body)
        status = client.deployment(found.id).updates[update.number - 1].status
        done = Steered(
            deployment=found.id,
            number=update.number,
            status=status,
            height=result.height,
            time_ms=result.time_ms,
        )
    else:
        request = SteerRequest(deployment=found.id, action=action)
        done = client.post("/v1/bot/steer-update", request, Steered, timeout_s=current.timeout_s + 5)
    facts = (
        ("deployment", done.deployment),
        ("update", f"{done.number}, {done.status}"),
        ("final", f"{time_text(done.time_ms)} UTC, height {done.height}"),
    )
    emit_facts(done, facts)
    return 0
