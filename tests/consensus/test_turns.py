"""Rule 2: which batches a leader names, when not all that it holds fit into a block."""

from __future__ import annotations

from collections.abc import Iterable

from consensus.messages import BatchDropped, BatchHeld, Propose
from ledger.blocks import decode_header
from ledger.codec import sha256
from ledger.limits import BLOCK_BATCHES_MAX, BLOCK_TXS_MAX
from tests.consensus.support import SKIP, Bench, certificate, sent

MANY = 3 * BLOCK_BATCHES_MAX


def batch(maker: int, number: int) -> bytes:
    """Its digest."""
    return sha256(b"%d/%d" % (maker, number))


def proposed(held: Iterable[tuple[int, int, int]], dropped: Iterable[bytes] = ()) -> tuple[bytes, ...]:
    """What member 2, which leads view 2, names of these (maker, number, transactions), by arrival."""
    bench = Bench(me=2)
    for maker, number, txs in held:
        bench.step(BatchHeld(batch(maker, number), txs, maker))
    for digest in dropped:
        bench.step(BatchDropped(digest))
    ready = bench.certify(certificate(SKIP, 1))
    return decode_header(sent(ready, Propose)[0].header).batches


def test_rule_2_what_fits_as_a_whole_goes_in_order_of_arrival() -> None:
    held = [(n % 3, n // 3, 1) for n in (5, 0, 3, 6, 1, 4, 2)]
    assert proposed(held) == tuple(batch(maker, number) for maker, number, _ in held)


def test_rule_2_many_batches_of_one_maker_keep_no_others_out() -> None:
    """They came first; the others' have their places all the same, each maker's own in their order."""
    held = [(0, n, 1) for n in range(MANY)] + [(1, n, 1) for n in range(3)] + [(3, 0, 1)]
    names = proposed(held)
    assert len(names) == BLOCK_BATCHES_MAX
    assert names[:7] == tuple(batch(*one) for one in ((0, 0), (1, 0), (3, 0), (0, 1), (1, 1), (0, 2), (1, 2)))
    assert names[7:] == tuple(batch(0, n) for n in range(3, BLOCK_BATCHES_MAX - 4))


def test_rule_2_nor_do_large_ones() -> None:
    """The bound of transactions counts, too."""
    part = BLOCK_TXS_MAX // 4
    held = [(0, n, part) for n in range(10)] + [(1, 0, part), (3, 0, part)]
    assert proposed(held) == (batch(0, 0), batch(1, 0), batch(3, 0), batch(0, 1))


def test_rule_2_what_is_dropped_is_nobodys_any_more() -> None:
    held = [(0, 0, 1), (1, 0, 1)]
    assert proposed(held, dropped=[batch(0, 0)]) == (batch(1, 0),)


def test_rule_2_makers_are_remembered_for_what_is_held_only() -> None:
    bench = Bench(me=2)
    for number in range(MANY):
        bench.step(BatchHeld(batch(0, number), 1, 0))
    for number in range(MANY):
        bench.step(BatchDropped(batch(0, number)))
    assert bench.core.makers == bench.core.batches == {}
