"""How fast artifacts travel: `python -m bench.files`.

Two parts, each a ratio of figures of the same run:

*speed*   one peer fetches an artifact from another, beside a bare libp2p stream of ours between the same two
          processes, in turn. The fetch hashes each chunk at both ends, hashes the whole, writes and syncs it;
          the bare stream's bytes are forgotten. On a line of a gigabit, and on loopback, where processors are
          the limit and all of that shows.
*swarm*   one peer, then eight at once, fetch an artifact that one other has, each machine with a line of its
          own (a network namespace, shaped both ways by tc-tbf). Root needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.common import machine, save, show
from bench.files_lines import Lines, why_not

MIB: Final = 1024 * 1024
SHARE: Final = 0.8  # of the bare stream's speed, at least
TIMES: Final = 2.0  # of one peer's time for eight at once, at most
TAKERS: Final = 8


class Process:
    """One bench.files_host. A context manager."""

    def __init__(self, folder: Path, listen: str, before: Sequence[str] = ()) -> None:
        words = [*before, sys.executable, "-m", "bench.files_host", str(folder), listen]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """An order, obeyed. Raises RuntimeError."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "it has ended"}
        if "error" in found:
            raise RuntimeError(f"bench.files_host: {found['error']}")
        return found

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def speed(folder: Path, size_mib: int, rounds: int, mbit_s: int = 0) -> dict[str, Any]:
    """Fetches and bare streams in turn. MiB a second, processor seconds, and the share of each round.
    `mbit_s`: of the line between the two; 0: loopback."""
    raws: list[dict[str, float]] = []
    fetches: list[dict[str, float]] = []
    with ExitStack() as stack:
        hosts: list[tuple[str, tuple[str, ...]]] = [("127.0.0.1", ())] * 2
        if mbit_s:
            lines = stack.enter_context(Lines(2, mbit_s))
            hosts = [(lines.address(n), lines.inside(n)) for n in range(2)]
        source = stack.enter_context(Process(folder / "from", *hosts[0]))
        taker = stack.enter_context(Process(folder / "to", *hosts[1]))
        taker.ask("meet", addresses=[source.about["address"]], count=1)
        file = source.ask("make", size_bytes=size_mib * MIB)
        for found in range(rounds + 1):
            giver_s = source.ask("stats")["cpu_s"]
            raw = taker.ask("raw", peer_id=source.about["peer_id"], size_bytes=size_mib * MIB)
            between_s = source.ask("stats")["cpu_s"]
            fetch = taker.ask("fetch", **file)
            taker.ask("drop", sha256=file["sha256"])
            if found:  # the first one warms up
                raws.append(raw | {"giver_cpu_s": between_s - giver_s})
                fetches.append(fetch | {"giver_cpu_s": source.ask("stats")["cpu_s"] - between_s})
    shares = [raw["seconds"] / fetch["seconds"] for raw, fetch in zip(raws, fetches, strict=True)]

    def told(rows: list[dict[str, float]]) -> dict[str, Any]:
        return {
            "mib_per_s": round(size_mib / statistics.median(row["seconds"] for row in rows), 1),
            "taker_cpu_s": round(statistics.median(row["cpu_s"] for row in rows), 2),
            "giver_cpu_s": round(statistics.median(row["giver_cpu_s"] for row in rows), 2),
        }

    return {
        "profile": f"line of {mbit_s} Mbit/s each way (tc-tbf)" if mbit_s else "loopback",
        "mib": size_mib,
        "rounds": rounds,
        "raw": told(raws),
        "fetch": told(fetches),
        "share": round(statistics.median(shares), 3),
        "shares": [round(share, 3) for share in shares],
    }


