"""Work in threads, many items a call: each gets its own result, and nobody is left waiting."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from node.batching import Batcher


async def test_what_comes_while_a_call_runs_goes_with_the_next_one() -> None:
    gate = threading.Event()

    def work(items: Sequence[int]) -> list[int | Exception]:
        assert gate.wait(60)
        return [ValueError(f"{item} is odd") if item % 2 else item * 10 for item in items]

    batcher = Batcher[int, int](work, trio.CapacityLimiter(1))
    found: dict[int, int | str] = {}

    async def one(item: int) -> None:
        try:
            found[item] = await batcher.do(item)
        except ValueError as error:
            found[item] = str(error)

    async with trio.open_nursery() as nursery:
        for item in range(10):
            nursery.start_soon(one, item)
        await trio.testing.wait_all_tasks_blocked(0.01)
        gate.set()
    assert found == {item: f"{item} is odd" if item % 2 else item * 10 for item in range(10)}
    assert batcher.calls <= 2  # at most the first one alone, then all the others


async def test_a_fault_in_the_work_reaches_everybody() -> None:
    def work(items: Sequence[int]) -> list[int | Exception]:
        raise KeyError("broken")

    batcher = Batcher[int, int](work, trio.CapacityLimiter(1))
    heard = []

    async def one(item: int) -> None:
        with pytest.raises(KeyError):
            await batcher.do(item)
        heard.append(item)

    async with trio.open_nursery() as nursery:
        for item in range(5):
            nursery.start_soon(one, item)
    assert sorted(heard) == list(range(5))


@pytest.mark.parametrize("seed", range(8))
async def test_whoever_is_cancelled_the_others_get_theirs(seed: int) -> None:
    chance = random.Random(seed)
    batcher = Batcher[int, int](lambda items: [item + 1 for item in items], trio.CapacityLimiter(1))
    found: dict[int, int] = {}
    called_off: set[int] = set()

    async def one(item: int) -> None:
        with trio.CancelScope() as scope:
            if chance.random() < 0.4:
                scope.deadline = trio.current_time() + chance.random() * 0.004
            await trio.sleep(chance.random() * 0.01)
            found[item] = await batcher.do(item)
        if scope.cancelled_caught:
            called_off.add(item)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for item in range(200):
                nursery.start_soon(one, item)
        assert await batcher.do(1_000) == 1_001
    assert found == {item: item + 1 for item in found}
    assert set(found) | called_off == set(range(200))
