"""Turns among those who wait: nobody's flood delays others, order within an account holds, sums are exact."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ledger.keys import Key
from ledger.transactions import VerifiedTx, decode_tx, verified
from node.voting.fair_queue import FairQueue, cost_of
from tests.node.final_chain import transfer_tx
from tests.node.network_fixture import CHAIN_ID

KEYS = [Key(bytes([number]) * 32) for number in range(1, 5)]
SOURCES = ["http:a", "http:b", "peer"]


def tx(salt: int, who: int = 0, padding: int = 0) -> VerifiedTx:
    return verified(decode_tx(transfer_tx(salt, sender=KEYS[who], padding=padding), CHAIN_ID))


TXS = [tx(salt, who, 400 * (salt % 3)) for salt in range(8) for who in range(4)]


def filled(*entries: tuple[VerifiedTx, str]) -> FairQueue:
    queue = FairQueue()
    for entry, source in entries:
        queue.put(entry, source)
    return queue


def test_what_fits_as_a_whole_keeps_its_order() -> None:
    entries = [(tx(1), "a"), (tx(2), "a"), (tx(3, 1), "b"), (tx(4), "a")]
    queue = filled(*entries)
    assert queue.take(10, 100_000) == [entry for entry, _ in entries]
    assert (len(queue), queue.cost, queue.size_bytes, queue._sources) == (0, 0, 0, {})


def test_a_flood_of_one_client_delays_no_other() -> None:
    flood = [(tx(salt), "loud") for salt in range(100)]
    queue = filled(*flood, (tx(1_000, 1), "quiet"), (tx(1_001, 1), "quiet"))
    first = queue.take(4, 100_000)
    assert [entry.tx.sender for entry in first].count(KEYS[1].public) == 2


def test_many_accounts_of_one_client_have_one_clients_share() -> None:
    flood = [(tx(salt, who), "loud") for salt in range(30) for who in (1, 2, 3)]
    queue = filled(*flood, *((tx(500 + salt), "quiet") for salt in range(20)))
    taken = queue.take(20, 100_000)
    assert 9 <= sum(entry.tx.sender == KEYS[0].public for entry in taken) <= 11


def test_large_ones_count_for_what_they_take() -> None:
    large = [(tx(salt, 0, 5_000), "a") for salt in range(20)]
    queue = filled(*large, *((tx(salt, 1), "b") for salt in range(60)))
    taken = queue.take(40, 1_000_000)
    costs = {
        key.public: sum(cost_of(entry) for entry in taken if entry.tx.sender == key.public)
        for key in KEYS[:2]
    }
    largest = cost_of(large[0][0])
    assert abs(costs[KEYS[0].public] - costs[KEYS[1].public]) <= largest + cost_of(tx(0, 1))


def test_leaving_and_coming_back_gains_no_turn() -> None:
    """Who always has one waiting gets as many turns as who has a hundred, no more."""
    queue = filled(*((tx(salt), "many") for salt in range(100)))
    served = {"one": 0, "many": 0}
    for salt in range(40):
        if queue.usage("one") == (0, 0):
            queue.put(tx(1_000 + salt, 1), "one")
        (taken,) = queue.take(1, 100_000)
        served["one" if taken.tx.sender == KEYS[1].public else "many"] += 1
    assert abs(served["one"] - served["many"]) <= 2


def test_who_had_a_turn_has_the_next_one_though_new_accounts_never_cease_to_come() -> None:
    """Regression: new accounts began at the turn served last, before all that had had one, for ever."""
    queue = filled(*((tx(salt), "a") for salt in range(3)), (tx(9, 1), "a"), (tx(10, 1), "a"))
    turns: list[int] = []
    for number in range(40):
        newcomer = Key(number.to_bytes(32, "little"))
        entry = verified(decode_tx(transfer_tx(100 + number, sender=newcomer), CHAIN_ID))
        queue.put(entry, "a")
        (taken,) = queue.take(1, 100_000)
        if taken.tx.sender == KEYS[0].public:
            turns.append(number)
    assert len(turns) == 3 and turns[0] <= 2
    assert max(later - former for former, later in pairwise(turns)) <= 8


def test_one_that_is_larger_than_a_batch_goes_alone() -> None:
    queue = filled((tx(1, 0, 5_000), "a"), (tx(2, 1), "b"), (tx(3, 2), "c"))
    sizes = [len(queue.take(10, 1_000)) for _ in range(3)]
    assert sorted(sizes) == [0, 1, 2]


def test_what_is_ahead_is_never_told_too_low() -> None:
    queue = filled(
        *((tx(salt), "a") for salt in range(30)), *((tx(salt, 1), "b") for salt in range(5)), (tx(9, 2), "b")
    )
    mine = tx(99, 1)
    told = queue.ahead("b", KEYS[1].public, cost_of(mine))
    queue.put(mine, "b")
    before = 0
    while (taken := queue.take(1, 100_000)) != [mine]:
        before += cost_of(taken[0])
    assert before + cost_of(mine) <= told <= 14 * cost_of(mine)  # of 37 that wait


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, len(TXS) - 1), st.sampled_from(SOURCES)),
            st.tuples(st.just("take"), st.integers(1, 5), st.integers(200, 3_000)),
            st.tuples(st.just("remove"), st.integers(0, len(TXS) - 1), st.just(0)),
        ),
        max_size=60,
    )
)
def test_sums_are_exact_and_nothing_is_lost(history: list[tuple[str, int, object]]) -> None:
    queue = FairQueue()
    here: dict[bytes, tuple[VerifiedTx, str]] = {}
    for verb, number, what in history:
        if verb == "put":
            entry = TXS[number]
            if entry.id not in queue:
                queue.put(entry, str(what))
                here[entry.id] = (entry, str(what))
        elif verb == "remove":
            assert (queue.remove(TXS[number].id) is not None) == (TXS[number].id in here)
            here.pop(TXS[number].id, None)
        else:
            for entry in queue.take(number, int(str(what))):
                _, source = here[entry.id]
                older = next(
                    i for i, (t, s) in here.items() if t.tx.sender == entry.tx.sender and s == source
                )
                assert older == entry.id  # the order of one account
                del here[entry.id]
        assert [entry.id for entry in queue] == list(here)
        assert queue.cost == sum(cost_of(entry) for entry, _ in here.values())
        assert queue.size_bytes == sum(len(entry.raw) for entry, _ in here.values())
        for source in SOURCES:
            mine = [entry for entry, s in here.values() if s == source]
            assert queue.usage(source) == (len(mine), sum(len(entry.raw) for entry in mine))
    while queue:
        for entry in queue.take(3, 2_000):
            del here[entry.id]
    assert not here
    assert (queue.cost, queue.size_bytes, queue._sources) == (0, 0, {})
