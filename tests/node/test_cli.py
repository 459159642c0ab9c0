"""The command line, run as a user would: against a real API port of a fake peer with the real machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.codec import sha256
from ledger.contracts.types import Parameter
from ledger.errors import Refused
from ledger.manifests.types import Rule
from ledger.transactions import Transfer
from node.api import bot_seam as b
from node.cli.commands import COMMANDS, app
from node.cli.main import main
from node.executor.status import ExecutorStatus
from node.files.cid import cid_of
from node.home import write_secret
from node.version import VERSION
from p2p.ids import peer_id_of
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    CHAIN_ID,
    CONSUMER,
    EXPERT,
    FARMERS,
    LEGAL,
    NODES,
    POLICIES,
    RICH,
    STRANGER,
    contract,
    key_of,
)
from tests.node.api_fixture import served, slots_status
from tests.node.fake_peer import FakePeer
from tests.node.shell_fixture import Shell, make_home

PEOPLE = {
    "author": AUTHOR,
    "consumer": CONSUMER,
    "it-expert": EXPERT,
    "legal": LEGAL,
    "budget": BUDGET,
    "stranger": STRANGER,
    "farmer": FARMERS[0],
}
SEEDS = {"farmer": "farmer a"}


class FakeBot:
    """Answers as a 3bot would; orders are real."""

    def __init__(self, peer: FakePeer) -> None:
        self.peer = peer
        self.missing: list[str] = []
        self.asked: list[b.PlanRequest] = []
        self.secret_values: dict[str, bytes] = {}

    async def plan(self, request: b.PlanRequest) -> b.Plan:
        self.asked.append(request)
        line = b.PlanLine(
            slot="web/0",
            node="ab" * 32,
            farm="farm-a",
            country="BE",
            rate_hour=20_000,
            cost=480_000,
            expected=479_997,
        )
        return b.Plan(
            contract=request.contract,
            name="site",
            version="1.0.0",
            manifest="cd" * 32,
            lines=[line],
            candidates=[
                b.Candidate(node="ab" * 32, farm="farm-a", country="BE", workload="web", rate_hour=20_000)
            ],
            excluded=[b.Excluded(node="ef" * 32, farm="farm-b", workload="web", reasons=["stands in NL"])],
            approvers=[b.Approver(act="deploy", role="budget", keys=[BUDGET.public.hex()])],
            policies={"deploy": "role budget", "signoff": "none"},
            missing=self.missing,
            rate_hour=20_000,
            cost=480_000,
            expected=579_997,
            fee=100_000,
            escrow=2_000_000,
            balance=RICH,
            duration_s=86_400,
        )

    async def deploy(self, request: b.DeployRequest) -> b.Deployed:
        if request.manifest != "cd" * 32:
            raise Refused("bot.plan_changed", "the market moved")
        deployment = self.peer.world.order(contract(), bytes.fromhex(request.contract))
        return b.Deployed(
            deployment=deployment.hex(), manifest=request.manifest, escrow=2_000_000, height=1, time_ms=1
        )

    async def cancel(self, request: b.CancelRequest) -> b.Cancelled:
        return b.Cancelled(deployment=request.deployment, height=9, time_ms=9)

    async def status(self) -> b.BotStatus:
        return b.BotStatus(account="", balance=0, vault_version=0, watched=[])

    async def set_secrets(self, request: b.SecretsRequest) -> b.SecretsView:
        self.secret_values |= request.values
        return await self.secrets(request.deployment)

    async def secrets(self, deployment: str) -> b.SecretsView:
        given = {name: name in self.secret_values for name in ("tls-key", "token")}
        return b.SecretsView(deployment=deployment, given=given)


@pytest.fixture
def peer() -> FakePeer:
    return FakePeer()


@pytest.fixture
def bot(peer: FakePeer) -> FakeBot:
    return FakeBot(peer)


@pytest.fixture
def shell(
    peer: FakePeer, bot: FakeBot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shell]:
    for name in PEOPLE:
        assert key_of(SEEDS.get(name, name)).public == PEOPLE[name].public
    home = make_home(tmp_path / "home", peer, {name: SEEDS.get(name, name) for name in PEOPLE})
    with served(peer, tmp_path, bot) as address:
        yield Shell(address, home, capsys, peer)


def test_status_for_people_and_for_programs(shell: Shell) -> None:
    assert "fake (validator, observer)" in shell.ok("status")
    found = shell.json("status")
    assert found["chain_id"] == CHAIN_ID
    line = shell.ok("-o", "jsonl", "status")
    assert json.loads(line) == found | {"ready": True}
    assert "12D3KooWBad" in shell.ok("peers")
    peer_id = peer_id_of(STRANGER.public)
    address = f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id}"
    assert shell.json("peers", "add", address) == {"changed": True}
    assert [peer["peer_id"] for peer in shell.json("peers", "list")["known"]] == [peer_id]
    assert "added" in shell.ok("peers", "list", "--known")
    assert shell.json("peers", "ban", peer_id, "--reason", "a bad neighbour") == {"changed": True}
    assert "banned by you" in shell.ok("peers", "list")
    assert "a bad neighbour" in shell.ok("peers")
    assert shell.run("peers", "add", address)[0] == 1
    assert shell.json("peers", "unban", peer_id) == {"changed": True}
    assert shell.json("peers", "unban", peer_id) == {"changed": False}
    assert shell.json("peers", "remove", peer_id) == {"changed": True}
    assert shell.run("peers", "remove", "nobody")[0] == 1
    assert [v["moniker"] for v in shell.json("validators")["members"]] == ["v0", "v1", "v2", "v3"]


def test_global_flags_stand_before_or_after(shell: Shell) -> None:
    before = [*shell.globals, "-o", "json", "validators"]
    assert main(before) == 0
    first = shell.capsys.readouterr().out
    assert first == shell.ok("validators", "--output=json")


def test_exit_codes_tell_what_happened(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("nonsense")[0] == 2
    assert shell.run("tx", "transfer", "author")[0] == 2
    assert shell.run("status", "-o", "xml")[0] == 2
    assert main(["status", "--api", "127.0.0.1:1", "--home", str(tmp_path)]) == 3
    assert main(["status", "--home", str(tmp_path / "none")]) == 3
    assert shell.run("tx", "transfer", "author", "1", "--from", "nobody", "-y")[0] == 1
    assert shell.run("tx", "transfer", "author", "lots", "--from", "consumer", "-y")[0] == 2
    assert shell.run("tx", "transfer", "author", "999999999", "--from", "consumer", "-y")[0] == 4
    assert shell.run("deployment", "show", "ab" * 32)[0] == 1
    shell.peer.final = False
    wait = ("tx", "transfer", "author", "1", "--from", "consumer", "-y", "--timeout", "0.2")
    assert shell.run(*wait)[0] == 6
    shell.peer.last_final_ms = 1  # nothing was final for a long time
    code, _, err = shell.run(*wait)
    assert code == 5
    assert "quorum" in err


def test_a_transfer_is_made_shown_and_proved(shell: Shell) -> None:
    done = shell.json("tx", "transfer", "author", "1.5", "--from", "consumer", "-y")
    assert done["ok"]
    assert "money.to_oneself" in shell.run("tx", "transfer", "consumer", "1", "--from", "consumer", "-y")[2]
    assert shell.json("tx", "show", done["id"])["body"]["amount"] == 1_500_000
    for _ in range(3):
        shell.peer.block()
    path = f"account/{AUTHOR.public.hex()}"
    code, out, err = shell.run("query", path, "--verify")
    assert code == 0
    assert str(RICH + 1_500_000) in out
    assert "proved: present" in err
    assert "proved: absent" in shell.run("query", "farm/none", "--verify")[2]
    assert shell.run("query", "é")[0] == 2
    assert "did you mean 'deployment'?" in shell.run("query", "deployments/ab")[2]
    assert "did you mean" not in shell.run("query", "farm/none")[2]


def test_a_proof_for_another_genesis_is_refused(shell: Shell, tmp_path: Path) -> None:
    for _ in range(3):
        shell.peer.block()
    from msgspec.structs import replace

    validators = shell.peer.genesis.validators
    other = replace(shell.peer.genesis, validators=validators[:1])
    file = tmp_path / "other.json"
    file.write_bytes(other.encode())
    code, _, err = shell.run("query", "supply", "--verify", "--genesis", str(file))
    assert code == 4
    assert "light." in err


def test_a_signed_transaction_travels_by_file(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "tx"
    shell.ok("tx", "transfer", "author", "2", "--from", "consumer", "-y", "--out", str(file))
    assert shell.peer.height == 0
    assert shell.json("tx", "send", str(file))["ok"]
    assert shell.peer.world.balance(AUTHOR) == RICH + 2_000_000


def test_keys_are_made_listed_shown_and_taken_over(shell: Shell, tmp_path: Path) -> None:
    made = shell.json("keys", "new", "fresh")
    assert shell.json("keys", "show", "fresh") == made
    assert made in shell.json("keys", "list")
    source = shell.home / "config" / "keys" / "fresh"
    assert shell.json("keys", "import", "again", "-f", str(source))["public"] == made["public"]
    assert shell.run("keys", "new", "fresh")[0] == 1
    assert shell.run("keys", "new", "../fresh")[0] == 1
    source.chmod(0o644)
    assert shell.run("keys", "show", "fresh")[0] == 1


def test_a_contract_from_template_to_notary(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shell.ok("contract", "init", str(folder), "--template", "mining")
    assert shell.run("contract", "init", str(folder))[0] == 1
    assert shell.json("contract", "validate", str(folder))["name"] == "mining"
    shell.ok("contract", "build", str(folder))
    shell.ok("contract", "publish", str(folder), "--key", "author")
    assert [c["name"] for c in shell.json("contract", "list")] == ["mining"]
    assert "deploy asks for" in shell.ok("contract", "show", "mining")
    code, _, err = shell.run("contract", "publish", str(folder), "--key", "author")
    assert code == 4
    assert "contract.exists" in err
    for words in (("validate",), ("build",)):  # also by the file's name
        shell.ok("contract", *words, str(folder / "contract.yaml"))
    code, _, err = shell.run("contract", "publish", str(folder / "contract.yaml"), "--key", "author")
    assert (code, "contract.exists" in err) == (4, True)
    code, _, err = shell.run("contract", "import", str(folder / "none.yaml"))
    assert (code, err) == (1, f"gridpact: {folder / 'none.yaml'}: No such file or directory\n")
    text = (folder / "contract.yaml").read_text()
    for before, after in (("version: 1.0.0", "version: 1.1.0"), ("path: /app/mine.awk", "path: /app/my.awk")):
        assert before in text
        (folder / "contract.yaml").write_text(text.replace(before, after))
        code, _, err = shell.run("contract", "publish", str(folder), "--key", "author")
        assert (code, f"gridpact contract build {folder}" in err) == (4, True), err
    (folder / "contract.yaml").write_text(text.replace("      TOP:", "      DB_PASSWORD: x\n      TOP:"))
    code, _, err = shell.run("contract", "validate", str(folder))
    assert (code, "workloads.mine.environment.DB_PASSWORD: everybody reads" in err) == (0, True), err
    (folder / "contract.yaml").write_text(text.replace("version:", "versoin:", 1))
    code, _, err = shell.run("contract", "validate", str(folder))
    assert code == 4
    assert "contract.yaml:" in err
    assert "versoin" in err
    code, out, _ = shell.run("contract", "build", str(folder), "-o", "json")
    told = json.loads(out)["problems"]
    assert (code, [p["rule"] for p in told]) == (4, ["contract.missing_field", "contract.unknown_field"])
    assert (told[1]["line"], told[1]["field"]) == (3, "versoin") and told[1]["suggestion"]


def test_contracts_are_found_compared_and_taken_back(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shell.ok("contract", "init", str(folder), "--template", "mining")
    shell.ok("contract", "publish", str(folder), "--key", "author")
    shell.peer.world.publish(contract())
    hits = [
        [c["name"] for c in shell.json("contract", "search", *words)]
        for words in (
            (), ("Text licence",), ("licence site",), ("--tag", "job"), ("--tag", "jo"),
            ("--author", AUTHOR.public.hex()[:12].upper()), ("--author", "00"),
            ("--runtime", "sandbox"), ("--runtime", "wasm"),
        )
    ]  # fmt: skip
    both = hits[0]
    assert sorted(both) == ["mining", "site"]
    assert hits[1:] == [["mining"], [], ["mining"], [], both, [], both, []]
    assert shell.json("contract", "diff", "mining", str(folder)) == []  # built, as published
    text = (folder / "contract.yaml").read_text()
    changed = text.replace("default: 40", "default: 50").replace("cpu: 500m", "cpu: 600m")
    (folder / "contract.yaml").write_text(changed.replace("[text, job]", "[text, job, small]"))
    found = shell.json("contract", "diff", "mining", str(folder))
    assert {d["field"]: (d["before"], d["after"]) for d in found} == {
        "tags": (["text", "job"], ["text", "job", "small"]),
        "parameters.top.default": (40, 50),
        "workloads.mine.resources.cpu_millis": (500, 600),
    }
    assert shell.json("contract", "diff", "mining", "site")
    (folder / "contract.yaml").write_text(changed.replace("memory: 64MiB", "memory: 65MiB"))
    assert "0.5 cores" in (shown := shell.ok("contract", "diff", "mining", str(folder)))
    assert re.search(r"memory_bytes +64 MiB +65 MiB$", shown, re.M), "nobody reads bytes"
    shell.ok("contract", "deprecate", "mining@1.0.0", "--key", "author", "--reason", "use site")
    assert "use site" in shell.ok("contract", "show", "mining")
    asked = shell.ok("contract", "show", "mining")
    assert "integer, 1 to 1000, default 40. How many" in asked
    assert "money, 0.1 credits to 50 credits, default 1 credits" in asked
    words = ("contract", "revoke", "mining", "--key", "author", "--reason", "wrong")
    code, _, err = shell.run(*words)
    assert (code, "Take mining@1.0.0 back for ever" in err) == (2, True), "asked first: there is no way back"
    shell.ok(*words, "-y")
    assert [c["mark"] for c in shell.json("contract", "list") if c["name"] == "mining"] == ["revoked"]
    code, _, err = shell.run(*words, "--yes")
    assert (code, "mark.done" in err) == (4, True)


def test_a_deprecated_contract_warns_before_it_is_ordered(shell: Shell, bot: FakeBot) -> None:
    shell.peer.world.publish(contract())
    assert "is deprecated" not in shell.run("deploy", "site", "--plan-only")[2]
    shell.ok("contract", "deprecate", "site", "--key", "author", "--reason", "take 1.1.0")
    assert "site@1.0.0 is deprecated: take 1.1.0" in shell.run("deploy", "site", "--plan-only")[2]


def test_deploy_shows_the_plan_then_orders(shell: Shell, bot: FakeBot) -> None:
    shell.peer.world.publish(contract())
    code, out, err = shell.run("deploy", "site", "--plan-only", "--budget", "3")
    assert code == 0
    assert "role budget" in out
    assert "stands in NL" in out
    assert "candidates for web: ababababab (farm-a, BE, 0.02 an hour)" in out
    assert bot.asked[-1].budget == 3_000_000
    assert shell.run("deploy", "site")[0] == 2  # nobody to ask
    assert shell.run("deploy", "site", "--param", "x=1", "--yes")[0] == 4
    assert shell.run("deploy", "site", "--param", "x", "--yes")[0] == 2
    assert shell.json("deployment", "list") == []
    bot.missing = ["no node in BE"]
    code, out, err = shell.run("deploy", "site", "--yes")
    assert "CREDITS AN HOUR" in out and "not for web, stands in NL: efefefefef (farm-b)" in out
    assert code == 4
    assert "no node in BE" in err
    bot.missing = []
    done = shell.json("deploy", "site", "--yes", "--role", "legal=legal," + EXPERT.public.hex())
    assert bot.asked[-1].roles == {"legal": (LEGAL.public.hex(), EXPERT.public.hex())}
    assert [d["id"] for d in shell.json("deployment", "list")] == [done["deployment"]]
    assert "Nothing" not in shell.ok("deployment", "show", done["deployment"][:8])


def ordered(shell: Shell) -> str:
    deployment = shell.peer.world.ordered(contract()).hex()
    for _ in range(3):
        shell.peer.block()
    return deployment


def test_a_deployments_answers_are_shown_in_their_units(shell: Shell) -> None:
    asked = (
        Parameter(name="budget", type="money", default=2_500_000),
        Parameter(name="longest", type="duration", default=7_200),
    )
    deployment = shell.peer.world.ordered(contract(parameters=asked)).hex()
    for _ in range(3):
        shell.peer.block()
    assert "budget: 2.5 credits, longest: 2 h" in shell.ok("deployment", "show", deployment)


def test_stakeholders_approve_and_strangers_do_not(shell: Shell) -> None:
    deployment = ordered(shell)
    short = deployment[:10]
    code, _, err = shell.run("approve", short, "--as", "legal", "--key", "stranger", "--yes")
    assert code == 4
    assert "approval.not_a_stakeholder" in err
    code, _, err = shell.run("approve", short, "--as", "legal", "--key", "budget", "--yes")
    assert "approval.wrong_role" in err
    code, out, err = shell.run(
        "approve", short, "--as", "budget", "--key", "budget", "--comment", "fine", "--yes"
    )
    assert code == 0
    assert re.search(r"^policy +open: needs 1 of .*role legal", out, re.MULTILINE), out
    assert "You APPROVE the deployment of site 1.0.0 as budget" in err
    assert shell.peer.world.deployment(bytes.fromhex(deployment)).manifest.hex() in err
    file = contract().workloads[0].artifacts[0]
    assert f"{file.path} (" in err and f"sha256 {file.sha256} cid {cid_of(file.sha256)}" in err
    assert shell.peer.world.deployment(bytes.fromhex(deployment)).status == "awaiting_approval"
    told = shell.ok("approve", short, "--as", "legal", "--key", "legal", "--expires", "1000d", "--yes")
    assert re.search(r"^policy +satisfied\nstatus +approved$", told, re.MULTILINE), told
    assert shell.peer.world.deployment(bytes.fromhex(deployment)).status == "approved"
    assert shell.run("approve", short, "--as", "legal", "--key", "legal")[0] == 2  # nobody to ask
    shell.ok("revoke", short, "--as", "legal", "--key", "legal", "--yes")
    assert shell.peer.world.deployment(bytes.fromhex(deployment)).status == "awaiting_approval"
    shell.ok("reject", short, "--as", "budget", "--key", "budget", "--yes")
    assert shell.peer.world.deployment(bytes.fromhex(deployment)).status == "rejected"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_an_ssh_key_approves_and_what_was_signed_is_written(shell: Shell, tmp_path: Path) -> None:
    from msgspec.structs import replace

    file, out = tmp_path / "id", tmp_path / "out"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    public = shell.json("keys", "ssh", str(file))["public"]
    rule = Rule(all=(Rule(role="budget"), Rule(key=public)))
    source = contract(policies=replace(POLICIES, deploy=rule, delete=Rule(role="legal")))
    deployment = shell.peer.world.ordered(source).hex()
    for _ in range(3):
        shell.peer.block()
    assert shell.run("approve", deployment, "--yes")[0] == 2  # nobody signs
    assert shell.run("approve", deployment, "--key", "budget", "--ssh", str(file), "--yes")[0] == 2
    assert shell.run("approve", deployment, "--key", "budget", "--signoff", "--delete", "--yes")[0] == 2
    code, _, err = shell.run("approve", deployment, "--key", "stranger", "--yes")
    assert (code, "approval.not_a_stakeholder" in err) == (4, True)
    assert STRANGER.public.hex() in err, "what to compare with the order"
    code, _, err = shell.run("approve", deployment, "--key", "budget", "--expires", "0s", "--yes")
    assert (code, "--expires 0s" in err, "APPROVE" in err) == (2, True, False)
    code, _, err = shell.run("approve", deployment, "--ssh", str(file), "--save", str(out), "--yes")
    assert code == 0
    assert "APPROVE the deployment of site 1.0.0 as a named key" in err
    assert "ssh-keygen -Y verify" in err
    shell.ok("approve", deployment, "--key", "budget", "--yes")  # its only role
    assert shell.peer.world.deployment(bytes.fromhex(deployment)).status == "approved"
    shell.ok("approve", deployment, "--key", "legal", "--delete", "--yes")
    assert shell.json("deployment", "show", deployment)["policies"]["delete"]["satisfied"]
    rows = shell.json("deployment", "signatures", deployment, "--out", str(out))
    assert sorted((row["act"], row["role"]) for row in rows) == [
        ("delete", "legal"), ("deploy", ""), ("deploy", "budget"),
    ]  # fmt: skip
    assert len(list(out.glob("*.signed"))) == 4
    nobody = shell.peer.world.ordered(contract(name="other")).hex()
    assert shell.run("deployment", "signatures", nobody, "--out", str(out))[0] == 1


def test_a_manifest_that_is_not_the_contracts_is_not_signed(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that lies about the manifest is found out before anything is signed."""
    from node.client.sdk import Client

    deployment = ordered(shell)
    real = Client.manifest
    monkeypatch.setattr(
        Client, "manifest", lambda self, digest: real(self, digest).replace(b"serve", b"steal")
    )
    code, _, err = shell.run("approve", deployment, "--as", "budget", "--key", "budget", "--yes")
    assert code == 4
    assert "digest" in err
    assert not shell.json("deployment", "show", deployment)["approvals"]


