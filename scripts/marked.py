"""Generated parts of documents: what stands between two markers is made by a script, never by hand."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"<!-- generated:([a-z-]+) -->\n.*?<!-- /generated -->", re.DOTALL)


def names(text: str) -> list[str]:
    """Return the names of the generated parts of a document, in order."""
    return [match[1] for match in _BLOCK.finditer(text)]


def filled(text: str, blocks: dict[str, str]) -> str:
    """Return the document with each generated part replaced. Raises KeyError for a part nobody makes."""
    return _BLOCK.sub(lambda m: f"<!-- generated:{m[1]} -->\n{blocks[m[1]]}\n<!-- /generated -->", text)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table; bars inside cells are escaped."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
