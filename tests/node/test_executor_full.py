"""A node that holds as many slots as it may: what grows with them has room, and its looks leave time."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from ledger.keys import Key
from ledger.limits import LEASE_MS, NAME_CHARS_MAX, RENEW_SLOTS_MAX, TX_BYTES_MAX
from ledger.transactions import Renew, RenewItem, Tx, sign_tx
from node.executor.executor import Executor
from node.executor.lease import RENEW_EVERY_MS
from node.executor.limits import CLAIMS_PENDING_MAX, COPIES_KEPT_MAX, LOOK_REST, TENURES_MAX
from node.limits import (
    ARTIFACT_OF_ORDER_MAX,
    ARTIFACT_WANTED_MAX,
    OPEN_FILES_WANTED,
    OUTBOX_SENDER_TXS_MAX,
    OUTBOX_SOURCE_TXS_MAX,
)
from tests.node.executor_fixture import fleet
from tests.node.network_fixture import CHAIN_ID, until


def test_what_grows_with_slots_has_room_for_a_full_node() -> None:
    """Else its receipts would keep its own renewals out when the notary comes back after a while."""
    renewals = -(-TENURES_MAX // RENEW_SLOTS_MAX) * (LEASE_MS // RENEW_EVERY_MS + 1)
    offer = 1
    assert TENURES_MAX + CLAIMS_PENDING_MAX + renewals + offer <= OUTBOX_SENDER_TXS_MAX
    assert OUTBOX_SENDER_TXS_MAX <= OUTBOX_SOURCE_TXS_MAX
    assert TENURES_MAX * ARTIFACT_OF_ORDER_MAX + COPIES_KEPT_MAX <= ARTIFACT_WANTED_MAX
    assert TENURES_MAX * 9 <= OPEN_FILES_WANTED // 2  # as bench.exec_density counts; the rest for what else


def test_the_largest_renewal_fits_a_transaction() -> None:
    name, key = "n" * NAME_CHARS_MAX, Key(bytes(32))
    items = tuple(RenewItem(bytes(32), name, (1 << 63) - 1) for _ in range(RENEW_SLOTS_MAX))
    assert len(sign_tx(key, Tx(CHAIN_ID, key.public, 1 << 40, bytes(8), Renew(items)))) <= TX_BYTES_MAX


async def test_a_node_whose_looks_take_long_looks_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks come five times a second; with a thousand slots each look takes a part of that."""
    looks: list[float] = []

    def slow(executor: Executor, nursery: trio.Nursery) -> None:
        looks.append(trio.current_time())
        time.sleep(0.1)

    monkeypatch.setattr(Executor, "_look", slow)
    async with fleet(tmp_path, "node1"):
        await until(lambda: len(looks) >= 4, 60)
    assert min(after - before for before, after in pairwise(looks)) >= 0.1 * (1 + LOOK_REST)
