"""Artifacts as people see them: API, command line, explorer; with their CIDs, and their progress."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from msgspec.structs import replace

from ledger.limits import CHUNK_BYTES
from node.api.app import make_app, serve_api
from node.cli.main import main
from node.files.artifact_files import Intake
from node.files.artifact_wire import CHUNK
from node.files.cid import cid_of
from node.files.exchange import Progress
from node.home import write_secret
from tests.ledger.world import contract
from tests.node.api_fixture import AUTH, TOKEN, in_thread, problem
from tests.node.artifact_fixture import Host, hosts, wanted_of
from tests.node.fake_peer import FakePeer
from tests.node.network_fixture import until
from tests.node.test_artifacts import data_of, name_of
from tests.node.test_web import read

DATA = data_of(12 * CHUNK_BYTES)
NAME = name_of(DATA)


@asynccontextmanager
async def api_of(host: Host, peer: FakePeer | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    app = make_app(peer or FakePeer(), token=TOKEN, artifacts=host.exchange.store, exchange=host.exchange)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=True)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(autouse=True)
def by_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk in each answer, so that a source stops where it is told to."""
    monkeypatch.setattr("node.files.sources.ARTIFACT_RUN_MAX", 1)


def hold_back(source: Host, after: int) -> trio.Event:
    """The source gives so many chunks, then waits for the event."""
    give, gate = source.methods[CHUNK], trio.Event()

    async def some(peer_id: str, body: bytes) -> bytes:
        if source.asked[CHUNK] > after:
            await gate.wait()
        return await give(peer_id, body)

    source.methods[CHUNK] = some
    source.exchange.store.add_bytes(DATA)
    return gate


async def test_the_api_shows_what_is_held_and_what_is_on_its_way(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source), api_of(me) as client:
        gate = hold_back(source, 3)
        kept = me.exchange.store.add_bytes(b"kept").sha256
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), progress)
            await until(lambda: progress.bytes_done == 3 * CHUNK_BYTES)
            found = (await client.get("/v1/artifacts")).json()
            shown = await read(client, "/files")
            refused = await client.post(f"/v1/artifacts/{NAME}/drop", headers=AUTH)
            assert (refused.status_code, refused.json()["rule"]) == (409, "artifact.in_use")
            gate.set()
        (transfer,) = found["transfers"]
        assert transfer["cid"] == cid_of(NAME)
        assert (transfer["bytes_done"], transfer["bytes_total"]) == (3 * CHUNK_BYTES, len(DATA))
        assert transfer["sources"] == [source.network.peer_id]
        states = {item["sha256"]: (item["kept"], item["in_use"], item["whole"]) for item in found["held"]}
        assert states == {kept: (True, False, True), NAME: (False, True, False)}
        assert found["bytes_used"] == len(DATA) + 4
        assert "25 %" in shown.text
        assert cid_of(kept) in shown.text
        done = (await client.get("/v1/artifacts")).json()
        assert done["transfers"] == []
        assert done["count"] == 2
        assert next(item for item in done["held"] if item["sha256"] == NAME)["whole"]


async def test_a_deployments_page_shows_what_of_it_is_on_its_way(tmp_path: Path) -> None:
    peer = FakePeer()
    source = contract()
    work = source.workloads[0]
    artifact = replace(work.artifacts[0], sha256=NAME, size_bytes=len(DATA), chunks=wanted_of(DATA).chunks)
    source = replace(source, workloads=(replace(work, artifacts=(artifact,)), *source.workloads[1:]))
    peer.world.add_nodes()
    page = f"/deployments/{peer.world.ordered(source).hex()}"
    async with hosts(tmp_path, 2) as (me, giver), api_of(me, peer) as client:
        gate = hold_back(giver, 3)
        other = me.exchange.store.add_bytes(b"kept").sha256
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), progress)
            await until(lambda: progress.bytes_done == 3 * CHUNK_BYTES)
            shown = (await read(client, page)).text
            gate.set()
        assert "On its way to this peer" in shown and "25 %" in shown
        assert artifact.path in shown and cid_of(NAME) in shown and cid_of(other) not in shown
        assert "On its way to this peer" not in (await read(client, page)).text


async def test_a_cid_names_an_artifact_wherever_a_digest_does(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source), api_of(me) as client:
        source.exchange.store.add_bytes(DATA)
        order = f"/v1/artifacts/{cid_of(NAME)}/fetch?size={len(DATA)}&timeout=20"
        root = wanted_of(DATA).chunks
        answer = await client.post(f"{order}&chunks={root}", headers=AUTH)
        assert answer.json() == {"sha256": NAME, "cid": cid_of(NAME), "size_bytes": len(DATA)}
        assert (await client.get(f"/v1/artifacts/{cid_of(NAME)}")).content == DATA
        assert (await client.post(f"/v1/artifacts/{NAME}/drop")).status_code == 401
        freed = await client.post(f"/v1/artifacts/{cid_of(NAME)}/drop", headers=AUTH)
        assert freed.json() == {"sha256": NAME, "bytes_freed": len(DATA)}
        gone = await client.post(f"/v1/artifacts/{NAME}/drop", headers=AUTH)
        assert gone.json()["rule"] == "artifact.not_found"
        for bad in (f"{order}&chunks=../x", f"/v1/artifacts/{cid_of(NAME).upper()}/fetch"):
            assert (await client.post(bad, headers=AUTH)).json()["rule"] == "artifact.digest"
        assert (await client.get("/v1/artifacts?cursor=zz")).json()["rule"] == "query.cursor"


