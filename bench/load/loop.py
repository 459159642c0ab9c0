"""The load loop of one client: open at a rate, or closed with so many under way.

Latency is counted from the time at which a request was due, not from when it was sent: a system that stalls
is charged for all that should have come meanwhile (no coordinated omission). In the closed loop a request
is due when the one before it in its place is done.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.load.channel import Channel, ChannelLost

# After an error a place of the closed loop rests: a server that refuses must not be measured at refusing.
REST_AFTER_ERROR_S: Final = 0.05
ERRORS_KEPT: Final = 5


@dataclass(frozen=True)
class Plan:
    """`rate_per_s` > 0: open loop; else closed with `outstanding`. Times on the monotonic clock, in seconds.

    Only what was due from `begin_s` to `end_s` counts; before is warm-up. What is under way at the end is
    waited for until `give_up_s`."""

    start_s: float
    begin_s: float
    end_s: float
    give_up_s: float
    rate_per_s: float = 0.0
    outstanding: int = 0


@dataclass
class Report:
    """What one client saw. Latencies in ms of requests due in the window; `done`: completions in it."""

    latencies_ms: list[float] = field(default_factory=list)
    done: int = 0
    due: int = 0
    failed: int = 0
    unanswered: int = 0
    lost: int = 0
    ran_out: bool = False
    late_ms_max: float = 0.0
    cpu_s: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)


class Loop:
    """See the module. A channel that is lost is not replaced: it is told in the report."""

    def __init__(
        self,
        plan: Plan,
        payloads: Sequence[bytes],
        channels: list[Channel],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.report = Report()
        self._payloads = payloads
        self._channels = channels
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._owner: dict[int, Channel] = {}
        self._due: dict[int, float] = {}
        self._next = 0  # the next payload
        self._scheduled = 0  # requests of the open loop that have become due
        self._ready: deque[float] = deque()  # due times that wait for a channel with room
        self._resting: deque[float] = deque()
        self._turn = 0
        self._filled: dict[Channel, None] = {}  # channels that have something to send, in order

    def run(self) -> Report:
        """Blocks until all is done or given up; closes no channel."""
        for channel in self._channels:
            self._selector.register(channel.sock, selectors.EVENT_READ, channel)
        now = self._clock()
        while now < self.plan.start_s:
            time.sleep(min(0.01, self.plan.start_s - now))
            now = self._clock()
        if not self.plan.rate_per_s:
            self._ready.extend([self.plan.start_s] * self.plan.outstanding)
        cpu_begin: float | None = None
        cpu_end: float | None = None
        while True:
            now = self._clock()
            if cpu_begin is None and now >= self.plan.begin_s:
                cpu_begin = time.process_time()
            if cpu_end is None and now >= self.plan.end_s:
                cpu_end = time.process_time()
            self._schedule(now)
            self._send(now)
            if now >= self.plan.end_s and not self._due and not self._ready:
                break
            if now >= self.plan.give_up_s or not self._channels:
                break
            self._wait(now)
        spent = (cpu_end if cpu_end is not None else time.process_time()) - (cpu_begin or 0.0)
        self.report.cpu_s = spent if cpu_begin is not None else 0.0
        counted = [due for due in (*self._due.values(), *self._ready) if self._counts(due)]
        self.report.unanswered = (
            len(counted) if self.plan.rate_per_s else sum(self._counts(due) for due in self._due.values())
        )
        self._selector.close()
        return self.report

    def _counts(self, due: float) -> bool:
        return self.plan.begin_s <= due < self.plan.end_s

    def _schedule(self, now: float) -> None:
        """Requests that have become due, whether or not anything can take them."""
        if self.plan.rate_per_s:
            upto = min(now, self.plan.end_s)
            while (due := self.plan.start_s + self._scheduled / self.plan.rate_per_s) < upto:
                self._ready.append(due)
                self._scheduled += 1
                self.report.due += self._counts(due)
            return
        while self._resting and self._resting[0] <= now:
            self._ready.append(self._resting.popleft())

    def _send(self, now: float) -> None:
        if now >= self.plan.end_s and not self.plan.rate_per_s:
            self._ready.clear()
        while self._ready:
            if self._next >= len(self._payloads):
                self.report.ran_out = True
                self._ready.clear()
                break
            channel = self._channel_with_room()
            if channel is None:
                break
            due = self._ready.popleft()
            tag, self._next = self._next, self._next + 1
            self._owner[tag], self._due[tag] = channel, due
            if self._counts(due):
                self.report.late_ms_max = max(self.report.late_ms_max, (now - due) * 1000)
                self.report.due += not self.plan.rate_per_s
            channel.put(tag, self._payloads[tag])
            self._filled[channel] = None
        while self._filled:
            channel, _ = self._filled.popitem()
            try:
                channel.flush()
            except ChannelLost as error:
                self._lose(channel, str(error))
                continue
            self._watch(channel)

    def _channel_with_room(self) -> Channel | None:
        for _ in range(len(self._channels)):
            self._turn = (self._turn + 1) % len(self._channels)
            if self._channels[self._turn].room > 0:
                return self._channels[self._turn]
        return None

    def _watch(self, channel: Channel) -> None:
        """Wait for room in the socket only while there is something to write."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.unsent else 0)
        if self._selector.get_key(channel.sock).events != wanted:
            self._selector.modify(channel.sock, wanted, channel)

    def _wait(self, now: float) -> None:
        until = self.plan.give_up_s
        if self.plan.rate_per_s and now < self.plan.end_s:
            until = self.plan.start_s + self._scheduled / self.plan.rate_per_s
        elif now < self.plan.end_s:
            until = min(self.plan.end_s, self._resting[0] if self._resting else self.plan.end_s)
        for key, events in self._selector.select(max(0.0, until - now)):
            channel: Channel = key.data
            try:
                done = channel.receive() if events & selectors.EVENT_READ else []
                if events & selectors.EVENT_WRITE:
                    channel.flush()
            except ChannelLost as error:
                self._lose(channel, str(error))
                continue
            self._watch(channel)
            if done:
                self._finish(done, self._clock())

    def _finish(self, done: list[tuple[int, str]], now: float) -> None:
        for tag, error in done:
            owner = self._owner.pop(tag, None)
            if owner is None:
                continue
            owner.under_way.discard(tag)
            due = self._due.pop(tag)
            if error:
                self._fail(due, error)
            else:
                self.report.done += self.plan.begin_s <= now < self.plan.end_s
                if self._counts(due):
                    self.report.latencies_ms.append((now - due) * 1000)
            if not self.plan.rate_per_s:
                if error:
                    self._resting.append(now + REST_AFTER_ERROR_S)
                else:
                    self._ready.append(now)

    def _fail(self, due: float, error: str) -> None:
        if self._counts(due):
            self.report.failed += 1
        if error in self.report.errors or len(self.report.errors) < ERRORS_KEPT:
            self.report.errors[error] = self.report.errors.get(error, 0) + 1

    def _lose(self, channel: Channel, why: str) -> None:
        """A connection is gone: its requests failed; others go on, and a new one may be opened."""
        self.report.lost += 1
        self._channels.remove(channel)
        self._selector.unregister(channel.sock)
        channel.close()
        self._turn = 0
        lost = [(tag, f"connection lost: {why}") for tag, owner in self._owner.items() if owner is channel]
        self._finish(lost, self._clock())
