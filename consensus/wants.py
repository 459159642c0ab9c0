"""Rule 2 of the write-up: fetch what a certificate proves to exist, from one peer after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.limits import FETCH_GRACE_MS, FETCH_RETRY_MAX_MS, FETCH_RETRY_MS, WANTS_MAX
from consensus.messages import Fetch, Send


@dataclass(slots=True)
class _Want:
    kind: str
    due_ms: int
    tries: int
    first: int  # member asked first: who told us of it
    wanted: bool = True  # asked for since the last `due`


@dataclass(slots=True)
class Wants:
    """Outstanding fetches. The core asks in every step for all that it misses, so what was not asked
    for since the last `due` is not wanted any more. Answers call `got`."""

    me: int
    size: int
    wants: dict[bytes, _Want] = field(default_factory=dict)

    def ask(self, kind: str, digest: bytes, hint: int, now_ms: int) -> None:
        """Want something; it goes out with the next `due`. At the bound nothing is added.

        A batch is most likely on its way already (its maker streams it to all), so it gets a grace.
        """
        known = self.wants.get(digest)
        if known is not None:
            known.wanted = True
        elif len(self.wants) < WANTS_MAX:
            grace_ms = FETCH_GRACE_MS if kind == "batch" else 0
            self.wants[digest] = _Want(kind, now_ms + grace_ms, 0, hint)

    def got(self, digest: bytes) -> None:
        """It arrived, or is not wanted any more."""
        self.wants.pop(digest, None)

    def due(self, now_ms: int) -> list[Send]:
        """Fetches to send now: each try goes to the next member, waits double."""
        sends = []
        self.wants = {d: w for d, w in self.wants.items() if w.wanted}
        for digest, want in self.wants.items():
            want.wanted = False
            if want.due_ms > now_ms or self.size < 2:
                continue
            to = (want.first + want.tries) % self.size
            if to == self.me:
                to = (to + 1) % self.size
                want.tries += 1
            sends.append(Send(to, Fetch(want.kind, digest)))
            want.due_ms = now_ms + min(FETCH_RETRY_MAX_MS, FETCH_RETRY_MS << min(want.tries // self.size, 8))
            want.tries += 1
        return sends

    def wake_ms(self) -> int | None:
        """When the next try is due."""
        return min((w.due_ms for w in self.wants.values()), default=None)