def test_a_record_that_the_genesis_does_not_prove_is_not_signed(shell: Shell) -> None:
    from msgspec.structs import replace

    deployment = ordered(shell)
    genesis = shell.peer.genesis
    other = replace(genesis, validators=genesis.validators[:1])
    (shell.home / "config" / "genesis.json").write_bytes(other.encode())
    code, _, err = shell.run("approve", deployment, "--as", "budget", "--key", "budget", "--yes")
    assert code == 4
    assert "light." in err


def test_farms_and_nodes_are_registered_and_listed(shell: Shell) -> None:
    shell.ok("farm", "register", "farm-a", "--country", "BE", "--key", "farmer")
    assert shell.run("farm", "register", "farm-a", "--country", "BE", "--key", "author")[0] == 4
    node = NODES[0].public.hex()
    write_secret(shell.home / "config" / "node_key", sha256(b"node 0").hex())
    (shell.home / "config" / "config.toml").write_text("")
    asked = ("node", "consent", "--farm", "farm-a", "--owner", "farmer")
    assert shell.run(*asked)[0] == 2  # the settings name no country
    said = shell.json(*asked, "--country", "BE")
    assert (said["node"], said["owner"]) == (node, FARMERS[0].public.hex())
    (shell.home / "config" / "config.toml").write_text('[node]\ncountry = "BE"\n')
    assert shell.json(*asked) == said
    add = ("farm", "add-node", "farm-a", node, "--key", "farmer", "--country")
    assert shell.run(*add, "BE", "--consent", "no hex")[0] == 2
    code, _, err = shell.run(*add, "NL", "--consent", said["consent"])
    assert code == 4
    assert "node.consent" in err
    shell.ok(*add, "BE", "--consent", said["consent"])
    assert [f["name"] for f in shell.json("farm", "list")] == ["farm-a"]
    assert [(n["key"], n["offering"]) for n in shell.json("node", "list")] == [(node, False)]
    assert "no offer" in shell.ok("node", "list")


