"""The state at the tip and at recent heights. A header proves the root of an *earlier* height (its
`state_height`), so a peer keeps, in memory, what the last commits overwrote, and reads through that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

import msgspec

from ledger.errors import Refused
from ledger.proofs import tree
from ledger.storage.kv import Frozen, Kv, ReadCache, prefix_end

# Commits that can be looked behind. Proposals name a state a few heights old; 16 leave room for a tip
# that runs ahead of its certificates.
UNDO_COMMITS_MAX: Final = 16

Read = Callable[[bytes], bytes | None]
_MISSING: Any = object()


# Prefixes that are used as queues: entries go at the front. LevelDB walks over everything deleted there on
# each scan (9 ms after 30,000 entries, ten times the work of a small block), so we remember the front.
QUEUE_PREFIXES: Final = (b"seen/", b"due/")
EMPTY_PREFIXES_MAX: Final = 4_096  # remembered until the next commit


class StateReader:
    """The state at the tip (ledger.state.Reader). A scan reads what is on disk as it goes."""

    def __init__(self, kv: Kv, cache: ReadCache) -> None:
        self._kv = kv
        self._fronts: dict[bytes, bytes] = {}  # by queue: no key of it is smaller
        self._empty: set[bytes] = set()  # prefixes that no key at the tip has: a block asks for some often
        self.get = cache.get

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        if prefix in self._empty:
            return
        front = self._fronts.get(prefix, prefix)
        is_empty = start <= front and limit != 0 and len(self._empty) < EMPTY_PREFIXES_MAX
        whole = prefix in QUEUE_PREFIXES and start <= front
        for key, value in self._kv.scan(b"s" + prefix, b"s" + max(start, front), limit):
            is_empty = False
            if whole:
                self._fronts[prefix] = key[1:]
                whole = False
            yield key[1:], value
        if is_empty:
            self._empty.add(prefix)
        if whole and limit != 0:
            self._fronts[prefix] = prefix_end(prefix) or prefix  # it is empty

    def follow(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Note a write that was made."""
        self._empty.clear()
        for key, value in changes.items():
            if value is not None and key.startswith(QUEUE_PREFIXES):
                for prefix, front in self._fronts.items():
                    if key < front and key.startswith(prefix):
                        self._fronts[prefix] = key


class Undo(msgspec.Struct, frozen=True):
    """What the commit of `height` overwrote: the values and tree nodes before it (None: absent)."""

    height: int
    state: dict[bytes, bytes | None]
    nodes: dict[bytes, bytes | None]


class SavedUndo(msgspec.Struct, array_like=True, frozen=True):
    """An Undo as it is stored: our encoding knows no bytes as dict keys."""

    height: int
    state: list[tuple[bytes, bytes | None]]
    nodes: list[tuple[bytes, bytes | None]]


class Window:
    """The last UNDO_COMMITS_MAX commits over the current state and tree."""

    def __init__(self, state: Read, node: Read) -> None:
        self._state = state
        self._node = node
        self._undo: deque[Undo] = deque(maxlen=UNDO_COMMITS_MAX)

    def over(self, state: Read, node: Read) -> Window:
        """The same commits, over the same state and tree read another way. Later ones are not in it."""
        copy = Window(state, node)
        copy._undo.extend(self._undo)
        return copy

    def push(
        self,
        height: int,
        changes: Mapping[bytes, Any],
        nodes: Mapping[bytes, Any],
        fresh: Collection[bytes] = (),
    ) -> None:
        """Remember what a commit is about to overwrite. Call before the write becomes visible. `fresh`: nodes
        that are known not to be there."""
        state, node = self._state, self._node
        before = {p: None if p in fresh else node(p) for p in nodes}
        self._undo.append(Undo(height, {k: state(k) for k in changes}, before))

    def pop(self) -> None:
        """Forget the last push: its write failed."""
        self._undo.pop()

    def dump(self) -> list[SavedUndo]:
        """All entries, oldest first, to be kept over a clean restart."""
        return [SavedUndo(u.height, list(u.state.items()), list(u.nodes.items())) for u in self._undo]

    def load(self, entries: list[SavedUndo]) -> None:
        """What `dump` returned, for the same tip."""
        self._undo.extend(Undo(e.height, dict(e.state), dict(e.nodes)) for e in entries)

    def at(self, height: int, tip: int) -> StateView:
        """The state after executing `height`. Raises Refused("state.pruned" | "state.future")."""
        if height > tip:
            raise Refused("state.future", f"height {height}, the tip is {tip}", "height")
        later = [undo for undo in self._undo if undo.height > height]
        if len(later) != tip - height:
            raise Refused("state.pruned", f"height {height} is no longer held, the tip is {tip}", "height")
        return StateView(height, later, self._state, self._node)


class StateView:
    """A state at one height: `get`, `root`, `prove`. Valid until the next commit."""

    def __init__(self, height: int, later: list[Undo], state: Read, node: Read) -> None:
        self.height = height
        self._later = later
        self._state = state
        self._node_now = node

    def get(self, key: bytes) -> bytes | None:
        """The value then, or None."""
        for undo in self._later:
            value: bytes | None = undo.state.get(key, _MISSING)
            if value is not _MISSING:
                return value
        return self._state(key)

    def overwritten(self) -> dict[bytes, bytes | None]:
        """What held another value then than it does now: key to value (None: absent)."""
        found: dict[bytes, bytes | None] = {}
        for undo in self._later:  # the oldest word counts
            for key, value in undo.state.items():
                found.setdefault(key, value)
        return found

    def _node(self, path: bytes) -> bytes | None:
        for undo in self._later:
            record: bytes | None = undo.nodes.get(path, _MISSING)
            if record is not _MISSING:
                return record
        return self._node_now(path)

    def root(self) -> bytes:
        """The state root then."""
        return tree.root_of(self._node)

    def prove(self, key: bytes) -> tree.Proof:
        """Presence or absence of `key` under `root()`."""
        return tree.prove(self._node, key)


class FrozenState:
    """A state at one height that stays while the chain goes on. `overwritten`: what held another value then
    than when the store was frozen; keys that begin with `without` are left out."""

    def __init__(
        self, frozen: Frozen, overwritten: Mapping[bytes, bytes | None], without: tuple[bytes, ...]
    ) -> None:
        self._frozen = frozen
        self._overwritten = overwritten
        self._without = without

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs, each once, in no order. May run in another thread. Raises LocalError."""
        overwritten, without = self._overwritten, self._without
        for key, value in overwritten.items():
            if value is not None and not key.startswith(without):
                yield key, value
        for key, value in self._frozen.scan(b"s"):
            if key[1:] not in overwritten and not key.startswith(without, 1):
                yield key[1:], value

    def close(self) -> None:
        """Idempotent."""
        self._frozen.close()
