"""A chain as it was at one moment: what takes long is read here, in a thread, while the chain goes on.

Blocks, state and tree are those of that moment, and so is how far the state can be looked behind: all that
`Chain` answers fits together, whatever is committed or dropped meanwhile. With LevelDB it costs nothing but
what is deleted before `close`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ledger.errors import LocalError
from ledger.storage.chain import Chain
from ledger.storage.kv import Frozen
from ledger.storage.stored import Tip


class FrozenChain(Chain):
    """See the module. Made where the chain is written, then read in one thread; nothing can be written. The
    chain's store must stay open until `close`, which may be called in any thread once nobody reads."""

    def __init__(self, chain: Chain) -> None:
        """Raises LocalError where the store can't be frozen, or fails."""
        frozen = chain._kv.freeze()
        if frozen is None:
            raise LocalError("this store cannot be read as it was at one moment")
        super().__init__(_Still(frozen), chain.chain_id)
        self._window = chain._window.over(self._state.get, self._nodes.get)

    def _load_undo(self, tip: Tip) -> None:
        """What the chain holds is taken, not what it wrote at its last end."""

    def close(self) -> None:
        """Idempotent."""
        self._kv.close()


class _Still:
    """A Kv that refuses writes."""

    def __init__(self, frozen: Frozen) -> None:
        self.get = frozen.get
        self.scan = frozen.scan
        self.last = frozen.last
        self.close = frozen.close

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        """Raises LocalError."""
        raise LocalError("a chain as it was is only read")