def test_a_node_is_certified_and_leaves_with_notice(shell: Shell, tmp_path: Path) -> None:
    world = shell.peer.world
    world.add_nodes(NODES[:1])
    node, file = NODES[0].public.hex(), tmp_path / "word.json"
    write_secret(shell.home / "config" / "node_key", sha256(b"node 0").hex())
    shown = shell.ok(
        "node", "certify", node, "--key", "it-expert", "-f", str(file), "--valid", "30d", "--says", "seen"
    )
    assert re.search(r"^valid until +\d{4}-\d\d-\d\d \S+ UTC$", shown, re.M)
    assert shell.run("node", "certified", str(file), "--key", "stranger")[0] == 4
    shell.ok("node", "certified", str(file), "--key", "farmer")
    (shown,) = shell.json("node", "list")
    assert list(shown["certified"]) == [EXPERT.public.hex()]
    shell.ok("node", "uncertify", node, "--key", "it-expert")
    code, _, err = shell.run("node", "certified", str(file), "--key", "farmer")
    assert code == 4
    assert "certify.superseded" in err
    file.write_text(file.read_text().replace(node, "no hex"))
    assert shell.run("node", "certified", str(file), "--key", "farmer")[0] == 2
    assert shell.run("node", "drain", "--notice", "soon", "--yes")[0] == 2
    for notice in ("59s", "32d"):
        code, _, err = shell.run("node", "drain", "--notice", notice)
        assert (code, "70s to 31d" in err) == (2, True), err  # before it asks
    shell.ok("node", "drain", "--notice", "2h", "--yes")
    (shown,) = shell.json("node", "list")
    assert (shown["offering"], shown["reputation"]) == (False, 1_000)
    assert shown["leaves_ms"] > world.now_ms + 7_000_000
    assert "leaves" in shell.ok("node", "list")


