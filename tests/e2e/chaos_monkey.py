"""Kills, freezes and restarts validators at random: one in each of `faulty_max` slots, and now and then a
storm that takes more than that, so that nothing can become final.

What it does, to whom and for how long is drawn from its seed. Real processes need what time they need, so a
second run meets the network in other moments.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from bench.common import cpu_s
from node.client.sdk import ClientError
from node.testnet import start_peer, stop_peers
from tests.e2e.chaos_logs import Line, Logs
from tests.e2e.net import Net

How = Literal["kill", "restart", "freeze"]
BACK_S: Final = 30.0  # from a start to the first vote that another peer takes; later is a fault
SETTLE_S: Final = 1.5  # what a quorum had signed before a storm becomes final in that time
_LOOK_S: Final = 0.02
_READY_S: Final = 0.5


@dataclass(slots=True)
class Outage:
    """One validator's. Times in Unix seconds; 0: not yet. `witnesses`: who was up when it began, and so knows
    which votes are old."""

    name: str
    how: How
    lasts_s: float
    is_storm: bool
    began_s: float
    witnesses: frozenset[str] = frozenset()
    down_s: float = 0.0  # SIGTERM: when the process was gone
    again_s: float = 0.0  # started or continued
    voted_s: float = 0.0  # its first new vote was taken by a witness
    cpu_s: float = 0.0  # processor time that the new process had used by then

    @property
    def votes_after_s(self) -> float:
        """From the process' start to the first vote of its new life that another peer took."""
        return self.voted_s - self.again_s


@dataclass(slots=True)
class Storm:
    """More than f down at once; heights as the living told them, soon after it began and at its end."""

    began_s: float
    down: int
    heights: tuple[int, int] | None = None
    ended_s: float = 0.0  # all were started again
    over_s: float = 0.0  # all vote again


