"""Relay v2 and hole punching of libp2p, tried between three machines: a relay in the open, a target behind
NAT, a source elsewhere. On hosts set up as ours are (noise, yamux, limits), but for what our links add."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import multiaddr
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.dcutr import DCUtRProtocol
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service

from p2p.host_parts import build_host
from p2p.libp2p_fixes import close_connection
from tests.netns.lab import Machine

ECHO = TProtocol("/test/echo/1")
STEP_S = 20.0
PORT = 4_001


@dataclass
class Trial:
    """What came of each step: "ok", a figure, or the error."""

    relay_at: Machine
    target_at: Machine
    source_at: Machine
    punch_s: float = 0.0  # how long hole punching may take; 0: it is not tried
    found: dict[str, Any] = field(default_factory=dict)
    _relay: str = ""
    _target: str = ""
    _reserved: threading.Event = field(default_factory=threading.Event)
    _relay_up: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> dict[str, Any]:
        """Runs the three, a thread each. Returns what was found."""
        parts = ((self.relay_at, self._be_relay), (self.target_at, self._be_target))
        threads = [threading.Thread(target=self._stand, args=part) for part in parts]
        for thread in threads:
            thread.start()
        try:
            self._stand(self.source_at, self._be_source)
        finally:
            self._over.set()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()
            with warnings.catch_warnings():  # the library leaves sockets of relayed connections open
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
        return self.found

    def _stand(self, machine: Machine, part: Callable[[], Any]) -> None:
        try:
            with machine.inside():
                trio.run(part)
        except Exception as error:  # noqa: BLE001 - the trial reports whatever the library does
            self.found[f"{part.__name__.removeprefix('_be_')} ended"] = _words(error)

    async def _until(self, event: threading.Event) -> None:
        while not event.is_set():
            await trio.sleep(0.05)

    async def _be_relay(self) -> None:
        host = build_host(b"\x01" * 32, (), 8)
        limits = RelayLimits(duration=120, data=10_000_000, max_circuit_conns=4, max_reservations=4)
        protocol = CircuitV2Protocol(host, limits=limits, allow_hop=True)
        listen = [multiaddr.Multiaddr(f"/ip4/0.0.0.0/tcp/{PORT}")]
        async with host.run(listen_addrs=listen), background_trio_service(protocol):
            await protocol.event_started.wait()
            self._relay = f"/ip4/{self.relay_at.address}/tcp/{PORT}/p2p/{host.get_id()}"
            self._relay_up.set()
            await self._until(self._over)
            await _close_all(host)

    def _client(self, host: Any) -> tuple[CircuitV2Protocol, CircuitV2Transport]:
        protocol = CircuitV2Protocol(host, allow_hop=False)
        config = RelayConfig(roles=RelayRole.STOP | RelayRole.CLIENT)
        return protocol, CircuitV2Transport(host, protocol, config)

    def _relay_info(self) -> PeerInfo:
        address = multiaddr.Multiaddr(self._relay)
        return PeerInfo(ID.from_string(self._relay.rpartition("/")[2]), [address])

    async def _be_target(self) -> None:
        host = build_host(b"\x02" * 32, (), 8)

        async def echo(stream: Any) -> None:
            await stream.write(await stream.read(1_024))

        host.set_stream_handler(ECHO, echo)
        protocol, transport = self._client(host)
        punch = DCUtRProtocol(host)
        listen = [multiaddr.Multiaddr(f"/ip4/0.0.0.0/tcp/{PORT}")]
        async with (
            host.run(listen_addrs=listen),
            background_trio_service(protocol),
            background_trio_service(punch),
            trio.open_nursery() as nursery,
        ):
            await self._until(self._relay_up)
            info = self._relay_info()
            with trio.move_on_after(STEP_S):
                await host.connect(info)
                stream = await host.new_stream(info.peer_id, [PROTOCOL_ID])
                done = await transport.reserve(stream, info.peer_id, nursery)
                self.found["reservation"] = "ok" if done else "refused"
            self._target = str(host.get_id())
            self._reserved.set()
            await self._until(self._over)
            nursery.cancel_scope.cancel()
            await _close_all(host)

    async def _be_source(self) -> None:
        host = build_host(b"\x03" * 32, (), 8)
        protocol, transport = self._client(host)
        punch = DCUtRProtocol(host)
        listen = [multiaddr.Multiaddr(f"/ip4/0.0.0.0/tcp/{PORT}")]
        async with (
            host.run(listen_addrs=listen),
            background_trio_service(protocol),
            background_trio_service(punch),
        ):
            await self._until(self._reserved)
            target = ID.from_string(self._target)
            await self._step("dial by relay", lambda: self._dial(transport))
            await self._step("echo by relay", lambda: self._echo(host, target))
            if self.punch_s:
                await self._step("hole punch", lambda: self._punch(punch, target), self.punch_s)
            await _close_all(host)

    async def _step(self, name: str, step: Callable[[], Any], limit_s: float = STEP_S) -> None:
        begun = trio.current_time()
        try:
            with trio.fail_after(limit_s):
                self.found[name] = await step()
        except Exception as error:  # noqa: BLE001 - the trial reports whatever the library does
            self.found[name] = _words(error)
        self.found[f"{name}, ms"] = round((trio.current_time() - begun) * 1e3)

    async def _dial(self, transport: CircuitV2Transport) -> str:
        await transport.dial(multiaddr.Multiaddr(f"{self._relay}/p2p-circuit/p2p/{self._target}"))
        return "ok"

    async def _echo(self, host: Any, target: ID) -> str:
        stream = await host.new_stream(target, [ECHO])
        await stream.write(b"hello")
        return "ok" if await stream.read(5) == b"hello" else "other bytes"

    async def _punch(self, punch: DCUtRProtocol, target: ID) -> str:
        return "direct" if await punch.initiate_hole_punch(target) else "no direct connection"


async def _close_all(host: Any) -> None:
    """The library leaves sockets open."""
    for connection in list(host.get_network().get_connections()):
        await close_connection(connection)


def _words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]
