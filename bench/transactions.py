"""Time from sending a signed transfer to hearing that it is final, at a fixed rate (open loop).

Load comes from threads of this process, one HTTP request each; validators take turns.
"""

from __future__ import annotations

import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.common import cpu_s, percentile
from ledger.keys import Key
from ledger.limits import EXPIRY_BLOCKS_DEFAULT
from ledger.transactions import Transfer, Tx, sign_tx
from node.client.sdk import ClientError
from node.testnet import Testnet, client_of, key_of

WORKERS = 64


def measure(net: Testnet, rate_per_s: int, seconds: int) -> dict[str, Any]:
    """Figures of `rate_per_s` transfers a second for `seconds`: latencies in ms, errors, CPU shares."""
    key = key_of(net, "consumer")
    validators = [peer for peer in net.peers if peer.kind == "validator"]
    clients = [client_of(peer) for peer in validators]
    height = clients[0].status().height
    before = {peer.name: cpu_s(peer.pid) for peer in net.peers}
    latencies: list[float] = []
    errors: list[str] = []
    lock = threading.Lock()

    def one(number: int, due: float) -> None:
        time.sleep(max(0.0, due - time.perf_counter()))
        raw = _transfer(net.chain_id, key, height + EXPIRY_BLOCKS_DEFAULT)
        begin = time.perf_counter()
        try:
            clients[number % len(clients)].submit(raw, wait="final", timeout_s=20)
            taken = (time.perf_counter() - begin) * 1000
            with lock:
                latencies.append(taken)
        except ClientError as error:
            with lock:
                errors.append(str(error))

    start = time.perf_counter() + 0.5
    with ThreadPoolExecutor(WORKERS) as pool:
        for number in range(rate_per_s * seconds):
            pool.submit(one, number, start + number / rate_per_s)
    spent = time.perf_counter() - start
    after = {peer.name: cpu_s(peer.pid) for peer in net.peers}
    return {
        "rate_per_s": rate_per_s,
        "final": len(latencies),
        "errors": len(errors),
        "first_error": errors[0] if errors else "",
        "p50_ms": round(percentile(latencies, 0.5), 1) if latencies else None,
        "p99_ms": round(percentile(latencies, 0.99), 1) if latencies else None,
        "max_ms": round(max(latencies), 1) if latencies else None,
        "seconds": round(spent, 1),
        "cpu_percent": {name: round((after[name] - before[name]) / spent * 100, 1) for name in before},
    }


def first_final(net: Testnet, timeout_s: float) -> None:
    """Returns when the first transaction is final on a network that is just starting."""
    client, key = client_of(net.peers[0]), key_of(net, "consumer")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            raw = _transfer(net.chain_id, key, client.status().height + EXPIRY_BLOCKS_DEFAULT)
            client.submit(raw, wait="final", timeout_s=timeout_s)
            return
        except ClientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _transfer(chain_id: str, key: Key, expires: int) -> bytes:
    to = key.public[:31] + bytes([key.public[31] ^ 1])
    return sign_tx(key, Tx(chain_id, key.public, expires, secrets.token_bytes(8), Transfer(to, 1)))
