"""Artifacts between peers: what we serve, and fetching from many sources at once.

A fetch trusts nobody. The chunk list must have the root that the contract signs, each chunk must be in
the list, and the whole must have its digest. A source that lies is penalised and dropped at its first
bad answer; the others go on. What was fetched is served to others, too.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from ledger.codec import decode_exact, encode
from ledger.errors import Refused
from ledger.limits import ARTIFACT_BYTES_MAX
from node.artifact_files import ArtifactInfo, Partial, chunk_count
from node.artifacts import ArtifactStore
from node.chunks import chunks_root
from node.errors import ArtifactError, ArtifactFull, ArtifactMissing, ArtifactWrong
from node.limits import (
    ARTIFACT_ASK_S,
    ARTIFACT_DIGESTS_MAX,
    ARTIFACT_FAILURES_MAX,
    ARTIFACT_FETCHES_MAX,
    ARTIFACT_IDLE_REST_S,
    ARTIFACT_REST_S,
    ARTIFACT_SOURCE_WINDOW,
    ARTIFACT_SOURCES_MAX,
    FAULT_POINTS,
)
from p2p.errors import LocalError as NetworkError
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("artifacts")

INFO: Final = "artifact/info"
CHUNK: Final = "artifact/chunk"
_REQUEST_BYTES_MAX: Final = 64
_INFO_BYTES_MAX: Final = ARTIFACT_DIGESTS_MAX * 32 + 64

Serve = Callable[[str, bytes], Awaitable[bytes]]


class InfoRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The method "artifact/info": size, and chunk digests from `first` on."""

    sha256: bytes
    first: int


class InfoAnswer(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """At most ARTIFACT_DIGESTS_MAX digests, one after the other."""

    size_bytes: int
    digests: bytes


class ChunkRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The method "artifact/chunk": the answer is the chunk's bytes."""

    sha256: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """An artifact to fetch. `chunks` is the signed root of its chunk list; None when only the digest of the
    whole is known (results): then the list is believed until the whole is hashed."""

    sha256: str
    size_bytes: int
    chunks: str | None


@dataclass(slots=True)
class Progress:
    """How far a fetch is, for those who look on. `dropped`: sources that lied, with the rule."""

    bytes_total: int
    bytes_done: int = 0
    sources: set[str] = field(default_factory=set)
    dropped: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Exchange:
    """Serves `store` to the network and fetches into it."""

    network: Network
    store: ArtifactStore
    served_bytes: int = 0
    fetched_bytes: int = 0
    liars: int = 0
    changed_on_disk: int = 0  # our own artifacts that were no longer what their name says
    under_way: dict[str, Progress] = field(default_factory=dict)
    _locks: dict[str, trio.Lock] = field(default_factory=dict)
    _limit: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(ARTIFACT_FETCHES_MAX))

    # ------------------------------------------------------------------ serving

    def methods(self) -> Mapping[str, Serve]:
        """What PeerHandlers.methods takes."""
        return {INFO: self._serve_info, CHUNK: self._serve_chunk}

    async def _serve_info(self, peer_id: str, body: bytes) -> bytes:
        request = decode_exact(InfoRequest, body, "artifact", _REQUEST_BYTES_MAX)
        info = await trio.to_thread.run_sync(self.store.info, request.sha256.hex())
        if info is None:
            raise Refused("artifact.unknown", "not here")
        if not 0 <= request.first <= len(info.chunks):
            raise Refused("artifact.range", f"it has {len(info.chunks)} chunks", "first")
        part = info.chunks[request.first : request.first + ARTIFACT_DIGESTS_MAX]
        return encode(InfoAnswer(info.size_bytes, b"".join(part)))

    async def _serve_chunk(self, peer_id: str, body: bytes) -> bytes:
        request = decode_exact(ChunkRequest, body, "artifact", _REQUEST_BYTES_MAX)
        try:
            data = await trio.to_thread.run_sync(self.store.read_chunk, request.sha256.hex(), request.index)
        except ArtifactMissing:
            raise Refused("artifact.unknown", "not here") from None
        except ArtifactWrong as error:
            self.changed_on_disk += 1
            log.error("artifact_changed_on_disk", error=str(error))
            raise Refused("artifact.unknown", "no longer here") from None
        self.served_bytes += len(data)
        return data

    # ------------------------------------------------------------------ fetching

    async def fetch(
        self, wanted: Wanted, progress: Progress | None = None, hints: Sequence[str] = ()
    ) -> Path:
        """The verified file, from here or from others; goes on asking until it is there or cancelled.

        `hints`: addresses of peers that may have it, beside the neighbours. Raises ArtifactFull when there is
        no room, ArtifactWrong when the signed names contradict each other.
        """
        progress = progress or Progress(wanted.size_bytes)
        progress.bytes_total = wanted.size_bytes
        if not 0 <= wanted.size_bytes <= ARTIFACT_BYTES_MAX:
            raise ArtifactWrong(wanted.sha256, f"{wanted.size_bytes} bytes, at most {ARTIFACT_BYTES_MAX}")
        self._meet(hints)
        lock = self._locks.setdefault(wanted.sha256, trio.Lock())
        try:
            async with lock:
                if not self.store.has(wanted.sha256):
                    async with self._limit:
                        self.under_way[wanted.sha256] = progress
                        await _Fetch(self, wanted, progress).run()
        finally:
            self.under_way.pop(wanted.sha256, None)
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(wanted.sha256, None)
        progress.bytes_done = wanted.size_bytes
        if self.store.size_bytes(wanted.sha256) != wanted.size_bytes:
            raise ArtifactWrong(
                wanted.sha256, f"it has another size than the {wanted.size_bytes} bytes named"
            )
        return self.store.path(wanted.sha256)

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
            ("artifacts_served_bytes_total", {}, self.served_bytes, "counter"),
            ("artifacts_fetched_bytes_total", {}, self.fetched_bytes, "counter"),
            ("artifacts_liars_total", {}, self.liars, "counter"),
            ("artifacts_changed_on_disk_total", {}, self.changed_on_disk, "counter"),
        ]

    def blame(self, peer_id: str, rule: str, progress: Progress) -> None:
        """A source lied: counted, penalised, not asked again in this fetch."""
        if peer_id in progress.dropped:
            return
        self.liars += 1
        progress.sources.discard(peer_id)
        progress.dropped[peer_id] = rule
        self.network.penalise(peer_id, rule, FAULT_POINTS)
        log.warning("source_dropped", peer=peer_id, rule=rule)


