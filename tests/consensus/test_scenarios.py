"""Golden scenarios: tests/consensus/scenarios/*.txt, commands and what four cores answer, readable as text.

After the interaction tests of etcd's raft. A line that begins with `> ` is a command, the lines below are the
expected output. Commands:
  start                    start all four members (0 to 3; member v mod 4 leads view v)
  batch NAME [members]     the batch is held by these members (all when none are named)
  deliver [n]              deliver queued messages in order of sending, until none are left (or n of them)
  drop FROM TO             drop what is queued from a member to another ("*": any)
  wait MS                  time passes, timers go off in order
  crash N / restart N      lose memory; come back with the records that were kept
With GRIDPACT_REWRITE=1 the files are written anew: read the difference before you keep it.
"""

from __future__ import annotations

import os
import pathlib

import pytest

from consensus import safety
from consensus.messages import (
    Certified,
    Event,
    Executed,
    Fetch,
    Message,
    Propose,
    Record,
    Reply,
    Start,
    Status,
    Tick,
    Vote,
)
from ledger.blocks import decode_header
from ledger.codec import sha256
from ledger.proofs.certificate import Statement
from tests.consensus.support import Bench

FILES = sorted((pathlib.Path(__file__).parent / "scenarios").glob("*.txt"))


class Network:
    """Four benches and one queue of messages; `lines` is the output of the command at work."""

    def __init__(self) -> None:
        self.members = [Bench(me, start=False) for me in range(4)]
        self.kept: list[list[Record]] = [[] for _ in range(4)]
        self.down: set[int] = set()
        self.queue: list[tuple[int, int, Message]] = []
        self.names: dict[bytes, str] = {}
        self.now = 0
        self.lines: list[str] = []

    def run(self, command: str) -> list[str]:
        """One command; its output."""
        self.lines = []
        verb, *words = command.split()
        getattr(self, f"do_{verb}")(*words)
        return self.lines or ["(nothing)"]

    # ------------------------------------------------------------------ commands

    def do_start(self) -> None:
        for me in range(4):
            self.step(me, Start())

    def do_batch(self, name: str, *members: str) -> None:
        digest = sha256(name.encode())
        self.names[digest] = name
        for me in [int(m) for m in members] or range(4):
            self.members[me].now = self.now
            self.report(me, lambda bench: bench.hold(digest))

    def do_deliver(self, count: str = "1000") -> None:
        for _ in range(int(count)):
            if not self.queue:
                return
            source, to, message = self.queue.pop(0)
            if to not in self.down:
                self.members[to].now = self.now
                self.report(to, lambda bench, s=source, m=message: bench.receive(s, m))

    def do_drop(self, source: str, to: str) -> None:
        def hit(item: tuple[int, int, Message]) -> bool:
            return source in ("*", str(item[0])) and to in ("*", str(item[1]))

        self.lines.append(f"dropped {sum(map(hit, self.queue))}")
        self.queue = [item for item in self.queue if not hit(item)]

    def do_wait(self, ms: str) -> None:
        until = self.now + int(ms)
        while True:
            due = [(b.last.wake_ms, b.me) for b in self.members if b.me not in self.down and b.last.wake_ms]
            at, me = min(due, default=(until + 1, 0))
            if at > until:
                break
            self.now = max(self.now, at)
            self.step(me, Tick())
        self.now = until

    def do_crash(self, me: str) -> None:
        self.down.add(int(me))

    def do_restart(self, me: str) -> None:
        bench = Bench(int(me), start=False)
        bench.core.restore(safety.restore(self.kept[bench.me], [], 0, 0))
        self.members[bench.me] = bench
        self.down.discard(bench.me)
        self.step(bench.me, Start())

    # ------------------------------------------------------------------ output

    def step(self, me: int, event: Event) -> None:
        self.members[me].now = self.now
        self.report(me, lambda bench: bench.step(event))

    def report(self, me: int, act) -> None:  # type: ignore[no-untyped-def]
        """Let a member act; keep, queue and tell what its Ready says."""
        bench = self.members[me]
        frontier = bench.core.frontier
        ready = act(bench)
        self.kept[me] += ready.records
        told = [self.sending(send.to, send.message) for send in ready.send]
        told += [f"commit {self.block(c.header.hash)}" for c in ready.commit]
        told += [f"alarm {alarm}" for alarm in ready.alarms]
        if bench.core.frontier != frontier:
            told.append(f"enter view {bench.core.frontier}")
        if told:
            self.lines.append(f"{self.now:>5} ms  {me}: " + "; ".join(told))
        for send in ready.send:
            for to in range(4) if send.to is None else (send.to,):
                if to != me:
                    self.queue.append((me, to, send.message))
        for commit in ready.commit:
            self.report(me, lambda b, c=commit: b.step(Executed(c.header.height, sha256(c.header.hash))))

    def sending(self, to: int | None, message: Message) -> str:
        where = "" if to is None else f" to {to}"
        return f"{self.name(message)}{where}"

    def name(self, message: Message) -> str:
        match message:
            case Propose():
                header = decode_header(message.header)
                self.names.setdefault(header.hash, f"b{header.view}")
                batches = ",".join(self.names[b] for b in header.batches) or "empty"
                skips = "".join(f" skip {c.statement.view}" for c in message.skips)
                return f"propose {self.block(header.hash)} on view {header.parent_view}{skips} ({batches})"
            case Vote():
                return self.statement(message.statement)
            case Certified():
                return f"certificate {self.statement(message.certificate.statement)}"
            case Status():
                return f"status at view {message.frontier}"
            case Fetch():
                return f"fetch {message.kind} {self.block(message.digest)}"
            case Reply():
                return f"reply {message.kind} {self.block(message.digest)}"

    def statement(self, statement: Statement) -> str:
        block = f" {self.block(statement.block)}" if any(statement.block) else ""
        return f"{statement.kind.name.capitalize()} {statement.view}{block}"

    def block(self, digest: bytes) -> str:
        return self.names.get(digest, digest.hex()[:6])


def play(text: str) -> str:
    """The text with the output that the commands give now; comments stay."""
    network = Network()
    out: list[str] = []
    for line in text.splitlines():
        if line.startswith("#") or (not line and out and out[-1] != ""):
            out.append(line)
        elif line.startswith("> "):
            out += [line, *(f"    {told}" for told in network.run(line[2:]))]
    return "\n".join(out).rstrip() + "\n"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_scenario(file: pathlib.Path) -> None:
    """The output is, line for line, what the file says."""
    text = file.read_text()
    played = play(text)
    if os.environ.get("GRIDPACT_REWRITE"):
        file.write_text(played)
    assert played == text


def test_there_are_scenarios() -> None:
    """The folder was found, and each file holds output."""
    assert len(FILES) >= 4
    assert all("; " in f.read_text() and " commit " in f.read_text() for f in FILES)
