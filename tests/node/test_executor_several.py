"""A node with several drivers: each task goes to its own, and offers tell them apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.executor.drivers.base import Feature, Fingerprint, Isolation, Resources, TaskSpec
from node.executor.drivers.several import Several
from node.executor.errors import DriverUnavailable
from node.offer import make_offer
from tests.node.executor_fixture import FakeDriver, node_settings

SPEC = TaskSpec("task", ("/bin/a",), {}, (), (), (), Resources(100, 4 << 20, 4096, 1), results=("/result/a",))


class OtherDriver(FakeDriver):
    name = "oci"
    isolation = Isolation.CONTAINER
    usable = True

    def fingerprint(self) -> Fingerprint:
        names = ("seccomp", *self.enforces)
        features = [Feature(name, True, "fake") for name in names] + [Feature("landlock", False, "no")]
        return Fingerprint("oci", self.isolation, self.usable, "", tuple(features))


async def test_a_task_goes_to_the_driver_of_its_runtime() -> None:
    one, two = FakeDriver(), OtherDriver()
    several = Several([one, two])
    for runtime, driver, other in (("sandbox", one, two), ("oci", two, one)):
        before = len(other.tasks)
        handle = await several.start(await several.prepare(replace(SPEC, runtime=runtime)), 5_000)
        (task,) = driver.running
        assert (handle.task_id, handle.ports, len(other.tasks)) == ("task", {}, before)
        several.keep(handle, 6_000)
        assert task.kill_at_ms == 6_000
        task.results["/result/a"] = b"found"
        assert (await several.collect(handle))[0].data == b"found"
        assert (await several.attest(handle)).ok
        assert (await several.probe(handle)).alive
        assert several.logs(handle, 5) == b"speaks"[-5:]
        task.end(3)
        assert (await several.wait(handle)).code == 3
        assert (await several.attest_ended(handle)).ended
        assert (await several.stop(handle, 1)).code == 3
        assert await several.usage(handle) == task.used
        assert not driver.running


async def test_what_no_driver_runs_is_refused_and_foreign_objects_are_not_taken() -> None:
    several, stranger = Several([FakeDriver()]), FakeDriver()
    with pytest.raises(DriverUnavailable, match="no driver for oci"):
        await several.prepare(replace(SPEC, runtime="oci"))
    with pytest.raises(TypeError, match="another driver"):
        await several.start(await stranger.prepare(SPEC))
    with pytest.raises(TypeError, match="another driver"):
        await several.stop(await stranger.start(await stranger.prepare(SPEC)), 0)


async def test_all_that_was_left_over_is_found() -> None:
    one, two = FakeDriver(), OtherDriver()
    one.leftovers, two.leftovers = ["a"], ["b"]
    assert await Several([one, two]).recover() == ["a", "b"]


def test_an_offer_names_each_driver_and_what_it_enforces() -> None:
    one, two = FakeDriver(), OtherDriver()
    one.enforces = ("egress",)
    two.enforces = ("sealed-image", "egress", "volumes", "health-exec", "volume-copies")
    settings = node_settings(egress=True)
    found = make_offer(settings, Several([one, two]).fingerprint(), "", 0)
    assert found.runtimes == ("sandbox", "oci")
    others = {name: value for name, value in found.attributes.items() if name.startswith("oci.")}
    # What nobody may ask for, or is not enforced, takes no room in an offer.
    names = ("egress", "health-exec", "sealed-image", "volume-copies", "volumes")
    assert others == dict.fromkeys((f"oci.{name}" for name in names), "enforced")
    assert "sealed-image" not in found.attributes
    shut = make_offer(node_settings(egress=False), Several([one, two]).fingerprint(), "", 0)
    assert shut.attributes["oci.egress"] == shut.attributes["egress"] == "switched off in the node's settings"


def test_a_driver_that_cannot_be_used_is_not_offered() -> None:
    one, two = FakeDriver(), OtherDriver()
    two.usable, two.enforces = False, ("sealed-image",)
    found = make_offer(node_settings(), Several([one, two]).fingerprint(), "", 0)
    assert found.runtimes == ("sandbox",)
    assert not [name for name in found.attributes if name.startswith("oci.")]
