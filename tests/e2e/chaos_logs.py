"""What peers of a running network say in their logs, read as it comes. The logs are JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.e2e.net import Net


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a peer's log; `at_s` is Unix time."""

    peer: str
    at_s: float
    event: str
    fields: dict[str, Any]


def speak_json(net: Net) -> None:
    """Let all peers, which are not started yet, write JSON lines."""
    for peer in net.net.peers:
        config = net.home(peer.name).config_file
        text = config.read_text()
        assert text.count('format = "text"') == 1
        config.write_text(text.replace('format = "text"', 'format = "json"'))


@dataclass(slots=True)
class Logs:
    """`other`: what is no JSON line, such as a traceback: nothing of the kind is expected."""

    net: Net
    lines: list[Line] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    _read: dict[str, int] = field(default_factory=dict)  # bytes by peer

    def read(self) -> list[Line]:
        """The new whole lines of all peers; `lines` keeps them."""
        found: list[Line] = []
        for peer in self.net.net.peers:
            found.extend(self._read_one(peer.name))
        self.lines.extend(found)
        return found

    def _read_one(self, name: str) -> Iterator[Line]:
        file = self.net.home(name).log_file
        at = self._read.get(name, 0)
        if not file.exists() or file.stat().st_size <= at:
            return
        with file.open("rb") as stream:
            stream.seek(at)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]  # a line that is being written is read next time
        self._read[name] = at + len(whole)
        for raw in whole.splitlines():
            line = _decoded(name, raw)
            if line is None:
                self.other.append(f"{name}: {raw.decode(errors='replace')}")
            else:
                yield line


def _decoded(name: str, raw: bytes) -> Line | None:
    # A line that SIGKILL cut short has the first line of the next life behind it.
    start = raw.rfind(b'{"')
    for text in (raw, raw[start:] if start > 0 else b""):
        try:
            said = json.loads(text)
            return Line(name, datetime.fromisoformat(said["timestamp"]).timestamp(), said["event"], said)
        except (ValueError, KeyError, TypeError):
            continue
    return None
