"""One peer that gives and takes artifacts, as a process, for bench.files.

    python -m bench.files_host FOLDER LISTEN_HOST

Says its address as a line of JSON; then each line of JSON on stdin is an order, answered by one line. It ends
with its stdin. Host, exchange and store are those of a real peer; there is no chain.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog
import trio
from libp2p.custom_types import TProtocol

from node.allocator import keep_freed_memory
from node.files.artifacts import ArtifactStore
from node.files.exchange import Exchange, Wanted
from p2p.errors import Refused
from p2p.host import Host, HostConfig
from p2p.host_parts import HostStream
from p2p.limits import WRITE_BYTES_MAX
from p2p.network import Lane, Neighbour, Verdict

RAW: Final = "/gridpact/bench/raw/1"
_PIECE: Final = 1024 * 1024


class Peer:
    """Handlers of a network that serve artifacts and nothing else."""

    def __init__(self, folder: Path, listen: str) -> None:
        self.host = Host(HostConfig(secrets.token_bytes(32), (f"/ip4/{listen}/tcp/0",)))
        self.exchange = Exchange(self.host, ArtifactStore(folder))
        self.methods = self.exchange.methods()
        self.host.basic_host.set_stream_handler(TProtocol(RAW), self.raw_source)

    def hello(self, peer_id: str) -> bytes:
        """The same for all."""
        return b"bench"

    def check_hello(self, peer_id: str, hello: bytes) -> None:
        """Nobody else is here."""

    def on_up(self, neighbour: Neighbour) -> None: ...

    def on_down(self, peer_id: str, reason: str) -> None: ...

    def on_message(self, peer_id: str, lane: Lane, payload: bytes) -> None: ...

    async def on_gossip(self, topic: str, peer_id: str, payload: bytes) -> Verdict:
        """There is none."""
        return Verdict.IGNORE

    async def serve(self, peer_id: str, method: str, body: bytes) -> bytes:
        """As node.handlers does."""
        try:
            return await self.methods[method](peer_id, body)
        except Exception as error:  # noqa: BLE001 - as PeerHandlers: nothing of one request ends a peer
            raise Refused(f"{getattr(error, 'rule', 'failed')}: {error}"[:200]) from None

    async def raw_source(self, stream: Any) -> None:
        """A bare stream: eight bytes of a size come, so many bytes go."""
        ours, asked = HostStream(stream), b""
        while len(asked) < 8:
            asked += await ours.read()
        left, piece = int.from_bytes(asked[:8], "big"), secrets.token_bytes(WRITE_BYTES_MAX)
        while left:
            await ours.write(piece[:left])
            left -= min(left, len(piece))
        await stream.close()

    async def raw(self, peer_id: str, size_bytes: int) -> dict[str, float]:
        """Takes so many bytes over a bare stream and forgets them."""
        stream = await self.host.open_on_link(peer_id, RAW)
        ours = HostStream(stream)
        begin, cpu = time.perf_counter(), time.process_time()
        await ours.write(size_bytes.to_bytes(8, "big"))
        came = 0
        while came < size_bytes:
            data = await ours.read()
            if not data:
                raise RuntimeError(f"the bare stream ended after {came} bytes")
            came += len(data)
        taken = {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}
        await stream.close()
        return taken

    async def fetch(self, order: dict[str, Any]) -> dict[str, float]:
        """An artifact from whoever has it, until it is verified and synced."""
        wanted = Wanted(order["sha256"], order["size_bytes"], order["root"])
        begin, cpu = time.perf_counter(), time.process_time()
        await self.exchange.fetch(wanted)
        return {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}

    async def obey(self, order: dict[str, Any]) -> Any:
        """One order."""
        store = self.exchange.store
        match order["do"]:
            case "make":
                info = await trio.to_thread.run_sync(store.add_stream, _random(order["size_bytes"]))
                return {"sha256": info.sha256, "size_bytes": info.size_bytes, "root": info.root}
            case "meet":
                for address in order["addresses"]:
                    self.host.add_peer(address, keep=True)
                with trio.fail_after(60):
                    while len(self.host.neighbours()) < order["count"]:  # noqa: ASYNC110 - no event tells
                        await trio.sleep(0.05)
                return {}
            case "fetch":
                return await self.fetch(order)
            case "drop":
                await trio.to_thread.run_sync(store.free, order["sha256"])
                return {}
            case "raw":
                return await self.raw(order["peer_id"], order["size_bytes"])
            case _:
                return {"cpu_s": time.process_time(), "served_bytes": self.exchange.serving.served_bytes}


def _random(size_bytes: int) -> Iterator[bytes]:
    while size_bytes:
        data = os.urandom(min(_PIECE, size_bytes))
        size_bytes -= len(data)
        yield data


async def main(folder: Path, listen: str) -> None:
    """Until stdin ends."""
    keep_freed_memory()
    peer = Peer(folder, listen)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(peer.host.run, peer)
        print(json.dumps({"peer_id": peer.host.peer_id, "address": addresses[0]}), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            try:
                answer = await peer.obey(json.loads(line))
            except Exception as error:  # noqa: BLE001 - told to who gave the order
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