class _Fetch:
    """One artifact, from all that have it."""

    def __init__(self, exchange: Exchange, wanted: Wanted, progress: Progress) -> None:
        self._exchange = exchange
        self._wanted = wanted
        self._progress = progress
        self._partial: Partial | None = None
        self._todo: list[int] = []
        self._asked_again_s: dict[str, float] = {}  # at work: never; had nothing: when its rest is over
        self._listed: set[str] = set()  # gave the list that is being fetched
        self._failed: ArtifactError | None = None
        self._opening = trio.Lock()

    async def run(self) -> None:
        try:
            while not self._exchange.store.has(self._wanted.sha256):
                await self._round()
        finally:
            if self._partial is not None:
                self._partial.close()

    async def _round(self) -> None:
        """Ask all who may have it, at most ARTIFACT_SOURCES_MAX at once; then rest a little."""
        self._asked_again_s.clear()
        with trio.CancelScope() as done:
            async with trio.open_nursery() as nursery:
                while True:
                    busy = len(nursery.child_tasks)
                    for peer_id in self._fresh()[: ARTIFACT_SOURCES_MAX - busy]:
                        self._asked_again_s[peer_id] = math.inf
                        nursery.start_soon(self._use, peer_id, done)
                    if not nursery.child_tasks:
                        break
                    await trio.sleep(ARTIFACT_REST_S)  # neighbours come and go while we fetch
        if self._failed is not None:
            raise self._failed
        if self._complete():
            await self._finish()
        else:
            await trio.sleep(ARTIFACT_REST_S)

    def _fresh(self) -> list[str]:
        known = (neighbour.peer_id for neighbour in self._exchange.network.neighbours())
        now_s = trio.current_time()
        return [
            p for p in known if self._asked_again_s.get(p, 0) <= now_s and p not in self._progress.dropped
        ]

    async def _use(self, peer_id: str, done: trio.CancelScope) -> None:
        """All that one source gives; then it rests, longer when it had nothing."""
        info = await self._info(peer_id)
        if info is not None:
            await self._take_from(peer_id, info, done)
        rest_s = ARTIFACT_REST_S if info is not None else ARTIFACT_IDLE_REST_S
        self._asked_again_s[peer_id] = trio.current_time() + rest_s

    async def _take_from(self, peer_id: str, info: ArtifactInfo, done: trio.CancelScope) -> None:
        try:
            if not await self._begin(info):
                return
        except (ArtifactError, OSError) as error:
            self._failed = error if isinstance(error, ArtifactError) else ArtifactFull(str(error))
            done.cancel()
            return
        self._progress.sources.add(peer_id)
        self._listed.add(peer_id)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(ARTIFACT_SOURCE_WINDOW):
                    nursery.start_soon(self._take, peer_id, nursery.cancel_scope)
        finally:
            self._progress.sources.discard(peer_id)
        if self._complete() or self._failed is not None:
            done.cancel()

    async def _info(self, peer_id: str) -> ArtifactInfo | None:
        """The source's list, checked against the signed root; None when it has none or lied."""
        wanted, digests = self._wanted, b""
        count = chunk_count(wanted.size_bytes)
        while True:
            try:
                body = encode(InfoRequest(bytes.fromhex(wanted.sha256), len(digests) // 32))
                raw = await self._exchange.network.request(peer_id, INFO, body, ARTIFACT_ASK_S)
            except RequestError:
                return None
            try:
                answer = decode_exact(InfoAnswer, raw, "artifact", _INFO_BYTES_MAX)
            except Refused as error:
                self._exchange.blame(peer_id, error.rule, self._progress)
                return None
            digests += answer.digests
            short = len(digests) < count * 32
            if (
                answer.size_bytes != wanted.size_bytes
                or len(digests) % 32
                or len(digests) > count * 32
                or (short and not answer.digests)
            ):
                self._exchange.blame(peer_id, "artifact.list", self._progress)
                return None
            if not short:
                break
        chunks = tuple(digests[at : at + 32] for at in range(0, len(digests), 32))
        if wanted.chunks is not None and chunks_root(chunks) != wanted.chunks:
            self._exchange.blame(peer_id, "artifact.list", self._progress)
            return None
        return ArtifactInfo(wanted.sha256, wanted.size_bytes, chunks)

    async def _begin(self, info: ArtifactInfo) -> bool:
        """Open the partial file with the first list. False for a source with another, unsigned list."""
        async with self._opening:
            if self._partial is None:
                opened = await trio.to_thread.run_sync(
                    self._exchange.store.partial, info.sha256, info.size_bytes, info.chunks
                )
                self._partial = opened
                self._todo = opened.missing()[::-1]
                self._progress.bytes_done = opened.done_bytes
            return self._partial.chunks == info.chunks

    async def _take(self, peer_id: str, source: trio.CancelScope) -> None:
        """Chunk after chunk from one source, until none is left or the source fails."""
        failures = 0
        partial, digest = self._partial, bytes.fromhex(self._wanted.sha256)
        assert partial is not None, "a source is used after `_begin` only"
        while self._todo and failures < ARTIFACT_FAILURES_MAX:
            index = self._todo.pop()
            held = False
            try:
                body = encode(ChunkRequest(digest, index))
                data = await self._exchange.network.request(peer_id, CHUNK, body, ARTIFACT_ASK_S)
                self._progress.bytes_done += partial.write(index, data)
                self._exchange.fetched_bytes += len(data)
                held, failures = True, 0
            except RequestError:
                failures += 1
            except ArtifactWrong:
                self._exchange.blame(peer_id, "artifact.chunk", self._progress)
                source.cancel()
                return
            except OSError as error:  # our disk, not the source
                self._failed = ArtifactFull(f"{self._wanted.sha256}: {error.strerror}")
                source.cancel()
                return
            finally:
                if not held:
                    self._todo.append(index)

    def _complete(self) -> bool:
        return self._partial is not None and not self._partial.missing()

    async def _finish(self) -> None:
        """Hash the whole. With an unsigned list the sources of that list lied; else the contract did."""
        held, self._partial = self._partial, None
        assert held is not None, "finished only when complete"
        sources, self._listed = self._listed, set()
        try:
            await trio.to_thread.run_sync(held.finish)
        except ArtifactError:
            self._progress.bytes_done = 0
            if self._wanted.chunks is not None:
                raise
            for peer_id in sources:
                self._exchange.blame(peer_id, "artifact.whole", self._progress)


async def fetch_all(
    exchange: Exchange, wanted: Sequence[tuple[Wanted, Progress]], hints: Sequence[str] = ()
) -> None:
    """All of them, as many at once as the exchange allows. Raises as `Exchange.fetch` does."""
    failed: list[ArtifactError] = []

    async def one(item: Wanted, progress: Progress) -> None:
        try:
            await exchange.fetch(item, progress, hints)
        except ArtifactError as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for item, progress in wanted:
            nursery.start_soon(partial(one, item, progress))
    if failed:
        raise failed[0]
