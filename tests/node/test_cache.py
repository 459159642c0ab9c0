"""What may go to make room: never what is kept, runs or is being fetched, and no more than is needed."""

from __future__ import annotations

import random

import pytest

from node.errors import ArtifactFull
from node.files.cache import Cache, Held
from node.limits import ARTIFACT_DISK_RESERVE_BYTES, ARTIFACT_RESULT_KEPT_S

PLENTY = ARTIFACT_DISK_RESERVE_BYTES + 1_000_000


def full() -> Cache:
    cache = Cache(100)
    cache.held |= {
        "kept": Held(10, True, 0.0),
        "old": Held(20, False, 1.0),
        "runs": Held(20, False, 0.5),
        "new": Held(20, False, 2.0),
    }
    cache.parts |= {"broken": 10, "coming": 20}
    cache.under_way.add("coming")
    cache.pin(["runs"])
    return cache


def test_broken_fetches_go_first_then_what_was_used_longest_ago() -> None:
    cache = full()
    assert cache.used_bytes == 100
    assert cache.victims(0, PLENTY) == []
    assert cache.victims(5, PLENTY) == ["broken"]
    assert cache.victims(11, PLENTY) == ["broken", "old"]
    assert cache.victims(50, PLENTY) == ["broken", "old", "new"]
    with pytest.raises(ArtifactFull, match="51 bytes do not fit: 100 of 100"):
        cache.victims(51, PLENTY)
    assert cache.fits(50, PLENTY)
    assert not cache.fits(51, PLENTY)


def test_what_is_pinned_twice_is_free_when_both_are_done() -> None:
    cache = full()
    cache.pin(["runs"])
    cache.unpin(["runs"])
    assert cache.in_use("runs")
    assert "runs" not in [name for name, _ in cache.spare()]
    cache.unpin(["runs"])
    assert not cache.in_use("runs")
    assert [name for name, _ in cache.spare()] == ["broken", "runs", "old", "new"]


def test_the_disk_is_never_filled_under_the_ledger() -> None:
    cache = full()
    assert cache.victims(0, ARTIFACT_DISK_RESERVE_BYTES) == []
    assert cache.victims(10, ARTIFACT_DISK_RESERVE_BYTES) == ["broken"]
    with pytest.raises(ArtifactFull, match="the disk has 0 bytes left"):
        cache.victims(1, 0)


def test_a_budget_that_became_smaller_is_kept_to() -> None:
    cache = full()
    cache.size_bytes_max = 60
    assert cache.victims(0, PLENTY) == ["broken", "old", "new"]


def test_results_are_kept_for_their_time_and_up_to_their_share() -> None:
    cache = Cache(100)
    cache.held |= {
        "given": Held(60, True, 0.0),
        "second": Held(10, True, 0.0, 20.0),
        "first": Held(10, True, 0.0, 10.0),
        "fetched": Held(5, False, 0.0),
    }
    assert cache.lapsed(10.0 + ARTIFACT_RESULT_KEPT_S - 1) == []
    assert cache.lapsed(10.0 + ARTIFACT_RESULT_KEPT_S) == ["first"]
    assert cache.lapsed(20.0 + ARTIFACT_RESULT_KEPT_S) == ["first", "second"]
    cache.held["third"] = Held(6, True, 0.0, 30.0)  # 26 of a share of 25
    assert cache.lapsed(30.0) == ["first"]
    cache.size_bytes_max = 20
    assert cache.lapsed(30.0) == ["first", "second", "third"]


@pytest.mark.parametrize("seed", range(40))
def test_what_goes_is_spare_and_enough_and_no_more(seed: int) -> None:
    chance = random.Random(seed)
    cache = Cache(chance.randrange(1, 2_000))
    for n in range(chance.randrange(30)):
        cache.held[f"h{n}"] = Held(chance.randrange(100), chance.random() < 0.3, chance.random())
    for n in range(chance.randrange(5)):
        cache.parts[f"p{n}"] = chance.randrange(100)
    cache.under_way |= {name for name in cache.parts if chance.random() < 0.5}
    cache.pin(name for name in cache.held if chance.random() < 0.3)
    wanted = chance.randrange(500)
    try:
        victims = cache.victims(wanted, PLENTY)
    except ArtifactFull:
        spare = sum(size for _, size in cache.spare())
        assert cache.used_bytes - spare + wanted > cache.size_bytes_max
        return
    size_of = dict(cache.spare())
    freed = [size_of[name] for name in victims]
    assert not any(cache.in_use(name) for name in victims)
    assert not any(cache.held[name].kept for name in victims if name in cache.held)
    assert cache.used_bytes - sum(freed) + wanted <= cache.size_bytes_max
    assert not victims or cache.used_bytes - sum(freed[:-1]) + wanted > cache.size_bytes_max
