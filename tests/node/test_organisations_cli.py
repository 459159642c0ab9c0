"""Organisations by the commands that members type; what the API shows of them is checked, not believed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.contracts.types import ContractRole
from ledger.manifests.types import Rule
from ledger.organisations.records import Organisation, organisation_at
from node.api.organisation_models import OrganisationDetail
from node.cli.answers import roles_from
from node.cli.context import Failure
from node.client.sdk import Client
from tests.ledger.organisation_fixture import ANNA, DORA, EVE, held_contract
from tests.ledger.world import World
from tests.node import shell_fixture
from tests.node.api_fixture import served
from tests.node.fake_peer import FakePeer
from tests.node.shell_fixture import make_home

NAMES = ("anna", "ben", "carl", "dora", "eve")


class Shell(shell_fixture.Shell):
    """With deeds in files."""

    number = 0

    def file(self) -> str:
        """A path where nothing is yet."""
        self.number += 1
        return str(self.home / f"deed-{self.number}.json")

    def signed(self, *words: str, by: tuple[str, ...]) -> str:
        """Write a deed, and have these sign it; the file."""
        file = self.file()
        self.ok("org", *words, "-f", file)
        for name in by:
            self.ok("org", "sign", file, "--key", name, "-y")
        return file

    def done(self, *words: str, by: tuple[str, ...]) -> None:
        """The same, and submit it."""
        self.ok("org", "submit", self.signed(*words, by=by))
        self.peer.block()

    def organisation(self) -> tuple[str, Organisation]:
        """The only one."""
        (line,) = self.json("org", "list")
        found = organisation_at(self.peer.world.state, bytes.fromhex(line["id"]))
        assert found is not None
        return line["id"], found


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    peer = FakePeer()
    home = make_home(tmp_path / "home", peer, {name: name for name in (*NAMES, "budget")})
    with served(peer, tmp_path) as address:
        yield Shell(address, home, capsys, peer)


FOUND = (
    "found",
    "City of Ghent",
    "--add",
    "anna:1:board:Anna",
    "--add",
    "ben:1:board:Ben",
    "--add",
    "carl:1:board,legal:Carl",
    "--quorum",
    "2",
)


def founded(shell: Shell) -> str:
    shell.done(*FOUND, by=("anna", "ben"))
    return shell.organisation()[0]


def test_an_organisation_is_founded_by_a_file(shell: Shell) -> None:
    file = shell.file()
    out = shell.ok("org", *FOUND, "-f", file)
    assert f"Anna ({ANNA.public.hex()}) is a member of weight 1, holds board" in out
    assert "weight 2 of 3 changes the organisation from then on" in out
    assert "nobody yet" in out and "weight 0 of 2 of the members that it names" in out
    assert shell.run("org", *FOUND, "-f", file)[0] == 1, "it exists"
    assert shell.run("org", "submit", file)[0] == 4
    assert shell.run("org", "sign", file, "--key", "eve", "-y")[0] == 4, "no member"
    code, out, err = shell.run("org", "sign", file, "--key", "anna", "-y")
    assert code == 0
    assert "You FOUND the organisation City of Ghent" in err
    assert "void after" in err
    shell.ok("org", "sign", file, "--key", "carl", "-y")
    shown = shell.json("org", "show", file)
    assert (sorted(shown["signed_by"]), shown["missing"]) == (["Anna", "Carl"], "")
    code, _, err = shell.run("org", "submit", file)
    assert (code, f"organisation {shown['organisation']}" in err) == (0, True)
    assert "City of Ghent" in shell.ok("org", "list")
    code, out, err = shell.run("org", "show", shown["organisation"][:10])
    assert (code, "1 signed deeds lead to this" in err) == (0, True)
    assert "member Carl" in out and "legal since version 1" in out
    assert shell.run("org", "submit", file)[0] == 4


def test_an_order_names_an_organisation_by_its_first_digits(shell: Shell) -> None:
    shell.done(*FOUND, by=("anna", "carl"))
    whole, _ = shell.organisation()
    given = (f"legal=organisation:{whole[:8]}/legal", f"budget=organisation:{whole}")
    assert roles_from(given) == {
        "legal": (f"organisation:{whole}/legal",),
        "budget": (f"organisation:{whole}",),
    }
    with pytest.raises(Failure, match="NAME=organisation:ID/ROLE, wanted"):
        roles_from((f"legal=organization:{whole}/legal",))


def test_members_change_rotate_and_dissolve(shell: Shell) -> None:
    id_ = founded(shell)
    shell.done("rotate", id_, "--member", "Anna", "--to", "dora", by=("anna", "dora"))
    assert shell.organisation()[1].seats[0].key == DORA.public
    words = ("--remove", "Carl", "--weight", "Ben=2", "--roles", "Ben=board,legal", "--name", "Ghent")
    change = ("change", id_, *words, "--quorum", "2", "--says", "Carl has retired")
    file = shell.signed(*change, by=("dora",))
    code, _, err = shell.run("org", "submit", file)
    assert (code, "organisation.no_quorum" in err) == (4, True)
    assert shell.run("org", "sign", file, "--key", "anna", "-y")[0] == 4, "it was rotated away"
    shell.ok("org", "sign", file, "--key", "ben", "-y")
    shell.ok("org", "submit", file)
    shell.peer.block()
    found = shell.organisation()[1]
    assert (found.name, found.version) == ("Ghent", 3)
    assert [(s.name, s.weight, [r for r in s.holds if r]) for s in found.seats] == [
        ("Anna", 1, ["board"]),
        ("Ben", 2, ["board", "legal"]),
    ]
    out = shell.ok("org", "show", id_)
    assert "Carl has retired" in out and "rotated away" in out
    shell.done("change", id_, "--new-key", "Anna=eve", "--add", "carl:0::Carl", by=("ben",))
    anna = shell.organisation()[1].seats[0]
    assert (anna.key, anna.lost) == (EVE.public, (ANNA.public, DORA.public))
    shell.done("dissolve", id_, by=("ben",))
    assert "dissolved" in shell.ok("org", "list")
    code, _, err = shell.run("org", "dissolve", id_, "-f", shell.file())
    assert (code, "organisation.dissolved" in err) == (4, True)


def test_deeds_that_cannot_be_are_refused_before_anybody_signs(shell: Shell) -> None:
    id_ = founded(shell)
    for words, code, text in (
        (("change", id_), 4, "organisation.same"),
        (("change", id_, "--quorum", "0"), 4, "organisation.quorum"),
        (("change", id_, "--quorum", "9"), 4, "organisation.quorum"),
        (("change", id_, "--remove", "Dora"), 2, "no member 'Dora'"),
        (("change", id_, "--weight", "Anna"), 2, "NAME=VALUE wanted"),
        (("change", id_, "--weight", "Anna=x"), 2, "a weight is a whole number"),
        (("change", id_, "--add", "dora:1:Dora"), 2, "KEY:WEIGHT:ROLES:NAME wanted"),
        (("change", id_, "--add", "dora:1::Anna"), 4, "organisation.members"),
        (("change", id_, "--quorum", "3", "--valid", "31d"), 4, "organisation.valid_until"),
        (("change", id_, "--quorum", "3", "--valid", "soon"), 2, "a duration wanted"),
        (("rotate", id_, "--member", "Eve", "--to", "dora"), 4, "organisation.member"),
        (("rotate", id_, "--member", "Anna", "--to", "ben"), 4, "organisation.former_key"),
        (("dissolve", "abcdef"), 1, "no organisation"),
    ):
        file = shell.file()
        found, _, err = shell.run("org", *words, "-f", file)
        assert (found, text in err) == (code, True), (words, found, err)
        assert not Path(file).exists()


def test_tampered_and_stale_files_get_no_signature(shell: Shell) -> None:
    id_ = founded(shell)
    file = shell.signed("change", id_, "--quorum", "3", by=("anna",))
    text = Path(file).read_text()
    Path(file).write_text(text.replace('"quorum": 3', '"quorum": 1'))
    out = shell.ok("org", "show", file)
    assert "does not hold" in out and "weight 1 of 3 changes" in out
    for broken, code in (
        (text.replace("gridpact-deed/1", "gridpact-deed/2"), 1),
        (text.replace('"quorum": 3', '"quorum": 0'), 4),
        (text.replace('"says"', '"also"'), 1),
        (text[:40], 1),
    ):
        Path(file).write_text(broken)
        assert shell.run("org", "sign", file, "--key", "ben", "-y")[0] == code
    Path(file).write_text(text)
    shell.done("change", id_, "--name", "Gent", by=("anna", "ben"))
    code, _, err = shell.run("org", "sign", file, "--key", "ben", "-y")
    assert (code, "organisation.stale" in err) == (4, True)


def test_an_ssh_key_is_a_members(shell: Shell, tmp_path: Path) -> None:
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = shell.json("keys", "ssh", str(key))["public"]
    words = ("found", "Ghent", "--add", f"{public}:1:board:Sam", "--add", "ben:0::Ben", "--quorum", "1")
    file = shell.file()
    shell.ok("org", *words, "-f", file)
    shell.ok("org", "sign", file, "--ssh", str(key), "-y")
    shell.ok("org", "submit", file)
    assert shell.organisation()[1].seats[0].key.hex() == public


def test_members_approve_and_see_by_whom_a_role_is_held(shell: Shell) -> None:
    id_ = founded(shell)
    world: World = shell.peer.world
    role = ContractRole(name="board", bind="author", organisation=id_, organisation_role="board")
    source = held_contract(role, deploy=Rule(role="board", count=2))
    deployment = world.order(source, world.publish(source)).hex()
    for _ in range(3):
        shell.peer.block()
    code, _, err = shell.run("approve", deployment, "--key", "anna", "--yes")
    assert code == 0, err
    assert f"role board: board of organisation {id_}" in err
    assert shell.run("approve", deployment, "--key", "eve", "--yes")[0] == 4, "no stakeholder"
    shell.done("rotate", id_, "--member", "Ben", "--to", "eve", by=("ben", "eve"))
    shell.ok("approve", deployment, "--key", "eve", "--as", "board", "--yes")
    shown = shell.json("deployment", "show", deployment)
    assert shown["status"] == "approved"
    assert shown["policies"]["deploy"]["satisfied"]


def second(shell: Shell) -> str:
    """Another organisation; its id."""
    file = shell.signed("found", "Bruges", "--add", "anna:1::Anna", "--quorum", "1", by=("anna",))
    shell.ok("org", "submit", file)
    found = [line["id"] for line in shell.json("org", "list") if line["name"] == "Bruges"]
    return str(found[0])


def test_old_deeds_are_asked_for_one_by_one(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.api.organisation_views.DEEDS_SHOWN_MAX", 1)
    id_ = founded(shell)
    for name in ("Gent", "Gand", "Ghent"):
        shell.done("change", id_, "--name", name, by=("anna", "ben"))
    code, out, err = shell.run("org", "show", id_)
    assert (code, "4 signed deeds lead to this" in err) == (0, True)
    assert "deed 4" in out and "deed 3" not in out


def test_a_peer_that_shows_other_members_is_found_out(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = founded(shell)
    other = second(shell)
    real = Client.organisation

    def another_member(self: Client, ref: str) -> OrganisationDetail:
        found = real(self, ref)
        found.members[0].key = EVE.public.hex()
        return found

    def no_deed(self: Client, ref: str) -> OrganisationDetail:
        found = real(self, ref)
        found.deeds[0].signatures = found.deeds[0].signatures[:1]
        return found

    def another(self: Client, ref: str) -> OrganisationDetail:
        found = real(self, ref)
        found.id = "ab" * 32
        return found

    def another_one(self: Client, ref: str) -> OrganisationDetail:
        return real(self, other)

    for lie in (another_member, no_deed, another, another_one):
        monkeypatch.setattr(Client, "organisation", lie)
        for words in (("show", id_), ("dissolve", id_, "-f", shell.file())):
            assert shell.run("org", *words)[0] == 4
