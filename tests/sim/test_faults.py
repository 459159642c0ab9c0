"""Each fault by itself, on a small network: it does what it is for, and the network lives with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sim.disk import Disk
from tests.sim.node import Clock
from tests.sim.report import ENOUGH_SEEDS, Report
from tests.sim.result import Result
from tests.sim.run import world as quiet_world
from tests.sim.scenario import EFFECTS, KINDS, Fault, Scenario, make
from tests.sim.world import World


def four(*faults: Fault, seed: int = 1, **more: object) -> World:
    """Four honest validators of equal weight for six seconds of these faults."""
    base = make(seed)
    scenario = Scenario(
        weights=(1, 1, 1, 1),
        twin=None,
        lie="nothing",
        timing=replace(base.timing, view_timeout_ms=300, idle_ms=200, standstill_ms=1_000),
        faults_end_ms=5_000,
        latency_ms=(1, 20),
        execute_ms=2,
        batch_every_ms=60,
        rates_ppm=(1_000_000, 990_000, 1_010_000, 1_003_000),
        wall_offsets_ms=(0, 300, -300, 100),
        faults=list(faults),
    )
    for name, value in more.items():
        setattr(scenario, name, value)
    return World(seed, scenario=scenario)


class TipHarmed(World):
    """A bit flips in the tip's record of node 2, while it is down."""

    def schedule(self) -> None:
        super().schedule()
        self.at(4_300_000, None, self.harm)

    def harm(self) -> None:
        assert not self.nodes[2].up
        self.nodes[2].chain_disk.harmed.add(b"m/tip")


@pytest.mark.parametrize("seed", range(2))
def test_damaged_chain_is_noticed_and_synced_anew(seed: int) -> None:
    """A bit flips where the store looks when it opens: the process refuses, its operator moves the store
    away, and it votes no more before it has caught up."""
    world = four(Fault(4_000, "crash", 500, (2,), point="after_exec"), seed=seed)

    flipped = TipHarmed(seed, scenario=world.scenario)
    result = flipped.run()
    assert result.violations == []
    assert result.faults["noticed.chain"] == 1
    assert result.faults["chain.older_than_votes"] == 1
    node = flipped.nodes[2]
    assert node.up and not node.is_waiting and node.height >= result.height - 2
    assert node.tip.view >= node.safety.floor > 0


def test_damaged_sign_state_ends_its_validator() -> None:
    """It says so at the start and stays away: a validator without its memory could vote twice."""
    world = four(Fault(2_000, "flip", 500, (1,), point="sign_state"))
    result = world.run()
    assert result.violations == []
    assert (result.faults["flip.sign_state"], result.faults["noticed.sign_state"]) == (1, 1)
    assert world.nodes[1].lost_for_good and not world.nodes[1].up
    assert world.nodes[0].height == result.height > world.nodes[1].height


