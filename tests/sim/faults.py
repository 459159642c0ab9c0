"""Carries a scenario's faults out: what links do to messages, and what befalls nodes, clocks and disks."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush
from typing import TYPE_CHECKING, Final

from ledger.proofs.quorum import tolerated, weight_of
from tests.sim.node import SimNode
from tests.sim.scenario import Fault

if TYPE_CHECKING:
    from tests.sim.world import World

DOOM_MS: Final = 1_000  # a node that did not reach its crash point by then crashes where it is
REPLAY_MS: Final = (300, 8_000)  # how late the second copy of a replayed message comes


class Faults:
    """The faults at work in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.active: list[Fault] = []  # those of links
        self.jumped: set[int] = set()  # members whose wall clock is far off
        self.off: list[tuple[SimNode, int, bool]] = []  # wall clocks that are off: by how much, is it a jump
        self.begins: dict[str, Callable[[Fault, int], None]] = {
            "crash": self._crash,
            "outage": self._outage,
            "restart": self._restart,
            "pause": self._pause,
            "wall": self._wall,
            "jump": self._jump,
            "flood": self._flood,
            "flip": self._flip,
        }

    # ------------------------------------------------------------------ links

    def send(self, node: SimNode, to: int | None, data: bytes) -> None:
        """Bytes from a node to a member (None: all others), whatever the links do to them."""
        if not node.is_honest:
            for member, foul in self.world.foul.sent(node, to, data):
                self._deliver(node, self.world.instances[member], foul)
        elif to is None:
            self._deliver(node, self.world.others[node.member], data)
        elif to != node.member:
            self._deliver(node, self.world.instances[to], data)

    def _deliver(self, node: SimNode, targets: list[SimNode], data: bytes) -> None:
        world = self.world
        low_us, span_us = world.latency_us
        random = world.rng.random
        world.result.messages += len(targets)
        if not self.active:
            first_us, about = world.now_us + low_us, (node.member, data)
            heap, sequence = world.heap, world.sequence
            for target in targets:
                sequence += 1
                heappush(heap, (first_us + int(random() * span_us), sequence, target, target.receive, about))
            world.sequence = sequence
            return
        for target in targets:
            copies, late_us, again = 1, 0, False
            for fault in self.active:
                copies = self._lets(fault, node.member, target.member) if copies else 0
                if fault.kind == "delay":
                    late_us += int(fault.rate * 1_000)
                elif copies and fault.kind in ("duplicate", "replay") and random() < fault.rate:
                    copies, again = (copies + 1, again) if fault.kind == "duplicate" else (copies, True)
            if not copies:
                continue
            for _ in range(copies):
                delay_us = low_us + int(random() * (span_us + late_us))
                world.arrive(world.now_us + delay_us, target, node.member, data)
            if again:
                delay_us = world.rng.randint(REPLAY_MS[0], REPLAY_MS[1]) * 1_000
                world.arrive(world.now_us + delay_us, target, node.member, data)

    def _lets(self, fault: Fault, source: int, to: int) -> int:
        """Copies that a fault lets pass."""
        match fault.kind:
            case "loss":
                return int(self.world.rng.random() >= fault.rate)
            case "split":
                return int((source in fault.who) == (to in fault.who))
            case "oneway":
                return int((source, to) != fault.who)
            case "islands":  # several groups, none of which reaches another
                return int(fault.who[source] == fault.who[to])
            case "deaf":  # sends, but hears nothing
                return int(to not in fault.who)
        return 1

    # ------------------------------------------------------------------ begin and end

    def begin(self, fault: Fault) -> None:
        """A fault's time has come."""
        until_us = self.world.now_us + fault.for_ms * 1_000
        act = self.begins.get(fault.kind)
        if act is not None:
            act(fault, until_us)
        else:
            self.active.append(fault)
            self.world.at(until_us, None, self._over, fault)
        self.world.result.faults[fault.kind] += 1

    def _over(self, fault: Fault) -> None:
        if fault in self.active:
            self.active.remove(fault)

    def _pause(self, fault: Fault, until_us: int) -> None:
        self.world.nodes[fault.who[0]].paused_until_us = until_us

    def _flood(self, fault: Fault, until_us: int) -> None:
        self.world.result.faults[f"flood.{fault.point}"] += 1
        self.world.clients.flood(self.world.nodes[fault.who[0]], fault)

    # ------------------------------------------------------------------ clocks

    def _wall(self, fault: Fault, until_us: int) -> None:
        self._set_wall(self.world.nodes[fault.who[0]], int(fault.rate), False, until_us)

    def _jump(self, fault: Fault, until_us: int) -> None:
        """A wall clock is set, far ahead or back. Its member cannot judge block times, so is faulty."""
        node = self.world.nodes[fault.who[0]]
        twin = self.world.scenario.twin
        faulty = self.jumped | {node.member} | (set() if twin is None else {twin})
        if node.member in self.jumped or not self.tolerates(faulty):
            return
        self.jumped.add(node.member)
        self.world.result.faults["jump.ahead" if fault.rate > 0 else "jump.back"] += 1
        self._set_wall(node, int(fault.rate), True, until_us)

    def _set_wall(self, node: SimNode, by_ms: int, is_jump: bool, until_us: int) -> None:
        node.clock.wall_ms += by_ms
        self.off.append((node, by_ms, is_jump))
        self.world.at(until_us, None, self._right, self.off[-1])

    def _right(self, off: tuple[SimNode, int, bool]) -> None:
        """A wall clock is set right."""
        if off in self.off:
            self.off.remove(off)
            node, by_ms, is_jump = off
            node.clock.wall_ms -= by_ms
            if is_jump:
                self.jumped.discard(node.member)

    def end(self) -> None:
        """All links are clean, all clocks right again."""
        self.active.clear()
        for off in tuple(self.off):
            self._right(off)

    # ------------------------------------------------------------------ power and disks

    def _crash(self, fault: Fault, until_us: int) -> None:
        for member in fault.who:
            self._doom(self.world.nodes[member], fault, until_us)

    def may_fail(self, node: SimNode) -> bool:
        """Is no more weight down than tolerated if this node is, too?"""
        waiting = {n.member for n in self.world.nodes if n.is_waiting}
        return self.tolerates(self.failed() | waiting | {node.member})

    def failed(self) -> set[int]:
        """Members that are down or about to be, that lie, or whose sign state is damaged."""
        nodes = self.world.nodes
        return {n.member for n in nodes if not n.up or n.doom or not n.is_honest or n.votes_no_more}

    def tolerates(self, faulty: set[int]) -> bool:
        """May these members fail at the same time?"""
        weights = self.world.scenario.weights
        return weight_of(faulty, weights) <= tolerated(sum(weights))

    def _doom(self, node: SimNode, fault: Fault, until_us: int) -> None:
        if not node.up or node.doom or not self.may_fail(node):
            return
        node.doom, node.doom_disk = fault.point, fault.disk
        self.world.at(self.world.now_us + DOOM_MS * 1_000, None, self._force, node, node.life)
        self.world.at(until_us + DOOM_MS * 1_000, None, self.boot, node)

    def _force(self, node: SimNode, life: int) -> None:
        if node.up and node.doom and node.life == life:
            self.crash(node, "anywhere")

    def _outage(self, fault: Fault, until_us: int) -> None:
        for node in self.world.nodes:
            if node.up:
                node.doom_disk = "torn"
                self.crash(node, "outage")
                self.world.at(until_us + self.world.rng.randint(0, 1_000_000), None, self.boot, node)

    def _restart(self, fault: Fault, until_us: int) -> None:
        """A clean stop and start."""
        node = self.world.nodes[fault.who[0]]
        if node.up and not node.doom and self.may_fail(node):
            node.stop()
            self.world.told("crashed", node)
            self.world.at(until_us, None, self.boot, node)

    def _flip(self, fault: Fault, until_us: int) -> None:
        """Bits change at rest, while the node is down (a read may come at any time then)."""
        node = self.world.nodes[fault.who[0]]
        if not node.up or node.doom or not node.is_honest or not self.may_fail(node):
            return
        node.doom_disk = "lost"
        self.crash(node, "flip")
        disk = node.chain_disk if fault.point == "chain" else node.disk
        if disk.flip(self.world.rng):
            self.world.result.faults[f"flip.{fault.point}"] += 1
        self.world.at(until_us, None, self.boot, node)

    def crash(self, node: SimNode, where: str) -> None:
        """Power off."""
        self.world.result.faults[f"crash.{where}"] += 1
        node.crash(node.doom_disk)
        self.world.told("crashed", node)

    def boot(self, node: SimNode) -> None:
        """Power on."""
        if not node.up and not node.lost_for_good:
            self.world.at(self.world.now_us, node, node.boot)

    def damaged(self, node: SimNode, error: Exception) -> None:
        """A store cannot be read: the process stops. Its operator does what the error says: a chain is moved
        away, and synced anew; a sign state that is damaged ends its validator for good."""
        world = self.world
        node.crash("lost")
        world.told("crashed", node)
        if node.disk.refuses or node.disk.harmed:
            world.result.faults["noticed.sign_state"] += 1
            node.lost_for_good = True
            return
        if not (node.chain_disk.refuses or node.chain_disk.harmed):
            world.report("Exception", f"node {node.id}: {error!r}, and no disk is damaged")
        world.result.faults["noticed.chain"] += 1
        node.replace_chain()
        world.told("replaced", node)
        world.at(world.now_us + 200_000, None, self.boot, node)
