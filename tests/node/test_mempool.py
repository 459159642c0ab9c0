"""The mempool: exact sums after any history, nobody fills it for others, forged copies block nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.blocks import Header, batch_digest
from ledger.codec import encode
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import EXPIRY_BLOCKS_MAX
from ledger.machine import Context
from ledger.records import key_seen
from ledger.transactions import CheckedTx, SignedTx, VerifiedTx, decode_tx, verified
from node.limits import BATCH_SEAL_MS
from node.seam import Overloaded
from node.voting import known
from node.voting import mempool as module
from node.voting.known import KnownTxs
from node.voting.mempool import Mempool, open_batch
from tests.node.final_chain import batch_of, new_notary, next_header, transfer_tx
from tests.node.network_fixture import CHAIN_ID, POOR, RICH

CONTEXT = Context(CHAIN_ID, 10, 1_700_000_000_000, bytes(32))


def nothing_seen(_: bytes) -> None:
    return None


def tx(salt: int, sender: Key = RICH, padding: int = 0) -> VerifiedTx:
    return verified(decode_tx(transfer_tx(salt, sender=sender, padding=padding), CHAIN_ID))


def forged(raw: bytes) -> bytes:
    """The same payload, so the same id, under a signature that is wrong."""
    checked = decode_tx(raw, CHAIN_ID)
    return encode(SignedTx(checked.payload, bytes(64)))


TXS = [tx(i, sender) for i in range(6) for sender in (RICH, POOR)]
HEADER = next_header(new_notary(), [])


def naming(*digests: bytes) -> Header:
    return Header(**{**{f: getattr(HEADER, f) for f in HEADER.__struct_fields__}, "batches": digests})


def assert_sums(pool: Mempool) -> None:
    batched = [entry for batch in pool.batches.values() for entry in batch.txs]
    places: dict[bytes, int] = {}
    senders: dict[bytes, list[int]] = {}
    for entry in [*pool.pending, *batched]:
        places[entry.id] = places.get(entry.id, 0) + 1
    for entry in {entry.id: entry for entry in [*pool.pending, *batched]}.values():
        used = senders.setdefault(entry.tx.sender, [0, 0])
        used[0] += 1
        used[1] += len(entry.raw)
    makers: dict[int, int] = {}
    for digest, batch in pool.batches.items():
        makers[pool.makers[digest]] = makers.get(pool.makers[digest], 0) + len(batch.data)
    assert pool.places == places
    assert {sender: [used.txs, used.size_bytes] for sender, used in pool.senders.items()} == senders
    assert pool.by_maker == makers
    assert pool.makers.keys() == pool.batches.keys()
    assert pool.pending_bytes == sum(len(entry.raw) for entry in pool.pending)
    assert pool.size_bytes == pool.pending_bytes + sum(len(b.data) for b in pool.batches.values())
    assert pool.known.size_bytes == sum(len(entry.raw) for entry in pool.known.txs.values())


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, len(TXS) - 1)),
        st.tuples(st.just("seal"), st.just(0)),
        st.tuples(st.just("hold"), st.lists(st.integers(0, len(TXS) - 1), min_size=1, max_size=4)),
        st.tuples(st.just("commit"), st.integers(0, 7)),
        st.tuples(st.just("executed"), st.integers(0, len(TXS) - 1)),
    ),
    max_size=40,
)


@given(steps)
def test_all_sums_are_exact_after_any_history(history: list[tuple[str, object]]) -> None:
    pool = Mempool(CHAIN_ID)
    for verb, what in history:
        if verb == "add":
            pool.add(TXS[what], 0)  # type: ignore[call-overload]
        elif verb == "seal":
            pool.seal(0)
        elif verb == "hold":
            data = batch_of(*(TXS[i].raw for i in what))  # type: ignore[attr-defined]
            pool.hold(open_batch(data, CHAIN_ID, pool.known.verify), 1, wanted=False)
        elif verb == "commit":
            digests = list(pool.batches)[what : what + 1]  # type: ignore[operator, misc]
            pool.committed(naming(*digests), ())
        else:
            pool.committed(naming(), (TXS[what].id,))  # type: ignore[call-overload]
        assert_sums(pool)
    pool.committed(naming(*pool.batches), tuple(entry.id for entry in TXS))
    assert_sums(pool)
    assert (pool.size_bytes, pool.tx_count, pool.senders, pool.by_maker) == (0, 0, {}, {})


def test_the_first_goes_at_once_and_a_burst_after_it_together() -> None:
    pool = Mempool(CHAIN_ID)
    pool.add(TXS[0], 1_000)
    assert pool.seal_due_ms() == 1_000
    assert pool.seal(0) is not None
    for later, entry in enumerate(TXS[1:4], 1):
        pool.add(entry, 1_000 + later)
        assert pool.seal_due_ms() == 1_000 + BATCH_SEAL_MS
    sealed = pool.seal(0)
    assert sealed is not None and sealed.count == 3
    pool.add(TXS[4], 1_002 + 2 * BATCH_SEAL_MS)
    assert pool.seal_due_ms() == 1_002 + 2 * BATCH_SEAL_MS  # all was quiet since


def test_full_batches_do_not_put_off_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_TXS_MAX", 2)
    pool = Mempool(CHAIN_ID)
    for entry in TXS[:7]:
        pool.add(entry, 1_000)
    while len(pool.pending) >= 2:
        assert pool.seal_due_ms() == 1_000
        assert pool.seal(0) is not None
    assert pool.seal_due_ms() == 1_000 + BATCH_SEAL_MS


def test_one_sender_cannot_fill_the_pool_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMPOOL_SENDER_TXS_MAX", 3)
    pool = Mempool(CHAIN_ID)
    for salt in range(3):
        assert pool.add(tx(salt), 0)
    pool.seal(0)
    with pytest.raises(Overloaded) as refusal:
        pool.add(tx(3), 0)
    assert refusal.value.retry_s > 0
    assert pool.add(tx(3, POOR), 0)
    pool.committed(naming(*pool.batches), ())
    assert pool.add(tx(4), 0)  # its share is free again


def test_one_sender_cannot_fill_the_pool_with_few_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMPOOL_SENDER_BYTES_MAX", 50_000)
    pool = Mempool(CHAIN_ID)
    assert pool.add(tx(1, padding=40_000), 0)
    with pytest.raises(Overloaded):
        pool.add(tx(2, padding=40_000), 0)
    assert pool.add(tx(2, POOR, padding=40_000), 0)


def test_a_full_pool_refuses_and_a_maker_has_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMPOOL_MAKER_BYTES_MAX", 1_000)
    pool = Mempool(CHAIN_ID)
    held = [
        open_batch(batch_of(*(tx(10 * n + i).raw for i in range(3))), CHAIN_ID, verified) for n in range(3)
    ]
    assert pool.hold(held[0], 1, wanted=False)
    assert not pool.hold(held[1], 1, wanted=False)
    assert pool.hold(held[1], 2, wanted=False)
    assert pool.hold(held[2], 1, wanted=True)  # consensus needs it
    monkeypatch.setattr(module, "MEMPOOL_BYTES_MAX", pool.size_bytes)
    with pytest.raises(Overloaded):
        pool.add(tx(99), 0)
    assert_sums(pool)


def test_a_forged_copy_in_a_batch_does_not_keep_the_real_one_out() -> None:
    pool = Mempool(CHAIN_ID)
    real = pool.check(transfer_tx(1), CONTEXT, nothing_seen)  # known, not queued yet
    batch = open_batch(batch_of(forged(real.raw)), CHAIN_ID, pool.known.verify)
    assert batch.is_spoiled
    assert pool.hold(batch, 1, wanted=True)
    assert pool.add(real, 0)
    pool.committed(naming(batch.digest), ())
    assert [waiting.id for waiting in pool.pending] == [real.id]


def test_a_known_id_does_not_vouch_for_another_signature() -> None:
    pool = Mempool(CHAIN_ID)
    real = pool.check(transfer_tx(1), CONTEXT, nothing_seen)
    with pytest.raises(Refused, match=r"tx\.signature"):
        pool.check(forged(real.raw), CONTEXT, nothing_seen)


def test_what_is_executed_is_a_duplicate_before_its_signature_costs_anything() -> None:
    pool = Mempool(CHAIN_ID)
    raw = transfer_tx(1)
    checked = decode_tx(raw, CHAIN_ID)
    seen = {key_seen(checked.tx.expires, checked.id): b""}
    with pytest.raises(Refused, match=r"tx\.duplicate"):
        pool.check(forged(raw), CONTEXT, seen.get)


@pytest.mark.parametrize(
    ("expires", "rule"),
    [
        (CONTEXT.height - 1, "tx.expired"),
        (CONTEXT.height, None),
        (CONTEXT.height + EXPIRY_BLOCKS_MAX, None),
        (CONTEXT.height + EXPIRY_BLOCKS_MAX + 1, "tx.expires_too_far"),
    ],
)
def test_the_edges_of_the_replay_window(expires: int, rule: str | None) -> None:
    pool = Mempool(CHAIN_ID)
    raw = transfer_tx(1, expires=expires)
    if rule is None:
        assert pool.check(raw, CONTEXT, nothing_seen).tx.expires == expires
        return
    with pytest.raises(Refused) as refusal:
        pool.check(raw, CONTEXT, nothing_seen)
    assert refusal.value.rule == rule


def test_a_pending_transaction_of_anothers_batch_is_not_bundled_again() -> None:
    pool = Mempool(CHAIN_ID)
    pool.add(tx(1), 0)
    pool.add(tx(2), 0)
    pool.hold(open_batch(batch_of(tx(1).raw), CHAIN_ID, pool.known.verify), 1, wanted=False)
    sealed = pool.seal(0)
    assert sealed is not None
    assert [entry.id for entry in sealed.txs] == [tx(2).id]
    assert pool.seal(0) is None
    assert_sums(pool)


def test_sealed_batches_are_exact_and_small_enough() -> None:
    pool = Mempool(CHAIN_ID)
    for salt in range(5):
        pool.add(tx(salt, padding=60_000), 0)
    sizes = []
    while (sealed := pool.seal(0)) is not None:
        assert sealed.digest == batch_digest(sealed.data)
        sizes.append(sealed.count)
    assert sizes == [2, 2, 1]
    assert_sums(pool)


def test_known_transactions_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "VERIFIED_MAX", 3)
    kept = KnownTxs()
    for salt in range(5):
        kept.remember(tx(salt))
    assert [entry.id for entry in kept.txs.values()] == [tx(s).id for s in (2, 3, 4)]
    monkeypatch.setattr(known, "VERIFIED_BYTES_MAX", 70_000)
    kept.remember(tx(7, padding=60_000))
    kept.remember(tx(8, padding=60_000))
    assert kept.size_bytes <= 70_000
    assert kept.size_bytes == sum(len(entry.raw) for entry in kept.txs.values())


def test_a_signature_is_checked_once() -> None:
    kept = KnownTxs()
    first = kept.remember(tx(1))
    again: CheckedTx = decode_tx(first.raw, CHAIN_ID)
    assert kept.verify(again) is first
