"""`gridpact audit`: a deployment's whole life in one file, and its check with no network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ledger.audit.report import Facts, Row
from node.cli.context import EXIT_OK, EXIT_REJECTED, current
from node.cli.output import emit, emit_facts, print_table, say
from node.client.amounts import credits_text, size_text, term_text, time_text


def export(deployment: str, /, *, file: Annotated[Path, Parameter(name=["--file", "-f"])]) -> int:
    """Write a deployment's whole life to one file.

    Args:
        deployment: Its id, or the first 6 or more digits.
        file: Where to.
    """
    data = current.client().audit(deployment)
    file.write_bytes(data)
    facts = (("file", file), ("size", size_text(len(data))))
    emit_facts({"file": str(file), "size_bytes": len(data)}, facts)
    say(f"check it anywhere: gridpact audit verify {file} --genesis genesis.json")
    return 0


def verify(file: Path, /, *, genesis: Path | None = None, page: Path | None = None) -> int:
    """Check an audit file with nothing but the genesis. No network is used.

    Args:
        file: The audit file.
        genesis: The chain's genesis file (default: the home's).
        page: Write what was found as one HTML page, to read, print or make a PDF of.
    """
    from ledger.audit.audit import verify as verify_audit
    from node.home import read_genesis

    trusted = read_genesis(genesis if genesis is not None else current.home().genesis_file)
    data = file.read_bytes()
    report = verify_audit(data, trusted)
    if page is not None:
        from node.web.audit_page import audit_page

        page.write_text(audit_page(report, hashlib.sha256(data).hexdigest()), "utf-8")
        say(f"page: {page}")
    code = EXIT_OK if report.ok else EXIT_REJECTED
    if current.output != "table":
        emit(
            {
                "ok": report.ok,
                "rule": report.rule,
                "detail": report.detail,
                "checks": report.checks,
                "facts": report.facts,
            }
        )
        return code
    rows = [("ok" if check.ok else "FAILED", check.name, check.detail) for check in report.checks]
    print_table(("", "check", "found"), rows)
    if not report.ok:
        say(f"NOT VALID: {report.rule}: {report.detail}")
        return code
    facts = report.facts
    print()
    print_table(
        ("height", "time (UTC)", "what", "who", "detail"),
        [(x.height, time_text(x.time_ms), x.what, x.who[:10], _detail(x)) for x in facts.timeline],
    )
    _print_members(facts)
    _print_generations(facts)
    print()
    emit_facts(
        facts,
        (
            ("contract", facts.contract),
            ("deployment", facts.deployment),
            (
                "status",
                f"{facts.status} at height {facts.state_height}, {time_text(facts.state_time_ms)} UTC",
            ),
            ("approved", f"{time_text(facts.approved_ms)} UTC"),
            ("signed off", f"{time_text(facts.signed_off_ms)} UTC" if facts.signed_off_ms else "no"),
            (
                "money",
                f"{credits_text(facts.escrow)} escrowed, {credits_text(facts.spent)} spent, "
                f"{credits_text(facts.refunded)} refunded, {credits_text(facts.left)} left",
            ),
        ),
    )
    say(f"VALID: every fact is proved from the genesis of {facts.chain_id}")
    return code


def _detail(row: Row) -> str:
    """With the money that went into escrow."""
    return row.detail if row.amount is None else f"{row.detail} {credits_text(row.amount)} credits".strip()


def _print_members(facts: Facts) -> None:
    """Who decided as a member of an organisation."""
    if facts.members:
        columns = ("height", "act", "role", "member", "organisation", "version", "key")
        rows = [[getattr(row, name) for name in columns[:-1]] + [row.key[:10]] for row in facts.members]
        print()
        print_table(columns, rows)


def _print_generations(facts: Facts) -> None:
    """The manifests of a deployment that was updated, and what each changes."""
    if len(facts.generations) < 2:
        return
    print()
    columns = ("update", "contract", "status", "approved", "over", "locked", "came back", "reason")
    rows = [
        (
            row.number or "order",
            row.contract,
            row.status,
            time_text(row.approved_ms) if row.approved_ms else "no",
            time_text(row.ended_ms) if row.ended_ms else "-",
            credits_text(row.locked),
            credits_text(row.returned),
            row.reason or "-",
        )
        for row in facts.generations
    ]
    print_table(columns, rows)
    print()
    changes = [
        (row.number, field, *(term_text(field, text) for text in texts))
        for row in facts.generations
        for field, *texts in row.changes
    ]
    print_table(("update", "changes", "before", "after"), changes)
