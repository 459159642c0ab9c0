"""What the viewer sees: numbered steps, the commands that run, short findings; and how commands are run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent.parent  # commands run here, so that examples/ is found


class DemoFailed(Exception):
    """The story did not go as promised; the text says where."""


@dataclass(slots=True)
class Stage:
    """Prints the story and runs its commands. `commands_log` keeps all output for who wants to look."""

    folder: Path
    console: Console = field(default_factory=lambda: Console(highlight=False))
    started_s: float = field(default_factory=time.monotonic)
    number: int = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One numbered step, with its time."""
        self.number += 1
        begin = time.monotonic()
        self.console.print(f"\n[bold cyan]{self.number}/7[/] [bold]{escape(title)}[/]")
        yield
        self.console.print(f"    [dim]{time.monotonic() - begin:.1f} s[/]")

    def found(self, text: str) -> None:
        """Something that was seen to hold."""
        self.console.print(f"    [green]✓[/] {escape(text)}", soft_wrap=True)

    def refused(self, text: str) -> None:
        """Something that had to be refused, and was."""
        self.console.print(f"    [green]✓[/] [yellow]refused:[/] {escape(text)}", soft_wrap=True)

    def note(self, text: str) -> None:
        """A line of output worth reading."""
        self.console.print(f"      [dim]{escape(text)}[/]", soft_wrap=True)

    def run(
        self, *words: str, fails: int | None = None, shown: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `gridpact WORDS`, shown as typed. Raises DemoFailed unless it ends with 0 (or `fails`)."""
        if shown:
            self.console.print(f"    [dim]$[/] [blue]gridpact {escape(shlex.join(words))}[/]", soft_wrap=True)
        command = [sys.executable, "-m", "node.cli.main", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, input="", env=self.environment(), cwd=ROOT, timeout=180
        )
        with (self.folder / "commands.log").open("a") as log:
            log.write(
                f"$ gridpact {shlex.join(words)}\n{done.stdout}{done.stderr}[exit {done.returncode}]\n\n"
            )
        if done.returncode != (fails or 0):
            text = (done.stderr or done.stdout).strip()
            raise DemoFailed(
                f"gridpact {shlex.join(words)}: exit {done.returncode}, wanted {fails or 0}\n{text}"
            )
        return done

    def data(self, *words: str, shown: bool = True) -> Any:
        """Run a command with `-o json` and return what it printed."""
        return json.loads(self.run(*words, "-o", "json", shown=shown).stdout)

    def environment(self) -> dict[str, str]:
        """Only what the commands need: the network's directory and its keys."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("GRIDPACT_")}
        env["GRIDPACT_TESTNET"] = str(self.folder / "net")
        env["GRIDPACT_KEYS"] = str(self.folder / "net" / "keys")
        env["GRIDPACT_HOME"] = str(self.folder / "net" / "bot1")
        env["PYTHONPATH"] = str(ROOT)
        return env

    def until(self, what: str, holds: Callable[[], Any], timeout_s: float) -> Any:
        """The first true value of `holds`, with a spinner. Raises DemoFailed after the time-out."""
        deadline = time.monotonic() + timeout_s
        begin = time.monotonic()
        with self.console.status(f"[dim]{escape(what)} …[/]"):
            while True:
                value = holds()
                if value:
                    self.found(f"{what} ({time.monotonic() - begin:.1f} s)")
                    return value
                if time.monotonic() > deadline:
                    raise DemoFailed(f"{what}: not within {timeout_s:.0f} s")
                time.sleep(0.2)

    def table(self, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        """A closing table."""
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.console.print(table)