@pytest.mark.parametrize("disk", ["lost", "torn", "reordered"])
def test_power_fails_within_a_write(disk: str) -> None:
    """Of votes and of blocks, with what was not synced lost, torn or out of order."""
    found = Result(0)
    for point in ("in_persist", "in_exec"):
        for seed in range(3):
            faults = [
                Fault(at, "crash", 300, (at // 1_000 % 4,), point=point, disk=disk)
                for at in (1_000, 2_500, 4_000)
            ]
            result = four(*faults, seed=seed).run()
            assert result.violations == []
            found.faults.update(result.faults)
    assert found.faults["crash.in_persist"] > 2 and found.faults["crash.in_exec"] > 2
    assert found.faults[f"disk.{disk}"] > 5
    # A first part of the log is what a store opens with; a hole in it is what it refuses.
    noticed = found.faults["noticed.chain"] + found.faults["noticed.sign_state"]
    assert (noticed > 0) == (disk == "reordered")


def test_clean_stop_loses_nothing() -> None:
    """Stopped and started, nothing is torn and nothing has to be noticed."""
    result = four(*(Fault(at, "restart", 300, (at // 800 % 4,)) for at in range(800, 4_800, 800))).run()
    assert result.violations == []
    assert result.faults["restart"] == 5
    assert not any(kind.startswith(("disk.", "noticed.")) for kind in result.faults)


@pytest.mark.parametrize("by_ms", [-86_400_000, 3_600_000])
def test_clock_jump_does_not_move_the_chain(by_ms: int) -> None:
    """One wall clock is set a day back or an hour ahead: block times stay with the others'."""
    world = four(Fault(1_000, "jump", 4_000, (0,), rate=by_ms))
    result = world.run()
    assert result.violations == []
    assert result.faults["jump.ahead" if by_ms > 0 else "jump.back"] == 1
    assert abs(world.nodes[1].tip.time_ms - world.wall_ms) < 5_000
    assert result.height > 20


def test_monotonic_clock_never_goes_back() -> None:
    """Whatever is done to the wall clock."""
    clock = Clock(990_000, 5_000, 1_700_000_000_000)
    shown = []
    for at_s in range(100):
        clock.wall_ms += (-86_400_000, 3_600_000)[at_s % 2]
        shown.append(clock.now(at_s * 1_000_000)[0])
    assert shown == sorted(shown) and len(set(shown)) == 100


def test_withheld_batches() -> None:
    """A member names batches that it gave to nobody, or to some: views are skipped, others' transactions go
    on, and what some got reaches all."""
    world = four(seed=3, lie="withhold", twin=0)
    result = world.run()
    assert result.violations == []
    assert result.faults["withheld.all"] > 0 and result.faults["withheld.some"] > 0
    assert result.coverage.rules["5 skip"] > 0 and result.served > 20


def test_forged_certificates() -> None:
    """Made-up signatures, too few, real ones of another statement, bits without signatures, another epoch."""
    found = Result(0)
    for seed in range(3):
        result = four(seed=seed, lie="forge", twin=1).run()
        assert result.violations == []
        found.faults.update(result.faults)
        found.coverage.add(result.coverage)
    assert all(found.faults[f"forged.{how}"] for how in ("signatures", "few", "statement", "bitmap", "epoch"))
    refused = found.coverage.refusals
    assert all(refused[f"consensus.certificate.{rule}"] for rule in ("signature", "no_quorum", "malformed"))


@pytest.mark.parametrize("kind", ["one", "many"])
def test_flood_of_a_mempool(kind: str) -> None:
    """It turns transactions away at its bounds, and honest clients are served."""
    times = range(1_000, 5_000, 1_000)
    world = four(*(Fault(at, "flood", 500, (at // 1_000 % 4,), point=kind) for at in times))
    result = world.run()
    assert result.violations == []
    assert result.faults[f"flood.{kind}"] == 4 and result.faults["flood.turned_away"] > 0
    assert result.served > 100 and not [p for p in world.clients.pending.values() if p.since_us < 1_000_000]
    assert (world.clients.overloaded == 0) or kind == "many"


def test_flood_of_batches() -> None:
    """A Byzantine member pushes batches: they count against it, not against others."""
    world = four(Fault(1_000, "flood", 500, (0,), point="batches"), twin=3)
    result = world.run()
    assert result.violations == []
    assert result.faults["flood.batches"] == 1 and result.served > 20


LINKS = ("split", "islands", "oneway", "deaf", "replay", "duplicate", "delay", "loss")


@pytest.mark.parametrize("kind", LINKS)
def test_links(kind: str) -> None:
    """Each kind of bad link by itself."""
    who = {"split": (0, 1), "islands": (0, 0, 1, 2), "oneway": (0, 1), "deaf": (3,)}.get(kind, ())
    rate = 300.0 if kind == "delay" else 0.4
    result = four(Fault(1_000, kind, 3_000, who, rate=rate)).run()
    assert result.violations == []
    assert result.faults[kind] == 1 and result.height > 5


def test_quiet_stretch() -> None:
    """After the faults a network idles for as long as its seed says, and is asked about its state again."""
    seed = next(s for s in range(50) if quiet_world(s).scenario.quiet_ms > 300_000)
    world = quiet_world(seed)
    result = world.run()
    assert result.violations == []
    assert result.simulated_ms - result.busy_ms >= world.scenario.quiet_ms > 300_000
    assert result.events - result.busy_events < 20_000


def test_a_fault_that_never_comes_is_reported() -> None:
    """After enough seeds without it."""
    report = Report(1)
    report.faults.update([*KINDS, *EFFECTS])
    del report.faults["flip.chain"]
    assert report.unused() == []
    report.seeds = ENOUGH_SEEDS
    report.seconds = 1.0
    assert report.unused() == ["flip.chain"]
    assert "faults that never came: flip.chain" in report.table()


def test_a_disk_is_durable_up_to_its_last_sync() -> None:
    """What checkers read as durable is what is left when all that was not synced is lost."""
    disk = Disk()
    disk.write({b"a": b"1"}, sync=False)
    disk.write({b"b": b"1"}, sync=True)
    disk.write({b"a": b"2"}, [b"b"], sync=False)
    assert (disk.durable(b"a"), disk.durable(b"b")) == (b"1", b"1")
    assert (disk.get(b"a"), disk.get(b"b")) == (b"2", None)
