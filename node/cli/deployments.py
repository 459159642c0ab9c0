"""`gridpact deploy` and `gridpact deployment`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from ledger.contracts.parameters import parameters_from_text
from ledger.transactions import CancelDeployment
from node.api.bot_seam import Cancelled, CancelRequest, Deployed, DeployRequest, Plan, PlanRequest
from node.api.models import DeploymentDetail, PolicyView
from node.cli.answers import Pairs, pair, roles_from
from node.cli.context import EXIT_REJECTED, Failure, current
from node.cli.output import confirm, emit, emit_facts, print_table, say
from node.client.amounts import (
    credits_text,
    duration_text,
    parse_credits,
    span_text,
    time_text,
    value_text,
)

_NODES_SHOWN = 8  # in a line; the JSON has them all
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask.")]


def deploy(
    contract: str,
    /,
    *,
    param: Annotated[Pairs, Parameter(name=["--param", "-p"])] = (),
    role: Annotated[Pairs, Parameter(name=["--role", "-r"])] = (),
    budget: str = "",
    plan_only: Annotated[bool, Parameter(negative="")] = False,
    yes: Yes = False,
) -> int:
    """Plan a deployment with the 3bot, then order it.

    Args:
        contract: Id, NAME@VERSION, or NAME of a published contract.
        param: NAME=VALUE, an answer to one of the contract's parameters; may be repeated.
        role: NAME=KEY[,KEY…], who holds a role that the contract leaves to the order; may be repeated.
        budget: The most credits to put into escrow; also the contract's parameter "budget", when it has one.
        plan_only: Show the plan and order nothing.
    """
    client = current.client()
    detail = client.contract(contract)
    if detail.mark:
        say(f"{detail.name}@{detail.version} is {detail.mark}: {detail.mark_reason}")
    texts = dict(pair(item, "--param") for item in param)
    limit = None
    if budget:
        limit = parse_credits(budget)
        if any(p.name == "budget" and p.type == "money" for p in detail.contract.parameters):
            texts.setdefault("budget", str(limit))
    request = PlanRequest(
        contract=detail.id,
        parameters=parameters_from_text(detail.contract, texts),
        roles=roles_from(role),
        budget=limit,
    )
    plan = client.post("/v1/bot/plan", request, Plan)
    if current.output == "table":
        print_plan(plan)
    if plan_only:
        if current.output != "table":
            emit(plan)
        return 0
    if plan.missing:
        raise Failure(EXIT_REJECTED, "it cannot be ordered: " + "; ".join(plan.missing))
    confirm(f"Order it, and put {credits_text(plan.escrow)} credits into escrow?", yes)
    order = DeployRequest(
        contract=request.contract,
        parameters=request.parameters,
        roles=request.roles,
        budget=request.budget,
        manifest=plan.manifest,
    )
    done = client.post("/v1/bot/deploy", order, Deployed, timeout_s=current.timeout_s + 5)
    emit_facts(
        done,
        (
            ("deployment", done.deployment),
            ("manifest", done.manifest),
            ("escrow", f"{credits_text(done.escrow)} credits"),
            ("ordered", f"{time_text(done.time_ms)} UTC, height {done.height}"),
        ),
    )
    if names := sorted({name for workload in detail.contract.workloads for name in workload.secrets}):
        values = " ".join(f"{name}=FILE" for name in names)
        say(f"it waits for its secrets: gridpact secrets set {done.deployment[:12]} {values}")
    say(f"follow it: gridpact deployment show {done.deployment[:12]}")
    return 0


def print_plan(plan: Plan) -> None:
    """The plan, for people. Without answers and roles there is none yet, but what is missing."""
    if plan.manifest:
        print(f"Plan for {plan.name} {plan.version}, for {duration_text(plan.duration_s)}")
        rows = [
            (
                line.slot,
                line.node[:10],
                line.farm,
                line.country,
                credits_text(line.rate_hour),
                credits_text(line.expected),
            )
            for line in plan.lines
        ]
        print_table(("slot", "node", "farm", "country", "credits an hour", "credits expected"), rows)
    else:
        print(f"No plan yet for {plan.name} {plan.version}")
    for act, rule in plan.policies.items():
        print(f"{act} approval: {rule}")
    acts: dict[str, list[str]] = {}
    for approver in plan.approvers:
        who = approver.organisation or ", ".join(key[:10] for key in approver.keys)
        acts.setdefault(f"{approver.role}: {who}", []).append(approver.act)
    for who, may in acts.items():
        print(f"  {who} ({', '.join(may)})")
    for line in (*_candidates(plan), *_excluded(plan)):
        print(line)
    if plan.manifest:
        print(
            f"expected when nothing fails: {credits_text(plan.expected)} credits, the author's fee of "
            f"{credits_text(plan.fee)} in it; at most {credits_text(plan.escrow)}, which go into escrow "
            f"of a balance of {credits_text(plan.balance)}"
        )
    for missing in plan.missing:
        print(f"missing: {missing}")
    if not plan.manifest:
        print("answer by --param NAME=VALUE, and say who holds a role by --role NAME=KEY")


def _excluded(plan: Plan) -> Iterator[str]:
    """Who is left out of which workload, together with all for the same reasons."""
    groups: dict[tuple[str, str], list[str]] = {}
    for node in plan.excluded:
        groups.setdefault((node.workload, "; ".join(node.reasons)), []).append(
            f"{node.node[:10]} ({node.farm})"
        )
    for (workload, why), nodes in groups.items():
        yield f"not for {workload}, {why}: {_some(nodes)}"


def _candidates(plan: Plan) -> Iterator[str]:
    """For each workload: who could take a slot of it, the likeliest first."""
    for workload in dict.fromkeys(candidate.workload for candidate in plan.candidates):
        able = [c for c in plan.candidates if c.workload == workload]
        told = [f"{c.node[:10]} ({c.farm}, {c.country}, {credits_text(c.rate_hour)} an hour)" for c in able]
        yield f"candidates for {workload}: {_some(told)}"


def _some(told: list[str]) -> str:
    """The first few of many."""
    more = len(told) - _NODES_SHOWN
    return ", ".join(told[:_NODES_SHOWN]) + (f", and {more} more" if more > 0 else "")


def list_deployments() -> int:
    """List the deployments."""
    found = sorted(current.client().deployments(), key=lambda d: d.ordered_ms)
    rows = [
        (
            d.id[:12],
            f"{d.name} {d.version}",
            d.status,
            f"{d.slots_running} of {d.slots}",
            time_text(d.ordered_ms),
            credits_text(d.spent),
            credits_text(d.escrow),
        )
        for d in found
    ]
    emit(found, ("deployment", "contract", "status", "running", "ordered (UTC)", "spent", "escrow"), rows)
    return 0


def show(deployment: str, /) -> int:
    """Show a deployment with its approvals, slots and receipts.

    Args:
        deployment: Its id, or the first 6 or more digits.
    """
    found = current.client().deployment(deployment)
    if current.output != "table":
        emit(found)
        return 0
    contract = current.client().contract(found.contract).contract
    _print_head(found, {parameter.name: parameter.type for parameter in contract.parameters})
    if found.approvals:
        print()
        rows = [
            (a.act, a.role, a.decision, a.signer[:10], time_text(a.time_ms), a.comment)
            for a in found.approvals
        ]
        print_table(("act", "role", "decision", "signer", "time (UTC)", "comment"), rows)
    print()
    slots = [
        (
            s.name,
            s.status,
            s.term,
            s.holder[:10] or "-",
            f"{s.farm} {s.country}".strip() or "-",
            " ".join(
                f"{name}=http://{at}" if name == "http" else f"{name}={at}"
                for name, at in s.endpoints.items()
            )
            or " ".join(f"{path} {digest[:10]}" for path, digest in s.results.items()),
            s.detail,
        )
        for s in found.slots
    ]
    print_table(("slot", "status", "term", "node", "farm", "where", "detail"), slots)
    if found.receipts:
        print()
        rows = [
            (time_text(r.time_ms), r.slot, str(r.term), r.status, r.node[:10], r.receipt.detail)
            for r in found.receipts
        ]
        print_table(("receipt (UTC)", "slot", "term", "status", "node", "detail"), rows)
    _print_disputes(found)
    return 0


def _print_disputes(found: DeploymentDetail) -> None:
    rows = [
        (
            d.number,
            d.opener[:10],
            f"{d.slot} term {d.term}" if d.slot else "all of it",
            d.says,
            time_text(d.opened_ms),
            f"{time_text(d.closed_ms)} {d.closing}".rstrip(),
        )
        for d in found.disputes
    ]
    if rows:
        print()
        print_table(("dispute", "by", "about", "says", "opened (UTC)", "closed (UTC)"), rows)


def _print_head(found: DeploymentDetail, types: dict[str, str]) -> None:
    times, manifest = found.timings, found.manifest
    answers = [f"{name}: {value_text(types.get(name, ''), v)}" for name, v in manifest.parameters.items()]
    steps = []
    for name, at_ms in (
        ("approved", times.approved_ms),
        ("claimed", times.claimed_ms),
        ("running", times.running_ms),
        ("ended", times.ended_ms),
        ("signed off", times.signed_off_ms),
        ("released", times.released_ms),
    ):
        if at_ms:
            steps.append(f"{name} after {span_text(at_ms - times.ordered_ms)}")
    emit_facts(
        found,
        (
            ("deployment", found.id),
            ("contract", f"{manifest.name} {manifest.version} by {found.manifest.author}"),
            ("consumer", found.consumer),
            ("manifest", found.manifest_digest),
            ("parameters", ", ".join(answers) or "-"),
            (
                "status",
                f"{found.status} (wanted: {found.desired})" + (f": {found.reason}" if found.reason else ""),
            ),
            ("until", _end_text(found)),
            *(("warning", warning.text) for warning in found.warnings),
            ("deploy approval", policy_text(found.policies.deploy)),
            ("sign-off", policy_text(found.policies.signoff)),
            ("delete", policy_text(found.policies.delete)),
            *(_release_facts(found)),
            *update_facts(found),
            ("money", _money_text(found)),
            ("ordered", f"{time_text(times.ordered_ms)} UTC"),
            ("then", ", ".join(steps) or "nothing yet"),
        ),
    )


def _money_text(found: DeploymentDetail) -> str:
    text = f"{credits_text(found.spent)} spent, {credits_text(found.escrow)} in escrow"
    if found.withheld:
        text += f"; of what is spent, {credits_text(found.withheld)} withheld until results are compared"
    return text


def _release_facts(found: DeploymentDetail) -> list[tuple[str, str]]:
    """Where results are held back: by what, and which."""
    if not found.policies.release.asked:
        return []
    released_ms, until_ms = found.timings.released_ms, found.release_until_ms
    if not found.results:
        state = "not all there yet" if not found.timings.ended_ms else "never to be released"
    elif released_ms:
        state = f"{found.results} released {time_text(released_ms)} UTC"
    else:
        state = f"{found.results} held back" + (f" until {time_text(until_ms)} UTC" if until_ms else "")
    return [("release", policy_text(found.policies.release)), ("results", state)]


def _end_text(found: DeploymentDetail) -> str:
    """When it ends if nothing is done, and how."""
    if not found.ends_ms:
        return "-"
    how = "ends: its term is over" if found.timings.approved_ms else "expires: nobody approved"
    if found.status == "paused":
        how = "ends: its grace is over"
    elif found.status == "completed":
        how = "gives the rest back, signed off or not"
    return f"{time_text(found.ends_ms)} UTC, then it {how}"


def update_facts(found: DeploymentDetail) -> list[tuple[str, str]]:
    """The last update, and what it waits for."""
    if not found.updates:
        return []
    update = found.updates[-1]
    text = f"{update.number} to {update.version} ({update.manifest_digest[:12]}): {update.status}"
    if update.reason:
        text += f", {update.reason}"
    if update.missing:
        text += f"; open: {'; '.join(update.missing)}"
    return [("update", text)]


def policy_text(policy: PolicyView) -> str:
    """How a policy stands, and what it lacks."""
    if not policy.asked:
        return "not asked by the contract"
    if policy.satisfied:
        return "satisfied"
    return ("rejected: " if policy.rejected else "open: ") + "; ".join(policy.reasons)


def cancel(deployment: str, /, *, reason: str = "", key: str = "", yes: Yes = False) -> int:
    """Stop a deployment, settle and refund.

    Args:
        deployment: Its id, or the first 6 or more digits.
        reason: Why, for the record.
        key: Name of the consumer's key, to cancel without the 3bot.
    """
    client = current.client()
    found = client.deployment(deployment)
    confirm(f"Stop {found.manifest.name} {found.id[:12]} ({found.status}) for good?", yes)
    if key:
        sender = current.key(key)
        result = client.send(sender, CancelDeployment(bytes.fromhex(found.id), reason))
        done = Cancelled(deployment=found.id, height=result.height, time_ms=result.time_ms)
    else:
        request = CancelRequest(deployment=found.id, reason=reason)
        done = client.post("/v1/bot/cancel", request, Cancelled, timeout_s=current.timeout_s + 5)
    facts = (
        ("deployment", done.deployment),
        ("cancelled", f"{time_text(done.time_ms)} UTC, height {done.height}"),
    )
    emit_facts(done, facts)
    return 0
