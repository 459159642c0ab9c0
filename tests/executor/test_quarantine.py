"""A manifest whose bytes drifted here is not run here again, until a person says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.cli.main import main
from node.executor.errors import ExecutorError
from node.executor.limits import QUARANTINE_MAX
from node.executor.quarantine import Quarantine
from node.home import Home

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


def test_it_holds_after_a_restart_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    held = Quarantine(path)
    assert held.reason(ONE) == "" and held.all() == ()
    held.add(ONE, "web/0", 5, "bytes drifted: /bin/a")
    again = Quarantine(path)
    assert again.reason(ONE) == "in quarantine: bytes drifted: /bin/a"
    assert again.reason(TWO) == ""
    # Another process lets it go; the one that runs sees it.
    assert again.release(ONE.hex()) is True
    assert held.reason(ONE) == ""
    assert held.release(ONE.hex()) is False


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    one, two = Quarantine(path), Quarantine(path)
    one.add(ONE, "a/0", 1, "first")
    two.add(TWO, "b/0", 2, "second")
    one.add(ONE, "a/1", 3, "again")
    assert [(held.slot, held.detail) for held in two.all()] == [("b/0", "second"), ("a/1", "again")]


def test_a_list_that_cannot_be_read_lets_nothing_through(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    Quarantine(path).add(ONE, "a/0", 1, "first")
    path.write_bytes(path.read_bytes()[:-5])
    held = Quarantine(path)
    assert "cannot be read" in held.reason(TWO)
    with pytest.raises(ExecutorError):
        held.add(TWO, "a/0", 1, "second")


def test_it_is_bounded(tmp_path: Path) -> None:
    held = Quarantine(tmp_path / "quarantine.json")
    for number in range(QUARANTINE_MAX + 2):
        held.add(number.to_bytes(32), "a/0", number, "\x00" * 10_000)
    assert len(held.all()) == QUARANTINE_MAX
    assert held.reason((1).to_bytes(32)) == "" and held.reason((2).to_bytes(32))
    assert Quarantine(tmp_path / "quarantine.json").all() == held.all()


def test_by_the_commands_that_a_person_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str]:
        code = main([*words, "--home", str(tmp_path), "-o", "json"])
        return code, capsys.readouterr().out

    held = Quarantine(Home(tmp_path).quarantine_file)
    held.add(ONE, "web/0", 5, "bytes drifted: /bin/a")
    held.add(bytes([1]) * 31 + b"\x02", "web/0", 6, "bytes drifted: /bin/b")
    code, text = run("node", "quarantine")
    assert code == 0
    assert [one["manifest"] for one in json.loads(text)] == [one.manifest for one in held.all()]
    assert run("node", "release", ONE.hex()[:8])[0] == 2  # two begin so
    assert run("node", "release", "ff")[0] == 2
    assert run("node", "release", ONE.hex())[0] == 0
    assert held.reason(ONE) == "" and len(held.all()) == 1
    assert main(["node", "quarantine", "--home", str(tmp_path / "none")]) == 2
    assert "no such home" in capsys.readouterr().err
    _, text = run("doctor")
    (found,) = [one for one in json.loads(text) if one["check"] == "quarantine"]
    assert found["state"] == "warning"
    assert "/bin/b" in found["detail"] and "gridpact node release" in found["detail"]
