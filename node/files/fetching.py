"""One artifact, from all that have it: whom to ask, what to believe, and when to give a source up."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from ledger.codec import encode
from ledger.errors import Refused
from node.batching import Batcher
from node.errors import ArtifactError, ArtifactFull, ArtifactWrong
from node.files.artifact_files import ArtifactInfo, Holding, Partial, chunk_count, split_digests
from node.files.artifact_wire import (
    CHUNK,
    HELD,
    INFO,
    ChunkRequest,
    HeldRequest,
    InfoRequest,
    read_digests,
    read_held,
)
from node.files.chunks import chunks_root
from node.files.picks import Picks
from node.files.reuse import open_with
from node.files.sources import Source, Sources
from node.files.transfer import Progress, Wanted
from node.limits import (
    ARTIFACT_ASK_S,
    ARTIFACT_BUSY_S,
    ARTIFACT_FAILURES_MAX,
    ARTIFACT_HELD_S,
    ARTIFACT_IDLE_S,
    ARTIFACT_LIST_S,
    ARTIFACT_LIST_WAIT_S,
    ARTIFACT_SOURCE_WINDOW,
    ARTIFACT_TICK_S,
    ARTIFACT_UNPROVED_S,
)
from p2p.errors import Refused as RequestRefused
from p2p.errors import RequestError

if TYPE_CHECKING:
    from node.files.exchange import Exchange


class Fetch:
    """One artifact on its way into the store of an exchange. `like`: others that may hold chunks of it;
    `owner`: whose places it takes."""

    def __init__(
        self,
        exchange: Exchange,
        wanted: Wanted,
        progress: Progress,
        like: Sequence[str] = (),
        owner: str = "",
    ) -> None:
        self.wanted = wanted
        self.progress = progress
        self._exchange = exchange
        self._like = like
        self._owner = owner
        self._digest = bytes.fromhex(wanted.sha256)
        self._partial: Partial | None = None
        self._picks: Picks | None = None
        self._keeping: Batcher[tuple[int, bytes], int] | None = None
        self._root = wanted.chunks
        self._sources = Sources()
        self._joined: set[str] = set()  # gave the list that is being fetched, or said the same of it
        self._failed: ArtifactError | None = None
        self._is_listing = False
        self._is_disk_full = False
        self._has_rival = False  # a source with another list than the one that is being fetched
        self._moved_s = 0.0  # when a chunk came last
        self._opening = trio.Lock()
        self._opened = trio.Event()
        self._changed = trio.Event()
        self._done = trio.CancelScope()
        self._takes = False  # it has a list, and wants chunks

    async def run(self) -> None:
        """Until it is in the store. Raises ArtifactFull, ArtifactWrong."""
        self._exchange.asking.want(self, self._owner, trio.current_time())
        try:
            while not self._exchange.store.has(self.wanted.sha256):
                await self._attempt()
        finally:
            self._exchange.asking.leave(self)
            self._exchange.taking.leave(self)
            if self._partial is not None:
                # On a full disk others need the room more than a next try does.
                is_of_use = not self._is_disk_full and not self._exchange.store.has(self.wanted.sha256)
                (self._partial.close if is_of_use else self._partial.discard)()

    def also_for(self, owner: str) -> None:
        """Another one waits for it, too: it takes the places of who has fewer."""
        now_s = trio.current_time()
        self._exchange.asking.want(self, owner, now_s)
        if self._takes:
            self._exchange.taking.want(self, owner, now_s)

    async def _attempt(self) -> None:
        """Ask all who may have it until every chunk is here."""
        with trio.CancelScope() as self._done:
            async with trio.open_nursery() as nursery:
                while not self._exchange.store.has(self.wanted.sha256):
                    known = (neighbour.peer_id for neighbour in self._exchange.network.neighbours())
                    dropped, now_s = self.progress.dropped, trio.current_time()
                    if self._exchange.asking.has(self, now_s):
                        for source in self._sources.next(known, dropped, now_s):
                            nursery.start_soon(self._use, source)
                    if self._is_stuck():
                        self._done.cancel()
                    await trio.sleep(ARTIFACT_TICK_S)  # neighbours come and go while we fetch
                nursery.cancel_scope.cancel()  # somebody gave it to us
        if self._failed is not None:
            raise self._failed
        if self._picks is not None and self._picks.is_done:
            await self._finish()
        elif self._is_stuck():
            self._give_list_up()

    def _is_stuck(self) -> bool:
        """Whether nothing comes of a list that nobody signed while somebody else has another one."""
        if self._takes and not self._may_take:
            self._moved_s = trio.current_time()  # it is not the source that nothing comes of
        waited_s = trio.current_time() - self._moved_s
        return self._has_rival and self.wanted.chunks is None and waited_s > ARTIFACT_UNPROVED_S

    def _give_list_up(self) -> None:
        """Begin anew with another source's list; who gave this one comes last."""
        if self._partial is not None:
            self._partial.discard()
        self._sources.last(self._joined, trio.current_time())
        self.progress.reached(0, trio.current_time())
        self._forget_list()

    def _forget_list(self) -> None:
        self._partial, self._picks, self._root = None, None, self.wanted.chunks
        self._joined, self._opened = set(), trio.Event()
        self._is_listing = self._has_rival = False

    async def _use(self, source: Source) -> None:
        """All that one source gives; then it rests, longer each time that it had nothing or failed."""
        joined = is_fetching = False
        try:
            holding = await self._holding(source.peer_id)
            if holding is not None and holding.held == 0:
                is_fetching = True
                if self._picks is not None:
                    self._picks.spread()
            elif holding is not None:
                joined = await self._begin(source.peer_id, holding)
                if joined:
                    await self._take_from(source, holding)
        finally:
            self._sources.over(source, joined, is_fetching, trio.current_time())

    # ------------------------------------------------------------------ what a source says that it has

    async def _holding(self, peer_id: str) -> Holding | None:
        """What it has of what is wanted; None for nothing that is of use."""
        try:
            body = encode(HeldRequest(self._digest))
            raw = await self._exchange.network.request(peer_id, HELD, body, ARTIFACT_LIST_S)
        except RequestError:
            return None
        try:
            said = read_held(raw)
        except Refused as error:
            self._exchange.blame(peer_id, error.rule, self.progress)
            return None
        wanted = self.wanted
        if said.size_bytes != wanted.size_bytes or wanted.chunks not in (None, said.root):
            # It may be the contract that names what is not: the source is left alone, not punished.
            self._exchange.set_aside(peer_id, "artifact.other", self.progress)
            return None
        if wanted.chunks is None and (said.held is not None or self._is_fetched_by(said.root)):
            return None  # nobody has proved that list yet; or it comes anyway
        return said

    def _is_fetched_by(self, root: str) -> bool:
        """Whether somebody else fetches the same by a list with that root, signed."""
        return replace(self.wanted, chunks=root) in self._exchange.under_way

    @property
    def _may_take(self) -> bool:
        return self._exchange.taking.has(self, trio.current_time())

    @property
    def _is_open(self) -> bool:
        return self._partial is not None

    async def _begin(self, peer_id: str, holding: Holding) -> bool:
        """Open the file with the first list that is proved. False for a source that gives none, or with
        another list where none is signed."""
        if self._is_listing:
            with trio.move_on_after(ARTIFACT_LIST_WAIT_S):
                await self._opened.wait()  # somebody is giving it
        if not self._is_open:
            self._is_listing = True
            chunks = await self._list(peer_id, holding)
            async with self._opening:
                if chunks is not None and not self._is_open:
                    await self._open(chunks, holding.root)
            self._is_listing = self._is_open
        if not self._is_open or self._root != holding.root:
            self._has_rival = self._is_open
            return False
        self._joined.add(peer_id)
        return True

    async def _list(self, peer_id: str, holding: Holding) -> tuple[bytes, ...] | None:
        """The list of chunks, with the root that the source named; None when it does not give it, or
        somebody else was faster."""
        count, digests = chunk_count(holding.size_bytes), b""
        while len(digests) < count * 32 and self._partial is None:
            try:
                body = encode(InfoRequest(self._digest, len(digests) // 32))
                raw = await self._exchange.network.request(peer_id, INFO, body, ARTIFACT_LIST_S)
            except RequestError:
                return None
            try:
                digests += read_digests(raw, holding.size_bytes, len(digests) // 32)
            except Refused as error:
                self._exchange.blame(peer_id, error.rule, self.progress)
                return None
        if self._partial is None and chunks_root((digests,)) != holding.root:
            self._exchange.blame(peer_id, "artifact.list", self.progress)
            return None
        return split_digests(digests) if len(digests) == count * 32 else None

    async def _open(self, chunks: tuple[bytes, ...], root: str) -> None:
        """The file that is being filled, where a fetch that broke off left it."""
        exchange, info = self._exchange, ArtifactInfo(self.wanted.sha256, self.wanted.size_bytes, chunks)
        is_signed = self.wanted.chunks is not None
        self._takes = True
        exchange.taking.want(self, self._owner, trio.current_time())
        while not self._may_take:  # noqa: ASYNC110 - a clock
            await trio.sleep(ARTIFACT_TICK_S)
        try:
            opened = await trio.to_thread.run_sync(
                open_with, exchange.store, info, is_signed, self._like, limiter=exchange.threads
            )
        except (ArtifactError, OSError) as error:
            self._fail(error)
            return
        missing = opened.missing()
        self._partial, self._root = opened, root
        self._keeping = Batcher(opened.write_all, exchange.threads)
        self._picks = Picks(missing, len(chunks), random.Random())
        self.progress.reached(opened.done_bytes, trio.current_time())
        self._moved_s = trio.current_time()
        self._opened.set()
        if not missing:
            self._done.cancel()

    # ------------------------------------------------------------------ chunks

    async def _take_from(self, source: Source, holding: Holding) -> None:
        """Chunk after chunk, a few at once, until none is left or the source fails."""
        assert self._picks is not None, "a source is used after `_begin` only"
        picks = self._picks
        picks.has(source.peer_id, holding.held)
        if holding.takers:
            picks.spread()
        self.progress.sources.add(source.peer_id)
        try:
            async with trio.open_nursery() as nursery:
                source.scope = nursery.cancel_scope
                source.takers = ARTIFACT_SOURCE_WINDOW
                for number in range(ARTIFACT_SOURCE_WINDOW):
                    nursery.start_soon(self._take, source, picks, number)
                if holding.held is not None:
                    nursery.start_soon(self._follow, source, picks)
        finally:
            picks.gone(source.peer_id)
            self.progress.sources.discard(source.peer_id)

    async def _take(self, source: Source, picks: Picks, number: int) -> None:
        partial, download = self._partial, self._exchange.download
        assert partial is not None, "chunks are asked for while the file is open"
        while not picks.is_done and source.failures < ARTIFACT_FAILURES_MAX:
            while (delay_s := download.delay_s(trio.current_time())) > 0:  # noqa: ASYNC110 - a clock
                await trio.sleep(delay_s)
            first, now_s = None, trio.current_time()
            if number < source.window and self._may_take:
                first = picks.next(source.peer_id, now_s, source.usual_s)
            if first is None:
                with trio.move_on_after(ARTIFACT_TICK_S):
                    await self._changed.wait()
                continue
            run = range(first, first + picks.more(source.peer_id, first, source.run, now_s))
            download.take(sum(partial.length(index) for index in run), now_s)
            rest_s = 0.0
            try:
                rest_s = await self._run(source, picks, partial, run)
            finally:
                for index in run:
                    picks.over(index, source.peer_id)
                if any(picks.is_missing(index) for index in run):
                    self._changed.set()  # another source may take it
                    self._changed = trio.Event()
            if rest_s:
                await trio.sleep(rest_s)
        source.takers -= 1
        if not source.takers:
            source.scope.cancel()

    async def _run(self, source: Source, picks: Picks, partial: Partial, run: range) -> float:
        """Chunks in a row: asked for, checked, kept. Returns how long to rest, in seconds."""
        exchange, asked_s, keeping = self._exchange, trio.current_time(), self._keeping
        assert keeping is not None, "chunks are asked for while the file is open"
        try:
            body = encode(ChunkRequest(self._digest, run.start, len(run)))
            data = await exchange.network.request(source.peer_id, CHUNK, body, ARTIFACT_ASK_S)
            source.heard_s = trio.current_time()
            if not any(picks.is_missing(index) for index in run):
                return 0.0  # another was faster
            if len(data) != sum(partial.length(index) for index in run):
                raise ArtifactWrong(self.wanted.sha256, f"{len(data)} bytes of {len(run)} chunks")
            kept = await keeping.do((run.start, data))
        except RequestRefused as error:
            source.heard_s = trio.current_time()
            if error.reason.startswith("artifact.busy"):
                return ARTIFACT_BUSY_S
            for index in run:
                picks.has_not(source.peer_id, index)
            source.failures += 1
        except RequestError:
            source.failures += 1
        except ArtifactWrong:
            exchange.blame(source.peer_id, "artifact.chunk", self.progress)
            source.failures = ARTIFACT_FAILURES_MAX  # not one request more
            source.scope.cancel()
        except OSError as error:  # our disk, not the source
            self._fail(error)
        else:
            source.gave(source.heard_s - asked_s)
            exchange.fetched_bytes += kept
            self._moved_s = source.heard_s
            self.progress.reached(partial.done_bytes, source.heard_s)
            for index in run:
                picks.came(index)
            if picks.is_done:
                self._done.cancel()
        return 0.0

    async def _follow(self, source: Source, picks: Picks) -> None:
        """Ask a source that is fetching itself what it has by now, until it has all."""
        while True:
            await trio.sleep(ARTIFACT_HELD_S)
            said = await self._holding(source.peer_id)
            is_idle = trio.current_time() - source.heard_s > ARTIFACT_IDLE_S
            is_other = said is not None and said.root != self._root
            if is_idle or is_other or source.peer_id in self.progress.dropped:
                source.scope.cancel()
                return
            if said is not None:
                picks.has(source.peer_id, said.held)
                self._changed.set()
                self._changed = trio.Event()
                if said.held is None:
                    return

    # ------------------------------------------------------------------ the end

    def _fail(self, error: ArtifactError | OSError) -> None:
        """Nothing that a source did: this fetch ends."""
        if isinstance(error, OSError):
            if self._partial is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._is_disk_full = True
            error = ArtifactFull(f"{self.wanted.sha256}: {error.strerror}")
        self._failed = self._failed or error
        self._done.cancel()

    async def _finish(self) -> None:
        """Hash the whole. With an unsigned list the sources of that list lied; else the contract did."""
        held, joined = self._partial, self._joined
        assert held is not None, "finished only when complete"
        self._forget_list()
        try:
            await trio.to_thread.run_sync(held.finish, limiter=self._exchange.threads)
        except OSError as error:
            held.close()
            raise ArtifactFull(f"{self.wanted.sha256}: {error.strerror}") from error
        except ArtifactError:
            self.progress.reached(0, trio.current_time())
            if self.wanted.chunks is not None:
                raise
            for peer_id in joined:
                self._exchange.blame(peer_id, "artifact.whole", self.progress)
