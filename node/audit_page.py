"""The page of an audit: what was checked and found, for people. One file, no script, no link.

It says only what `ledger.audit.verify` found; who wants to rely on it checks the audit file, whose sha256
it names.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ledger.audit_report import AuditReport
from node.amounts import credits_text, span_text, time_text

ACTS = {
    "deploy": "Approval before work begins",
    "signoff": "Sign-off of what was delivered",
    "update": "Approval of updates",
    "delete": "Consent to its end",
    "release": "Release of its results",
}


def audit_page(report: AuditReport, digest: str) -> str:
    """HTML of a report. `digest`: sha256 of the audit file in hex. A browser makes a PDF of it."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "web" / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"credits": credits_text, "time": time_text, "span": span_text}
    return pages.get_template("audit.html").render(
        report=report,
        facts=report.facts,
        digest=digest,
        acts=ACTS,
        names=_names(report),
        several=len(report.facts.generations) > 1,
        manifests=_manifest_name,
    )


def _manifest_name(number: int) -> str:
    """What a reader knows a manifest by: who asked for it."""
    return "not known" if number < 0 else f"update {number}" if number else "order"


def _names(report: AuditReport) -> dict[str, str]:
    """What a reader knows a key by: what it did in this life."""
    facts = report.facts
    names: dict[str, list[str]] = {}
    for key, name in ((facts.author, "author"), (facts.consumer, "consumer")):
        names.setdefault(key, []).append(name)
    for role, keys in facts.roles.items():
        for key in keys:
            names.setdefault(key, []).append(role)
    for held in facts.holdings:
        if held.node:
            names[held.node] = [f"node of farm {held.farm}, {held.country}"]
    return {key: ", ".join(found) for key, found in names.items()}
