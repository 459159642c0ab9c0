"""A plugin for pytest: what `ledger.audit.audit.verify` is given in a run of tests, and the rule that it
names.

`-p tests.interop.recorder --record-audits FOLDER` writes each file to FOLDER, and a line for it to
FOLDER/verdicts.jsonl. Of one test at most FILES_PER_TEST, spread over all that it makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from ledger.audit import audit
from ledger.audit.report import AuditReport
from ledger.codec import sha256
from ledger.genesis import Genesis

FILES_PER_TEST: Final = 40


class _Recorder:
    """Stands for `verify`. `test`: the one that runs."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._verify = folder, audit.verify
        self.test = ""
        self.made = 0

    def __call__(self, data: bytes, genesis: Genesis) -> AuditReport:
        """The report of `ledger.audit.audit.verify`."""
        report = self._verify(data, genesis)
        self.made += 1
        # All of the first ones; of many, such as one for each changed byte, fewer and fewer.
        if self.made <= FILES_PER_TEST or self.made % FILES_PER_TEST == 0:
            self._write(data, genesis, report.rule)
        return report

    def _write(self, data: bytes, genesis: Genesis, rule: str) -> None:
        name, chain = sha256(data).hex(), sha256(genesis.encode()).hex()
        (self._folder / f"{name}.audit").write_bytes(data)
        (self._folder / f"{chain}.json").write_bytes(genesis.encode())
        line = {"test": self.test, "file": name, "genesis": chain, "rule": rule}
        with (self._folder / "verdicts.jsonl").open("a") as verdicts:
            verdicts.write(json.dumps(line) + "\n")


_recorders: list[_Recorder] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to."""
    parser.addoption("--record-audits", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module takes `verify` by its name."""
    folder = config.getoption("--record-audits")
    if folder:
        _recorders.append(_Recorder(Path(folder)))
        audit.verify = _recorders[-1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Whose files come now."""
    for recorder in _recorders:
        recorder.test, recorder.made = item.nodeid, 0
