"""Committed events for subscribers: replay from any id, and an explicit gap where that is impossible.

Readers pull from the store at their own pace, so a slow one costs no memory.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import trio

from ledger.blocks import Header
from ledger.codec import decode
from ledger.errors import Refused
from ledger.storage.chain import EVENTS_PER_BLOCK_MAX
from ledger.storage.store import Store
from node.limits import EVENTS_PAGE
from node.seam import Gap, NumberedEvent

_ID: Final = re.compile(r"(\d{1,15})\.(\d{1,7})")


def parse_event_id(text: str) -> int:
    """The store's number of an event id. Raises Refused("event.id")."""
    match = _ID.fullmatch(text)
    if match is None or int(match[2]) >= EVENTS_PER_BLOCK_MAX:
        raise Refused("event.id", f"{text[:40]!r}: HEIGHT.N wanted", "Last-Event-ID")
    return int(match[1]) * EVENTS_PER_BLOCK_MAX + int(match[2])


def format_event_id(number: int) -> str:
    """HEIGHT.N of the store's number."""
    height, n = divmod(number, EVENTS_PER_BLOCK_MAX)
    return f"{height}.{n}"


@dataclass(slots=True)
class EventLog:
    """See the module. `tick` after each commit wakes the readers."""

    store: Store
    _bell: trio.Event = field(default_factory=trio.Event)

    def tick(self) -> None:
        """A block was committed."""
        self._bell.set()
        self._bell = trio.Event()

    async def wait(self) -> None:
        """Returns after the next commit."""
        await self._bell.wait()

    async def follow(self, after: str | None) -> AsyncIterator[NumberedEvent | Gap]:
        """Events after the id (None: from now on), for ever. Raises Refused("event.id")."""
        last = self.store.last_event_id() if after is None else parse_event_id(after)
        newest = self.store.last_event_id()
        if last > max(newest, (self.store.tip.height + 1) * EVENTS_PER_BLOCK_MAX):
            yield Gap(format_event_id(last), format_event_id(newest))  # an id of a chain that never was here
            last = newest
        while True:
            bell = self._bell
            held = self.store.first_height * EVENTS_PER_BLOCK_MAX - 1
            if self.store.first_height > 1 and last < held:
                yield Gap(format_event_id(last), format_event_id(held))  # those blocks were dropped
                last = held
            page = self.store.events(last, EVENTS_PAGE)
            for number, event in page:
                height = number // EVENTS_PER_BLOCK_MAX
                yield NumberedEvent(format_event_id(number), height, self._time_ms(height), event)
                last = number
            if len(page) < EVENTS_PAGE:
                await bell.wait()

    def _time_ms(self, height: int) -> int:
        header = self.store.header(height)
        return decode(Header, header).time_ms if header else 0
