"""The comparison as a table, with its ratios and everything that a reader needs to judge it."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.load.payloads import PAYLOAD_BYTES

OURS: Final = "gridpact"
WIDTH: Final = 150
PARTS: Final = {
    "rate_100": "100/s",
    "half": "half load",
    "saturation": "saturation",
    "client_signs": "clients sign and verify",
    "one_dead": "saturation, one dead",
    "one_dead_rate_100": "100/s, one dead",
}


def ratios(figures: dict[str, Any]) -> dict[str, Any]:
    """Ours divided by each rival's: throughput and CPU at saturation, p50 and p99 at 100/s."""
    ours = figures.get(OURS, {})
    found: dict[str, Any] = {}
    for name, rival in figures.items():
        if name == OURS or "saturation" not in rival or "saturation" not in ours:
            continue
        found[name] = {
            "throughput": _share(ours["saturation"]["per_s"], rival["saturation"]["per_s"]),
            "server_cpu_per_tx": _share(
                ours["saturation"]["server_cpu_us_per_tx"], rival["saturation"]["server_cpu_us_per_tx"]
            ),
            "p50_at_100": _share(ours["rate_100"]["p50_ms"], rival["rate_100"]["p50_ms"]),
            "p99_at_100": _share(ours["rate_100"]["p99_ms"], rival["rate_100"]["p99_ms"]),
        }
    return found


def _share(ours: float | None, theirs: float | None) -> float | None:
    return round(ours / theirs, 2) if ours is not None and theirs else None


def print_table(figures: dict[str, Any], shape: dict[str, Any]) -> None:
    """To stdout."""
    systems = {name: found for name, found in figures.items() if isinstance(found, dict) and "name" in found}
    console = Console(width=WIDTH)
    title = (
        f"{shape['cores']} cores, {shape['processor']}, {shape['memory_gib']} GiB, {shape['file_system']}, "
    )
    title += f"4 KiB durable in {shape['sync_ms']['p50']} ms; {PAYLOAD_BYTES} B a transaction"
    table = Table(title=title)
    for name in ("system", "load", "under way", "tx/s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="left" if name in ("system", "load") else "right")
    for name in ("server CPU us/tx", "client CPU us/tx", "client share", "failed"):
        table.add_column(name, justify="right")
    for found in systems.values():
        _rows(table, found)
        table.add_section()
    console.print(table)
    for name, found in systems.items():
        if "skipped" in found:
            console.print(f"{found['name']}: skipped: {found['skipped']}", highlight=False)
            continue
        console.print(f"{found['name']}: signatures: {found['signatures']}", highlight=False)
        console.print(f"    {'; '.join(found['settings'])}", highlight=False)
        if name in figures["ratios"]:
            told = ", ".join(f"{what} {value}x" for what, value in figures["ratios"][name].items())
            console.print(f"    ours / this: {told}", highlight=False)
        if found.get("one_dead_share") is not None:
            console.print(f"    one dead: {found['one_dead_share']:.0%} of the throughput", highlight=False)


def _rows(table: Table, found: dict[str, Any]) -> None:
    name = found["name"]
    rows = [(what, found[part]) for part, what in PARTS.items() if part in found and part != "closed"]
    rows[1:1] = [("closed loop", one) for one in found.get("closed", []) if one != found["saturation"]]
    for what, one in rows:
        cells = [one["outstanding"], one["per_s"], one["p50_ms"], one["p99_ms"]]
        cells += [one["server_cpu_us_per_tx"], one["client_cpu_us_per_tx"]]
        texts = ["" if cell is None else str(cell) for cell in cells]
        share = "" if one["client_cpu_share"] is None else f"{one['client_cpu_share']:.0%}"
        table.add_row(name, what, *texts, share, str(one["failed"] + one["unanswered"]))
        name = ""
