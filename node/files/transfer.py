"""What is to be fetched, and how far it is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

_MARK_S: Final = 1.0  # between the marks from which the speed is told …
_MARKS: Final = 6  # … over the last few of them


@dataclass(frozen=True, slots=True)
class Wanted:
    """An artifact to fetch. `chunks` is the signed root of its chunk list; None when only the digest of the
    whole is known (results): then the list is believed until the whole is hashed."""

    sha256: str
    size_bytes: int
    chunks: str | None


@dataclass(slots=True)
class _State:
    bytes_total: int
    bytes_done: int = 0
    sources: set[str] = field(default_factory=set)
    dropped: dict[str, str] = field(default_factory=dict)
    marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_MARKS))


class Progress:
    """How far a fetch is, for those who look on. Several that wait for the same artifact show the same."""

    def __init__(self, bytes_total: int) -> None:
        self._state = _State(bytes_total)

    def begin(self, bytes_total: int) -> None:
        """A fetch begins, from nothing."""
        self._state = _State(bytes_total)

    def follow(self, other: Progress) -> None:
        """Show what that one shows."""
        self._state = other._state

    @property
    def bytes_total(self) -> int:
        """The artifact's size."""
        return self._state.bytes_total

    @property
    def bytes_done(self) -> int:
        """Bytes that are here, verified."""
        return self._state.bytes_done

    @property
    def sources(self) -> set[str]:
        """Peers that are giving now."""
        return self._state.sources

    @property
    def dropped(self) -> dict[str, str]:
        """Peers that are not asked any more, with the rule."""
        return self._state.dropped

    def reached(self, bytes_done: int, now_s: float) -> None:
        """So many bytes are here at this time (monotonic seconds)."""
        state = self._state
        state.bytes_done = bytes_done
        if not state.marks or now_s - state.marks[-1][0] >= _MARK_S or bytes_done < state.marks[-1][1]:
            state.marks.append((now_s, bytes_done))

    def bytes_s(self, now_s: float) -> int:
        """Bytes a second, of the last few seconds."""
        marks = self._state.marks
        if not marks or now_s <= marks[0][0]:
            return 0
        return max(0, int((self.bytes_done - marks[0][1]) / (now_s - marks[0][0])))
