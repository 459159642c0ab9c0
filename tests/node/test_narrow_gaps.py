"""Rules of the node that other tests met only together with another rule; each was found by a mutant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from msgspec.structs import replace

from consensus.messages import Ready, Record
from ledger.codec import encode, sha256
from ledger.proofs.certificate import VoteKind
from ledger.records import key_deployment, key_manifest
from ledger.storage.kv import MemoryKv
from ledger.transactions import OrderDeployment, decode_tx
from node.seam import Overloaded
from node.voting import mempool as module
from node.voting.mempool import Mempool
from node.voting.safety_store import SafetyStore
from tests.ledger import world as people
from tests.ledger.world import BUDGET, CHAIN_ID, EXPERT
from tests.node.network_fixture import CHAIN_ID as POOL_CHAIN_ID
from tests.node.network_fixture import POOR
from tests.node.test_executor_verify import Site
from tests.node.test_mempool import assert_sums, tx
from tests.node.test_safety_store import header


class Noted(MemoryKv):
    """Notes whether each write was synced."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[bool] = []

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        self.synced.append(sync)
        super().write(puts, deletes, sync)


@pytest.mark.parametrize("kind", list(VoteKind))
def test_every_vote_is_synced(kind: VoteKind) -> None:
    """A vote that the page cache alone holds is a vote that a power cut takes back."""
    kv, block = Noted(), header(3)
    data = block.encode() if kind is VoteKind.NOTAR else b""
    SafetyStore(kv).persist(Ready(records=[Record(kind, 3, block.hash, data)]), {}.get)
    assert kv.synced == [True]


def test_the_pool_is_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMPOOL_TXS_MAX", 2)
    pool = Mempool(POOL_CHAIN_ID)
    assert pool.add(tx(1), 0, "one") and pool.add(tx(2, POOR), 0, "other")
    with pytest.raises(Overloaded):
        pool.add(tx(3), 0, "third")
    assert pool.refused == {"pool": 1}


def test_a_transaction_waits_once() -> None:
    """Sent twice, it is bundled once; also when its batch is on its way already."""
    pool = Mempool(POOL_CHAIN_ID)
    assert pool.add(tx(1), 0)
    assert not pool.add(tx(1), 0)
    sealed = pool.seal(0)
    assert sealed is not None and sealed.count == 1
    assert not pool.add(tx(1), 0)
    assert pool.seal(0) is None
    assert_sums(pool)


def test_a_manifest_that_the_contract_does_not_expand_to_is_refused() -> None:
    """Though the consumer ordered it and the stakeholders signed for exactly these bytes."""
    site = Site()
    state, record = site.world.state, site.world.deployment(site.id)
    data = state.get(key_manifest(record.manifest))
    assert data is not None
    other = data.replace(b'"serve"', b'"steal"')
    assert other != data
    body = decode_tx(site.order, CHAIN_ID).tx.body
    assert isinstance(body, OrderDeployment)
    order = site.world.tx(people.CONSUMER, replace(body, manifest=sha256(other)))
    site.id, site.order = order.id, order.raw
    state.put(key_manifest(sha256(other)), other)
    state.put(key_deployment(order.id), encode(replace(record, id=order.id, manifest=sha256(other))))
    site.put(BUDGET, "budget")
    site.put(EXPERT, "it-expert")
    assert [reason.partition(":")[0] for reason in site.verdict().reasons] == ["verify.expansion"]
