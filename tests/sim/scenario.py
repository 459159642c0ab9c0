"""A seed's network: who votes with what weight, how the links behave, and which faults come when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from consensus.timers import Timing
from ledger.proofs.quorum import tolerated
from tests.sim.disk import LOSSES
from tests.sim.node import CRASH_POINTS

# Each is drawn for some scenario; `Fault` says what becomes of `who`, `rate`, `point` and `disk`.
KINDS: Final = (
    "loss",
    "delay",
    "duplicate",
    "replay",
    "split",
    "islands",
    "oneway",
    "deaf",
    "pause",
    "wall",
    "jump",
    "restart",
    "flood",
    "flip",
    "crash",
    "crash",
    "crash",
)
LIES: Final = ("nothing", "nothing", "root", "parent", "height", "time", "withhold", "forge")
FLOODS: Final = ("one", "many", "batches")
# What a long run must have seen, beside each kind above: how crashes fell, and that damage was noticed.
EFFECTS: Final = (
    *(f"crash.{point}" for point in CRASH_POINTS),
    *(f"disk.{how}" for how in LOSSES),
    *(f"flood.{kind}" for kind in FLOODS),
    *(f"state.{what}" for what in ("installed", "resumed", "lie_noticed", "silent")),
    *(f"forged.{how}" for how in ("signatures", "few", "statement", "bitmap", "epoch")),
    "block.dropped",
    "chain.older_than_votes",
    "changed_bytes",
    "flip.chain",
    "flip.sign_state",
    "flood.turned_away",
    "jump.ahead",
    "jump.back",
    "noticed.chain",
    "noticed.sign_state",
    "outage",
    "withheld.all",
    "withheld.some",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `kind` at `at_ms`, over after `for_ms`. What `who` and `rate` mean depends on the kind."""

    at_ms: int
    kind: str
    for_ms: int
    who: tuple[int, ...] = ()
    rate: float = 0.0
    point: str = ""
    disk: str = "lost"  # what becomes of unsynced writes at a crash


@dataclass(slots=True)
class Scenario:
    """All that is random about a run, but the single messages' fates."""

    weights: tuple[int, ...]
    twin: int | None  # this member runs twice with one key: Byzantine
    lie: str  # how it lies: a key of byzantine.LIARS, or one of foul's ways
    timing: Timing
    faults_end_ms: int
    latency_ms: tuple[int, int]
    execute_ms: int  # at most, from commit to executed
    batch_every_ms: int  # mean
    rates_ppm: tuple[int, ...]
    wall_offsets_ms: tuple[int, ...]
    faults: list[Fault] = field(default_factory=list)
    always_down: tuple[int, ...] = ()
    quiet_ms: int = 0  # after all is well again: hardly anybody wants anything
    quiet_every_ms: int = 20_000  # mean, between transactions then


def _weights(rng: Random) -> tuple[int, ...]:
    count = rng.randint(4, 7)
    if rng.random() < 0.6:
        return (1,) * count
    return tuple(rng.randint(1, 5) for _ in range(count))


def _few(rng: Random, weights: tuple[int, ...], budget: int) -> tuple[int, ...]:
    """Random members that together weigh at most `budget`."""
    chosen = []
    for member in rng.sample(range(len(weights)), len(weights)):
        if weights[member] <= budget and rng.random() < 0.7:
            chosen.append(member)
            budget -= weights[member]
    return tuple(chosen)


QUIET_IDLE_MS: Final = (1_000, 1_000, 5_000, 20_000, 60_000)  # genesis: 1 s unless it says, 60 at most
QUIET_VIEWS: Final = 24


