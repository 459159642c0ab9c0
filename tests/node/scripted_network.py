"""A network of one peer whose neighbours answer by script, and which remembers what was asked and sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from p2p.network import Ban, Lane, Neighbour, Started

Answer = Callable[[str, bytes], Awaitable[bytes]]


@dataclass
class ScriptedNetwork:
    """A p2p.network.Network. `answers` by peer id take method and body, and may raise RequestError."""

    peer_id: str = "me"
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    sent: list[tuple[str, Lane, bytes]] = field(default_factory=list)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    penalties: list[tuple[str, str]] = field(default_factory=list)
    on_send: Callable[[], None] = lambda: None
    held: frozenset[str] = frozenset()

    async def request(self, peer_id: str, method: str, body: bytes, timeout_s: float) -> bytes:
        self.asked.append((peer_id, method, body))
        return await self.answers[peer_id](method, body)

    def penalise(self, peer_id: str, rule: str, points: int) -> None:
        self.penalties.append((peer_id, rule))

    def send(self, peer_id: str, lane: Lane, payload: bytes) -> bool:
        self.on_send()
        self.sent.append((peer_id, lane, payload))
        return True

    def publish(self, topic: str, payload: bytes) -> bool:
        self.published.append((topic, payload))
        return True

    def addresses(self) -> tuple[str, ...]:
        return ()

    def neighbours(self) -> tuple[Neighbour, ...]:
        return ()

    def banned(self) -> tuple[Ban, ...]:
        return ()

    def stats(self) -> dict[str, int]:
        return {}

    def add_peer(self, address: str, *, keep: bool) -> None:
        raise NotImplementedError

    def hold(self, peer_ids: frozenset[str]) -> None:
        self.held = peer_ids

    async def run(self, handlers: Any, *, task_status: Started) -> None:
        raise NotImplementedError
