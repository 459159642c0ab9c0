"""Walks over /proc are few and new however many slots a node has, and stopping them all takes none."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise

import pytest
import trio
import trio.testing

from node.executor import integrity
from node.executor.host import procs
from node.executor.host.census import Census
from node.executor.limits import WALK_REST

from .conftest import Bench

NAMESPACE = "pid:[1]"


class Walks:
    """In place of /proc: the number of each walk is the one process that it finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, take_s: float = 0.0) -> None:
        self.began_s: list[float] = []
        self.take_s = take_s
        self.go_on = threading.Event()
        self.go_on.set()
        monkeypatch.setattr(procs, "namespaces", self.walk)
        monkeypatch.setattr(procs, "living", tuple)

    def walk(self) -> dict[str, tuple[int, ...]]:
        self.began_s.append(time.monotonic())
        number = len(self.began_s)
        assert self.go_on.wait(60)
        time.sleep(self.take_s)
        return {NAMESPACE: (number,)}


async def test_all_who_ask_before_a_walk_begins_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    walks, census, answers = Walks(monkeypatch), Census(), set()

    async def ask() -> None:
        answers.add(await census.members(NAMESPACE))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert answers == {(1,)} and len(walks.began_s) == 1
    assert await census.members("pid:[2]") == ()


async def test_who_asks_during_a_walk_gets_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk may have passed by where something new is by now."""
    walks, census, answers = Walks(monkeypatch), Census(), {}
    walks.go_on.clear()

    async def ask(name: str) -> None:
        answers[name] = await census.members(NAMESPACE)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first")
            while not walks.began_s:
                await trio.sleep(0.01)
            nursery.start_soon(ask, "second")
            nursery.start_soon(ask, "third")
            await trio.testing.wait_all_tasks_blocked()
            walks.go_on.set()
    assert answers == {"first": (1,), "second": (2,), "third": (2,)}


async def test_walks_leave_time_for_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    walks, census = Walks(monkeypatch, take_s=0.03), Census()
    for number in range(3):
        assert await census.members(NAMESPACE) == (number + 1,)
    assert min(after - before for before, after in pairwise(walks.began_s)) >= 0.03 * (1 + WALK_REST)


async def test_a_process_of_another_that_has_the_number_of_one_that_ended_is_no_drift(bench: Bench) -> None:
    async with bench.running(bench.shell("echo up; while true; do sleep 0.1; done")) as handle:
        await bench.until_logged(handle, "up")
        assert handle.baseline is not None
        found = integrity.check(handle.baseline, (handle.baseline.init_pid, os.getpid()))
        assert found.ok, found.drifts
        assert found.processes_checked == 1


async def test_what_began_since_the_walk_is_looked_at(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are hashed between the walk and the look at processes: who forks meanwhile does not get away."""

    async def none_yet(_census: Census, _namespace: str) -> tuple[int, ...]:
        return ()

    monkeypatch.setattr(Census, "members", none_yet)
    async with bench.running(bench.shell("echo up; while true; do sleep 0.1; done")) as handle:
        await bench.until_logged(handle, "up")
        if handle.group is None:
            pytest.skip("no control groups here: the walk is all there is")
        assert (await bench.driver.attest(handle)).processes_checked > 0


async def test_to_stop_a_task_takes_no_walk_over_all_that_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand slots whose leases end at one moment are stopped within K."""
    script = "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done"
    async with bench.running(bench.shell(script)) as handle:
        await bench.until_logged(handle, "up")
        if handle.group is None:
            pytest.skip("no control groups here: few slots fit such a host")
        monkeypatch.delattr(procs, "namespaces")
        handle.signal_all()
        await bench.until_logged(handle, "bye")
        monkeypatch.undo()
