"""Signatures by SSH keys and agents, and signatures of ours, checked by ssh-keygen, openssl and minisign."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import sshsig
from ledger.documents import (
    PAYLOAD_TYPE,
    document_id,
    open_document,
    pae,
    payload_of,
    seal_payload,
    sign_payload,
    signature_of,
)
from ledger.errors import Refused
from ledger.keys import Key
from ledger.predicates import ApprovalPredicate
from ledger.records import ApprovalRecord, key_approval
from ledger.state import read
from ledger.transactions import Decide
from node.client import ssh
from node.client.stock_formats import write_statement
from node.errors import ConfigError
from tests.ledger.world import BUDGET, STRANGER, World, contract

PREDICATE = ApprovalPredicate(
    chain_id="c", deployment="00" * 32, act="deploy", role="legal", decision="granted"
)
PAYLOAD = payload_of("approval", "manifest", bytes(32), PREDICATE)
MESSAGE = pae(PAYLOAD_TYPE, PAYLOAD)
KEY = Key(b"\x07" * 32)
APPROVING = Path(__file__).resolve().parents[2] / "docs" / "approving.md"


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def make_key(file: Path, kind: str = "ed25519", passphrase: str = "") -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", f"{file.name} of me", "-f", str(file)],
        check=True,
    )


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    file = tmp_path / "id"
    make_key(file)
    return file


def runs(command: str, folder: Path) -> bool:
    done = subprocess.run(command, cwd=folder, shell=True, capture_output=True, timeout=60, check=False)
    return done.returncode == 0


# ---------------------------------------------------------------------- the form


def own_blob(message: bytes = MESSAGE) -> bytes:
    return sshsig.blob_of(KEY.public, KEY.sign_raw(sshsig.signed_bytes(message)))


def test_a_document_with_an_ssh_signature() -> None:
    """[X1] The document's id is that of its payload, whoever signed it how."""
    envelope = seal_payload(PAYLOAD, KEY.public, own_blob())
    document = open_document(envelope, "approval")
    assert (document.signer, document.id) == (KEY.public, document_id(PAYLOAD))
    assert signature_of(envelope) == (PAYLOAD, KEY.public, own_blob())


def test_any_other_form_of_it_is_refused() -> None:
    """[X1] Every byte counts: one changed, one more, one less."""
    good = own_blob()
    assert sshsig.verify(KEY.public, MESSAGE, good)
    for place in range(len(good)):
        bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        assert not sshsig.verify(KEY.public, MESSAGE, bad), place
    for bad in (b"", good[:-1], good + b"\0", good[:64], sshsig.MAGIC):
        assert not sshsig.verify(KEY.public, MESSAGE, bad)
        with pytest.raises(Refused, match=r"document\.signature"):
            open_document(seal_payload(PAYLOAD, KEY.public, bad), "approval")
    assert not sshsig.verify(STRANGER.public, MESSAGE, good)
    assert not sshsig.verify(KEY.public, MESSAGE + b" ", good)
    plain = KEY.sign_raw(MESSAGE)
    assert not sshsig.verify(KEY.public, MESSAGE, sshsig.blob_of(KEY.public, plain)), "another thing signed"


def test_armor_and_lines_go_both_ways() -> None:
    assert sshsig.from_armor(sshsig.to_armor(own_blob())) == own_blob()
    for bad in ("", "x", sshsig.to_armor(own_blob())[:-1], sshsig.to_armor(own_blob()).replace("SIG", "sig")):
        with pytest.raises(Refused, match=r"document\.malformed"):
            sshsig.from_armor(bad)
    assert sshsig.public_from_line(sshsig.public_line(KEY.public, "me")) == KEY.public
    for bad in ("", "ssh-ed25519", "ssh-ed25519 !", sshsig.public_line(KEY.public).replace("ssh-", "sk-")):
        with pytest.raises(Refused, match=r"key\.malformed"):
            sshsig.public_from_line(bad)


# ---------------------------------------------------------------------- ssh-keygen signs


@needs("ssh-keygen")
def test_a_key_file_signs_and_the_ledger_counts_it(keyfile: Path) -> None:
    public = ssh.public_key(str(keyfile))
    assert ssh.public_key(f"{keyfile}.pub") == public
    world = World()
    world.add_nodes()
    source = contract()
    from msgspec.structs import replace

    roles = tuple(replace(r, keys=(*r.keys, public.hex())) if r.name == "legal" else r for r in source.roles)
    deployment = world.ordered(replace(source, roles=roles))
    predicate = replace(PREDICATE, chain_id="machine-test", deployment=deployment.hex())
    payload = payload_of("approval", "manifest", world.deployment(deployment).manifest, predicate)
    blob = ssh.sign(str(keyfile), public, pae(PAYLOAD_TYPE, payload))
    world.ok(STRANGER, Decide(seal_payload(payload, public, blob)))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    assert world.deployment(deployment).status == "approved"
    held = read(world.state, ApprovalRecord, key_approval(deployment, "deploy", public))
    assert held is not None
    assert held.document == document_id(payload)


