"""Results as people see them, held back or not: commands, the API and the explorer's page."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger.manifests.types import Policies
from ledger.predicates import ResultFile
from node.cli.results import wanted_results
from node.client.sdk import Client
from node.sealed.sealed_results import seal_result
from tests.ledger.test_release import HELD, mining
from tests.ledger.world import BUDGET, CONSUMER, LEGAL, NODES, World, contract, job
from tests.node.api_fixture import api_client
from tests.node.fake_peer import FakePeer
from tests.node.test_cli import Shell, bot, peer, shell
from tests.node.test_web import read

__all__ = ("bot", "peer", "shell")  # fixtures

SAID = b"the patient's name\t42\n"


def finished(world: World, policies: Policies = HELD) -> tuple[bytes, ResultFile, bytes]:
    """A job that ended; its id, what its receipt tells of the result, and the box."""
    world.add_nodes()
    deployment = world.ordered(mining(policies))
    world.approve(deployment)
    node = world.claimed(deployment, "mine/0", [NODES[0]])
    world.report(deployment, "mine/0", node, "fetching", "verified", "running")
    told, box = seal_result(CONSUMER.public, bytes(32), SAID)
    results = {"/result/words.tsv": told}
    world.ok(node, world.receipt(deployment, "mine/0", node, "succeeded", results=results))
    for _ in range(3):
        world.run()
    return deployment, told, box


def test_results_are_released_by_two_and_opened_by_the_consumer_alone(
    shell: Shell, peer: FakePeer, tmp_path: Path
) -> None:
    id_, told, box = finished(peer.world)
    deployment, out = id_.hex(), tmp_path / "out"
    file = tmp_path / "box"
    file.write_bytes(box)
    shell.ok("artifact", "add", str(file))  # as if the node had handed it over
    code, _, err = shell.run("deployment", "results", deployment, "--out", str(out), "--key", "consumer")
    assert (code, "held back: needs 1 of role legal" in err) == (4, True), err
    assert "held back" in shell.ok("deployment", "show", deployment)
    code, _, err = shell.run("approve", deployment, "--key", "legal", "--release", "--yes")
    assert code == 0, err
    digest = peer.world.deployment(id_).results.hex()
    assert f"results     {digest} (hashed here)" in err
    assert told.sha256 in err
    assert shell.run("approve", deployment, "--key", "budget", "--release", "--signoff", "--yes")[0] == 2
    shell.ok("approve", deployment, "--key", "budget", "--release", "--yes")
    found = shell.json("deployment", "show", deployment)
    assert (found["results"], found["policies"]["release"]["satisfied"]) == (digest, True)
    assert {a["results"] for a in found["approvals"] if a["act"] == "release"} == {digest}
    assert "released" in shell.ok("deployment", "show", deployment)
    code, _, err = shell.run("deployment", "results", deployment, "--out", str(out), "--key", "stranger")
    assert (code, CONSUMER.public.hex() in err) == (2, True)
    assert not out.exists()
    shell.ok("deployment", "results", deployment, "--out", str(out), "--key", "consumer")
    assert (out / "words.tsv").read_bytes() == SAID
    assert shell.run("revoke", deployment, "--key", "budget", "--release", "--yes")[0] == 4


def test_results_that_nobody_holds_back_are_the_consumers_too(
    shell: Shell, peer: FakePeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_, _, box = finished(peer.world, replace(HELD, release=None))
    file, out = tmp_path / "box", tmp_path / "out"
    file.write_bytes(box)
    shell.ok("artifact", "add", str(file))  # as if the node had handed it over
    words = ("deployment", "results", id_.hex(), "--out", str(out))
    code, _, err = shell.run(*words, "--key", "stranger")
    assert (code, CONSUMER.public.hex() in err) == (2, True)
    with monkeypatch.context() as patched:
        patched.setattr(Client, "read_artifact", lambda self, digest: box[:-1] + bytes([box[-1] ^ 1]))
        code, _, err = shell.run(*words)
        assert (code, "result.box" in err) == (4, True), err
    assert not out.exists()
    shell.ok(*words)  # the consumer's key lies among the others
    assert (out / "words.tsv").read_bytes() == SAID
    (shell.home / "config" / "keys" / "consumer").unlink()
    code, _, err = shell.run(*words)
    assert (code, CONSUMER.public.hex() in err) == (2, True)


def test_a_peer_that_shows_other_results_is_found_out(
    shell: Shell, peer: FakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the slots show is hashed before anything is signed."""
    id_, _, _ = finished(peer.world)
    real = Client.deployment

    def lying(self: Client, ref: str) -> object:
        found = real(self, ref)
        found.slots[0].results["/result/words.tsv"] = "66" * 32
        return found

    monkeypatch.setattr(Client, "deployment", lying)
    code, _, err = shell.run("approve", id_.hex(), "--key", "legal", "--release", "--yes")
    assert (code, "not those on record" in err) == (4, True), err
    assert not [a for a in real(shell_client(shell), id_.hex()).approvals if a.act == "release"]