@dataclass(slots=True)
class Monkey:
    """See the module. `faults` is what must not have happened."""

    net: Net
    logs: Logs
    names: tuple[str, ...]
    seed: int
    faulty_max: int
    storm_every_s: float
    pause_s: tuple[float, float] = (0.5, 4.0)
    outages: list[Outage] = field(default_factory=list)
    storms: list[Storm] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    active: list[Outage] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)  # of the machine, when a process was started
    _rngs: list[random.Random] = field(init=False)
    _storm_rng: random.Random = field(init=False)
    _due: dict[int, float] = field(default_factory=dict)  # slot -> when its next outage begins
    _in_slot: dict[int, Outage] = field(default_factory=dict)
    _storm: Storm | None = None
    _early: int | None = None

    def __post_init__(self) -> None:
        self._rngs = [random.Random(f"{self.seed}/slot{i}") for i in range(self.faulty_max)]
        self._storm_rng = random.Random(f"{self.seed}/storm")

    # ------------------------------------------------------------------ the run

    def run(self, seconds: float, watch: Callable[[], None] = lambda: None) -> None:
        """Until then; then everybody is brought back. `watch` is called now and then."""
        end_s = time.time() + seconds
        storm_s = time.time() + self.storm_every_s * self._storm_rng.uniform(0.5, 1.0)
        self._due = {i: time.time() + rng.uniform(*self.pause_s) for i, rng in enumerate(self._rngs)}
        # A storm that is due waits until all are back, and comes even when the time is over by then.
        while (now_s := time.time()) < end_s or (self._storm is None and storm_s < end_s):
            self._look()
            if self._storm is None and now_s >= storm_s:
                if not self.active:
                    self._begin_storm()
            elif self._storm is None:
                self._begin_due(now_s)
            self._go_on(now_s)
            if self._storm is not None and not self.active:
                self._storm.over_s, self._storm = time.time(), None
                storm_s = time.time() + self.storm_every_s * self._storm_rng.uniform(0.5, 1.5)
            watch()
            time.sleep(_LOOK_S)
        while self.active:
            for outage in self.active:
                if not outage.is_storm:
                    outage.lasts_s = 0
            self._look()
            self._go_on(time.time())
            time.sleep(_LOOK_S)
        if self._storm is not None:
            self._storm.over_s, self._storm = time.time(), None

    def release(self) -> None:
        """Let go on who is frozen, so that it can be stopped."""
        for outage in self.active:
            if outage.how == "freeze" and not outage.again_s:
                self._signal(outage.name, signal.SIGCONT)

    def _look(self) -> None:
        for line in self.logs.read():
            if line.event == "validator_votes":
                self._voted(line)

    def _voted(self, line: Line) -> None:
        for outage in self.active:
            if (
                line.fields["moniker"] == outage.name
                and line.peer in outage.witnesses
                and outage.again_s
                and line.at_s >= outage.again_s
                and not outage.voted_s
            ):
                outage.voted_s = line.at_s
                if outage.how != "freeze":
                    outage.cpu_s = cpu_s(self.net.peer(outage.name).pid)

    # ------------------------------------------------------------------ beginning

    def _begin_due(self, now_s: float) -> None:
        for slot, rng in enumerate(self._rngs):
            if slot in self._in_slot or now_s < self._due[slot]:
                continue
            busy = {outage.name for outage in self.active}
            name = rng.choice([name for name in self.names if name not in busy])
            how = self._draw_how(rng)
            # Above 7.5 s, a frozen peer's links are given up by the others.
            lasts_s = rng.uniform(0.3, 10.0) if how == "freeze" else rng.choice((0.0, rng.uniform(0.2, 6.0)))
            self._in_slot[slot] = self._begin(name, how, lasts_s, is_storm=False)

    def _draw_how(self, rng: random.Random) -> How:
        return rng.choices(("kill", "restart", "freeze"), (4, 3, 3))[0]  # type: ignore[return-value]

    def _begin_storm(self) -> None:
        rng = self._storm_rng
        victims = rng.sample(self.names, rng.randint(self.faulty_max + 1, len(self.names)))
        lasts_s = rng.uniform(3.0, 6.0)
        self._storm = Storm(time.time(), len(victims))
        self._early = None
        self.storms.append(self._storm)
        for name in victims:
            self._begin(name, self._draw_how(rng), lasts_s, is_storm=True)

    def _begin(self, name: str, how: How, lasts_s: float, *, is_storm: bool) -> Outage:
        outage = Outage(name, how, lasts_s, is_storm, time.time())
        self.outages.append(outage)
        self.active.append(outage)
        if how == "freeze":
            self._signal(name, signal.SIGSTOP)
        elif stop_peers(self.net.net, [name], kill=how == "kill") and how == "restart":
            self.faults.append(f"{name} did not end on SIGTERM and was killed")
        outage.down_s = time.time()
        return outage

    def _signal(self, name: str, number: signal.Signals) -> None:
        peer = self.net.peer(name)
        handle = os.pidfd_open(peer.pid)
        try:
            if self.net.is_up(name):  # from here on it can be no other process
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)

    # ------------------------------------------------------------------ going on and ending

    def _go_on(self, now_s: float) -> None:
        if self._storm is not None and not self._storm.ended_s:
            self._watch_storm(self._storm, now_s)
        for outage in list(self.active):
            if not outage.again_s:
                if now_s >= outage.down_s + outage.lasts_s:
                    self._end(outage)
            elif self._is_back(outage):
                self._remove(outage)
            elif now_s > outage.again_s + BACK_S:
                self.faults.append(f"{outage.name} does not vote {BACK_S:.0f} s after {outage.how}")
                self._remove(outage)

    def _remove(self, outage: Outage) -> None:
        self.active.remove(outage)
        for slot, held in list(self._in_slot.items()):
            if held is outage:
                del self._in_slot[slot]
                self._due[slot] = time.time() + self._rngs[slot].uniform(*self.pause_s)

    def _end(self, outage: Outage) -> None:
        outage.witnesses = frozenset(self.names) - {outage.name}
        if not outage.is_storm:  # after a storm, which may have left nobody, any peer's word counts
            outage.witnesses -= {
                other.name
                for other in self.outages
                if not other.again_s or (other.how != "freeze" and other.again_s > outage.began_s)
            }
        outage.again_s = time.time()
        self.loads.append(os.getloadavg()[0])
        if outage.how == "freeze":
            self._signal(outage.name, signal.SIGCONT)
        else:
            start_peer(self.net.net, self.net.peer(outage.name))

    def _is_back(self, outage: Outage) -> bool:
        """A restarted one votes; a frozen one, whose links may have stayed, is ready."""
        if outage.how != "freeze":
            return outage.voted_s > 0
        client = self.net.api(outage.name)
        try:
            client.call("GET", "/readyz", timeout_s=_READY_S)
        except ClientError:
            return False
        return True

    def _watch_storm(self, storm: Storm, now_s: float) -> None:
        """Nothing becomes final while no quorum is up."""
        is_settled = now_s >= storm.began_s + SETTLE_S and all(o.down_s for o in self.active)
        if is_settled and self._early is None:
            self._early = self._height()
        is_ending = any(not o.again_s and now_s >= o.down_s + o.lasts_s for o in self.active)
        if not is_ending:
            return
        if self._early is not None:
            late = self._height()
            storm.heights = (self._early, late)
            if late > self._early:
                self.faults.append(f"{storm.down} are down and height {self._early} became {late}")
        for outage in self.active:  # all come back at once
            outage.lasts_s = 0
        storm.ended_s = now_s

    def _height(self) -> int:
        """The highest that a living peer tells; 0 when none lives."""
        found = [0]
        down = {outage.name for outage in self.active}
        for name in self.names:
            if name not in down:
                client = self.net.api(name)
                client.timeout_s = 2.0
                try:
                    found.append(client.status().height)
                except ClientError:
                    continue
        return max(found)