def test_a_farm_is_certified(shell: Shell, tmp_path: Path) -> None:
    shell.peer.world.add_nodes(NODES[:1])
    file = tmp_path / "word.json"
    shell.ok("farm", "certify", "farm-a", "--key", "it-expert", "-f", str(file), "--says", "audited")
    assert shell.run("farm", "certified", str(file), "--key", "stranger")[0] == 4
    shell.ok("farm", "certified", str(file), "--key", "farmer")
    shown = {farm["name"]: farm["certified"] for farm in shell.json("farm", "list")}
    assert list(shown["farm-a"]) == [EXPERT.public.hex()]
    assert "CERTIFIED BY" in shell.ok("farm", "list")
    shell.ok("farm", "uncertify", "farm-a", "--key", "it-expert")
    code, _, err = shell.run("farm", "certified", str(file), "--key", "farmer")
    assert (code, "certify.superseded" in err) == (4, True)
    file.write_text(file.read_text().replace(EXPERT.public.hex(), "no hex"))
    assert shell.run("farm", "certified", str(file), "--key", "farmer")[0] == 2
    words = ("farm", "certify", "farm-a", "--key", "it-expert", "-f", str(file))
    assert shell.run(*words, "--valid", "soon")[0] == 2


def test_a_deployment_is_topped_up_and_extended(shell: Shell) -> None:
    world = shell.peer.world
    world.add_nodes()
    deployment = world.running(contract(extension_s=7_200, top_up=500_000)).hex()
    ends_ms = shell.json("deployment", "show", deployment)["ends_ms"]
    shell.ok("deployment", "top-up", deployment[:12], "0.5", "--key", "stranger", "--yes")
    code, _, err = shell.run("deployment", "top-up", deployment, "0.1", "--key", "stranger", "--yes")
    assert code == 4
    assert "top_up.amount" in err
    assert shell.run("deployment", "extend", deployment, "--by", "soon", "--key", "consumer", "--yes")[0] == 2
    shell.ok("deployment", "extend", deployment, "--by", "1h", "--key", "consumer", "--yes")
    found = shell.json("deployment", "show", deployment)
    assert (found["topped_up"], found["extended_s"]) == (500_000, 3_600)
    assert found["funded"] == 2_500_000 + 100_000, "a day for 2.4 credits, so an hour for 0.1"
    assert found["ends_ms"] == ends_ms + 3_600_000


