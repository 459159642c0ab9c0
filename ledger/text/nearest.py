"""The word that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_LIKE: Final = 0.65  # at difflib's own 0.6, "image" is like "agree"


def nearest(word: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?", or nothing when no word is near."""
    found = difflib.get_close_matches(word[:80], sorted(known), 1, _LIKE)
    return f"did you mean {found[0]!r}?" if found else ""
