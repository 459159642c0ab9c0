"""Blocking work in a thread, together with what others bring meanwhile: a call to a thread costs as much as
hashing a chunk. While one call runs, what comes waits, and goes with the next call, all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")
R = TypeVar("R")
_NO_LIMIT: Final = trio.CapacityLimiter(10_000)  # who leads holds a place of the batcher's own limiter
_AT_ONCE: Final = 16  # items of one call: 4 MiB of chunks, some 5 ms


class _Place(Generic[T, R]):
    """Somebody who waits. `leads`: it is to make the next call; `is_gone`: it was cancelled."""

    __slots__ = ("is_gone", "item", "leads", "result", "wake")

    def __init__(self, item: T) -> None:
        self.item = item
        self.wake = trio.Event()
        self.leads = self.is_gone = False
        self.result: R | Exception | None = None


class Batcher(Generic[T, R]):
    """`work` takes items and gives a result, or an exception, for each; it runs in one thread at a time."""

    def __init__(
        self, work: Callable[[Sequence[T]], Sequence[R | Exception]], limiter: trio.CapacityLimiter
    ) -> None:
        self.calls = 0
        self._work = work
        self._limiter = limiter
        self._waiting: list[_Place[T, R]] = []
        self._is_led = False

    async def do(self, item: T) -> R:
        """The item's result. Raises what `work` gave for it."""
        place = _Place[T, R](item)
        self._waiting.append(place)
        try:
            if self._is_led:
                await place.wake.wait()
            if place.result is None:
                place.leads = True
                await self._lead()
        except BaseException:
            place.is_gone = True
            if place in self._waiting:
                self._waiting.remove(place)
            raise
        finally:
            if place.leads:
                self._pass_on()
        if isinstance(place.result, Exception):
            raise place.result
        assert place.result is not None, "who leads has its own among the results"
        return place.result

    async def _lead(self) -> None:
        """One call for all who wait, this one too. Cancelled before it began, it leaves them waiting."""
        self._is_led = True
        async with self._limiter:
            batch = self._waiting[:_AT_ONCE]
            del self._waiting[: len(batch)]
            self.calls += 1
            with trio.CancelScope(shield=True):
                items = [place.item for place in batch]
                results = await trio.to_thread.run_sync(self._run, items, limiter=_NO_LIMIT)
        for place, result in zip(batch, results, strict=True):
            place.result = result
            place.wake.set()

    def _run(self, items: Sequence[T]) -> Sequence[R | Exception]:
        try:
            return self._work(items)
        except Exception as error:  # noqa: BLE001 - each of those who wait hears of it
            return [error] * len(items)

    def _pass_on(self) -> None:
        """The next one that waits makes the next call."""
        self._is_led = bool(self._waiting)
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].wake.set()