def test_a_dispute_is_shown_by_the_number_that_closes_it(shell: Shell) -> None:
    """It stood in the audit file alone, and nothing told the number that `close-dispute` asks for."""
    world = shell.peer.world
    world.add_nodes()
    id_ = world.running(contract()).hex()
    shell.ok("deployment", "dispute", id_, "--says", "my name is missing", "--key", "author")
    code, _, err = shell.run(
        "deployment", "dispute", id_[:8], "--says", "it is slow", "--slot", "web/0", "--key", "consumer"
    )
    assert code == 0 and f"gridpact deployment close-dispute {id_[:12]} 1 --key consumer" in err
    shown = shell.ok("deployment", "show", id_)
    assert re.search(rf"^1 +{CONSUMER.public.hex()[:10]} +web/0 term 1 +it is slow +\S+ \S+ +-$", shown, re.M)
    shell.ok("deployment", "close-dispute", id_, "1", "--says", "mended", "--key", "consumer")
    first, second = shell.json("deployment", "show", id_)["disputes"]
    assert (first["number"], first["slot"], first["closed_ms"]) == (0, "", 0)
    assert (second["closing"], second["says"]) == ("mended", "it is slow") and second["closed_ms"]
    assert re.search(r"^1 .* it is slow .* mended$", shell.ok("deployment", "show", id_), re.M)


