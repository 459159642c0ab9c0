"""Artifacts for other peers: what is held, lists and chunks, within the rates and bounds of this peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio

from ledger.codec import decode_exact, encode
from ledger.errors import Refused
from ledger.limits import CHUNK_BYTES
from node.batching import Batcher
from node.errors import ArtifactError, ArtifactMissing, ArtifactWrong
from node.files.artifact_files import chunk_count
from node.files.artifact_wire import (
    CHUNK,
    HELD,
    INFO,
    REQUEST_BYTES_MAX,
    ChunkRequest,
    HeldRequest,
    InfoAnswer,
    InfoRequest,
    held_answer,
)
from node.files.artifacts import ArtifactStore
from node.files.rates import FileRates, Rate
from node.limits import (
    ARTIFACT_DIGESTS_MAX,
    ARTIFACT_LISTS_BYTES_S,
    ARTIFACT_READERS_MAX,
    ARTIFACT_RUN_MAX,
    ARTIFACT_SERVE_WAIT_S,
    ARTIFACT_SERVED_MAX,
    ARTIFACT_SERVED_PEER_MAX,
    ARTIFACT_TAKERS_MAX,
    ARTIFACT_TAKING_S,
    ARTIFACT_THREADS,
)

log = structlog.get_logger("artifacts")

Serve = Callable[[str, bytes], Awaitable[bytes]]


@dataclass(slots=True)
class _Taker:
    """One peer that takes from us. `at_work`: answers being made for it."""

    bytes: Rate
    lists: Rate = field(default_factory=lambda: Rate(ARTIFACT_LISTS_BYTES_S))
    at_work: int = 0

    def is_idle(self, now_s: float) -> bool:
        return not self.at_work and self.bytes.is_even(now_s) and self.lists.is_even(now_s)


class Serving:
    """Serves `store` to the network. What goes beyond a bound is refused as "artifact.busy": come again."""

    def __init__(self, store: Callable[[], ArtifactStore], rates: FileRates) -> None:
        self._store = store
        self._rates = rates
        self._line = Rate(rates.upload_bytes_s)
        self._takers: dict[str, _Taker] = {}
        self._at_work = 0
        self._asked: dict[bytes, dict[str, float]] = {}  # who asked for an artifact, and when
        self._threads = trio.CapacityLimiter(ARTIFACT_THREADS)
        self._reading = Batcher(self._read_all, self._threads)
        self.served_bytes = 0
        self.busy = 0
        self.changed_on_disk = 0  # our own artifacts that were no longer what their name says

    def methods(self) -> Mapping[str, Serve]:
        """What PeerHandlers.methods takes."""
        return {HELD: self._held, INFO: self._info, CHUNK: self._chunk}

    async def _held(self, peer_id: str, body: bytes) -> bytes:
        request = decode_exact(HeldRequest, body, "artifact", REQUEST_BYTES_MAX)
        async with self._turn(peer_id):
            try:
                run = trio.to_thread.run_sync
                found = await run(self._store().holding, request.sha256.hex(), limiter=self._threads)
            except ArtifactMissing:
                raise Refused("artifact.unknown", "not here") from None
            answer = encode(held_answer(found, self._note(request.sha256, peer_id)))
            await self._pay(self._taker(peer_id).lists, len(answer))
        return answer

    async def _info(self, peer_id: str, body: bytes) -> bytes:
        request = decode_exact(InfoRequest, body, "artifact", REQUEST_BYTES_MAX)
        sha256, store = request.sha256.hex(), self._store()
        async with self._turn(peer_id):

            def read() -> tuple[int, bytes]:
                count = chunk_count(store.holding(sha256).size_bytes)
                if not 0 <= request.first <= count:
                    raise Refused("artifact.range", f"0 to {count} wanted", "first")
                return store.digests(sha256, request.first, ARTIFACT_DIGESTS_MAX)

            try:
                size_bytes, found = await trio.to_thread.run_sync(read, limiter=self._threads)
            except ArtifactMissing:
                raise Refused("artifact.unknown", "not here") from None
            await self._pay(self._taker(peer_id).lists, len(found))
        return encode(InfoAnswer(size_bytes, found))

    async def _chunk(self, peer_id: str, body: bytes) -> bytes:
        request = decode_exact(ChunkRequest, body, "artifact", REQUEST_BYTES_MAX)
        async with self._turn(peer_id):
            if not 0 < request.count <= ARTIFACT_RUN_MAX:
                raise Refused("artifact.range", f"1 to {ARTIFACT_RUN_MAX} chunks", "count")
            if not self._store().gives(request.sha256.hex(), request.first, request.count):
                raise Refused("artifact.unknown", "not here")  # and nobody waits for it: nothing is sent
            await self._pay(self._taker(peer_id).bytes, request.count * CHUNK_BYTES)
            try:
                data = await self._reading.do((request.sha256.hex(), request.first, request.count))
            except ArtifactMissing:
                raise Refused("artifact.unknown", "not here") from None
            except ArtifactWrong as error:
                self.changed_on_disk += 1
                log.error("artifact_changed_on_disk", error=str(error))
                raise Refused("artifact.unknown", "no longer here") from None
        self.served_bytes += len(data)
        return data

    def _note(self, sha256: bytes, peer_id: str) -> int:
        """Somebody asks for it. Returns how many others did lately."""
        now_s = trio.current_time()
        asked = self._asked.pop(sha256, {})
        asked = {name: at_s for name, at_s in asked.items() if now_s - at_s < ARTIFACT_TAKING_S}
        asked.pop(peer_id, None)
        others = len(asked)
        if others < ARTIFACT_TAKERS_MAX:
            asked[peer_id] = now_s
        self._asked[sha256] = asked  # the last one asked for stands last
        while len(self._asked) > ARTIFACT_READERS_MAX:
            del self._asked[next(iter(self._asked))]
        return others

    def _read_all(self, runs: Sequence[tuple[str, int, int]]) -> list[bytes | Exception]:
        """In a thread."""
        found: list[bytes | Exception] = []
        for sha256, first, count in runs:
            try:
                found.append(self._store().read_chunks(sha256, first, count))
            except ArtifactError as error:
                found.append(error)
        return found

    @asynccontextmanager
    async def _turn(self, peer_id: str) -> AsyncIterator[None]:
        """One of the answers that are made at once. Raises Refused."""
        taker = self._taker(peer_id)
        if taker.at_work >= ARTIFACT_SERVED_PEER_MAX or self._at_work >= ARTIFACT_SERVED_MAX:
            self.busy += 1
            raise Refused("artifact.busy", f"{taker.at_work} answers to you are being made")
        taker.at_work += 1
        self._at_work += 1
        try:
            yield
        finally:
            taker.at_work -= 1
            self._at_work -= 1

    async def _pay(self, own: Rate, size_bytes: int) -> None:
        """Wait for a turn of the line. Raises Refused when that would be too long."""
        now_s = trio.current_time()
        if max(own.delay_s(now_s), self._line.delay_s(now_s)) > ARTIFACT_SERVE_WAIT_S:
            self.busy += 1
            raise Refused("artifact.busy", "the line is full")
        delay_s = max(own.take(size_bytes, now_s), self._line.take(size_bytes, now_s))
        if delay_s:
            await trio.sleep(delay_s)

    def _taker(self, peer_id: str) -> _Taker:
        found = self._takers.get(peer_id)
        if found is None:
            if len(self._takers) >= ARTIFACT_TAKERS_MAX:
                now_s = trio.current_time()
                for idle in [name for name, taker in self._takers.items() if taker.is_idle(now_s)]:
                    del self._takers[idle]
            found = self._takers[peer_id] = _Taker(Rate(self._rates.upload_peer_bytes_s))
        return found