def with_quiet(scenario: Scenario, seed: int) -> Scenario:
    """The same network with its faults in half the time, so closer together, and a quiet stretch after them,
    so many idle waits long."""
    scenario.faults_end_ms //= 2
    scenario.faults = [replace(fault, at_ms=fault.at_ms // 2) for fault in scenario.faults]
    rng = Random(f"quiet/{seed}")
    timing = scenario.timing
    idle_ms = rng.choice(QUIET_IDLE_MS)
    standstill_ms = max(
        timing.standstill_ms, idle_ms + timing.view_timeout_ms
    )  # as node.voting.voter sets it
    scenario.timing = replace(timing, idle_ms=idle_ms, standstill_ms=standstill_ms)
    scenario.quiet_ms = QUIET_VIEWS * idle_ms
    scenario.quiet_every_ms = scenario.quiet_ms // 6
    return scenario


def make(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = Random(f"scenario/{seed}")
    weights = _weights(rng)
    count = len(weights)
    spare = tolerated(sum(weights))
    twin = None
    if rng.random() < 0.25:
        able = [i for i in range(count) if weights[i] <= spare]
        if able:
            twin = rng.choice(able)
            spare -= weights[twin]
    timing = Timing(
        view_timeout_ms=rng.choice((300, 600, 1_000)),
        alpha_percent=rng.choice((110, 120, 150)),
        timeout_max_ms=rng.choice((3_000, 5_000)),
        idle_ms=rng.choice((200, 1_000)),
        standstill_ms=rng.choice((1_000, 2_500)),
    )
    slow = rng.choice((5, 20, 60))
    scenario = Scenario(
        weights=weights,
        twin=twin,
        lie=rng.choice(LIES),
        timing=timing,
        faults_end_ms=rng.randint(5_000, 22_000),
        latency_ms=(1, slow),
        execute_ms=rng.choice((0, 2, 30)),
        batch_every_ms=rng.choice((60, 150, 400)),
        rates_ppm=tuple(1_000_000 + rng.randint(-10_000, 10_000) for _ in weights),
        wall_offsets_ms=tuple(rng.randint(-300, 300) for _ in weights),
    )
    if rng.random() < 0.15:
        scenario.always_down = _few(rng, weights, spare)
        spare -= sum(weights[i] for i in scenario.always_down)
    for _ in range(rng.randint(1, 12)):
        scenario.faults.append(_fault(rng, scenario, spare))
    if rng.random() < 0.2:
        at = rng.randint(1_000, scenario.faults_end_ms - 1_000)
        scenario.faults.append(Fault(at, "outage", rng.randint(200, 2_000)))
    scenario.faults.sort(key=lambda fault: fault.at_ms)
    return scenario


def _fault(rng: Random, scenario: Scenario, spare: int) -> Fault:
    weights = scenario.weights
    members = range(len(weights))
    at = rng.randint(200, scenario.faults_end_ms - 500)
    length = rng.randint(200, 5_000)
    kind = rng.choice(KINDS)
    one = (rng.choice(members),)
    match kind:
        case "loss" | "duplicate" | "replay":
            return Fault(at, kind, length, rate=rng.choice((0.02, 0.1, 0.3, 0.6)))
        case "delay":
            return Fault(at, kind, length, rate=rng.choice((50, 200, 800)))
        case "split" | "deaf":
            return Fault(at, kind, length, tuple(m for m in members if rng.random() < 0.5))
        case "islands":
            return Fault(at, kind, length, tuple(rng.randrange(3) for _ in members))
        case "oneway":
            return Fault(at, kind, length, tuple(rng.sample(members, 2)))
        case "pause" | "restart":
            return Fault(at, kind, length, one)
        case "wall":
            return Fault(at, kind, length, one, rate=rng.choice((-5_000, -800, 800, 5_000)))
        case "jump":
            return Fault(at, kind, length, one, rate=rng.choice((-86_400_000, -3_600_000, 60_000, 3_600_000)))
        case "flood":
            return Fault(at, kind, length, one, point=rng.choice(FLOODS))
        case "flip":
            return Fault(at, kind, length, one, point=rng.choice(("chain", "chain", "chain", "sign_state")))
    point, disk = rng.choice(CRASH_POINTS), rng.choice(LOSSES)
    return Fault(at, kind, length, _few(rng, weights, spare), point=point, disk=disk)
