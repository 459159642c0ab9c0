"""A foreign peer as a process: commands and reports are JSON lines, see README.md."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.interop.build import Made

ANSWER_S: Final = 40.0
Report = dict[str, Any]


class No(Exception):
    """The foreign peer refused: `rule` is the one that it names."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"{report['rule']}: {report['detail']}")
        self.rule = str(report["rule"])


class Foreign:
    """A started peer; `more` are words of its command line. `first` is what it says at its start, `events`
    what it saw since."""

    def __init__(self, language: str, made: Made, genesis: Path, log: Path, *more: str) -> None:
        self.language = language
        self.log = log
        self.events: list[Report] = []
        self._replies: dict[int, Report] = {}
        self._news = threading.Condition()
        self._next = 1
        self._ended = False
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [*made.command, str(genesis), *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.first = self._reply(0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = json.loads(line)
            with self._news:
                if "event" in report:
                    self.events.append(report)
                else:
                    self._replies[report["id"]] = report
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _wait(self, what: str, holds: Callable[[], Any], timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not (found := holds()):
                left = deadline - time.monotonic()
                assert left > 0 and not self._ended, f"{self.language}: {what}: nothing\n{self.tail()}"
                self._news.wait(left)
        return found

    def _reply(self, number: int) -> Report:
        found: Report = self._wait(f"reply {number}", lambda: self._replies.pop(number, None), ANSWER_S)
        return found

    def ask(self, verb: str, **words: Any) -> Report:
        """The report of a command. Raises No when the peer refuses."""
        number, self._next = self._next, self._next + 1
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": verb, **words}) + "\n")
        self._process.stdin.flush()
        report = self._reply(number)
        if not report["ok"]:
            raise No(report)
        return report

    def saw(self, kind: str, timeout_s: float = 20.0, **words: Any) -> Report:
        """The first gossip event of that kind with these values."""

        def found() -> Report | None:
            wanted = {"event": "gossip", "kind": kind, **words}
            return next((e for e in self.events if wanted.items() <= e.items()), None)

        event: Report = self._wait(f"gossip {kind} {words}", found, timeout_s)
        return event

    def tail(self) -> str:
        """The end of what it wrote to stderr."""
        return self.log.read_text(errors="replace")[-2_000:]

    def stop(self) -> None:
        """Asks it to end; what does not end in time is killed."""
        try:
            if self._process.poll() is None:
                self.ask("stop")
                self._process.wait(10)
        finally:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._reader.join(5)
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
