"""Followers in one process, each a whole peer with its own libp2p host and store, for bench.followers.

    python -m bench.followers_host TESTNET_DIR COUNT

Says "ready" on stdout when all follow the tip; then each line on stdin gets the figures since the last one
as a line of JSON; it ends with its stdin.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from bench.common import percentile
from node.config import P2P, Settings
from node.home import Home, create_key, write_atomic
from node.notary import Committed
from node.peer import Peer
from node.run import open_peer
from node.sync.sync_plan import SyncPlan
from node.testnet import Testnet, read_testnet

BOOTSTRAP = 2  # validators that a follower is told of, as a 3node is


@dataclass(slots=True)
class Seen:
    """Of all followers here. `told_s`: when the first of them heard of a height from anybody."""

    told_s: dict[int, float] = field(default_factory=dict)
    delays_ms: list[float] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    txs: int = 0
    blocks: int = 0


class NotingPlan(SyncPlan):
    """The production plan, which notes when a height is first told to anybody here."""

    seen: Seen

    def told(self, peer_id: str, height: int) -> bool:
        """See SyncPlan."""
        self.seen.told_s.setdefault(height, time.monotonic())
        return super().told(peer_id, height)


def watch(peer: Peer, seen: Seen) -> None:
    """Note when heights are told and committed. Before it runs."""
    plan = NotingPlan()
    plan.seen = seen
    peer.follower.plan = plan

    def committed(done: Committed) -> None:
        first_s = seen.told_s.get(done.header.height)
        if first_s is not None:
            seen.delays_ms.append((time.monotonic() - first_s) * 1_000)
        seen.ages_ms.append(time.time() * 1_000 - done.header.time_ms)
        seen.txs += len(done.result.receipts)
        seen.blocks += 1

    peer.notary.on_commit.append(committed)


def open_followers(net: Testnet, folder: Path, count: int, resources: ExitStack) -> list[Peer]:
    """Peers with homes of their own; not running yet."""
    validators = [peer.p2p for peer in net.peers if peer.kind == "validator"]
    peers = []
    for number in range(count):
        home = Home(folder / f"f{number}")
        home.create()
        create_key(home.node_key_file)
        write_atomic(home.genesis_file, Path(net.genesis).read_bytes(), 0o644)
        turned = validators[number % len(validators) :] + validators[: number % len(validators)]
        p2p = P2P(listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=tuple(turned[:BOOTSTRAP]))
        settings = Settings(moniker=f"f{number}", roles=(), p2p=p2p)
        peers.append(open_peer(home, settings, resources))
    return peers


def counters(peers: list[Peer]) -> dict[str, float]:
    """Sums over all followers. Bytes are those of the two streams of each link; gossip's own are not in."""
    links = [neighbour for peer in peers for neighbour in peer.network.neighbours()]
    return {
        "bytes_in": float(sum(link.bytes_in for link in links)),
        "bytes_out": float(sum(link.bytes_out for link in links)),
        "cpu_s": time.process_time(),
        "groups": float(sum(peer.follower.groups for peer in peers)),
        "requests": float(sum(peer.network.stats().get("request.served", 0) for peer in peers)),
    }


def figures(
    peers: list[Peer], seen: Seen, before: dict[str, float], after: dict[str, float], seconds: float
) -> dict[str, Any]:
    """Of a stretch of time: by follower, and by follower and transaction."""
    count, txs = len(peers), max(1.0, seen.txs / len(peers))
    spent = {key: after[key] - before[key] for key in after}
    return {
        "followers": count,
        "txs": round(txs),
        "blocks": round(seen.blocks / count),
        "neighbours": round(sum(len(peer.network.neighbours()) for peer in peers) / count, 1),
        "bytes_in_per_tx": round(spent["bytes_in"] / count / txs),
        "bytes_out_per_tx": round(spent["bytes_out"] / count / txs),
        "cpu_us_per_tx": round(spent["cpu_s"] * 1e6 / count / txs),
        "cpu_percent": round(spent["cpu_s"] / count / seconds * 100, 1),
        "served_per_s": round(spent["requests"] / count / seconds, 1),
        "delay_p50_ms": round(percentile(seen.delays_ms, 0.5), 1) if seen.delays_ms else None,
        "delay_p99_ms": round(percentile(seen.delays_ms, 0.99), 1) if seen.delays_ms else None,
        "age_p50_ms": round(percentile(seen.ages_ms, 0.5), 1) if seen.ages_ms else None,
        "age_p99_ms": round(percentile(seen.ages_ms, 0.99), 1) if seen.ages_ms else None,
        "lowest_height": min(peer.height for peer in peers),
        "highest_height": max(peer.height for peer in peers),
        "peer_ids": [peer.network.peer_id for peer in peers],
    }


async def serve(net: Testnet, folder: Path, count: int) -> None:
    """Run the followers and answer stdin."""
    with ExitStack() as resources:
        peers = open_followers(net, folder, count, resources)
        seen = Seen()
        async with trio.open_nursery() as nursery:
            for peer in peers:
                watch(peer, seen)
                await nursery.start(peer.run)
            while any(  # noqa: ASYNC110 - several peers, and no hurry
                peer.height == 0 or peer.height < peer.follower.best_height - 3 for peer in peers
            ):
                await trio.sleep(0.05)
            print("ready", flush=True)
            before, since_s = counters(peers), time.monotonic()
            while await trio.to_thread.run_sync(sys.stdin.readline):
                after, now_s = counters(peers), time.monotonic()
                found = figures(peers, seen, before, after, now_s - since_s)
                seen.delays_ms, seen.ages_ms, seen.txs, seen.blocks = [], [], 0, 0
                before, since_s = counters(peers), time.monotonic()
                print(json.dumps(found), flush=True)
            nursery.cancel_scope.cancel()


def main() -> None:
    """See the module."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="gridpact-followers-") as folder:
        trio.run(partial(serve, read_testnet(Path(sys.argv[1])), Path(folder), int(sys.argv[2])))


if __name__ == "__main__":
    main()
