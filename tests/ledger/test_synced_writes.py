"""What a peer tells others is on its disk: genesis and every block are one synced write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from tests.ledger.chain_fixture import CHAIN_ID, SmallChain


class Noted(MemoryKv):
    """Notes whether each write was synced."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[bool] = []

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        self.synced.append(sync)
        super().write(puts, deletes, sync)


def test_a_block_is_one_synced_write() -> None:
    kv = Noted()
    chain = SmallChain(Store(kv, CHAIN_ID))
    assert kv.synced == [True]
    for height in range(1, 4):
        chain.grow({b"k": b"%d" % height}, [b"tx %d" % height])
        assert kv.synced == [True] * (height + 1)
