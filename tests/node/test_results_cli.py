"""Results as people see them, held back or not: commands, the API and the explorer's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger.keys import Key
from ledger.manifests.types import Placement, Policies
from ledger.predicates import ResultFile
from node.cli.results import wanted_results
from node.client.sdk import Client
from node.sealed.sealed_results import seal_result
from tests.ledger.test_release import HELD, PATH, mining
from tests.ledger.world import BUDGET, CONSUMER, LEGAL, NODES, NONCE, STRANGER, World, contract, job
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
    hand_over(shell, tmp_path, box)
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
    out = tmp_path / "out"
    hand_over(shell, tmp_path, box)
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
    out = tmp_path / "a" / "out"
    hand_over(shell, tmp_path, box)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(
        "node.cli.results.wanted_results",
        lambda found: [told._replace(slot=slot, path=path) for told in wanted_results(found)] * 2,
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
    out = tmp_path / "out"
    hand_over(shell, tmp_path, box)
    monkeypatch.setattr(
        "node.cli.results.wanted_results",
        lambda found: [each._replace(result=told) for each in wanted_results(found)],
    )
    code, _, err = shell.run("deployment", "results", id_.hex(), "--out", str(out))
    assert (code, "proves other results of mine/0" in err) == (4, True), err
    assert not out.exists()


def agreed(world: World, readers: Sequence[Key]) -> tuple[bytes, list[bytes]]:
    """A job whose replicas agree, each box sealed to its reader; its id and the boxes."""
    world.add_nodes()
    template = job(replicas=len(readers), agree=2, placement=Placement())
    deployment = world.ordered(contract(template, policies=replace(HELD, release=None), budget=50_000_000))
    world.approve(deployment)
    made = [seal_result(reader.public, bytes(32), SAID) for reader in readers]
    for index, (told, _) in enumerate(made):
        node, slot = NODES[index], f"mine/{index}"
        assert world.claimed(deployment, slot, [node]) is node
        world.report(deployment, slot, node, "fetching", "verified", "running")
        world.ok(node, world.commit(deployment, slot, node, {PATH: told.sha256}))
    for index, (told, _) in enumerate(made):
        slot, fields = f"mine/{index}", {"results": {PATH: told}, "nonce": NONCE.hex()}
        world.ok(NODES[index], world.receipt(deployment, slot, NODES[index], "succeeded", **fields))
    for _ in range(3):
        world.run()
    return deployment, [box for _, box in made]


@pytest.mark.parametrize(
    ("readers", "kept", "code", "fault"),
    [
        ((CONSUMER, CONSUMER, CONSUMER), (0, 1, 2), 0, ""),
        ((STRANGER, CONSUMER, CONSUMER), (0, 1, 2), 0, "mine/0, term 1: seal.not_ours"),
        ((STRANGER, STRANGER, CONSUMER), (0, 1, 2), 0, "mine/1, term 1: seal.not_ours"),
        ((CONSUMER, CONSUMER, CONSUMER), (2,), 0, "mine/1, term 1: artifact.unknown"),
        ((STRANGER, STRANGER, STRANGER), (0, 1, 2), 4, "none of 3 receipts leads to /result/words.tsv"),
    ],
    ids=["all good", "first bad", "two bad", "two gone", "none good"],
)
def test_of_replicas_that_agree_one_good_box_is_enough(
    shell: Shell,
    peer: FakePeer,
    tmp_path: Path,
    readers: tuple[Key, ...],
    kept: tuple[int, ...],
    code: int,
    fault: str,
) -> None:
    id_, boxes = agreed(peer.world, readers)
    hand_over(shell, tmp_path, *(boxes[index] for index in kept))
    out = tmp_path / "out"
    got, _, err = shell.run("deployment", "results", id_.hex(), "--out", str(out))
    assert (got, fault in err) == (code, True), err
    assert ("not good" in err) == bool(fault)
    written = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*")}
    assert written == ({} if code else {"words.tsv": SAID})


def test_a_box_that_is_bad_keeps_no_other_job_s_result_back(
    shell: Shell, peer: FakePeer, tmp_path: Path
) -> None:
    """Replicas of which nothing is compared: each has a result of its own."""
    world = peer.world
    world.add_nodes()
    template = job(replicas=2, placement=Placement())
    id_ = world.ordered(contract(template, policies=replace(HELD, release=None), budget=50_000_000))
    world.approve(id_)
    for index, reader in enumerate((STRANGER, CONSUMER)):
        node = world.claimed(id_, f"mine/{index}", [NODES[index]])
        world.report(id_, f"mine/{index}", node, "fetching", "verified", "running")
        told, box = seal_result(reader.public, bytes([index]) * 32, SAID)
        world.ok(node, world.receipt(id_, f"mine/{index}", node, "succeeded", results={PATH: told}))
        hand_over(shell, tmp_path, box)
    for _ in range(3):
        world.run()
    out = tmp_path / "out"
    code, said, err = shell.run("deployment", "results", id_.hex(), "--out", str(out))
    assert (code, "receipt of mine/0, term 1: seal.not_ours" in err) == (4, True), err
    assert ("mine/1" in said, "mine/0" in said) == (True, False)
    assert [file for file in out.rglob("*") if file.is_file()] == [out / "mine-1" / "words.tsv"]


def hand_over(shell: Shell, folder: Path, *boxes: bytes) -> None:
    """As if the nodes had given these boxes to the peer."""
    for box in boxes:
        file = folder / "box"
        file.write_bytes(box)
        shell.ok("artifact", "add", str(file))


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
