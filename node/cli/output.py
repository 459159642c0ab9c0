"""Data on stdout, talk on stderr. Foreign text is shown, never obeyed: control characters do not pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from node.cli.context import EXIT_USAGE, Failure, current


def clean(text: object) -> str:
    """One line of printable text."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def say(text: str) -> None:
    """Tell the person something."""
    print("\n".join(clean(line) for line in text.split("\n")), file=sys.stderr, flush=True)


def emit(value: Any, columns: Sequence[str] = (), rows: Sequence[Sequence[object]] = ()) -> None:
    """Print `value` as JSON, or for people the table of `rows`."""
    if current.output == "table":
        print_table(columns, rows)
    elif current.output == "json":
        print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), flush=True)
    else:
        for item in value if isinstance(value, list | tuple) else (value,):
            print(msgspec.json.encode(item).decode(), flush=True)


def emit_facts(value: Any, facts: Sequence[tuple[str, object]]) -> None:
    """Print `value` as JSON, or for people one fact a line."""
    if current.output != "table":
        emit(value)
        return
    width = max((len(name) for name, _ in facts), default=0)
    for name, fact in facts:
        print(f"{name:<{width}}  {clean(fact)}")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns under a heading."""
    shown = [[clean(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in shown)]) for i, name in enumerate(columns)]
    for row in ([name.upper() for name in columns], *shown):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def confirm(question: str, yes: bool) -> None:
    """Go on if `yes` or the person says so. Raises Failure when not, or when nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(EXIT_USAGE, f"{question} Nobody to ask here: pass --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure(1, "nothing was done")
