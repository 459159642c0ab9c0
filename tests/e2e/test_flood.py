"""A flood over HTTP at a real validator, bursts and kills of real processes: nobody starves, nothing is lost.

Times depend on what else the machine does; they are printed, and the bounds here are for a busy one.
"""

from __future__ import annotations

import secrets
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ledger.contracts.types import Contract
from ledger.documents import sign_contract
from ledger.keys import Key
from ledger.limits import EXPIRY_BLOCKS_DEFAULT
from ledger.transactions import PublishContract, Transfer, Tx, sign_tx
from node.client.sdk import Client, ClientError
from tests.e2e.net import Net, until
from tests.ledger.contract_samples import contract

CLIENTS = 24  # connections of the flood, each with the next request ready
FLOOD_S = 8.0
QUIET_EVERY_S = 0.2
REPAIR_S = 60.0
SINK = bytes(range(32))


@dataclass
class Flood:
    """Transfers of one account from an address of its own, as fast as the peer answers, whatever it says."""

    net: Net
    at: str
    key: Key
    answers: dict[int, int] = field(default_factory=dict)
    hints: int = 0

    @contextmanager
    def on(self) -> Iterator[None]:
        over = threading.Event()
        threads = [threading.Thread(target=self._run, args=(over,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(30)
            assert not any(thread.is_alive() for thread in threads)

    def _run(self, over: threading.Event) -> None:
        host, _, port = self.net.api(self.at).address.rpartition(":")
        expires = self.net.api(self.at).status().height + EXPIRY_BLOCKS_DEFAULT
        chain_id = self.net.net.chain_id
        with socket.create_connection((host, int(port)), 20, source_address=("127.0.0.2", 0)) as one:
            answers = one.makefile("rb")
            head = b"POST /v1/tx?wait=accepted HTTP/1.1\r\nHost: localhost\r\n"
            head += b"Content-Type: application/octet-stream\r\n"
            while not over.is_set():
                body = Transfer(SINK, 1)
                raw = sign_tx(self.key, Tx(chain_id, self.key.public, expires, secrets.token_bytes(8), body))
                one.sendall(head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
                status = int(answers.readline().split()[1])
                length = 0
                while (line := answers.readline()) not in (b"\r\n", b""):
                    name, _, value = line.lower().partition(b":")
                    length = int(value) if name == b"content-length" else length
                    self.hints += name == b"retry-after"
                answers.read(length)
                self.answers[status] = self.answers.get(status, 0) + 1


def quiet(client: Client, key: Key, seconds: float) -> list[float]:
    """Times to final, in ms, of five transfers a second."""
    spent = []
    end = time.monotonic() + seconds
    while (begin := time.monotonic()) < end:
        result = client.send(key, Transfer(SINK, 1))
        assert result.state == "final" and result.ok
        spent.append((time.monotonic() - begin) * 1000)
        time.sleep(max(0.0, QUIET_EVERY_S - (time.monotonic() - begin)))
    return sorted(spent)


def test_a_flood_at_one_validator_starves_no_other_client(small: Callable[..., Net]) -> None:
    net = small(validators=4)
    client = net.api("v1")
    alone = quiet(client, net.key("consumer"), 4.0)
    flood = Flood(net, "v1", net.key("author"))
    with flood.on():
        loaded = quiet(client, net.key("consumer"), FLOOD_S)
    metrics = client.call("GET", "/metrics").decode()
    print(
        f"alone p50 {statistics.median(alone):.0f} max {alone[-1]:.0f} ms; beside the flood "
        f"p50 {statistics.median(loaded):.0f} max {loaded[-1]:.0f} ms of {len(loaded)}; "
        f"flood {flood.answers}, {sum(flood.answers.values()) / FLOOD_S:.0f}/s"
    )
    assert flood.answers.get(202, 0) > 100
    assert flood.hints == flood.answers.get(429, 0)
    assert len(loaded) >= 2 and statistics.median(loaded) < 5_000
    assert "gridpact_mempool_window_bytes" in metrics
    until("what was accepted is final", lambda: client.status().mempool_txs == 0)


def publish(client: Client, key: Key, source: Contract, accepted: list[tuple[str, str]]) -> None:
    try:
        client.submit(client.sign(key, PublishContract(sign_contract(key, source))), "accepted", 10.0)
    except ClientError:
        return  # it may have died before it answered: nothing was promised
    accepted.append((source.name, source.version))


def test_contracts_reach_everybody_though_peers_are_killed_in_the_burst(small: Callable[..., Net]) -> None:
    """kill -9 of a validator and a 3node while contracts are published at two others; each comes back with
    its key at once, before all have noticed. Every contract that was accepted is at every peer."""
    net = small(validators=4, nodes=1)
    names = ["v1", "v2", "v3", "v4", "node1"]
    accepted: list[tuple[str, str]] = []
    author = net.key("author")

    def burst(at: str, prefix: str) -> None:
        for number in range(40):
            publish(net.api(at), author, contract(name=f"{prefix}-{number}"), accepted)

    threads = [threading.Thread(target=burst, args=(at, f"burst-{at}")) for at in ("v1", "v2")]
    for thread in threads:
        thread.start()
    until("the burst is under way", lambda: len(accepted) >= 10)
    net.kill("node1", "v4")
    net.start("node1", "v4", ready=False)
    began_s = time.monotonic()
    for thread in threads:
        thread.join(120)
    assert len(accepted) == 80
    burst_s = time.monotonic() - began_s

    def missing(name: str) -> set[tuple[str, str]]:
        try:
            return set(accepted) - {(found.name, found.version) for found in net.api(name).contracts()}
        except ClientError:
            return set(accepted)

    until("all are everywhere", lambda: not any(missing(name) for name in names), REPAIR_S)
    print(
        f"80 contracts at {len(names)} peers {time.monotonic() - began_s:.1f} s after the restart, "
        f"{time.monotonic() - began_s - burst_s:.1f} s after the burst"
    )
    net.until_equal("v1", "v2", "v3", "v4")
