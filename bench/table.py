"""The comparison as a table, with its ratios and everything that a reader needs to judge it."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.goals import judged
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
SHOWN: Final = (
    "under way",
    "tx/s",
    "p50 ms",
    "p99 ms",
    "server us/tx",
    "client us/tx",
    "client share",
    "MiB",
    "failed",
)


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


def unmeasured(found: dict[str, Any]) -> str | None:
    """Why a system has no figures; None when it has."""
    return next((f"{what}: {found[what]}" for what in ("skipped", "broke") if what in found), None)


def rows_of(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Each measurement of a system: what it was, and its figures as SHOWN names them."""
    rows = [(what, found[part]) for part, what in PARTS.items() if part in found]
    others = [one for one in found.get("closed", []) if one != found["saturation"]]
    rows[1:1] = [("closed loop", one) for one in others]
    return [(what, _cells(one)) for what, one in rows]


def _cells(one: dict[str, Any]) -> list[str]:
    share = None if one["client_cpu_share"] is None else f"{one['client_cpu_share']:.0%}"
    cells = [one["outstanding"], one["per_s"], one["p50_ms"], one["p99_ms"], one["server_cpu_us_per_tx"]]
    cells += [one["client_cpu_us_per_tx"], share, one["server_memory_mib_max"]]
    return ["" if cell is None else str(cell) for cell in (*cells, one["failed"] + one["unanswered"])]


def print_table(figures: dict[str, Any], shape: dict[str, Any]) -> None:
    """To stdout."""
    systems = {name: found for name, found in figures.items() if isinstance(found, dict) and "name" in found}
    console = Console(width=WIDTH)
    machine = f"{shape['cores']} cores, {shape['processor']}, {shape['memory_gib']} GiB"
    disk = f"{shape['file_system']}, 4 KiB durable in {shape['sync_ms']['p50']} ms"
    table = Table(title=f"{machine}, {disk}; {PAYLOAD_BYTES} B a transaction")
    table.add_column("system", max_width=40)
    table.add_column("load", no_wrap=True)
    for name in SHOWN:
        table.add_column(name, justify="right")
    for found in systems.values():
        name = found["name"]
        for what, cells in rows_of(found):
            table.add_row(name, what, *cells)
            name = ""
        table.add_section()
    console.print(table)
    if shape["load_before"] > shape["cores"] / 4:
        text = "others were at work here before it began: the figures are noisy, and so are ratios"
        console.print(f"load {shape['load_before']:.1f} on {shape['cores']} cores: {text}", highlight=False)
    for name, found in systems.items():
        if (why := unmeasured(found)) is not None:
            console.print(f"{found['name']}: {why}", highlight=False)
            continue
        console.print(f"{found['name']}: signatures: {found['signatures']}", highlight=False)
        console.print(f"    {'; '.join(found['settings'])}", highlight=False)
        if name in figures["ratios"]:
            told = ", ".join(f"{what} {value}x" for what, value in figures["ratios"][name].items())
            console.print(f"    ours / this: {told}", highlight=False)
        if found.get("one_dead_share") is not None:
            console.print(f"    one dead: {found['one_dead_share']:.0%} of the throughput", highlight=False)
    for text, figure, verdict in judged(figures):
        console.print(f"goal: {text}: {figure}: {verdict}", highlight=False)
