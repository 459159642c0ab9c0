"""Which processes each pid namespace of this host has, by walks over all of /proc that all who ask share.

Whoever asks gets a walk that began afterwards, so that nothing that was there is missed. With one for each
who asks, the more slots a node has, the more walks there would be, and the longer each.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

from node.executor.host import procs
from node.executor.limits import WALK_REST


class Census:
    """See the module. For the tasks of one event loop."""

    def __init__(self) -> None:
        self._turn = trio.Lock()
        self._begun = 0
        self._done = 0
        self._rest_until_s = 0.0
        self._found: Mapping[str, tuple[int, ...]] = {}

    async def members(self, namespace: str) -> tuple[int, ...]:
        """Return the living processes in the pid namespace of that name, by a walk that began after this."""
        asked = self._begun
        async with self._turn:
            if self._done <= asked:
                await trio.sleep(max(0.0, self._rest_until_s - trio.current_time()))
                self._begun += 1
                began_s = trio.current_time()
                self._found = await trio.to_thread.run_sync(procs.namespaces)
                self._done = self._begun
                now_s = trio.current_time()
                self._rest_until_s = now_s + WALK_REST * (now_s - began_s)
        return procs.living(self._found.get(namespace, ()))
