"""Health probes tell healthy from not, within their time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from node.executor.doors import probe


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """Serve `answer` to every caller on a free port; None means to say nothing and hold on."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            if answer is None:
                await trio.sleep_forever()
            await stream.receive_some(1000)
            await stream.send_all(answer or b"")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "healthy", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True, "status 200"),
        (b"HTTP/1.0 399 x\r\n\r\n", True, "status 399"),
        (b"HTTP/1.1 400 Bad\r\n\r\n", False, "status 400"),
        (b"HTTP/1.1 503\r\n\r\n", False, "status 503"),
        (b"HTTP/1.1 199 x\r\n\r\n", False, "status 199"),
        (b"SSH-2.0-x\r\n", False, "the answer is not HTTP"),
        (b"HTTP/1.1 2000 x\r\n", False, "the answer is not HTTP"),
        (b"x" * 100_000, False, "the answer is not HTTP"),
        (b"", False, "closed without an answer"),
        (None, False, "no answer within 0.3 s"),
    ],
)
async def test_http(answer: bytes | None, healthy: bool, reason: str) -> None:
    async with answering(answer) as port:
        assert await probe.http_get("127.0.0.1", port, "/", 0.3) == probe.Health(healthy, reason)


async def test_tcp() -> None:
    async with answering(None) as port:
        assert (await probe.tcp_open("127.0.0.1", port, 0.5)).healthy
    assert not (await probe.tcp_open("127.0.0.1", port, 0.5)).healthy
    assert not (await probe.http_get("127.0.0.1", port, "/", 0.5)).healthy


@pytest.mark.parametrize("path", ["", "a", "/a b", "/a\r\nX: y", "/é"])
async def test_paths_that_would_make_another_request(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        await probe.http_get("127.0.0.1", 1, path, 0.1)
