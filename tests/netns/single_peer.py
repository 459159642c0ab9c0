"""A host and nothing above it, until stdin ends: tells its peer id, then its neighbours and addresses each
time that they change, as JSON lines.

    python -m tests.netns.single_peer NUMBER '{"mdns": true, …}'      (fields of HostConfig)
"""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

from p2p.errors import Refused
from p2p.host import Host, HostConfig
from p2p.network import Lane, Neighbour, Verdict

LISTEN = ("/ip4/0.0.0.0/tcp/27656",)


class Quiet:
    """Handlers that know of one chain alone."""

    def hello(self, peer_id: str) -> bytes:
        return b"chain"

    def check_hello(self, peer_id: str, hello: bytes) -> None: ...

    def on_up(self, neighbour: Neighbour) -> None: ...

    def on_down(self, peer_id: str, reason: str) -> None: ...

    def on_message(self, peer_id: str, lane: Lane, payload: bytes) -> None: ...

    async def serve(self, peer_id: str, method: str, body: bytes) -> bytes:
        raise Refused("nothing here")

    async def on_gossip(self, topic: str, peer_id: str, payload: bytes) -> Verdict:
        return Verdict.IGNORE


async def main(number: int, options: dict[str, Any]) -> None:
    """Tells what changes, looking ten times a second."""
    lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
    host = Host(HostConfig(seed=bytes([number]) * 32, **({"listen": LISTEN} | options | lists)))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run, Quiet())
        print(json.dumps(host.peer_id), flush=True)
        nursery.start_soon(_tell, host)
        await trio.lowlevel.wait_readable(sys.stdin)
        nursery.cancel_scope.cancel()


async def _tell(host: Host) -> None:
    told: object = None
    while True:
        now = {
            "neighbours": {n.peer_id: n.address for n in host.neighbours()},
            "addresses": host.addresses(),
        }
        if now != told:
            told = now
            print(json.dumps(now | {"stats": host.stats()}), flush=True)
        await trio.sleep(0.1)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), json.loads(sys.argv[2]))
