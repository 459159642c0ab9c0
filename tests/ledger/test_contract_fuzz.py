"""Fuzz of contracts in short, and that expansion is the same in another process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.ledger.contract_fuzz import built, manifest_of, run, texts

DIGESTS = """
import hashlib
from tests.ledger.contract_fuzz import built, manifest_of, texts
print([hashlib.sha256(manifest_of(built(text), {})).hexdigest() for text in texts()])
"""


def test_nothing_but_answers_and_refusals() -> None:
    report = run(250, 7)
    assert report.sources["taken"] > 5 and report.sources["refused"] > 50
    assert report.built["refused"] > 100
    assert report.answers["taken"] > 30 and report.answers["refused"] > 30
    assert len(report.rules) > 15


def test_expansion_does_not_depend_on_the_process(checkout: Path) -> None:
    """Other hash seeds, other orders of sets: the same bytes."""
    here = [hashlib.sha256(manifest_of(built(text), {})).hexdigest() for text in texts()]
    assert len(here) >= 6
    for seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(checkout)}
        found = subprocess.run(
            [sys.executable, "-c", DIGESTS],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert found.stdout.strip() == str(here)
