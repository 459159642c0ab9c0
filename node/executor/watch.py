"""One run of a workload under watch: its end, health, bytes and approvals. The first to speak counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from ledger.manifests.types import Workload
from ledger.predicates import ReceiptStatus
from node.executor.decide import report_checks
from node.executor.doors.probe import Health, http_get, tcp_open
from node.executor.drivers.base import Attestation, Driver, Exit, Handle, Usage
from node.executor.errors import ExecutorError
from node.executor.limits import FIRST_HEALTHY_S, FIRST_PROBE_EVERY_S
from node.executor.task import reachable_host


@dataclass(slots=True)
class Watched:
    """What a term has seen so far, over all its runs. `usage` is that of the runs that are over."""

    checks: int = 0
    endpoints: dict[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    usage_now: Usage = field(default_factory=Usage)  # of the run that goes on, at the last look

    @property
    def used(self) -> Usage:
        """The term's usage so far."""
        return self.usage.then(self.usage_now)

    def run_over(self, usage: Usage) -> None:
        """A run has ended and used that."""
        self.usage, self.usage_now = self.usage.then(usage), Usage()


@dataclass(frozen=True, slots=True)
class Found:
    """Why a run is over. `exit` when the command ended by itself."""

    status: ReceiptStatus
    detail: str
    exit: Exit | None = None


class Watch:
    """`tell_running` is called when the workload runs (and is healthy), and when re-checks are worth a
    receipt; `still_proved` gives "" or why the deployment may no longer run."""

    def __init__(
        self,
        driver: Driver,
        handle: Handle,
        workload: Workload,
        watched: Watched,
        tell_running: Callable[[], None],
        still_proved: Callable[[], str],
    ) -> None:
        self._driver = driver
        self._handle = handle
        self._workload = workload
        self._watched = watched
        self._tell_running = tell_running
        self._still_proved = still_proved
        self._started_s = trio.current_time()
        self._told_s = self._started_s
        self._told_checks = 0
        self._runs = False
        self._found: Found | None = None
        self._over = trio.Event()

    async def run(self) -> Found:
        """Until the run is over one way or another."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_exit)
            nursery.start_soon(self._health)
            nursery.start_soon(self._recheck)
            await self._over.wait()
            nursery.cancel_scope.cancel()
        assert self._found is not None, "over with a finding only"
        return self._found

    def _end(self, found: Found) -> None:
        if self._found is None:
            self._found = found
        self._over.set()

    async def _tell(self) -> None:
        await self._measure()
        self._told_s = trio.current_time()
        self._told_checks = self._watched.checks
        self._tell_running()

    async def _measure(self) -> None:
        self._watched.usage_now = await self._driver.usage(self._handle)

    async def _until_exit(self) -> None:
        ended = await self._driver.wait(self._handle)
        if not self._runs and ended.ok:
            self._runs = True
            await self._tell()  # so short a job that nothing was said of it yet
        self._end(Found("failed", ended.reason, ended))

    # ------------------------------------------------------------------ health

    async def _health(self) -> None:
        """The first healthy answer makes it running; `failures` bad ones in a row end the run."""
        health = self._workload.health
        if health is not None:
            within_s = max(FIRST_HEALTHY_S, health.failures * health.interval_s)
            last = await self._first_healthy(within_s)
            if last is not None:
                self._end(Found("failed", f"not healthy within {within_s:.0f} s: {last}"))
                return
        self._runs = True
        await self._tell()
        failures = 0
        while health is not None:
            await trio.sleep(health.interval_s)
            probed = await self._probe()
            failures = 0 if probed.healthy else failures + 1
            if failures >= health.failures:
                self._end(Found("failed", f"unhealthy {failures} times in a row: {probed.reason}"))
                return

    async def _first_healthy(self, within_s: float) -> str | None:
        """None as soon as it is healthy; the last reason when it is not in time."""
        until_s = trio.current_time() + within_s
        while not (probed := await self._probe()).healthy:
            if trio.current_time() >= until_s:
                return probed.reason
            await trio.sleep(FIRST_PROBE_EVERY_S)
        return None

    async def _probe(self) -> Health:
        health = self._workload.health
        assert health is not None, "probed only with a health rule"
        if health.command:
            return await self._exec(health.command, health.timeout_s)
        host, port = self._handle.ports[health.port]
        host = reachable_host(host)
        if health.http_path is None:
            return await tcp_open(host, port, health.timeout_s)
        try:
            return await http_get(host, port, health.http_path, health.timeout_s)
        except ValueError as error:  # a path that contracts may name, but HTTP can't say
            return Health(False, str(error))

    async def _exec(self, command: tuple[str, ...], timeout_s: float) -> Health:
        """[E8]"""
        try:
            status = await self._driver.check(self._handle, command, timeout_s)
        except ExecutorError as error:
            return Health(False, str(error))
        if status is None:
            return Health(False, f"its check took more than {timeout_s} s")
        return Health(status == 0, f"its check ended with {status}")

    # ------------------------------------------------------------------ bytes and approvals

    async def _recheck(self) -> None:
        """At once, then every recheck_s."""
        while True:
            try:
                attestation = await self._driver.attest(self._handle)
            except ExecutorError:
                return  # stopped meanwhile
            if not attestation.ended:
                if not attestation.ok:
                    self._end(Found("quarantined", drift_text(attestation)))
                    return
                self._watched.checks += 1
            await self._measure()  # without groups, what a process held is known only while it lives
            problem = self._still_proved()
            if problem:
                self._end(Found("released", problem))
                return
            now_s = trio.current_time()
            since_ms, age_ms = (int((now_s - s) * 1000) for s in (self._told_s, self._started_s))
            if self._runs and report_checks(self._watched.checks, self._told_checks, since_ms, age_ms):
                await self._tell()
            await trio.sleep(self._workload.recheck_s)


def drift_text(attestation: Attestation) -> str:
    """What differs, for a receipt."""
    parts = [f"{d.where}: {d.found}, verified was {d.expected}" for d in attestation.drifts[:5]]
    more = len(attestation.drifts) - len(parts)
    return "bytes drifted: " + "; ".join(parts) + (f"; {more} more" if more > 0 else "")
