"""Final blocks of the engine: several in one write, none over another store."""

from __future__ import annotations

from consensus.messages import Commit, Ready, Tick
from ledger.storage.store import Store
from tests.node.final_chain import certificate, extend, new_notary
from tests.node.network_fixture import CHAIN_ID
from tests.node.test_engine import OneStep, Rig


def final_blocks() -> list[Commit]:
    """Two blocks, one above the other, as the core commits them with one certificate."""
    other = new_notary()
    return [Commit(header, certificate(header)) for header in (extend(other), extend(other))]


def test_blocks_that_are_final_together_are_one_write() -> None:
    rig = Rig()
    ready = Ready(commit=final_blocks(), prune_view=2)
    rig.engine.core = OneStep(ready)  # type: ignore[assignment]
    rig.engine._step(Tick())
    rig.chain.writes = 0
    rig.engine._commit()
    assert (rig.notary.store.tip.height, rig.chain.writes) == (2, 1)
    assert Store(rig.chain, CHAIN_ID).tip.height == 2


def test_what_became_final_over_another_store_is_not_committed_and_nothing_is_forgotten() -> None:
    """Another state takes the store's place while votes leave: after the step, before the commit."""
    rig = Rig()
    rig.engine.core = OneStep(Ready(commit=final_blocks(), prune_view=2))  # type: ignore[assignment]
    rig.engine._step(Tick())
    rig.engine.halt()
    writes = rig.chain.writes, rig.votes.writes
    rig.engine._commit()
    assert rig.notary.store.tip.height == 0
    assert (rig.chain.writes, rig.votes.writes) == writes
