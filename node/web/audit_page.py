"""The page of an audit: what was checked and found, for people. One file, no script, no link.

It says only what `ledger.audit.audit.verify` found; who wants to rely on it checks the audit file, whose
sha256 it names. People, farms and nodes have names on it; the keys and digests behind them stand at its end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ledger.audit.report import AuditReport, Facts, VoteRow
from node.client.amounts import credits_text, duration_text, term_text, time_text

ACTS: Final = {
    "deploy": "Approval before work begins",
    "signoff": "Sign-off of what was delivered",
    "update": "Approval of updates",
    "delete": "Consent to its end",
    "release": "Release of its results",
}
_ABOUT: Final = {
    "deploy": "that the work begins and goes on",
    "signoff": "what was delivered",
    "delete": "that it ends",
    "release": "that the results are handed out",
}
_VERBS: Final = {"granted": "approves", "rejected": "rejects", "revoked": "takes back the approval of"}
_STATUS: Final = {
    "awaiting_approval": "It waits for approval",
    "approved": "It is approved, and nothing runs",
    "active": "It runs",
    "completed": "It has completed",
    "rejected": "It was rejected",
    "expired": "It expired: it was not approved in time, or its term is over",
    "cancelled": "It was cancelled",
    "paused": "It is paused: its funds or its term are used up",
    "failed": "It has failed",
}
_DIGEST: Final = re.compile(r"\b[0-9a-f]{64}\b")
SHORT: Final = 8  # of 64 digits: enough to find one at the page's end


def audit_page(report: AuditReport, digest: str) -> str:
    """HTML of a report. `digest`: sha256 of the audit file in hex. A browser makes a PDF of it."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"credits": credits_text, "time": _utc, "duration": duration_text}
    pages.filters |= {"brief": brief, "term": _term}
    facts = report.facts
    names = _names(facts)
    return pages.get_template("audit.html").render(
        report=report,
        facts=facts,
        digest=digest,
        acts=ACTS,
        names=names,
        several=len(facts.generations) > 1,
        manifests=_manifest_name,
        status=_STATUS.get(facts.status, facts.status),
        votes=[(vote, _said(vote)) for vote in facts.votes],
        signed=_signed(facts),
        payees=_payees(facts),
        short=SHORT,
        farms=sorted({held.farm for held in facts.holdings if held.farm}),
        keys=_keys(facts, names),
        organisations=sorted({(deed.organisation, deed.name) for deed in facts.deeds}),
    )


def brief(text: str) -> str:
    """A text without walls of digits: of each digest and key its beginning."""
    return _DIGEST.sub(lambda found: f"{found[0][:SHORT]}…", text)


def _term(text: str, field: str, kinds: Mapping[str, str]) -> str:
    return brief(term_text(field, text, kinds))


def _utc(time_ms: int) -> str:
    """With its time zone; "-" for not yet."""
    return f"{time_text(time_ms)} UTC" if time_ms > 0 else "-"


def _manifest_name(number: int) -> str:
    """What a reader knows a manifest by: who asked for it."""
    return "not known" if number < 0 else f"update {number}" if number else "order"


def _said(vote: VoteRow) -> str:
    """A decision as a sentence without its subject."""
    about = f"update {vote.update}" if vote.act == "update" else _ABOUT[vote.act]
    after = f" (after update {vote.update})" if vote.update and vote.act != "update" else ""
    return f"{_VERBS[vote.decision]} {about}{after}"


def _signed(facts: Facts) -> dict[str, dict[str, list[str]]]:
    """Of each act: by place in its policy the keys (hex) whose signatures fill it."""
    out: dict[str, dict[str, list[str]]] = {}
    for act, decision in facts.decisions.items():
        if act == "update":
            continue  # by two policies, where the signers change: told with each update
        mine = out.setdefault(act, {})
        for place, signer in decision.used:
            path, space, _ = place.rpartition(" ")
            mine.setdefault(path if space else "", []).append(signer.hex())
    return out


def _payees(facts: Facts) -> list[tuple[str, int]]:
    """Who was paid how much in all, the most first."""
    paid: Counter[str] = Counter()
    for bill in facts.bills:
        paid[bill.payee] += bill.amount
    return paid.most_common()


def _names(facts: Facts) -> dict[str, str]:
    """What a reader knows a key by: what it did in this life."""
    names: dict[str, list[str]] = {}
    for key, name in ((facts.author, "author"), (facts.consumer, "consumer")):
        names.setdefault(key, []).append(name)
    for role, keys in facts.roles.items():
        for key in keys:
            if _DIGEST.fullmatch(key):
                names.setdefault(key, []).append(role)
    for member in facts.members:
        names[member.key] = [f"{member.member} of {member.organisation}"]
    farms = {(held.slot, held.term): held.farm for held in facts.holdings if held.farm}
    for bill in facts.bills:
        farm = farms.get((bill.slot, bill.term))
        if farm is not None and f"farmer of {farm}" not in names.setdefault(bill.payee, []):
            names[bill.payee].append(f"farmer of {farm}")
    for held in facts.holdings:
        if held.node:
            names[held.node] = [f"node of farm {held.farm}, {held.country}"]
    return {key: ", ".join(found) for key, found in names.items() if found}


def _keys(facts: Facts, names: dict[str, str]) -> list[tuple[str, str]]:
    """Every key on the page with its name, by name; those without one last."""
    found = {vote.key for vote in facts.votes} | {row.who for row in facts.timeline} | set(names)
    found |= {bill.payee for bill in facts.bills} | {row.payer for row in facts.penalties}
    found |= {row.opener for row in facts.disputes} | {row.asked_by for row in facts.generations}
    return sorted(((names.get(key, ""), key) for key in found if key), key=lambda row: (not row[0], *row))