def test_a_3nodes_slots_are_shown_and_asked_of_others_it_is_an_error(
    shell: Shell, peer: FakePeer, tmp_path: Path
) -> None:
    code, _, err = shell.run("node", "slots")
    assert code == 1
    assert "no 3node" in err
    with served(peer, tmp_path / "node", slots=slots_status) as address:
        asked = ["node", "slots", "--home", str(shell.home), "--api", address]
        assert main(asked) == 0
        out, err = shell.capsys.readouterr()
        assert "web/0" in out and "1 KiB of 4 KiB" in out and "17 s" in out
        assert "does not claim efefefefef…/web/1: claim.country: elsewhere" in err
        assert main([*asked, "-o", "json"]) == 0
        assert json.loads(shell.capsys.readouterr().out)["slots"][0]["lease_left_ms"] == 17_400

    def past() -> ExecutorStatus:
        found = slots_status()
        found.slots[0].lease_left_ms = -12_300
        return found

    with served(peer, tmp_path / "past", slots=past) as address:
        assert main(["node", "slots", "--home", str(shell.home), "--api", address]) == 0
        assert "over for 12 s" in shell.capsys.readouterr().out


def test_cancel_by_bot_or_by_the_consumers_own_key(shell: Shell) -> None:
    deployment = ordered(shell)
    assert shell.json("deployment", "cancel", deployment, "--yes")["height"] == 9
    shell.ok("deployment", "cancel", deployment, "--key", "consumer", "--reason", "done", "--yes")
    assert shell.json("deployment", "show", deployment)["status"] == "cancelled"


