"""Sources and requests: artifacts that are not what their name says, and questions that make no sense."""

from __future__ import annotations

import hashlib
import secrets
import threading

import pytest
import trio

from ledger.codec import decode, encode
from node.client.sdk import ApiError
from node.files.artifact_wire import ChunkRequest, HeldAnswer, InfoAnswer, InfoRequest
from node.wire import RangeRequest
from p2p.errors import Refused
from tests.e2e.intruder import Intruder, at_work, counted, soon
from tests.e2e.net import Net

EVENTS = "p2p_events_total"


async def test_a_source_whose_disk_was_tampered_with_gives_nothing(net: Net) -> None:
    data = secrets.token_bytes(700_000)
    digest = hashlib.sha256(data).hexdigest()
    file = net.home("v1").artifacts_dir / digest
    put(net, "v1", data)
    with file.open("r+b") as stream:
        stream.seek(300_000)
        byte = stream.read(1)
        stream.seek(300_000)
        stream.write(bytes([byte[0] ^ 1]))
    async with counted(net, "v1", "artifacts_changed_on_disk_total", ""):
        with pytest.raises(ApiError) as refused:
            await trio.to_thread.run_sync(fetch, net, "bot1", digest, len(data), 4)
        assert refused.value.problem.rule == "artifact.not_found"
    with pytest.raises(ApiError) as refused:
        net.api("bot1").call("GET", f"/v1/artifacts/{digest}")
    assert refused.value.status == 404
    put(net, "v2", data)  # an honest source: what came so far is used, and the whole is right
    fetch(net, "bot1", digest, len(data), 60)
    assert net.api("bot1").call("GET", f"/v1/artifacts/{digest}") == data


async def test_a_source_that_lies_is_dropped_and_an_honest_one_used(net: Net) -> None:
    data = secrets.token_bytes(600_000)
    digest = hashlib.sha256(data).hexdigest()
    chunks = [data[at : at + 262_144] for at in range(0, len(data), 262_144)]
    listed = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)

    root = hashlib.sha256(listed).digest()

    def chunk(body: bytes) -> bytes:
        request = decode(ChunkRequest, body)
        good = b"".join(chunks[request.first : request.first + request.count])
        return good[:-1] + bytes([good[-1] ^ 1])

    liar = Intruder(
        net,
        answers={
            "artifact/held": lambda body: encode(HeldAnswer(len(data), root, b"", 0)),
            "artifact/info": lambda body: encode(InfoAnswer(len(data), listed)),
            "artifact/chunk": chunk,
        },
    )
    async with at_work(liar):
        await liar.meet("node1")
        fetching = threading.Thread(target=fetch, args=(net, "node1", digest, len(data), 60))
        async with counted(net, "node1", "artifacts_liars_total", ""):
            fetching.start()
            await soon("the liar is asked", lambda: "artifact/chunk" in liar.asked)
        assert net.figure("node1", EVENTS, "fault.artifact.chunk") >= 1
        put(net, "v1", data)
        await trio.to_thread.run_sync(fetching.join, 90)
    assert net.api("node1").call("GET", f"/v1/artifacts/{digest}") == data


def test_an_upload_under_another_name_keeps_nothing(net: Net) -> None:
    client, before = net.api(), net.figure("v1", "api_refused_total", "artifact.digest")
    files = sorted(net.home("v1").artifacts_dir.rglob("*"))
    with pytest.raises(ApiError) as refused:
        client.call("PUT", f"/v1/artifacts/{'0' * 64}", body=b"other bytes", token=True)
    assert (refused.value.status, refused.value.problem.rule) == (400, "artifact.digest")
    assert net.figure("v1", "api_refused_total", "artifact.digest") == before + 1
    assert sorted(net.home("v1").artifacts_dir.rglob("*")) == files


def put(net: Net, name: str, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    net.api(name).call("PUT", f"/v1/artifacts/{digest}", body=data, token=True)


def fetch(net: Net, name: str, digest: str, size: int, timeout_s: int) -> None:
    query = {"size": size, "timeout": timeout_s}
    net.api(name).call(
        "POST", f"/v1/artifacts/{digest}/fetch", query=query, token=True, timeout_s=timeout_s + 5
    )


async def test_requests_that_make_no_sense(net: Net) -> None:
    """Each is refused with its rule; none is answered, none ends the peer."""
    data = secrets.token_bytes(1_000)
    put(net, "v1", data)
    held = hashlib.sha256(data).digest()
    requests = [
        ("blocks", b"\xc1", "range.malformed"),
        ("blocks", encode(RangeRequest(0, 1_000, 0)), "range.first"),
        ("blocks", encode(RangeRequest(-1, 1_000, 0)), "range.first"),
        ("tx", b"\xc1", "tx.malformed"),
        ("artifact/info", b"\xc1", "artifact.malformed"),
        ("artifact/info", encode(InfoRequest(b"../../etc/passwd", 0)), "artifact.unknown"),
        ("artifact/info", encode(InfoRequest(held, -1)), "artifact.range"),
        ("artifact/chunk", encode(ChunkRequest(held, -1, 1)), "artifact."),
        ("artifact/chunk", encode(ChunkRequest(held, 2**62, 1)), "artifact."),
        ("no/such", b"", "request.method"),
    ]
    async with at_work(Intruder(net)) as intruder:
        target = await intruder.meet("v1")
        async with counted(net, "v1", "refused_total", "artifact.malformed"):
            for method, body, rule in requests:
                with pytest.raises(Refused) as refused:
                    await intruder.host.request(target, method, body, 10.0)
                assert refused.value.reason.startswith(rule), (method, body)
