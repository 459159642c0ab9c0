"""Audit files, made beside all else: a long life takes seconds, and the peer goes on meanwhile.

Each is made in a thread, of the chain as it was when its turn came (ledger.storage.frozen), so that its parts
fit together whatever is committed or dropped since. One at a time: two would only slow each other down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import trio

from ledger.audit import audit
from ledger.storage.frozen import FrozenChain
from ledger.storage.store import Store


@dataclass(slots=True)
class Audits:
    """See the module. `use` is held while one is made: until then the store stays open."""

    store: Store
    use: trio.Lock
    _turn: trio.Lock = field(default_factory=trio.Lock)  # so that who else wants `use` waits for one alone

    async def export(self, deployment: bytes) -> bytes:
        """The file. When it is cancelled the thread ends soon, and this after it. Raises as
        ledger.audit.audit.export."""
        async with self._turn, self.use:
            chain = FrozenChain(self.store)
            try:
                work = partial(audit.export, chain, deployment, trio.from_thread.check_cancelled)
                return await trio.to_thread.run_sync(work)
            finally:
                chain.close()