@pytest.mark.parametrize(
    ("slot", "path"),
    [
        ("mine/0", "/result/../../elsewhere"),
        ("mine/0", "/etc/elsewhere"),
        ("mine/0", "/result//elsewhere"),
        ("../0", "/result/words.tsv"),
        ("mine/..", "/result/words.tsv"),
    ],
)
def test_a_peer_names_no_place_outside_of_the_folder(
    shell: Shell, peer: FakePeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: str, path: str
) -> None:
    id_, _, box = finished(peer.world, replace(HELD, release=None))
    file, out = tmp_path / "box", tmp_path / "a" / "out"
    file.write_bytes(box)
    shell.ok("artifact", "add", str(file))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(
        "node.cli.results.wanted_results",
        lambda found: [(slot, path, result) for _, _, result in wanted_results(found)] * 2,
    )
    code, _, err = shell.run("deployment", "results", id_.hex(), "--out", str(out))
    assert (code, "the peer tells of a result" in err) == (4, True), err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_result_that_a_peer_made_up_is_not_taken(
    shell: Shell, peer: FakePeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can seal something to the consumer, and say that a node told it."""
    id_, _, _ = finished(peer.world, replace(HELD, release=None))
    told, box = seal_result(CONSUMER.public, bytes(32), b"what the peer wants to be believed")
    file, out = tmp_path / "box", tmp_path / "out"
    file.write_bytes(box)
    shell.ok("artifact", "add", str(file))
    monkeypatch.setattr(
        "node.cli.results.wanted_results",
        lambda found: [(slot, path, told) for slot, path, _ in wanted_results(found)],
    )
    code, _, err = shell.run("deployment", "results", id_.hex(), "--out", str(out))
    assert (code, "proves other results of mine/0" in err) == (4, True), err
    assert not out.exists()


def shell_client(shell: Shell) -> Client:
    return Client(shell.globals[1])


def test_nothing_is_signed_where_nothing_waits(shell: Shell, peer: FakePeer) -> None:
    peer.world.add_nodes()
    deployment = peer.world.ordered(mining())
    for _ in range(3):
        peer.block()
    code, _, err = shell.run("approve", deployment.hex(), "--key", "legal", "--release", "--yes")
    assert (code, "no results" in err) == (4, True)


async def test_the_page_tells_that_they_are_held_and_who_releases_them(
    peer: FakePeer, tmp_path: Path
) -> None:
    world = peer.world
    deployment, _, _ = finished(world)
    async with api_client(peer, tmp_path) as client:
        path = f"/deployments/{deployment.hex()}"
        page = await read(client, path)
        assert "the results are held back: needs 1 of role legal" in page.text
        assert "To release the results" in page.text
        for key, role in ((LEGAL, "legal"), (BUDGET, "budget")):
            world.ok(key, world.decide(deployment, key, role, "granted", "release"))
        page = await read(client, path)
        assert "the results may be fetched" in page.text
        assert "held back" not in page.text
        assert "the consumer's key alone opens them" in page.text
        open_ = world.ordered(contract(job(), name="other", policies=replace(HELD, release=None)))
        assert "To release the results" not in (await read(client, f"/deployments/{open_.hex()}")).text
