"""State maps: an overlay over anything behaves as one plain sorted map."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.records import Account
from ledger.state import MemoryState, Overlay, read, write

KEYS = st.binary(min_size=1, max_size=3)
WRITES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=2)), max_size=20)


def fill(
    state: MemoryState | Overlay, model: dict[bytes, bytes], writes: list[tuple[bytes, bytes | None]]
) -> None:
    for key, value in writes:
        if value is None:
            state.delete(key)
            model.pop(key, None)
        else:
            state.put(key, value)
            model[key] = value


@given(WRITES, WRITES, WRITES, st.binary(max_size=2), st.binary(max_size=2), st.none() | st.integers(0, 5))
def test_overlays_read_as_one_map(
    base: list[tuple[bytes, bytes | None]],
    middle: list[tuple[bytes, bytes | None]],
    top: list[tuple[bytes, bytes | None]],
    prefix: bytes,
    start: bytes,
    limit: int | None,
) -> None:
    model: dict[bytes, bytes] = {}
    memory = MemoryState()
    fill(memory, model, base)
    lower = Overlay(memory)
    fill(lower, model, middle)
    upper = Overlay(lower)
    list(upper.scan(b""))  # builds the order early, so that later writes must keep it
    fill(upper, model, top)
    wanted = [(k, v) for k, v in sorted(model.items()) if k.startswith(prefix) and k >= start][:limit]
    assert list(upper.scan(prefix, start, limit)) == wanted
    assert all(upper.get(key) == value for key, value in model.items())
    upper.commit(lower)
    assert list(lower.scan(prefix, start, limit)) == wanted
    memory.update(lower.changes())
    assert memory.entries() == dict(sorted(model.items()))


def test_a_dropped_overlay_leaves_its_base() -> None:
    memory = MemoryState({b"a": b"1"})
    overlay = Overlay(memory)
    overlay.put(b"a", b"2")
    overlay.delete(b"b")
    assert overlay.changes() == {b"a": b"2", b"b": None}
    overlay.discard()
    assert overlay.changes() == {}
    assert overlay.get(b"a") == b"1"
    assert memory.entries() == {b"a": b"1"}


def test_a_limited_scan_counts_what_is_visible() -> None:
    overlay = Overlay(MemoryState({bytes([n]): b"" for n in range(5)}))
    for n in range(3):
        overlay.delete(bytes([n]))
    assert [key for key, _ in overlay.scan(b"", limit=1)] == [b"\x03"]


def test_typed_records() -> None:
    memory = MemoryState()
    assert read(memory, Account, b"account/x") is None
    write(memory, b"account/x", Account(7))
    assert read(memory, Account, b"account/x") == Account(7)