def swarm(folder: Path, size_mib: int, mbit_s: int) -> dict[str, Any]:
    """One, then all at once, over lines of that rate. Seconds, and what the first source had to give."""
    with ExitStack() as stack:
        lines = stack.enter_context(Lines(TAKERS + 1, mbit_s))
        peers = [
            stack.enter_context(Process(folder / str(n), lines.address(n), lines.inside(n)))
            for n in range(TAKERS + 1)
        ]
        addresses = [peer.about["address"] for peer in peers]
        for number, peer in enumerate(peers):
            peer.ask("meet", addresses=addresses[:number], count=number)
        source, takers = peers[0], peers[1:]
        file = source.ask("make", size_bytes=size_mib * MIB)
        one_s = takers[0].ask("fetch", **file)["seconds"]
        takers[0].ask("drop", sha256=file["sha256"])
        before = source.ask("stats")["served_bytes"]
        took: list[float] = []
        problems: list[str] = []

        def fetch(taker: Process) -> None:
            try:
                took.append(taker.ask("fetch", **file)["seconds"])
            except RuntimeError as error:
                problems.append(str(error))

        threads = [threading.Thread(target=fetch, args=(taker,)) for taker in takers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise RuntimeError(problems[0])
        given = source.ask("stats")["served_bytes"] - before
    return {
        "profile": f"{TAKERS + 1} machines on a switch, lines of {mbit_s} Mbit/s each way (tc-tbf)",
        "mib": size_mib,
        "one_s": round(one_s, 2),
        "all_s": round(max(took), 2),
        "first_s": round(min(took), 2),
        "times": round(max(took) / one_s, 2),
        "source_gave_times": round(given / (size_mib * MIB), 2),
        "line_s": round(size_mib * MIB * 8 / (mbit_s * 1e6), 2),
    }


def rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What is shown, with the goals."""
    found, many = [], figures.get("swarm", {})
    for name in ("line", "loopback"):
        fast = figures.get(name, {"skipped": "not asked for"})
        if "skipped" in fast:
            found.append((name, f"skipped: {fast['skipped']}"))
            continue
        found += [
            (f"{fast['profile']}: bare stream", f"{fast['raw']['mib_per_s']} MiB/s"),
            ("fetch, verified and synced", f"{fast['fetch']['mib_per_s']} MiB/s"),
            (f"its share: at least {SHARE}", f"{fast['share']}, {_met(fast['share'] >= SHARE)}"),
            ("processor time of a MiB, bare: taker, giver", _cpu(fast, "raw")),
            ("the same, fetched", _cpu(fast, "fetch")),
        ]
    if "times" in many:
        found += [
            (f"one peer, {many['mib']} MiB", f"{many['one_s']} s (the line alone: {many['line_s']} s)"),
            (f"{TAKERS} peers at once", f"{many['all_s']} s"),
            (f"of one's time: at most {TIMES}", f"{many['times']}, {_met(many['times'] <= TIMES)}"),
            ("the first source gave", f"{many['source_gave_times']} times the file"),
        ]
    elif many:
        found.append(("swarm", f"skipped: {many['skipped']}"))
    return found


def _cpu(fast: dict[str, Any], what: str) -> str:
    return ", ".join(f"{1e3 * fast[what][f'{end}_cpu_s'] / fast['mib']:.2f} ms" for end in ("taker", "giver"))


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def main() -> int:
    """0 when all was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.files", description=__doc__)
    parser.add_argument("--mib", type=int, default=200, help="size of the artifact")
    parser.add_argument("--rounds", type=int, default=5, help="of fetch and bare stream")
    parser.add_argument("--mbit", type=int, default=50, help="each machine's line in the swarm, both ways")
    parser.add_argument("--fast", type=int, default=1_000, help="the line between two, Mbit/s")
    parser.add_argument("--part", choices=("all", "speed", "swarm"), default="all")
    parser.add_argument("--save", action="store_true", help="write a result file")
    options = parser.parse_args()
    shape, figures = machine(), {}
    with tempfile.TemporaryDirectory(prefix="gridpact-files-") as name:
        folder, reason = Path(name), why_not()
        none = {"skipped": reason}
        if options.part != "swarm":
            figures["loopback"] = speed(folder / "loopback", options.mib, options.rounds)
            line = folder / "line"
            figures["line"] = none if reason else speed(line, options.mib, options.rounds, options.fast)
        if options.part != "speed":
            figures["swarm"] = none if reason else swarm(folder / "swarm", options.mib, options.mbit)
    if options.part == "all":
        show("artifacts between peers, each a process, all on this machine", rows(figures))
    else:
        print(json.dumps(figures, indent=2))
    if options.save:
        print(f"written: {save('files', 'python -m bench.files', shape, figures).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