async def test_what_nobody_gives_in_time_is_told(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, _), api_of(me) as client:
        path = f"/v1/artifacts/{NAME}/fetch?size={len(DATA)}"
        answer = await client.post(f"{path}&timeout=0.2", headers=AUTH)
        assert problem(answer, 504, "artifact.not_found").field == "sha256"


async def test_what_is_held_comes_in_pages(tmp_path: Path) -> None:
    async with hosts(tmp_path, 1) as (me,), api_of(me) as client:
        names = sorted(me.exchange.store.add_bytes(bytes([n])).sha256 for n in range(5))
        seen, cursor = [], ""
        for _ in range(3):
            page = (await client.get(f"/v1/artifacts?limit=2&cursor={cursor}")).json()
            seen += [item["sha256"] for item in page["held"]]
            cursor = page["next"]
        assert seen == names
        assert cursor == ""


@dataclass
class Machine:
    """Two peers in a thread, the API of the first on a port."""

    api: str
    me: Host
    source: Host


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    @asynccontextmanager
    async def serving() -> AsyncIterator[Machine]:
        async with hosts(tmp_path / "stores", 2) as (me, source), trio.open_nursery() as nursery:

            async def serve(task_status: Any) -> None:
                await serve_api(
                    FakePeer(),
                    listen="127.0.0.1:0",
                    token=TOKEN,
                    artifacts=me.exchange.store,
                    exchange=me.exchange,
                    task_status=task_status,
                )

            yield Machine(await nursery.start(serve), me, source)

    with in_thread(serving) as made:
        yield made


async def test_an_upload_is_hashed_and_written_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, calls = threading.get_ident(), []

    def watch(name: str) -> None:
        real = getattr(Intake, name)

        def seen(self: Intake, *given: Any) -> Any:
            calls.append((name, threading.get_ident() == loop))
            return real(self, *given)

        monkeypatch.setattr(Intake, name, seen)

    watch("write")
    watch("finish")
    async with hosts(tmp_path, 1) as (me,), api_of(me) as client:
        answer = await client.put(f"/v1/artifacts/{NAME}", headers=AUTH, content=DATA)
        assert answer.status_code == 201
    assert {name for name, _ in calls} == {"write", "finish"}
    assert not any(in_loop for _, in_loop in calls)


async def test_uploads_at_once_keep_to_the_budget_together(tmp_path: Path) -> None:
    """Each fits alone. The most of each is written before the rest of any is sent."""
    most, size_bytes = 4 * CHUNK_BYTES, 5 * CHUNK_BYTES
    written, answers = [trio.Event(), trio.Event()], []
    async with hosts(tmp_path, 1) as (me,), api_of(me) as client:
        store = me.exchange.store
        store.size_bytes_max = most + size_bytes

        async def body(number: int, data: bytes) -> AsyncIterator[bytes]:
            yield data[:most]
            written[number].set()  # it is asked for more when that is written
            await written[1 - number].wait()
            yield data[most:]

        async def put(number: int) -> None:
            data = data_of(size_bytes, 40 + number)
            order = f"/v1/artifacts/{name_of(data)}"
            answers.append(await client.put(order, headers=AUTH, content=body(number, data)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, 0)
            nursery.start_soon(put, 1)
        assert sorted(answer.status_code for answer in answers) == [201, 507]
        (refused,) = (answer.json()["rule"] for answer in answers if answer.status_code != 201)
        assert refused == "artifact.no_room"
        assert store.used_bytes == size_bytes == sum(map(store.size_bytes, store.names()))
        assert not list(store.folder.glob("*.tmp"))


def test_the_command_line_gives_fetches_lists_and_drops(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home" / "config").mkdir(parents=True)
    write_secret(tmp_path / "home" / "config" / "api_token", TOKEN + "\n")

    def run(*words: str) -> tuple[int, str]:
        code = main(["artifact", *words, "--api", machine.api, "--home", str(tmp_path / "home")])
        return code, capsys.readouterr().out

    file = tmp_path / "file"
    file.write_bytes(b"given")
    code, out = run("add", str(file), "-o", "json")
    assert code == 0
    assert json.loads(out)["cid"] == cid_of(name_of(b"given"))
    machine.source.exchange.store.add_bytes(DATA)
    code, out = run("fetch", cid_of(NAME), "--size", str(len(DATA)))
    assert code == 0
    assert NAME in out
    code, out = run("list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert lines[NAME].endswith("cached")
    assert lines[name_of(b"given")].endswith("kept")
    assert cid_of(NAME) in lines[NAME]
    assert run("drop", NAME)[0] == 0
    assert run("drop", NAME)[0] == 1
    assert run("drop", "rubbish")[0] == 2
    assert run("fetch", "11" * 32, "--size", "5", "--wait", "1")[0] == 6
    assert len(json.loads(run("list", "-o", "json")[1])["held"]) == 1
