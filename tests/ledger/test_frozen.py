"""A chain as it was at one moment: read whole, in any thread, while the chain goes on and drops blocks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from ledger.errors import LocalError
from ledger.proofs.light import check_query
from ledger.storage.chain import Chain
from ledger.storage.frozen import FrozenChain
from ledger.storage.store import Store
from ledger.storage.views import UNDO_COMMITS_MAX
from tests.ledger.chain_fixture import CHAIN_ID, GENESIS_HASH, SmallChain, trust

BLOCKS = 24
LATER = 2 * UNDO_COMMITS_MAX  # so many that no view of before is held any more


@pytest.fixture(params=["memory", "disk"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> SmallChain:
    if request.param == "memory":
        return SmallChain(Store.memory(CHAIN_ID))
    return SmallChain(Store.open(tmp_path / "store", CHAIN_ID, GENESIS_HASH))


def grow(chain: SmallChain, count: int) -> None:
    for _ in range(count):
        height = chain.store.tip.height + 1
        chain.grow(
            {b"a%d" % (height % 3): b"%d" % height, b"b%d" % height: b"x", b"b%d" % (height - 2): None},
            [b"tx %d" % height],
        )


def told(store: Chain) -> dict[str, Any]:
    """All that an audit file is made of, and more."""
    anchor, view = store.anchor()
    return {
        "tip": store.tip,
        "first": store.first_height,
        "blocks": [store.block(height) for height in range(1, BLOCKS + LATER + 1)],
        "finality": [store.finality(height) for height in range(1, BLOCKS + LATER + 1)],
        "receipts": [store.receipts(height) for height in range(1, BLOCKS + LATER + 1)],
        "events": store.events(0, 10_000),
        "anchor": anchor,
        "view": (view.height, view.root(), *(view.get(b"a%d" % n) for n in range(3)), view.prove(b"a1")),
        "state": dict(store.state.scan(b"")),
        "roots": [store.root(height) for height in range(BLOCKS + LATER + 1)],
        "proved": store.prove(b"a1"),
    }


def test_it_tells_what_the_chain_told_then(chain: SmallChain) -> None:
    grow(chain, BLOCKS)
    before = told(chain.store)
    with ThreadPoolExecutor(1) as thread:
        frozen = FrozenChain(chain.store)
        grow(chain, LATER)
        for height in range(1, BLOCKS):
            chain.store.retention.drop(chain.store.retention.plan(height))
        assert told(chain.store) != before
        assert thread.submit(told, frozen).result() == before
        frozen.close()
        frozen.close()
    grow(chain, 1)
    chain.store.close()


def test_what_it_proves_holds_with_genesis_alone(chain: SmallChain) -> None:
    grow(chain, BLOCKS)
    frozen = FrozenChain(chain.store)
    grow(chain, LATER)
    fact = check_query(trust(), frozen.prove(b"a1"))
    assert fact.value == frozen.anchor()[1].get(b"a1") != chain.store.state.get(b"a1")
    frozen.close()
    chain.store.close()


def test_nothing_is_written_through_it(chain: SmallChain) -> None:
    grow(chain, 3)
    frozen = FrozenChain(chain.store)
    before = frozen.tip
    with pytest.raises(LocalError, match="only read"):
        SmallChain(cast(Store, frozen)).grow({b"a": b"1"})
    assert frozen.tip == before
    frozen.close()
    grow(chain, 1)
    chain.store.close()


def test_what_was_frozen_of_a_closed_store_is_an_error_not_a_crash(tmp_path: Path) -> None:
    chain = SmallChain(Store.open(tmp_path / "store", CHAIN_ID, GENESIS_HASH))
    grow(chain, 3)
    frozen = FrozenChain(chain.store)
    chain.store.close()
    with pytest.raises(LocalError):
        frozen.header(2)
    with pytest.raises(LocalError):
        frozen.anchor()
    frozen.close()
