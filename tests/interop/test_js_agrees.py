"""The same verdict on the same bytes: each audit file that the tests of the ledger make, good or forged, is
judged by `ledger.audit.audit.verify`, and by a program in another language that shares nothing with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.genesis import decode_genesis
from tests.interop.js_audit import judged

ROOT: Final = Path(__file__).resolve().parents[2]
TESTS: Final = (
    "test_agreement.py",
    "test_agreement_updates.py",
    "test_approval_scenario.py",
    "test_audit.py",
    "test_audit_forgeries.py",
    "test_audit_lies.py",
    "test_audit_lives.py",
    "test_audit_updates.py",
    "test_copies.py",
    "test_disks.py",
    "test_disputes.py",
    "test_funds.py",
    "test_light_epochs.py",
    "test_organisation_audit.py",
    "test_outage.py",
    "test_placement.py",
    "test_release_audit.py",
    "test_retention.py",
    "test_updates.py",
)
# Each of hundreds of changed bytes: test_js_audit.py tries its own.
LEFT_OUT: Final = "not any_changed_byte"


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of each file: the test that made it, our rule ("": it holds), and what the other program says."""
    folder = tmp_path_factory.mktemp("audits")
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib"]
    command += ["-p", "tests.interop.recorder", "--record-audits", str(folder)]
    command += ["-k", LEFT_OUT, *(f"tests/ledger/{name}" for name in TESTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3_000:]
    found = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    for chain in sorted({one["genesis"] for one in found}):
        mine = [one for one in found if one["genesis"] == chain]
        names = sorted({one["file"] for one in mine})
        genesis = decode_genesis((folder / f"{chain}.json").read_bytes())
        place = tmp_path_factory.mktemp("judged")
        theirs = judged(place, genesis, [(folder / f"{name}.audit").read_bytes() for name in names])
        said = dict(zip(names, theirs, strict=True))
        for one in mine:
            one["theirs"] = said[one["file"]]
    return found


def test_both_accept_and_refuse_the_same_files(verdicts: list[dict[str, Any]]) -> None:
    apart = [
        (one["test"], one["rule"], one["theirs"])
        for one in verdicts
        if one["theirs"]["ok"] == bool(one["rule"])
    ]
    assert not apart
    good = sum(not one["rule"] for one in verdicts)
    assert good > 100 and len(verdicts) - good > 140, (good, len(verdicts))


def test_both_name_the_same_rule(verdicts: list[dict[str, Any]]) -> None:
    apart = {
        (one["test"], one["rule"], one["theirs"].get("rule", ""), one["theirs"].get("detail", ""))
        for one in verdicts
        if one["rule"] != one["theirs"].get("rule", "")
    }
    assert not apart
    assert len({one["rule"] for one in verdicts}) > 35
