"""/v1/artifacts: what this peer holds and fetches, and orders about it."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response

from ledger.limits import ARTIFACT_BYTES_MAX
from node.api import file_models as m
from node.api.core import Api, answer, api_of, digest_of, need_token, number, paging, seconds
from node.api.limits import WAIT_S_DEFAULT, WAIT_S_MAX
from node.api.problems import ApiProblem, not_found
from node.errors import ArtifactFull
from node.files.artifact_files import ArtifactInfo, Intake
from node.files.cache import Entry
from node.files.cid import cid_of
from node.files.exchange import Exchange, Wanted

_WRITE_BYTES: Final = 1024 * 1024  # of an upload for each call to a thread
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


async def artifacts(request: Request) -> Response:
    """What is held, by digest, and all that is on its way."""
    cursor, limit = paging(request)
    return answer(artifacts_view(api_of(request), cursor, limit))


def artifacts_view(api: Api, cursor: str, limit: int) -> m.Artifacts:
    """The peer's artifacts after the one that the cursor names. Raises ApiProblem for no such cursor."""
    if cursor and not _DIGEST.fullmatch(cursor):
        raise ApiProblem(400, "query.cursor", "the `next` of a page before wanted", "cursor")
    entries = api.artifacts.entries()
    rest = [entry for entry in entries if entry.sha256 > cursor]
    return m.Artifacts(
        bytes_used=api.artifacts.used_bytes,
        bytes_max=api.artifacts.size_bytes_max,
        count=len(entries),
        held=[_held(entry) for entry in rest[:limit]],
        next=rest[limit - 1].sha256 if len(rest) > limit else "",
        transfers=transfers(api.exchange),
    )


def _held(entry: Entry) -> m.HeldArtifact:
    return m.HeldArtifact(
        sha256=entry.sha256,
        cid=cid_of(entry.sha256),
        size_bytes=entry.size_bytes,
        kept=entry.kept,
        in_use=entry.in_use,
        whole=entry.is_whole,
    )


def transfers(exchange: Exchange | None) -> list[m.TransferView]:
    """What is on its way, by digest; at most ARTIFACT_WANTED_MAX."""
    found = []
    now_s = trio.current_time()
    under_way = exchange.under_way.items() if exchange is not None else ()
    for wanted, progress in sorted(under_way, key=lambda entry: entry[0].sha256):
        bytes_s, left = progress.bytes_s(now_s), progress.bytes_total - progress.bytes_done
        found.append(
            m.TransferView(
                sha256=wanted.sha256,
                cid=cid_of(wanted.sha256),
                bytes_done=progress.bytes_done,
                bytes_total=progress.bytes_total,
                bytes_s=bytes_s,
                left_s=-(-left // bytes_s) if bytes_s else None,
                sources=sorted(progress.sources),
                dropped=dict(progress.dropped),
            )
        )
    return found


async def put_artifact(request: Request) -> Response:
    """Take an artifact in. Writing and hashing are done in threads: this peer may be a validator."""
    need_token(request)
    api = api_of(request)
    digest = digest_of(request)
    held = api.artifacts.size_bytes(digest)
    if held is not None:
        return answer(_view(digest, held))
    try:
        info = await _take_in(request, api.artifacts.intake(), digest)
    except OSError as error:
        raise ArtifactFull(f"{digest}: {error.strerror}") from error
    return answer(_view(digest, info.size_bytes), 201)


async def _take_in(request: Request, intake: Intake, digest: str) -> ArtifactInfo:
    """The body, whole and with that digest, or nothing of it. Raises ArtifactError, OSError."""
    waiting = bytearray()
    try:
        async with aclosing(request.stream()) as stream:
            async for piece in stream:
                waiting += piece
                if len(waiting) >= _WRITE_BYTES:
                    await trio.to_thread.run_sync(intake.write, bytes(waiting))
                    waiting.clear()

        def finish() -> ArtifactInfo:
            intake.write(bytes(waiting))
            return intake.finish(digest)

        return await trio.to_thread.run_sync(finish)
    except BaseException:
        intake.abort()
        raise


async def fetch_artifact(request: Request) -> Response:
    """Get an artifact from other peers, checked against its digest."""
    need_token(request)
    api = api_of(request)
    digest = digest_of(request)
    size = number(request, "size", 0, 0, ARTIFACT_BYTES_MAX)
    timeout_s = seconds(request, "timeout", WAIT_S_DEFAULT, WAIT_S_MAX)
    chunks = request.query_params.get("chunks") or None
    if chunks is not None and not _DIGEST.fullmatch(chunks):
        raise ApiProblem(400, "artifact.digest", "a chunk list's root is 64 lower-case hex digits", "chunks")
    if not api.artifacts.has(digest):
        if api.exchange is None:
            raise not_found("this peer cannot fetch artifacts", "artifact.unknown")
        with trio.move_on_after(timeout_s):
            await api.exchange.fetch(Wanted(digest, size, chunks))
    held = api.artifacts.size_bytes(digest)
    if held is None:
        raise ApiProblem(504, "artifact.not_found", f"no peer gave it within {timeout_s:.0f} s", "sha256")
    return answer(_view(digest, held))


async def drop_artifact(request: Request) -> Response:
    """Drop an artifact, kept or not, but none that is in use."""
    need_token(request)
    digest = digest_of(request)
    freed = await trio.to_thread.run_sync(api_of(request).artifacts.free, digest)
    return answer(m.Freed(sha256=digest, bytes_freed=freed))


def _view(digest: str, size_bytes: int) -> m.ArtifactView:
    return m.ArtifactView(sha256=digest, cid=cid_of(digest), size_bytes=size_bytes)
