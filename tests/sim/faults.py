"""Carries a scenario's faults out: what links do to messages, and what befalls nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.quorum import tolerated, weight_of
from tests.sim.node import SimNode
from tests.sim.scenario import Fault

if TYPE_CHECKING:
    from tests.sim.world import World

FORGED = 0.03  # of a Byzantine member's messages
DOOM_MS = 1_000  # a node that did not reach its crash point by then crashes where it is


class Faults:
    """The faults at work in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.active: list[Fault] = []  # those of links

    def send(self, node: SimNode, to: int, data: bytes) -> None:
        """Bytes from a node to a member, whatever the links do to them."""
        if not self.world.is_honest(node.member):
            data = self._forged(data)
        for target in self.world.nodes:
            if target.member != to:
                continue
            self.world.result.messages += 1
            low, high = self.world.scenario.latency_ms
            copies = 1
            for fault in self.active:
                copies = min(copies, self._lets(fault, node.member, to)) if copies else 0
                if fault.kind == "delay":
                    high += int(fault.rate)
                elif fault.kind == "duplicate" and copies and self.world.rng.random() < fault.rate:
                    copies = 2
            for _ in range(copies):
                self.world.at(
                    self.world.now_us + self.world.rng.randint(low * 1_000, high * 1_000),
                    target,
                    target.receive,
                    node.member,
                    data,
                )

    def _forged(self, data: bytes) -> bytes:
        """What a Byzantine member sends: now and then a consensus message with one byte changed."""
        rng = self.world.rng
        if data[:1] in (b"B", b"R") or rng.random() >= FORGED:
            return data
        at = rng.randrange(1, len(data))  # the first one says what kind of message it is
        return data[:at] + bytes([data[at] ^ rng.randint(1, 255)]) + data[at + 1 :]

    def _lets(self, fault: Fault, source: int, to: int) -> int:
        """Copies that a fault lets pass (a duplicate's second one is added by the caller)."""
        match fault.kind:
            case "loss":
                return int(self.world.rng.random() >= fault.rate)
            case "split":
                return int((source in fault.who) == (to in fault.who))
            case "oneway":
                return int((source, to) != fault.who)
        return 2

    def begin(self, fault: Fault) -> None:
        until_us = self.world.now_us + fault.for_ms * 1_000
        self.world.result.faults[fault.kind] += 1
        match fault.kind:
            case "crash":
                for member in fault.who:
                    self._doom(self.world.nodes[member], fault.point, until_us)
            case "outage":
                for node in self.world.nodes:
                    if node.up:
                        self.crash(node, "outage")
                        self.world.at(until_us + self.world.rng.randint(0, 1_000_000), None, self.boot, node)
            case "pause":
                self.world.nodes[fault.who[0]].paused_until_us = until_us
            case "wall":
                node = self.world.nodes[fault.who[0]]
                node.clock.wall_ms += int(fault.rate)
                self.world.at(until_us, None, self._wall_back, node, int(fault.rate))
            case _:
                self.active.append(fault)
                self.world.at(until_us, None, self._over, fault)

    def _over(self, fault: Fault) -> None:
        if fault in self.active:
            self.active.remove(fault)

    def _wall_back(self, node: SimNode, by_ms: int) -> None:
        node.clock.wall_ms -= by_ms

    def _doom(self, node: SimNode, point: str, until_us: int) -> None:
        """Crash at a named point, as long as no more weight than tolerated is down."""
        weights = self.world.scenario.weights
        down = {
            n.member for n in self.world.nodes if not n.up or n.doom or not self.world.is_honest(n.member)
        }
        if not node.up or node.doom or weight_of(down | {node.member}, weights) > tolerated(sum(weights)):
            return
        node.doom = point
        self.world.at(self.world.now_us + DOOM_MS * 1_000, None, self._force, node, node.life)
        self.world.at(until_us + DOOM_MS * 1_000, None, self.boot, node)

    def _force(self, node: SimNode, life: int) -> None:
        if node.up and node.doom and node.life == life:
            self.crash(node, "anywhere")

    def crash(self, node: SimNode, where: str) -> None:
        self.world.result.faults[f"crash.{where}"] += 1
        node.crash()
        if self.world.is_honest(node.member):
            for checker in self.world.checkers:
                checker.crashed(node)

    def boot(self, node: SimNode) -> None:
        if not node.up:
            self.world.at(self.world.now_us, node, node.boot)
