"""What following costs: bytes and CPU of a follower for each transaction, its delay behind
the validators, and the validators' egress, with 1, 10 and 50 followers beside four validators; then 5,000 of
them in a model (bench.followers_model).

    python -m bench.followers [--rate 20] [--seconds 20] [--counts 1,10,50] [--save] [--no-model]

Validators are processes; followers are whole peers with libp2p hosts of their own in one process
(bench.followers_host), so that 50 fit on a machine.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bench import followers_model
from bench.common import cpu_s, machine, save, show
from ledger.limits import EXPIRY_BLOCKS_DEFAULT
from ledger.transactions import Transfer, Tx, sign_tx
from node.client.sdk import Client, ClientError
from node.testnet import Testnet, client_of, init_testnet, key_of, start_peer, stop_peers, wait_ready

READY_S: Final = 120.0
ROOT: Final = Path(__file__).resolve().parent.parent


def load(net: Testnet, clients: list[Client], rate_per_s: float, seconds: float) -> int:
    """Hand in transfers at a rate, in turns to all validators, not waiting for them. Returns how many were
    taken."""
    key, taken, lock = key_of(net, "consumer"), 0, threading.Lock()
    height = clients[0].status().height

    def one(client: Client, first: float, every_s: float, until: float) -> None:
        nonlocal taken
        due = first
        while due < until:
            time.sleep(max(0.0, due - time.monotonic()))
            due += every_s
            to = key.public[:31] + bytes([key.public[31] ^ 1])
            body = Transfer(to, 1)
            tx = Tx(net.chain_id, key.public, height + EXPIRY_BLOCKS_DEFAULT, secrets.token_bytes(8), body)
            with suppress(ClientError):
                client.submit(sign_tx(key, tx), wait="none")
                with lock:
                    taken += 1

    start, every_s = time.monotonic() + 0.1, len(clients) / rate_per_s
    threads = [
        threading.Thread(target=one, args=(client, start + n / rate_per_s, every_s, start + seconds))
        for n, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def measure(count: int, rate_per_s: float, seconds: float, warm_s: float = 4.0) -> dict[str, Any]:
    """Figures with `count` followers."""
    with tempfile.TemporaryDirectory(prefix="gridpact-bench-") as folder:
        net = init_testnet(Path(folder) / "net", "bench", validators=4, nodes=0, bots=0)
        names = [peer.name for peer in net.peers]
        try:
            for peer in net.peers:
                start_peer(net, peer)
            wait_ready(net, names, READY_S, lambda text: None)
            clients = [client_of(peer) for peer in net.peers]
            host = subprocess.Popen(
                [sys.executable, "-m", "bench.followers_host", net.folder, str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            try:
                return _measured(net, clients, host, rate_per_s, seconds, warm_s)
            finally:
                assert host.stdin is not None
                host.stdin.close()
                host.wait(READY_S)
        finally:
            stop_peers(net, names)


def _measured(
    net: Testnet,
    clients: list[Client],
    host: subprocess.Popen[str],
    rate_per_s: float,
    seconds: float,
    warm_s: float,
) -> dict[str, Any]:
    if _read(host) != "ready":
        raise RuntimeError(f"the followers ended with {host.poll()}")
    load(net, clients, rate_per_s, warm_s)
    followers = set(json.loads(_ask(host))["peer_ids"])
    before, cpu = _egress(clients, followers), [cpu_s(peer.pid) for peer in net.peers]
    taken = load(net, clients, rate_per_s, seconds)
    found: dict[str, Any] = json.loads(_ask(host))
    after = _egress(clients, followers)
    spent = [cpu_s(peer.pid) - was for peer, was in zip(net.peers, cpu, strict=True)]
    del found["peer_ids"]
    txs = max(1, found["txs"])
    return found | {
        "rate_per_s": rate_per_s,
        "taken": taken,
        "validator_to_followers_bytes_per_tx": round((after["followers"] - before["followers"]) / 4 / txs),
        "validator_to_validators_bytes_per_tx": round((after["others"] - before["others"]) / 4 / txs),
        "validator_links_to_followers": after["links"],
        "validator_cpu_percent": round(sum(spent) / 4 / seconds * 100, 1),
    }


def _read(host: subprocess.Popen[str]) -> str:
    assert host.stdout is not None
    return host.stdout.readline().strip()


def _ask(host: subprocess.Popen[str]) -> str:
    assert host.stdin is not None
    host.stdin.write("\n")
    host.stdin.flush()
    return _read(host)


def _egress(clients: list[Client], followers: set[str]) -> dict[str, int]:
    """Bytes that validators have sent to followers and to each other, over the links of now."""
    links = [link for client in clients for link in client.peers().neighbours]
    return {
        "followers": sum(link.bytes_out for link in links if link.peer_id in followers),
        "others": sum(link.bytes_out for link in links if link.peer_id not in followers),
        "links": sum(link.peer_id in followers for link in links) // len(clients),
    }


def main() -> int:
    """0 when all was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.followers", description=__doc__)
    parser.add_argument("--rate", type=float, default=20.0, help="transactions a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--counts", default="1,10,50", help="how many followers; empty: the model alone")
    parser.add_argument("--label", default="", help="part of the result file's name")
    parser.add_argument("--save", action="store_true", help="keep figures, and the model's plots")
    parser.add_argument("--no-model", action="store_true")
    options = parser.parse_args()
    shape = machine()
    figures: dict[str, Any] = {"real": []}
    for count in map(int, filter(None, options.counts.split(","))):
        figures["real"].append(measure(count, options.rate, options.seconds))
        print(json.dumps(figures["real"][-1]), file=sys.stderr, flush=True)
    if not options.no_model:
        figures["model"] = followers_model.measure_all()
    _print(figures)
    if options.save:
        label = f"followers-{options.label}" if options.label else "followers"
        print(save(label, "python -m bench.followers --save", shape, figures).name)
        if not options.no_model:
            for file in followers_model.plots(figures["model"]):
                print(file.name)
    return 0


def _print(figures: dict[str, Any]) -> None:
    rows = []
    for one in figures["real"]:
        name = f"{one['followers']} followers"
        traffic = f"{one['bytes_in_per_tx']}, {one['bytes_out_per_tx']} B"
        rows.append((f"{name}: in, out a tx and follower", traffic))
        rows.append((f"{name}: CPU a tx and follower", f"{one['cpu_us_per_tx']} us"))
        rows.append((f"{name}: behind, p50, p99", f"{one['delay_p50_ms']}, {one['delay_p99_ms']} ms"))
        rows.append((f"{name}: a validator to all", f"{one['validator_to_followers_bytes_per_tx']} B a tx"))
    model = figures.get("model", {})
    for one in (*model.get("by_followers", ()), *model.get("by_validators", ())):
        name = f"model, {one['followers']} followers, {one['validators']} validators"
        rows.append((f"{name}: in, out a tx", f"{one['bytes_in_per_tx']}, {one['bytes_out_per_tx']} B"))
        rows.append((f"{name}: behind, p50, p99", f"{one['delay_p50_ms']}, {one['delay_p99_ms']} ms"))
        rows.append((f"{name}: hops, p50, most", f"{one['hops_p50']}, {one['hops_max']}"))
        rows.append((f"{name}: a validator to all", f"{one['validator_bytes_per_tx']} B a tx"))
    show("followers beside validators", rows)


if __name__ == "__main__":
    sys.exit(main())
