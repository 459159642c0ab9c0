"""One client process: makes its transactions beforehand, says so, then runs a plan and reports."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from bench.load import payloads
from bench.load.channel import Channel
from bench.load.grpc_channel import GrpcChannel, SigningGrpcChannel
from bench.load.loop import Loop, Plan
from bench.load.stream_channel import StreamChannel
from bench.load.ws_channel import WsChannel

ANSWER_S: Final = 20.0  # what a peer of ours is asked to wait for finality
FIRST_ADDRESS: Final = 11  # of 127.0.0.0/8, which Linux has whole; the servers are at 127.0.0.1


@dataclass(frozen=True)
class Job:
    """`protocol`: gridpact, etcd or cometbft. `count` transactions are made; `expires`, `chain_id`: ours.
    `signs`: an etcd client signs and verifies what it writes."""

    protocol: str
    addresses: tuple[tuple[str, int], ...]
    worker: int
    count: int
    chain_id: str = ""
    expires: int = 0
    signs: bool = False


def run(pipe: Connection) -> None:
    """Entry of the process: a Job comes, "ready" goes; a Plan comes, a Report goes."""
    job: Job = pipe.recv()
    made = make(job)
    gc.collect()
    gc.freeze()  # payloads live to the end: the collector need not look at them
    pipe.send("ready")
    plan: Plan = pipe.recv()
    loop = Loop(plan, made, connect(job))
    pipe.send(loop.run())
    pipe.close()


def make(job: Job) -> list[bytes]:
    """The job's transactions."""
    if job.protocol == "gridpact":
        return payloads.gridpact(job.count, job.chain_id, job.expires)
    return payloads.etcd(job.count) if job.protocol == "etcd" else payloads.cometbft(job.count)


def connect(job: Job) -> list[Channel]:
    """A channel to each server, each of which takes many requests at once; clients begin at different ones.

    A client has an address of its own: servers that share their room among clients see several."""
    count = len(job.addresses)
    places = [job.addresses[(job.worker + n) % count] for n in range(count)]
    source = f"127.0.0.{FIRST_ADDRESS + job.worker}"
    if job.protocol == "gridpact":
        return [StreamChannel(host, port, ANSWER_S, source) for host, port in places]
    if job.protocol == "etcd":
        kind = SigningGrpcChannel if job.signs else GrpcChannel
        return [kind(host, port, source) for host, port in places]
    waiting: dict[str, int] = {}
    return [
        WsChannel(host, port, waiting, source, subscribes=place == 0)
        for place, (host, port) in enumerate(places)
    ]
