"""Blocks are dropped, and who comes too late takes a state: under faults, lies and crashes on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ledger.codec import decode
from ledger.proofs import tree
from ledger.storage.snapshot import Proved, StateChunk, check_chunk, place_of
from tests.sim.pruned import KEEP, PrunedNode, PrunedWorld, run
from tests.sim.run import world
from tests.sim.world import Variant

SEEDS = (1, 2, 5, 6, 7)


def test_who_was_cut_off_comes_back_by_a_state() -> None:
    """No checker complains; states were installed, lies noticed, and blocks dropped."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        result = run(seed)
        assert result.violations == [], seed
        seen.update(result.faults)
    assert seen["state.installed"] >= 5 and seen["state.chunk"] >= 30
    assert seen["state.lie_noticed"] >= 4 and seen["block.dropped"] > 1_000


def test_a_crash_on_the_way_goes_on_where_it_was() -> None:
    """What came before the crash is there after it."""
    for seed in (36, 17, 18, 24, 26, 30, 32):
        result = run(seed)
        assert result.violations == [], seed
        if result.faults["state.resumed"] and result.faults["state.installed"]:
            return
    pytest.fail("nobody crashed while it fetched a state, and went on")


def test_old_blocks_are_gone() -> None:
    """The last KEEP are there, and what a state on offer needs; no more."""
    judged = PrunedWorld(2)
    assert judged.run().violations == []
    for node in judged.nodes:
        assert node.height + 1 - node.store.first_height < 2 * KEEP < node.height
        assert node.store.header(1) is node.store.header(KEEP) is None


def test_the_long_run_has_such_networks() -> None:
    """Each tenth seed."""
    assert [seed for seed in range(40) if isinstance(world(seed), PrunedWorld)] == [9, 19, 29, 39]


class ChunkNotProved(PrunedNode):
    """Takes any chunk that agrees with itself."""

    def check_chunk(self, root: bytes, data: bytes) -> Proved:
        chunk = decode(StateChunk, data)
        index = place_of(chunk.place)
        digest = tree.subtree(index, [tree.row(key, value) for key, value in chunk.pairs])[0]
        return check_chunk(tree.fold(index, digest, chunk.siblings)[0], data)


class NoReplayWindow(PrunedNode):
    """Goes on from a state without what was executed lately."""

    def window_first(self, height: int) -> int:
        return height


class DropsTooMuch(PrunedNode):
    """Drops blocks that were promised to be held."""

    def drop_blocks(self) -> None:
        retention = self.store.retention
        while self.store.first_height < self.height - KEEP // 2:
            retention.drop(retention.plan(self.store.first_height))


def lies(seed: int) -> bool:
    """Does a member change what it gives?"""
    return PrunedWorld(seed).lie in ("value", "left_out")


@pytest.mark.parametrize(
    ("node", "checker", "is_fit"),
    [
        (ChunkNotProved, "Exception", lies),
        (NoReplayWindow, "InstalledState", lambda seed: True),
        (DropsTooMuch, "PrunedDurability", lambda seed: True),
    ],
)
def test_pruned_mutant_is_caught(node: type[PrunedNode], checker: str, is_fit: Callable[[int], bool]) -> None:
    """Seeds go by until the named checker complains."""
    others: set[str] = set()
    for seed in (s for s in range(30) if is_fit(s)):
        judged = PrunedWorld(seed, Variant(node.__name__, node=node))
        judged.stop_on = frozenset({checker})
        found = {name for name, _ in judged.run().violations}
        if checker in found:
            return
        others |= found
    pytest.fail(f"{node.__name__} survived {checker}; others complained: {sorted(others) or 'none'}")
