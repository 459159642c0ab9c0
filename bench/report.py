"""The newest saved comparison as Markdown, for docs/performance.md (`make docs`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from bench.goals import judged
from bench.table import SHOWN, rows_of, unmeasured

NOTHING: Final = "No round is saved yet: `make bench SAVE=1` on a quiet machine, then `make docs`."


def comparison(results: Path) -> str:
    """Tables and settings of the newest `*-compare.json` below `results`."""
    files = sorted(results.glob("*-compare.json"))
    if not files:
        return NOTHING
    saved = json.loads(files[-1].read_text())
    figures, shape = saved["figures"], saved["machine"]
    systems = [found for found in figures.values() if isinstance(found, dict) and "name" in found]
    parts = [
        f"{saved['date']}, `{saved['command']}`, {shape['cores']} cores ({shape['processor']}), "
        f"{shape['memory_gib']} GiB, {shape['file_system']}, 4 KiB durable in {shape['sync_ms']['p50']} ms, "
        f"load before {shape['load_before']:.1f} (`{files[-1].name}`):"
    ]
    head = ("system", "load", *SHOWN)
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for found in systems:
        name = found["name"]
        for what, cells in rows_of(found):
            lines.append(" | ".join((name, what, *cells)))
            name = ""
    parts.append("\n".join(f"| {line} |" for line in lines))
    ratios = _ratios(figures)
    if ratios:
        parts.append(ratios)
    lines = ["goal | found | ", "--- | --- | ---", *map(" | ".join, judged(figures))]
    parts.append("\n".join(f"| {line} |" for line in lines))
    parts.append("\n".join(_notes(found) for found in systems))
    return "\n\n".join(parts)


def _ratios(figures: dict[str, Any]) -> str:
    found = figures["ratios"]
    if not found:
        return ""
    head = ("ours divided by", *next(iter(found.values())))
    lines = [" | ".join(text.replace("_", " ") for text in head), " | ".join("---" for _ in head)]
    for name, values in found.items():
        cells = ["" if value is None else f"{value}" for value in values.values()]
        lines.append(" | ".join((figures[name]["name"], *cells)))
    return "\n".join(f"| {line} |" for line in lines)


def _notes(found: dict[str, Any]) -> str:
    if (why := unmeasured(found)) is not None:
        return f"- {found['name']}: {why}"
    settings = "; ".join(found["settings"])
    text = f"- {found['name']}: signatures: {found['signatures']}. Settings: {settings}."
    if found.get("one_dead_share") is not None:
        text += f" One of four dead leaves {found['one_dead_share']:.0%} of the throughput."
    return text