def test_an_audit_file_is_checked_with_no_network(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.peer.world.add_nodes()
    deployment = shell.peer.world.running(contract()).hex()
    for _ in range(3):
        shell.peer.block()
    file = tmp_path / "life.audit"
    shell.ok("audit", "export", deployment, "-f", str(file))
    monkeypatch.setattr("socket.socket.connect", None)
    code, out, err = shell.run("audit", "verify", str(file))
    assert code == 0, err
    assert "VALID" in err
    assert "ordered" in out
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    code, out, err = shell.run("audit", "verify", str(file))
    assert code == 4
    assert "NOT VALID" in err


def test_foreign_text_cannot_drive_the_terminal(shell: Shell) -> None:
    from msgspec.structs import replace

    shell.peer.world.publish(replace(contract(), title="a site", summary="plain"))
    receipt = shell.peer.world.do(CONSUMER, Transfer(AUTHOR.public, 1))
    assert receipt.ok
    from node.cli.output import clean

    assert (
        clean("\x1b[2Jgone\r\n\u202e") == "\N{REPLACEMENT CHARACTER}[2Jgone" + "\N{REPLACEMENT CHARACTER}" * 3
    )


def test_version_and_help(capsys: pytest.CaptureFixture[str], checkout: Path) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gridpact {VERSION}\n"
    assert main([]) == 0
    help_text = capsys.readouterr().out
    for words, _, _ in COMMANDS:
        assert words.split()[0] in help_text
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION


def test_every_command_loads_and_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words, _, text in COMMANDS:
        assert main([*words.split(), "--help"]) == 0
        assert text.split(",")[0].split(" and ")[0].rstrip(".")[:20] in capsys.readouterr().out.replace(
            "\n", " "
        )
    assert app["status"] is not None


def test_client_commands_import_neither_libp2p_nor_trio(checkout: Path) -> None:
    code = (
        "import sys; from node.cli.main import main; code = main(['status', '--api', '127.0.0.1:1']);"
        "assert code == 3, code;"
        "bad = {'libp2p', 'trio', 'plyvel', 'starlette', 'hypercorn', 'rich'} & set(sys.modules);"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_written_reference_is_current(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/cli_docs.py", "--check"], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_reference_tells_of_no_flag_that_nobody_asked_for(checkout: Path) -> None:
    """Those of groups had `--empty-param` and `--no-kill` beside them, and defaults that are nothing."""
    text = (checkout / "docs" / "cli.md").read_text()
    for word in ("--empty-", ", --no-", '[default: ""]', "[default: ()]", "[default: False]"):
        found = [line for line in text.splitlines() if word in line]
        assert found == [], word


def test_help_says_what_each_parameter_is(checkout: Path) -> None:
    """A docstring that the library reads otherwise loses its words in silence, there and in docs/cli.md."""
    told = (checkout / "docs" / "cli.md").read_text().partition("\n## Settings")[2]
    entries = re.findall(r"^\* `[^`]+`:(.*)$", told, re.MULTILINE)
    assert len(entries) > 250
    assert not [line for line in entries if not re.sub(r"\*+\[.*?\]\*+", "", line).strip()]


def test_a_home_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "peer"
    assert main(["init", "--home", str(home), "--chain-id", "one", "--moniker", "m", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["roles"] == ["validator"]
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    assert main(["init", "--home", str(home), "--chain-id", "two"]) == 1
    assert before == {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    genesis = home / "config" / "genesis.json"
    joined = tmp_path / "node"
    words = ["init", "--home", str(joined), "--genesis", str(genesis), "--role", "node"]
    assert main(words) == 1  # a node says where it stands
    assert not joined.exists()
    assert main([*words, "--farm", "alpha", "--country", "BE"]) == 0
    assert (joined / "config" / "genesis.json").read_bytes() == genesis.read_bytes()
    assert not (joined / "config" / "validator_key").exists()
    assert main(["init", "--home", str(tmp_path / "x"), "--genesis", str(genesis), "--chain-id", "two"]) == 2
