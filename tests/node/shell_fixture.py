"""Commands as people type them, run in this process against a served fake peer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ledger.codec import sha256
from node.cli.main import main
from node.home import write_secret
from tests.node.api_fixture import TOKEN
from tests.node.fake_peer import FakePeer


class Shell:
    """Runs commands and gives exit code, stdout and stderr."""

    def __init__(self, api: str, home: Path, capsys: pytest.CaptureFixture[str], peer: FakePeer) -> None:
        self.globals = ["--api", api, "--home", str(home)]
        self.home, self.capsys, self.peer = home, capsys, peer

    def run(self, *words: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main([*words, *self.globals])
        out, err = self.capsys.readouterr()
        return code, out, err

    def ok(self, *words: str) -> str:
        code, out, err = self.run(*words)
        assert code == 0, (words, out, err)
        return out

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words, "-o", "json"))


def make_home(home: Path, peer: FakePeer, keys: Mapping[str, str]) -> Path:
    """A home of the peer's network with these keys: the word that each is made of, by its file's name."""
    folder = home / "config" / "keys"
    folder.mkdir(parents=True, mode=0o700)
    for name, word in keys.items():
        write_secret(folder / name, sha256(word.encode()).hex())
    write_secret(home / "config" / "api_token", TOKEN + "\n")
    (home / "config" / "genesis.json").write_bytes(peer.genesis.encode())
    return home
