"""`gridpact deployment receipts`: what nodes signed, checked by openssl and by in-toto's own libraries."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import SSlibKey

from ledger.documents import sign_receipt
from ledger.predicates import ReceiptPredicate, Usage
from node.cli.context import Failure
from node.cli.receipts import _checked
from tests.ledger.world import NODES, contract, job, result_file
from tests.node.fake_peer import FakePeer
from tests.node.test_cli import FakeBot, Shell, bot, peer, shell

__all__ = ("FakeBot", "bot", "peer", "shell")  # fixtures

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "approving.md"
RESULTS = {"/result/words.tsv": result_file("ab" * 32)}
SAID = {
    "driver": "sandbox",
    "level": "sandbox",
    "isolation": {"seccomp": "enforced", "landlock": "enforced"},
    "checks": 4,
    "exit_code": 0,
    "usage": Usage(cpu_ms=1_234, memory_bytes_max=5_678),
    "results": RESULTS,
}
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def deployment(peer: FakePeer) -> str:
    """A job that one node gave back and another one ran to its end."""
    world = peer.world
    world.add_nodes()
    id_ = world.ordered(contract(job()))
    world.approve(id_)
    (name,) = world.deployment(id_).slots
    world.claimed(id_, name, [NODES[0]])
    world.report(id_, name, NODES[0], "fetching", "released")
    world.claimed(id_, name, [NODES[2]])
    world.report(id_, name, NODES[2], "fetching", "verified", "running")
    world.ok(NODES[2], world.receipt(id_, name, NODES[2], "succeeded", **SAID))
    for _ in range(3):
        peer.block()
    return id_.hex()


def written(shell: Shell, deployment: str, out: Path, *more: str) -> list[str]:
    rows = shell.json("deployment", "receipts", deployment[:12], "--out", str(out), *more)
    return [row["name"] for row in rows]


def test_all_of_them_by_term_and_number(shell: Shell, deployment: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = written(shell, deployment, out)
    assert names == [
        "mine-0-001-000-fetching",
        "mine-0-001-001-released",
        "mine-0-002-000-fetching",
        "mine-0-002-001-verified",
        "mine-0-002-002-running",
        "mine-0-002-003-succeeded",
    ]
    assert written(shell, deployment, tmp_path / "one", "--slot", "mine/0") == names
    assert shell.run("deployment", "receipts", deployment, "--out", str(out), "--slot", "mine/7")[0] == 1
    nobody = shell.peer.world.ordered(contract(name="other")).hex()
    code, _, err = shell.run("deployment", "receipts", nobody, "--out", str(out))
    assert code == 1
    assert "no node has told anything" in err


def test_the_last_one_says_all_that_was_done(
    shell: Shell, peer: FakePeer, deployment: str, tmp_path: Path
) -> None:
    """Contract, manifest, slot, term, artifacts, driver, isolation level, checks, exit, usage."""
    name = written(shell, deployment, tmp_path)[-1]
    statement = json.loads((tmp_path / f"{name}.json").read_text())
    record = peer.world.deployment(bytes.fromhex(deployment))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:gridpact:receipt:v1"
    assert statement["subject"] == [{"name": "manifest", "digest": {"sha256": record.manifest.hex()}}]
    said = statement["predicate"]
    assert set(said) >= set(ReceiptPredicate.__struct_fields__) - {"secrets", "egress"}
    assert (said["contract"], said["deployment"]) == (record.contract.hex(), deployment)
    assert (said["slot"], said["term"], said["node"]) == ("mine/0", 2, NODES[2].public.hex())
    assert (said["driver"], said["level"], said["checks"], said["exit_code"]) == ("sandbox", "sandbox", 4, 0)
    assert said["usage"] == {"cpu_ms": 1_234, "memory_bytes_max": 5_678}
    assert said["isolation"]["seccomp"] == "enforced"
    assert list(said["artifacts"]) == ["/bin/sh"]


def test_the_standards_own_libraries_read_it(shell: Shell, deployment: str, tmp_path: Path) -> None:
    name = written(shell, deployment, tmp_path)[-1]
    envelope = Envelope.from_dict(json.loads((tmp_path / f"{name}.dsse").read_text()))
    public = NODES[2].public.hex()
    key = SSlibKey(public, "ed25519", "ed25519", {"public": public})
    assert list(envelope.verify([key], 1)) == [public]
    read = Statement.copy_from_pb(ParseDict(json.loads(envelope.payload), Statement([], "", {}).pb))
    read.validate()
    assert read.pb.predicate["slot"] == "mine/0"
    envelope.payload = envelope.payload.replace(b'"checks":4', b'"checks":5')
    with pytest.raises(VerificationError):
        envelope.verify([key], 1)


@pytest.mark.parametrize("changes", [{"node": NODES[0].public.hex()}, {"deployment": "00" * 32}])
def test_a_peer_that_shows_anothers_receipt_is_found_out(changes: dict[str, str]) -> None:
    fields = {"chain_id": "c", "deployment": "11" * 32, "contract": "22" * 32, "slot": "web/0", "term": 1}
    said = {**fields, "node": NODES[2].public.hex(), "status": "running", "time_ms": 1}
    good = sign_receipt(NODES[2], ReceiptPredicate(**said), bytes(32))  # type: ignore[arg-type]
    assert _checked(good, "11" * 32).predicate.slot == "web/0"
    bad = sign_receipt(NODES[2], ReceiptPredicate(**said | changes), bytes(32))  # type: ignore[arg-type]
    with pytest.raises(Failure, match="another deployment or node"):
        _checked(bad, "11" * 32)
    with pytest.raises(Failure, match=r"document\."):
        _checked(good[:-20] + good[-19:], "11" * 32)


@needs_openssl
def test_openssl_checks_each_by_the_command_that_is_told(
    shell: Shell, deployment: str, tmp_path: Path
) -> None:
    code, _, err = shell.run("deployment", "receipts", deployment, "--out", str(tmp_path))
    assert code == 0
    commands = [line.strip() for line in err.splitlines() if line.strip().startswith("openssl")]
    assert len(commands) == 6
    for command in commands:
        assert ran(command, tmp_path), command
    signed = next(tmp_path.glob("*succeeded.signed"))
    signed.write_bytes(signed.read_bytes().replace(b'"checks":4', b'"checks":5'))
    assert [ran(command, tmp_path) for command in commands] == [True] * 5 + [False]


@needs_openssl
def test_the_script_of_the_document_needs_nothing_of_ours(
    shell: Shell, deployment: str, tmp_path: Path
) -> None:
    """As it stands in docs/approving.md, from an envelope alone, with a shell, coreutils and openssl."""
    name = written(shell, deployment, tmp_path / "out")[-1]
    text = DOCUMENT.read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(.*?openssl pkeyutl.*?)```", text, re.DOTALL)
    envelope = tmp_path / "out" / f"{name}.dsse"
    receipt = tmp_path / "receipt.dsse"
    receipt.write_bytes(envelope.read_bytes())
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [NODES[2].public.hex(), "Signature Verified Successfully"]
    forged = json.loads(receipt.read_text())
    forged["payload"] = base64.b64encode(
        base64.b64decode(forged["payload"]).replace(b'"checks":4', b'"checks":5')
    ).decode()
    receipt.write_text(json.dumps(forged, separators=(",", ":"), sort_keys=True))
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0


def ran(command: str, folder: Path) -> bool:
    return subprocess.run(command, cwd=folder, shell=True, capture_output=True, timeout=60).returncode == 0