@needs("ssh-keygen")
def test_another_namespace_or_hash_is_not_taken(keyfile: Path, tmp_path: Path) -> None:
    """[X1] What ssh-keygen signed for git or for files is no approval."""
    public = ssh.public_key(str(keyfile))
    for number, options in enumerate((["-n", "git"], ["-n", "gridpact", "-O", "hashalg=sha256"])):
        file = tmp_path / str(number)
        file.write_bytes(MESSAGE)
        subprocess.run(
            ["ssh-keygen", "-q", "-Y", "sign", *options, "-f", str(keyfile), str(file)],
            check=True,
            capture_output=True,
        )
        blob = sshsig.from_armor((tmp_path / f"{number}.sig").read_text())
        assert not sshsig.verify(public, MESSAGE, blob), options


@needs("ssh-keygen")
def test_other_keys_are_told(tmp_path: Path, keyfile: Path) -> None:
    make_key(tmp_path / "rsa", "rsa")
    with pytest.raises(ConfigError, match="ssh-ed25519 wanted"):
        ssh.public_key(str(tmp_path / "rsa"))
    with pytest.raises(ConfigError, match="none: no such file"):
        ssh.public_key(str(tmp_path / "none"))
    make_key(tmp_path / "other")
    with pytest.raises(ConfigError, match="otherwise than asked"):
        ssh.sign(str(keyfile), ssh.public_key(str(tmp_path / "other")), MESSAGE)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent of this test's own."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def add_to_agent(file: Path) -> None:
    """Waits for the agent, too."""
    for _ in range(200):
        done = subprocess.run(["ssh-add", "-q", str(file)], capture_output=True, timeout=60, check=False)
        if done.returncode == 0:
            return
        os.sched_yield()
        subprocess.run(["ssh-add", "-l"], capture_output=True, timeout=60, check=False)
    raise AssertionError(done.stderr)


@needs("ssh-agent")
@pytest.mark.usefixtures("agent")
def test_an_agent_signs(keyfile: Path, tmp_path: Path) -> None:
    add_to_agent(keyfile)
    subprocess.run(["ssh-add", "-q", "-D"], check=True, capture_output=True, timeout=60)
    with pytest.raises(ConfigError, match="holds no Ed25519 key: ssh-add FILE adds one"):
        ssh.public_key("agent")
    add_to_agent(keyfile)
    public = ssh.public_key("agent")
    assert sshsig.verify(public, MESSAGE, ssh.sign("agent", public, MESSAGE))
    second = tmp_path / "second"
    make_key(second)
    add_to_agent(second)
    with pytest.raises(ConfigError, match=r"holds 2 Ed25519 keys that fit.*id of me, second of me"):
        ssh.public_key("agent")
    chosen = ssh.public_key("agent:second")
    assert chosen == ssh.public_key(str(second)) != public
    second.unlink()  # the agent alone holds it now
    assert sshsig.verify(chosen, MESSAGE, ssh.sign("agent:second", chosen, MESSAGE))


def test_no_agent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    for call in (lambda: ssh.public_key("agent"), lambda: ssh.sign("agent", KEY.public, MESSAGE)):
        with pytest.raises(ConfigError, match="SSH_AUTH_SOCK"):
            call()


# ---------------------------------------------------------------------- stock tools verify


def checked_by(tool: str, folder: Path, envelope: bytes, key: Key | None) -> None:
    """The command that docs/approving.md has, which we tell, says yes, and no to a changed statement."""
    (told,) = [c for c in write_statement(folder, "legal", envelope, key) if c.startswith(tool)]
    lines = APPROVING.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{tool} ") and "NAME" in line]
    command = line.replace("NAME", "legal").replace("KEY", signature_of(envelope)[1].hex())
    assert command == told
    assert runs(command, folder), command
    signed = folder / "legal.signed"
    assert (folder / "legal.json").read_bytes() == PAYLOAD
    signed.write_bytes(signed.read_bytes().replace(b"granted", b"revoked"))
    assert not runs(command, folder), command


@needs("openssl")
def test_openssl_verifies(tmp_path: Path) -> None:
    checked_by("openssl", tmp_path, sign_payload(KEY, PAYLOAD), None)


@needs("ssh-keygen")
def test_ssh_keygen_verifies(tmp_path: Path, keyfile: Path) -> None:
    public = ssh.public_key(str(keyfile))
    checked_by(
        "ssh-keygen", tmp_path, seal_payload(PAYLOAD, public, ssh.sign(str(keyfile), public, MESSAGE)), None
    )
    checked_by("ssh-keygen", tmp_path, seal_payload(PAYLOAD, KEY.public, own_blob()), None)


@needs("minisign")
def test_minisign_verifies(tmp_path: Path) -> None:
    checked_by("minisign", tmp_path, sign_payload(KEY, PAYLOAD), KEY)
