"""What bench.exec found, as rows for people and as a part of docs/performance.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import files
from scripts.marked import table


def start_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """For people: medians, and how many times the bare tool's."""
    rows = []
    for name, figures in found.items():
        if "skipped" in figures:
            rows.append((name, f"skipped: {figures['skipped']}"))
        elif "p50_ms" in figures:
            rows.append((f"{name}: start to first word", f"{figures['p50_ms']} ms"))
        else:
            beside = "podman alone" if name == "oci" else "bubblewrap alone"
            bare, took = found.get(beside, {}).get("p50_ms"), figures["start_to_word"]["p50_ms"]
            times = f" ({took / bare:.1f} x {beside})" if bare else ""
            rows += [
                (f"{name}: sealed and verified", f"{figures['prepare']['p50_ms']} ms"),
                (f"{name}: start to first word", f"{figures['start_to_word']['p50_ms']} ms{times}"),
                (f"{name}: stopped, all gone", f"{figures['stop']['p50_ms']} ms"),
                (f"{name}: claim final to running final", f"{figures['claimed_to_running']['p50_ms']} ms"),
                (f"{name}: approval final to running final", f"{figures['open_to_running']['p50_ms']} ms"),
            ]
    return rows


def density_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """For people."""
    if "skipped" in found:
        return [("density", f"skipped: {found['skipped']}")]
    rows = []
    for row in found["measured"]:
        said = f"{row['memory_per_slot_mib']} MiB and {row['descriptors_per_slot']} open files each; "
        said += f"idle {row['idle_cpu_percent_of_a_core']} % of a core; "
        said += f"a re-check of all {row['recheck_all_s']} s"
        rows.append((f"{row['slots']} idle services, started in {row['started_s']} s", said))
    rows.append(("all of these stopped together: nothing runs after", f"{found['stop_all_s']} s"))
    rows += [(f"allowed by {name}", str(count)) for name, count in found["bounds"]["allowed"].items()]
    bound = found["bounds"]
    rows.append(("slots of one node, and what bounds it", f"{bound['slots']}: {bound['bound_by']}"))
    return rows


def all_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Of all parts, in order."""
    return [
        *start_rows(figures.get("starts", {})),
        *files.rows(figures.get("files", {})),
        *density_rows(figures.get("density", {"skipped": "not measured"})),
    ]


def running(results: Path) -> str:
    """The newest saved measurement as Markdown, or that there is none."""
    saved = sorted(results.glob("*-exec.json"))
    if not saved:
        return "Nothing is saved yet: `python -m bench.exec --save` on a quiet machine, then `make docs`."
    content = json.loads(saved[-1].read_text(encoding="utf-8"))
    shape = content["machine"]
    where = f"{shape['cores']} cores, {shape['processor']}, {shape['memory_gib']} GiB"
    head = f"{content['date']}, `{content['command']}`, {where}, load before {shape['load_before']:.1f}:"
    return f"{head}\n\n" + table(("what", "figure"), all_rows(content["figures"]))
