"""The short form of `make e2e`; and that its checks see what they are for."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.storage.store import Store
from tests.e2e import chaos_checks as checks
from tests.e2e.chaos import Asked, run
from tests.e2e.chaos_logs import Logs
from tests.e2e.chaos_writers import Acknowledged, Writers
from tests.e2e.net import Net, until


@pytest.mark.timeout(400)
def test_chaos_for_a_while(tmp_path: Path) -> None:
    outcome = run(tmp_path / "net", Asked(seconds=9, seed=7, storm_every_s=8))
    assert outcome.faults == []
    assert outcome.figures["votes_after_s"]["count"] + outcome.figures["votes_after_storm_s"]["count"] >= 2
    assert len(outcome.figures["storms"]) >= 1
    assert outcome.figures["writes"]["acknowledged_final"] >= 10


def test_the_checks_see_forks_and_lost_writes(small: Callable[..., Net], tmp_path: Path) -> None:
    """Here a header is exchanged on the disk, and writes that nobody made are said to be final."""
    net = small(validators=1)
    writers = Writers(net, ("v1",), rate=50, count=2, seed=1)
    writers.start()
    until("writes are final", lambda: len(writers.final) >= 5)
    writers.stop()
    net.stop("v1")
    shutil.copytree(net.home("v1").store_dir, tmp_path / "copy")
    with checks.opened(net, ("v1",)) as stores:
        store = stores["v1"]
        assert checks.forks(net, stores)[1] == []
        assert checks.lost(stores, writers.final) == []
        assert checks.counted(stores, writers.to.public, len(writers.final), writers.unanswered) == []
        assert checks.suspended(stores, net) == []
        id_, told = next(iter(writers.final.items()))
        moved = {id_: dataclasses.replace(told, height=told.height + 1), "00" * 32: Acknowledged(1, 0, 0)}
        assert len(checks.lost(stores, moved)) == 2
        assert len(checks.counted(stores, writers.to.public, len(writers.final) + 1, 0)) == 1
        assert len(checks.counted(stores, writers.to.public, len(writers.final) - 1, 0)) == 1
        put(store, 2, store.header(1))
        faults = checks.forks(net, stores)[1]
        assert any("height 2 does not stand" in fault for fault in faults)
        assert any("certificate at height" in fault for fault in faults)
        genesis = net.home("v1").read_genesis()
        other = Store.open(tmp_path / "copy", genesis.chain_id, genesis.hash, create=False)
        try:
            faults = checks.forks(net, {"v1": store, "other": other})[1]
            assert any(fault.startswith("height 2: ") for fault in faults)
        finally:
            other.close()


def put(store: Store, height: int, header: bytes | None) -> None:
    """Write a header past all checks."""
    assert header is not None
    store._kv.write({b"b" + height.to_bytes(8, "big"): header})


def test_logs_are_read_line_by_line_also_past_a_torn_one(tmp_path: Path, small: Callable[..., Net]) -> None:
    net = small(validators=1)
    net.stop("v1")
    file = net.home("v1").log_file
    file.write_bytes(b'{"event": "a", "timestamp": "2026-01-01T00:00:00Z"}\n{"event": "tor')
    logs = Logs(net)
    assert [line.event for line in logs.read()] == ["a"]
    with file.open("ab") as stream:
        stream.write(b'{"event": "b", "timestamp": "2026-01-01T00:00:01Z"}\nTraceback\n')
    assert [(line.event, line.at_s) for line in logs.read()] == [("b", 1767225601.0)]
    assert logs.other == ["v1: Traceback"]
    assert [line.event for line in itertools.chain(logs.read(), logs.lines)] == ["a", "b"]
    file.write_bytes(b"")  # the network's own check of its logs comes after this test
