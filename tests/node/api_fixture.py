"""Ways to reach a fake peer's API: in memory for async tests, and over a real port for the client."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec
import trio

from node.api import models as m
from node.api.app import make_app, serve_api
from node.api.bot_seam import BotSeam
from node.executor.status import ExecutorStatus, FetchStatus, TenureStatus
from node.files.artifacts import ArtifactStore
from node.files.cid import cid_of
from tests.node.fake_peer import FakePeer

TOKEN = "a token of the home"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
Slots = Callable[[], ExecutorStatus]
T = TypeVar("T")
BINARY = {"Content-Type": "application/octet-stream"}


def slots_status() -> ExecutorStatus:
    """What the executor of a 3node with one slot says."""
    fetch = FetchStatus(
        path="/a",
        sha256="ab" * 32,
        cid=cid_of("ab" * 32),
        bytes_total=4096,
        bytes_done=1024,
        bytes_s=512,
        sources=[],
        dropped={},
    )
    held = TenureStatus(
        deployment="cd" * 32,
        slot="web/0",
        term=3,
        kind="service",
        phase="fetching",
        lease_left_ms=17_400,
        checks=5,
        restarts=1,
        cpu_ms=1_500,
        memory_bytes_max=2 << 20,
        endpoints={"http": "127.0.0.1:4000"},
        fetch=[fetch],
        detail="",
    )
    return ExecutorStatus(
        driver="sandbox",
        usable=True,
        reason="",
        features={"seccomp": "enforced"},
        offering=True,
        slots=[held],
        ended=[],
        refused={f"{'ef' * 32}/web/1": "claim.country: elsewhere"},
        artifacts_bytes=1024,
    )


def problem(answer: Any, status: int, rule: str) -> m.Problem:
    """The problem that an answer tells of: this one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = msgspec.json.decode(answer.content, type=m.Problem)
    assert found.rule == rule
    assert found.status == status
    assert found.title
    return found


@asynccontextmanager
async def api_client(
    peer: FakePeer, folder: Path, bot: BotSeam | None = None, slots: Slots | None = None
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application itself."""
    app = make_app(peer, token=TOKEN, artifacts=ArtifactStore(folder / "artifacts"), bot=bot, slots=slots)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=True)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@contextmanager
def in_thread(open_: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """What this opens, for blocking tests: it lives in an event loop of its own, in a thread."""
    started: list[Any] = []
    up = threading.Event()

    async def run() -> None:
        with trio.CancelScope() as scope:
            async with open_() as made:
                started.extend((made, trio.lowlevel.current_trio_token(), scope))
                up.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(run,), daemon=True)
    thread.start()
    assert up.wait(60), "it did not start"
    made, token, scope = started
    try:
        yield made
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def served(
    peer: FakePeer, folder: Path, bot: BotSeam | None = None, slots: Slots | None = None
) -> Iterator[str]:
    """host:port of the API on a real port, served by a thread of its own."""
    artifacts = ArtifactStore(folder / "artifacts")

    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_api, peer, listen="127.0.0.1:0", token=TOKEN, artifacts=artifacts, bot=bot, slots=slots
            )
            yield await nursery.start(serve)

    with in_thread(serving) as address:
        yield address
