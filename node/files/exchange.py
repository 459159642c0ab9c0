"""Artifacts between peers: what we serve, and fetching from many sources at once.

A fetch trusts nobody. The chunk list must have the root that the contract signs, each chunk must be in the
list, and the whole must have its digest. A source that contradicts itself is penalised and dropped at its
first bad answer; the others go on. What was verified is served to others at once, also while the rest is
still on its way. `node/files/fetching.py` is one fetch, `node/files/sources.py` whom it asks,
`node/files/picks.py` for what, `node/files/serving.py` the other side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from ledger.limits import ARTIFACT_BYTES_MAX
from node.errors import ArtifactError, ArtifactFull, ArtifactWrong
from node.files.artifacts import ArtifactStore
from node.files.fetching import Fetch
from node.files.rates import FileRates, Rate
from node.files.serving import Serve, Serving
from node.files.transfer import Progress as Progress
from node.files.transfer import Wanted as Wanted
from node.files.turns import Turns
from node.limits import (
    ARTIFACT_ASKING_MAX,
    ARTIFACT_FETCHES_MAX,
    ARTIFACT_OF_ORDER_MAX,
    ARTIFACT_THREADS,
    ARTIFACT_TURN_S,
    ARTIFACT_WANTED_MAX,
    FAULT_POINTS,
)
from p2p.errors import LocalError as NetworkError
from p2p.network import Network

log = structlog.get_logger("artifacts")

_DROPPED_MAX: Final = 1_024  # sources remembered as liars in one fetch; the network bans them, too


@dataclass(slots=True)
class Exchange:
    """Serves `store` to the network and fetches into it, at most at these rates."""

    network: Network
    store: ArtifactStore
    rates: FileRates = field(default_factory=FileRates)
    fetched_bytes: int = 0
    liars: int = 0
    under_way: dict[Wanted, Progress] = field(default_factory=dict)
    serving: Serving = field(init=False)
    download: Rate = field(init=False)
    asking: Turns = field(default_factory=lambda: Turns(ARTIFACT_ASKING_MAX, ARTIFACT_TURN_S))
    taking: Turns = field(default_factory=lambda: Turns(ARTIFACT_FETCHES_MAX, ARTIFACT_TURN_S))
    threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(ARTIFACT_THREADS))
    _locks: dict[Wanted, trio.Lock] = field(default_factory=dict)
    _fetches: dict[Wanted, Fetch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.serving = Serving(lambda: self.store, self.rates)
        self.download = Rate(self.rates.download_bytes_s)

    def methods(self) -> Mapping[str, Serve]:
        """What PeerHandlers.methods takes."""
        return self.serving.methods()

    async def fetch(
        self,
        wanted: Wanted,
        progress: Progress | None = None,
        hints: Sequence[str] = (),
        *,
        like: Sequence[str] = (),
        owner: str = "",
    ) -> Path:
        """The verified file, from here or from others; goes on asking until it is there or cancelled.

        Who wants what is being fetched already waits for that, and shows its progress; but not for one by
        another list or size, which may be a lie. `hints`: addresses of peers that may have it, beside the
        neighbours; `like`: artifacts that may hold some of its chunks; `owner`: whose places it takes, those
        of a deployment or of nobody. Raises ArtifactFull when there is no room, ArtifactWrong when the signed
        names contradict each other.
        """
        sha256, size_bytes = wanted.sha256, wanted.size_bytes
        progress = progress or Progress(size_bytes)
        progress.begin(size_bytes)
        if not 0 <= size_bytes <= ARTIFACT_BYTES_MAX:
            raise ArtifactWrong(sha256, f"{size_bytes} bytes, at most {ARTIFACT_BYTES_MAX}")
        self._meet(hints)
        if wanted in self.under_way:
            progress.follow(self.under_way[wanted])
            self._fetches[wanted].also_for(owner)
        lock = self._locks.setdefault(wanted, trio.Lock())
        try:
            async with lock:
                if not self.store.has(sha256):
                    await self._fetch(Fetch(self, wanted, progress, like, owner))
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(wanted, None)
        if self.store.size_bytes(sha256) != size_bytes:
            raise ArtifactWrong(sha256, f"it has another size than the {size_bytes} bytes named")
        progress.reached(size_bytes, trio.current_time())
        return self.store.path(sha256)

    async def _fetch(self, fetch: Fetch) -> None:
        wanted = fetch.wanted
        if len(self.under_way) >= ARTIFACT_WANTED_MAX:
            raise ArtifactFull(f"{ARTIFACT_WANTED_MAX} artifacts are wanted already")
        fetch.progress.begin(wanted.size_bytes)  # who was first has given up: its findings are not ours
        self.under_way[wanted], self._fetches[wanted] = fetch.progress, fetch
        try:
            await fetch.run()
        finally:
            del self.under_way[wanted], self._fetches[wanted]

    def _meet(self, hints: Sequence[str]) -> None:
        for address in hints:
            try:
                if not address.endswith(f"/p2p/{self.network.peer_id}"):
                    self.network.add_peer(address, keep=False)
            except NetworkError as error:
                log.info("bad_hint", address=address[:120], error=str(error)[:120])

    def metrics(self) -> Sequence[tuple[str, dict[str, str], float, str]]:
        """Rows as PeerSeam.metrics gives them."""
        return [
            ("artifacts_bytes", {}, self.store.used_bytes, "gauge"),
            ("artifacts_fetches", {}, len(self.under_way), "gauge"),
            ("artifacts_dropped_total", {}, self.store.dropped, "counter"),
            ("artifacts_served_bytes_total", {}, self.serving.served_bytes, "counter"),
            ("artifacts_busy_total", {}, self.serving.busy, "counter"),
            ("artifacts_fetched_bytes_total", {}, self.fetched_bytes, "counter"),
            ("artifacts_liars_total", {}, self.liars, "counter"),
            ("artifacts_changed_on_disk_total", {}, self.serving.changed_on_disk, "counter"),
        ]

    def blame(self, peer_id: str, rule: str, progress: Progress) -> None:
        """A source contradicted itself: counted, penalised, not asked again in this fetch."""
        if peer_id in progress.dropped:
            return
        self.liars += 1
        self.set_aside(peer_id, rule, progress)
        self.network.penalise(peer_id, rule, FAULT_POINTS)
        log.warning("source_dropped", peer=peer_id, rule=rule)

    def set_aside(self, peer_id: str, rule: str, progress: Progress) -> None:
        """A source is not asked again in this fetch, whoever's fault it is."""
        progress.sources.discard(peer_id)
        while len(progress.dropped) >= _DROPPED_MAX:
            progress.dropped.pop(next(iter(progress.dropped)))
        progress.dropped[peer_id] = rule


async def fetch_all(
    exchange: Exchange,
    wanted: Sequence[tuple[Wanted, Progress]],
    hints: Sequence[str] = (),
    owner: str = "",
) -> None:
    """All of them, some at once, for one order of `owner`. Raises as `Exchange.fetch` does."""
    failed: list[ArtifactError] = []
    places = trio.CapacityLimiter(ARTIFACT_OF_ORDER_MAX)

    async def one(item: Wanted, progress: Progress) -> None:
        try:
            async with places:
                await exchange.fetch(item, progress, hints, owner=owner)
        except ArtifactError as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for item, progress in wanted:
            nursery.start_soon(partial(one, item, progress))
    if failed:
        raise failed[0]
