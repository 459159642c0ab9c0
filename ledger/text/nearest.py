"""The word that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?", or nothing when no word is near."""
    found = difflib.get_close_matches(word[:80], sorted(known), 1)
    return f"did you mean {found[0]!r}?" if found else ""
