"""Runs one measurement: client processes are made ready, begin together, and their reports are one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Final

from bench.common import cpu_s, memory_mib, percentile
from bench.load.loop import Plan, Report
from bench.load.worker import Job, run

CLIENTS: Final = 2  # processes; one for each core of a small machine
READY_S: Final = 120.0  # to sign tens of thousands of transactions
SETTLE_S: Final = 0.5  # from "ready" to the first request: connections are opened meanwhile
GRACE_S: Final = 25.0  # above ANSWER_S: after that a request counts as unanswered


class ClientFailed(Exception):
    """A client process ended without a report."""


@dataclass(frozen=True)
class Load:
    """`rate_per_s` (open loop) or `outstanding` (closed), over all clients."""

    seconds: float
    warm_up_s: float
    rate_per_s: float = 0.0
    outstanding: int = 0
    guess_per_s: float = 1_000.0  # transactions made beforehand, with room, for the closed loop

    @property
    def count(self) -> int:
        """Transactions to make."""
        all_s = self.seconds + self.warm_up_s
        if self.rate_per_s:
            return int(self.rate_per_s * all_s) + CLIENTS + 1
        return int(self.guess_per_s * all_s) + self.outstanding


def measure(load: Load, job: Job, pids: Callable[[], Sequence[int]]) -> dict[str, Any]:
    """The figures of one load on a running system. Raises ClientFailed."""
    clients = min(CLIENTS, load.outstanding) if load.outstanding else CLIENTS
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    try:
        for number in range(clients):
            ours, theirs = context.Pipe()
            process = context.Process(target=run, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
            ours.send(replace(job, worker=number, count=load.count // clients + 1))
        for pipe in pipes:
            _receive(pipe, READY_S)
        now = time.monotonic()
        plan = _plan(load, now + SETTLE_S)
        for number, pipe in enumerate(pipes):
            pipe.send(_share(plan, load, number, clients))
        used = _servers(plan, pids)
        reports = [_receive(pipe, plan.give_up_s - time.monotonic() + 10) for pipe in pipes]
    finally:
        for process in processes:
            process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in pipes:
            pipe.close()
    return summary(load, [report for report in reports if isinstance(report, Report)], used)


def _receive(pipe: Connection, timeout_s: float) -> Any:
    if not pipe.poll(max(0.0, timeout_s)):
        raise ClientFailed("a client did not answer in time")
    try:
        return pipe.recv()
    except EOFError:
        raise ClientFailed("a client ended early; its error stands above") from None


def _plan(load: Load, start_s: float) -> Plan:
    begin = start_s + load.warm_up_s
    end = begin + load.seconds
    return Plan(start_s, begin, end, end + GRACE_S)


def _share(plan: Plan, load: Load, number: int, clients: int) -> Plan:
    """One client's part; open loops are shifted against each other so that requests are evenly spaced."""
    if load.rate_per_s:
        shifted = plan.start_s + number / load.rate_per_s
        return replace(plan, start_s=shifted, rate_per_s=load.rate_per_s / clients)
    extra = number < load.outstanding % clients
    return replace(plan, outstanding=load.outstanding // clients + extra)


@dataclass(frozen=True)
class Used:
    """What the servers took: processor seconds within the window, and the largest one's memory at its end."""

    cpu_s: float
    memory_mib: float


def _servers(plan: Plan, pids: Callable[[], Sequence[int]]) -> Used:
    time.sleep(max(0.0, plan.begin_s - time.monotonic()))
    servers = list(pids())
    before = sum(map(cpu_s, servers))
    time.sleep(max(0.0, plan.end_s - time.monotonic()))
    return Used(sum(map(cpu_s, servers)) - before, max(map(memory_mib, servers)))


def summary(load: Load, reports: Sequence[Report], used: Used) -> dict[str, Any]:
    """One set of figures from all clients' reports. Latencies in ms; CPU in microseconds a transaction."""
    latencies = sorted(value for report in reports for value in report.latencies_ms)
    done = sum(report.done for report in reports)
    client_cpu_s = sum(report.cpu_s for report in reports)
    errors: dict[str, int] = {}
    for report in reports:
        for text, count in report.errors.items():
            errors[text] = errors.get(text, 0) + count
    all_cpu_s = used.cpu_s + client_cpu_s
    return {
        "rate_per_s": load.rate_per_s or None,
        "outstanding": load.outstanding or None,
        "seconds": load.seconds,
        "per_s": round(done / load.seconds, 1),
        "p50_ms": round(percentile(latencies, 0.5), 1) if latencies else None,
        "p99_ms": round(percentile(latencies, 0.99), 1) if latencies else None,
        "max_ms": round(latencies[-1], 1) if latencies else None,
        "server_cpu_us_per_tx": round(used.cpu_s * 1e6 / done) if done else None,
        "client_cpu_us_per_tx": round(client_cpu_s * 1e6 / done) if done else None,
        "client_cpu_share": round(client_cpu_s / all_cpu_s, 3) if all_cpu_s else None,
        "server_cores": round(used.cpu_s / load.seconds, 2),
        "server_memory_mib_max": round(used.memory_mib, 1),
        "failed": sum(report.failed for report in reports),
        "unanswered": sum(report.unanswered for report in reports),
        "connections_lost": sum(report.lost for report in reports),
        "ran_out": any(report.ran_out for report in reports),
        "sent_late_ms_max": round(max((report.late_ms_max for report in reports), default=0.0), 1),
        "errors": errors,
    }
