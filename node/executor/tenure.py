"""One term of one slot on this node, from the claim that won to the last receipt.

Two tasks share it. `_live` fetches, verifies, starts and watches. `_guard` does nothing but stop: at the
lease's deadline or when told, at once, whatever `_live` waits for. Every receipt and every task id
carries slot and term.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import structlog
import trio

from ledger.errors import Refused
from ledger.manifests.types import Workload
from ledger.predicates import Usage
from ledger.records import Deployment
from node.errors import ArtifactError, ArtifactFull
from node.executor.decide import SlotId, backoff_s, standing
from node.executor.drivers.base import Handle, TaskSpec
from node.executor.ending import Ending
from node.executor.errors import EgressRefused, ExecutorError, VolumeRefused
from node.executor.gather import Gathered, gather
from node.executor.held import collect_results
from node.executor.lease import LeaseClock
from node.executor.limits import (
    COPY_LAST_OWN_S,
    COPY_LAST_S,
    FETCH_STALLED_S,
    GOODBYE_S,
    GUARD_TICK_S,
    LOG_KEPT_BYTES,
)
from node.executor.reporter import Reporter
from node.executor.reveals import commit_to
from node.executor.status import FetchStatus, Phase, TenureStatus
from node.executor.task import best_address, endpoint, host_of_address, task_spec, wanted
from node.executor.verify import Verdict
from node.executor.volumes.copier import Copier
from node.executor.watch import Watch, Watched, drift_text
from node.executor.workshop import Workshop
from node.files.cid import cid_of
from node.files.exchange import Progress, fetch_all
from node.sealed.log_wire import Tail

log = structlog.get_logger("executor")


class Tenure:
    """See the module. Made when a claim has won; `run` returns when all is over."""

    def __init__(
        self,
        shop: Workshop,
        record: Deployment,
        workload: Workload,
        slot: str,
        term: int,
        lease: LeaseClock,
    ) -> None:
        self.id: SlotId = (record.id, slot)
        self.term = term
        self.workload = workload
        self.lease = replace(lease, beyond_ms=workload.available_s * 1000)
        self._began_ms = shop.boot_ms()
        self.phase: Phase = "claimed"
        self.detail = ""
        self.restarts = 0
        self.watched = Watched()
        self.ending: Ending | None = None
        self._shop = shop
        self._manifest = record.manifest
        self._progress = [(artifact, Progress(artifact.size_bytes)) for artifact in workload.artifacts]
        self._handle: Handle | None = None
        self._kept_ms = 0  # what the driver was told last, as the time to kill by itself
        self._ordered = trio.Event()
        self._papers: dict[bytes, bytes] = {}
        self._verdict = Verdict(False, ())
        self._gathered = Gathered()
        self._tail = b""  # of runs that are over
        self._verified: dict[str, str] = {}  # its artifacts, path to sha256, once they are
        self._log = log.bind(deployment=record.id.hex()[:16], slot=slot, term=term)
        facts = shop.facts(record, workload, slot, term)
        self.copier = Copier(shop, self.id, term, workload, self.is_held)
        self.reporter = Reporter(shop.sender, record.manifest, facts, shop.wall_ms, self.is_held)

    # ------------------------------------------------------------------ from outside

    @property
    def holds(self) -> bool:
        """Whether its lease is worth renewing: nothing ended it yet, or its last copies are made."""
        return self.ending is None or (self.copier.saves and not self.ending.by_ledger)

    def is_held(self) -> bool:
        """Whether the ledger still names this node as the holder of this term."""
        return standing(self._shop.peer.state, self._shop.sender.key.public, self.id, self.term)[0] != "gone"

    def look(self) -> None:
        """A new block: stop at once when the ledger says so (rule 6)."""
        said, reason = standing(self._shop.peer.state, self._shop.sender.key.public, self.id, self.term)
        if said != "hold":
            self.stop(Ending(None if said == "gone" else "released", reason, by_ledger=True))

    def stop(self, ending: Ending) -> None:
        """End the term. The first reason counts."""
        if self.ending is None:
            self.ending = ending
            self.detail = ending.detail
            self.copier.saves = ending.status not in (None, "quarantined") and self.copier.written()
            self._log.info("term_ends", report=ending.status or "none", detail=ending.detail)
            if ending.status == "quarantined":
                self._hold_back(ending.detail)
        self._ordered.set()

    def _hold_back(self, detail: str) -> None:
        """This node runs no more of this manifest, until a person has looked."""
        try:
            self._shop.quarantine.add(self._manifest, self.id[1], self._shop.wall_ms(), detail)
        except (ExecutorError, OSError) as error:
            self._log.critical("quarantine_not_written", error=str(error))

    def log_tail(self, last_bytes: int) -> Tail:
        """The newest bytes that the workload wrote in this term, over all its runs."""
        now = self._shop.driver.logs(self._handle, last_bytes) if self._handle is not None else b""
        data = self._tail + now
        return Tail(self.term, self._handle is not None, data[max(0, len(data) - last_bytes) :])

    def status(self) -> TenureStatus:
        """For people."""
        fetch = [
            FetchStatus(
                path=artifact.path,
                sha256=artifact.sha256,
                cid=cid_of(artifact.sha256),
                bytes_total=progress.bytes_total,
                bytes_done=progress.bytes_done,
                bytes_s=progress.bytes_s(trio.current_time()),
                sources=sorted(progress.sources),
                dropped=dict(progress.dropped),
            )
            for artifact, progress in self._progress
        ]
        return TenureStatus(
            deployment=self.id[0].hex(),
            slot=self.id[1],
            term=self.term,
            kind=self.workload.kind,
            phase=self.phase,
            lease_left_ms=self.lease.left_ms(self._shop.boot_ms()),
            checks=self.watched.checks,
            restarts=self.restarts,
            cpu_ms=self.watched.used.cpu_ms,
            memory_bytes_max=self.watched.used.memory_bytes_max,
            endpoints=dict(self.watched.endpoints),
            fetch=fetch,
            detail=self.detail,
            copies=self.copier.told,
        )

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Until the term is over and said to be. Cancelled, it stops the workload first, within bounds."""
        done = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.reporter.run)
                with trio.CancelScope() as work:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(self._guard, work)
                        inner.start_soon(self.copier.run, self._run_now)
                        self.stop(await self._live())
                await self._over()
                if self.ending is None or self.ending.status is None:
                    nursery.cancel_scope.cancel()
            done = True
        finally:
            if not done:
                with trio.CancelScope(shield=True):
                    self.stop(Ending("released", "the node stops"))
                    await self._over(COPY_LAST_S)
                    with trio.move_on_after(GOODBYE_S):
                        await self.reporter.goodbye()
            self._set("ended")

    async def _guard(self, work: trio.CancelScope) -> None:
        """Rules 4 and 6: stop at the deadline, or when told."""
        while not self._ordered.is_set():
            if self.lease.must_stop(self._shop.boot_ms()):
                self.stop(Ending("released", "the lease ended before a renewal was final"))
                break
            limit_s = self.workload.time_limit_s
            if limit_s and self._shop.boot_ms() - self._began_ms >= limit_s * 1000:  # [E6]
                self.stop(Ending("failed", f"its time limit of {limit_s} s is over"))
                break
            if self._handle is not None and self._kept_ms != self.lease.kill_at_ms:
                self._kept_ms = self.lease.kill_at_ms
                self._shop.driver.keep(self._handle, self._kept_ms)
            with trio.move_on_after(GUARD_TICK_S if limit_s else self.lease.look_in_s(self._shop.boot_ms())):
                await self._ordered.wait()
        work.cancel()
        await self._halt()

    async def _over(self, within_s: float = COPY_LAST_OWN_S) -> None:
        """The workload is gone, its volumes are saved; the last receipt is queued."""
        await self._halt()
        self._set("stopping")
        ending = self.ending
        if self.copier.saves:
            await self.copier.last(within_s, lambda: self.lease.left_ms(self._shop.boot_ms()) > 0)
            self.copier.saves = False
        if ending is not None and ending.status is not None:
            self.reporter.tell(ending.status, detail=ending.detail, **self._stated(), **ending.fields)

    async def _halt(self) -> None:
        """Stop the workload if there is one. Not cancelled; bounded by the driver. May be repeated."""
        handle = self._handle
        if handle is None:
            return
        with trio.CancelScope(shield=True):
            try:
                await self._shop.driver.stop(handle, self.lease.grace_ms(self._shop.boot_ms()) / 1000)
            except ExecutorError as error:
                self._log.critical("workload_survives", error=str(error))
                self.detail = str(error)
            used = await self._shop.driver.usage(handle)
            self._tail = (self._tail + self._shop.driver.logs(handle, LOG_KEPT_BYTES))[-LOG_KEPT_BYTES:]
            if self._handle is handle:
                self._handle = None
                self.watched.run_over(used)

    def _run_now(self) -> Handle | None:
        return self._handle if self.phase == "running" else None

    def _stated(self) -> dict[str, Any]:
        """What each receipt tells of the term so far ([R9])."""
        used = self.watched.used
        return {
            "artifacts": self._verified,
            "checks": self.watched.checks,
            "usage": Usage(cpu_ms=used.cpu_ms, memory_bytes_max=used.memory_bytes_max),
        }

    def _set(self, phase: Phase) -> None:
        if phase != self.phase:
            self.phase = phase
            self._log.info("slot_phase", phase=phase)

    async def _live(self) -> Ending:
        """All of the workload's life; how it ended."""
        self._verdict = self._prove()
        if not self._verdict.ok:
            return Ending("released", "not proved: " + "; ".join(self._verdict.reasons))
        store = self._shop.exchange.store
        with store.pinned([artifact.sha256 for artifact in self.workload.artifacts]):
            problem = await self._fetch()
            if problem is not None:
                return problem
            try:
                await self._gather()
                given, host = self._gathered.given, self._shop.settings.listen_host
                with store.pinned([file.digest for file in given.files]):
                    spec = task_spec(*self.id, self.term, self.workload, host, store.path, given)
                    return await self._runs(spec)
            except (Refused, EgressRefused, VolumeRefused) as error:
                return Ending("released", str(error))
            except (ExecutorError, ArtifactError, OSError) as error:
                return Ending("failed", str(error))

    async def _gather(self) -> None:
        """What it has beside its artifacts. Raises Refused, EgressRefused, VolumeRefused."""
        if self.workload.secrets:
            self._set("waiting")
            self.detail = "waits for its secrets"
        self._gathered = await gather(self._shop, self.id, self.term, self.workload)
        self.detail = ""

    async def _fetch(self) -> Ending | None:
        """All artifacts, verified, here; None when they are."""
        self._set("fetching")
        self.reporter.tell("fetching")
        wants = [(wanted(artifact), progress) for artifact, progress in self._progress]
        problem: list[Ending] = []

        async def give_up_stalled() -> None:
            last = -1
            while (done := sum(p.bytes_done for _, p in self._progress)) != last:
                last = done
                await trio.sleep(FETCH_STALLED_S)
            problem.append(Ending("released", f"no peer gave the artifacts for {FETCH_STALLED_S:.0f} s"))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up_stalled)
            try:
                holders, owner = self._shop.holders(self.id[0]), self.id[0].hex()
                await fetch_all(self._shop.exchange, wants, holders, owner)
            except ArtifactFull as error:
                problem.append(Ending("released", str(error)))
            except ArtifactError as error:
                problem.append(Ending("failed", str(error)))
            nursery.cancel_scope.cancel()
        return problem[0] if problem else None

    async def _runs(self, spec: TaskSpec) -> Ending:
        """Run after run, until it is done, gives up, or is stopped from outside."""
        while True:
            prepared = await self._shop.driver.prepare(spec)
            try:
                if not self.restarts:
                    self._verified = {a.path: a.sha256 for a in self.workload.artifacts}
                    self._set("verified")
                    self.reporter.tell("verified", **self._stated(), approvals=self._verdict.approvals)
                self._set("waiting")
                while not self._shop.may_write(self.id, self.workload):  # noqa: ASYNC110 - nor is the ledger
                    await trio.sleep(GUARD_TICK_S)
                while not self.lease.may_start(self._shop.boot_ms(), self.restarts > 0):  # noqa: ASYNC110
                    await trio.sleep(GUARD_TICK_S)
                self._verdict = self._prove()  # section 8: again before it starts
                if not self._verdict.ok:
                    return Ending("released", "not proved: " + "; ".join(self._verdict.reasons))
                self._set("starting")
                self._handle = await self._shop.driver.start(prepared, self.lease.kill_at_ms)
            finally:
                prepared.close()
            ending = await self._watch(self._handle)
            if ending.status != "failed":
                return ending
            await self._halt()
            self.restarts += 1
            if self.restarts > self.workload.restart.attempts:
                return Ending("failed", f"{ending.detail}; {self.restarts} runs", ending.fields)
            self._set("restarting")
            self.detail = ending.detail
            await trio.sleep(backoff_s(self.restarts))

    async def _watch(self, handle: Handle) -> Ending:
        """One run: say that it runs, keep it under watch, collect what it leaves."""
        public = host_of_address(best_address(self._shop.peer.network.addresses()))
        self.watched.endpoints = {
            name: endpoint(host, port, public) for name, (host, port) in handle.ports.items()
        }

        def running() -> None:
            self._set("running")
            self.reporter.tell(
                "running",
                endpoints=dict(self.watched.endpoints),
                secrets=self._gathered.secrets.digest,
                egress=dict(self._gathered.ways.told),
                **self._stated(),
                approvals=self._verdict.approvals,
                detail=f"{self.restarts} restarts" if self.restarts else "",
            )

        watch = Watch(self._shop.driver, handle, self.workload, self.watched, running, self._still_proved)
        found = await watch.run()
        if found.exit is None:
            return Ending(found.status, found.detail)
        fields: dict[str, Any] = {"exit_code": found.exit.code}
        if self.workload.kind == "job":
            # Also of a job that ended before its first re-check, the receipt says that the bytes were seen.
            try:
                last = await self._shop.driver.attest_ended(handle)
            except ExecutorError as error:
                return Ending("failed", f"{found.exit.reason}; {error}", fields)
            if not last.ok:
                return Ending("quarantined", drift_text(last), fields)
            self.watched.checks += 1
        if not found.exit.ok or self.workload.kind == "service":
            return Ending("failed", found.exit.reason, fields)
        try:
            fields["results"] = await collect_results(self._shop, handle, self.id, self.term, self._manifest)
            if self.workload.agree:
                self.watched.usage_now = await self._shop.driver.usage(handle)
                facts = {**self.reporter.facts, **self._stated()}
                fields = await commit_to(self._shop, facts, self._manifest, fields)
        except (ExecutorError, ArtifactError, Refused, OSError) as error:
            return Ending("failed", str(error), {"exit_code": found.exit.code})
        return Ending("committed" if self.workload.agree else "succeeded", found.exit.reason, fields)

    def _prove(self, *, runs: bool = False) -> Verdict:
        return self._shop.prove(*self.id, self.workload, self._papers, runs=runs)

    def _still_proved(self) -> str:
        """At each re-check of the bytes: is it still approved? "" or the reason why not."""
        verdict = self._prove(runs=True)
        return "" if verdict.ok else "not proved: " + "; ".join(verdict.reasons)
