"""One client process: makes its transactions beforehand, says so, then runs a plan and reports."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from bench.load import payloads
from bench.load.channel import Channel, ChannelLost
from bench.load.grpc_channel import GrpcChannel
from bench.load.http_channel import HttpChannel
from bench.load.loop import Loop, Plan
from bench.load.ws_channel import WsChannel

ANSWER_S: Final = 20.0  # what a peer of ours is asked to wait for finality
HTTP_OPEN_MAX: Final = 192  # connections of a client in the open loop: a peer takes 256 requests at once


@dataclass(frozen=True)
class Job:
    """`protocol`: gridpact, etcd or cometbft. `count` transactions are made; `expires`, `chain_id`: ours."""

    protocol: str
    addresses: tuple[tuple[str, int], ...]
    worker: int
    count: int
    chain_id: str = ""
    expires: int = 0


def run(pipe: Connection) -> None:
    """Entry of the process: a Job comes, "ready" goes; a Plan comes, a Report goes."""
    job: Job = pipe.recv()
    made = make(job)
    gc.collect()
    gc.freeze()  # payloads live to the end: the collector need not look at them
    pipe.send("ready")
    plan: Plan = pipe.recv()
    clients = Clients(job)
    loop = Loop(plan, made, clients.first(plan.outstanding), clients.grow)
    pipe.send(loop.run())
    pipe.close()


def make(job: Job) -> list[bytes]:
    """The job's transactions."""
    if job.protocol == "gridpact":
        return payloads.gridpact(job.count, job.chain_id, job.expires)
    return payloads.etcd(job.count) if job.protocol == "etcd" else payloads.cometbft(job.count)


class Clients:
    """Opens channels, the servers in turn."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._opened = 0
        self._waiting: dict[str, int] = {}

    def first(self, outstanding: int) -> list[Channel]:
        """HTTP/1.1: one for each request under way; else one for each server, which takes many."""
        count = len(self._job.addresses)
        if self._job.protocol == "gridpact":
            count = max(count, outstanding)
        return [self._open() for _ in range(count)]

    def grow(self) -> Channel | None:
        """One more for the open loop, where the protocol takes one request at a time."""
        if self._job.protocol != "gridpact" or self._opened >= HTTP_OPEN_MAX:
            return None
        try:
            return self._open()
        except (OSError, ChannelLost):
            return None

    def _open(self) -> Channel:
        # Clients begin at different servers.
        places = self._job.addresses
        host, port = places[(self._job.worker + self._opened) % len(places)]
        self._opened += 1
        if self._job.protocol == "gridpact":
            return HttpChannel(host, port, ANSWER_S)
        if self._job.protocol == "etcd":
            return GrpcChannel(host, port)
        return WsChannel(host, port, self._waiting, subscribes=self._opened == 1)
