"""Takes the newest blocks back, so that a peer fetches and executes them again.

What they overwrote is known only from the window that a clean stop saves: at most UNDO_COMMITS_MAX
blocks, and none after a kill. The sign state is another store: a validator keeps all its promises.
"""

from __future__ import annotations

from ledger.blocks import Header, header_hash
from ledger.codec import decode, encode
from ledger.errors import LocalError
from ledger.records import be
from ledger.storage.chain import TIP_KEY, UNDO_KEY
from ledger.storage.kv import Kv
from ledger.storage.retention import Retention
from ledger.storage.stored import Tip
from ledger.storage.views import UNDO_COMMITS_MAX, SavedUndo, Window


def saved_window(kv: Kv) -> int:
    """How many blocks `roll_back` can take back now."""
    tip, saved = kv.get(TIP_KEY), kv.get(UNDO_KEY)
    if tip is None or saved is None:
        return 0
    height, entries = decode(tuple[int, list[SavedUndo]], saved)
    found = decode(Tip, tip).height
    return sum(1 for entry in entries if 0 < entry.height <= found) if height == found else 0


def roll_back(kv: Kv, blocks: int, genesis_time_ms: int) -> Tip:
    """Take the newest `blocks` back in one atomic, synced write. Returns the new tip.

    For a store that nobody else has open. Raises LocalError, and nothing is written, when the window does
    not reach so far, the chain is shorter, or what results is not the state that was there.
    """
    data = kv.get(TIP_KEY)
    if data is None:
        raise LocalError("the store is empty: there is nothing to take back")
    tip, held = decode(Tip, data), saved_window(kv)
    if not 1 <= blocks <= min(held, tip.height):
        raise LocalError(
            f"{blocks} blocks cannot be taken back: at height {tip.height} the store remembers what the last "
            f"{held} overwrote (at most {UNDO_COMMITS_MAX}, and 0 after a kill). Nothing was changed. "
            "gridpact reset fetches the whole chain anew."
        )
    target = tip.height - blocks
    retention = Retention(kv)
    if 0 < target < retention.first_height:
        raise LocalError(f"height {target} was dropped: blocks are held from {retention.first_height} on")
    entries = decode(tuple[int, list[SavedUndo]], kv.get(UNDO_KEY) or b"")[1]
    puts, deletes = _changes([entry for entry in entries if entry.height > target])
    new_tip = _tip_at(kv, target, genesis_time_ms)
    window = Window(lambda key: kv.get(b"s" + key), lambda key: kv.get(b"n" + key))
    window.load(entries)
    if window.at(target, tip.height).root() != new_tip.root:
        raise LocalError(f"the store is damaged: what it remembers is not the state of height {target}")
    for height in range(target + 1, tip.height + 1):
        deletes += [*retention.erase(height), b"R" + be(height)]
    puts[TIP_KEY] = encode(new_tip)
    puts[UNDO_KEY] = encode((target, [entry for entry in entries if entry.height <= target]))
    kv.write(puts, deletes, sync=True)
    return new_tip


def _changes(entries: list[SavedUndo]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Puts and deletes that bring back what these commits, oldest first, overwrote."""
    before: dict[bytes, bytes | None] = {}
    for entry in reversed(entries):  # the oldest word counts
        before.update((b"s" + key, value) for key, value in entry.state)
        before.update((b"n" + key, value) for key, value in entry.nodes)
    puts = {key: value for key, value in before.items() if value is not None}
    return puts, [key for key, value in before.items() if value is None]


def _tip_at(kv: Kv, height: int, genesis_time_ms: int) -> Tip:
    root = kv.get(b"R" + be(height))
    data = kv.get(b"b" + be(height or 1))
    if root is None or data is None:
        raise LocalError(f"the store is damaged: no block or root at height {height}")
    header = decode(Header, data)
    if height == 0:
        return Tip(0, header.parent_hash, 0, genesis_time_ms, root, 0)
    return Tip(height, header_hash(data), header.view, header.time_ms, root, header.state_height)
