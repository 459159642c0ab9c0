"""Contracts under fire: changed sources, changed built bytes and random answers, with counts and timings.

`python -m tests.ledger.contract_fuzz [ROUNDS] [SEED]`. What must hold: an answer or Refused, nothing else;
every problem of a source has a line; the same contract and answers give the same bytes, which decode to
themselves.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ledger.contracts.check import decode_contract
from ledger.contracts.language import parse_contract
from ledger.contracts.source import Container
from ledger.contracts.types import Contract, Value
from ledger.errors import Refused
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Artifact
from ledger.text.yaml_tree import ContractError
from tests.ledger.contract_samples import AUTHOR, CONSUMER, DIGEST
from tests.ledger.world import key_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PIECES = (
    "${", "}", "${= ", "${= 1/0}", "${= users * 9223372036854775807}", "- ", ": ", "{", "[", "]", "'", '"',
    "#", "\n", "\n  ", "\t", "\0", "\u202e", "none", "null", "true", "-1", "0", "99999999999999999999",
    "1e9", "0.5", "64MiB", "9 credits", "agree: 9", "replicas: 65", "distinct: none", "depends_on: [web]",
    "available: 6h",
    "&a", "*a", "!!x",
)  # fmt: skip


@dataclass
class Report:
    """Counts by what happened."""

    sources: Counter[str] = field(default_factory=Counter)
    built: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)


def texts() -> list[str]:
    """The examples."""
    return [path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("*/contract.yaml"))]


def built(text: str) -> Contract:
    """A source in its built form, with made-up artifacts and images."""
    source = parse_contract(text, "c.yaml")
    containers = {
        workload.name: Container(("/bin/program",), {"PATH": "/bin"}, "/", "1:1")
        for workload in source.contract.workloads
    }
    return source.built(
        {
            (a.workload, a.path): Artifact(
                path=a.path, kind=a.kind, sha256=DIGEST, size_bytes=1, chunks=DIGEST, executable=a.executable
            )
            for a in source.artifacts
        },
        containers,
    )


def manifest_of(contract: Contract, answers: Mapping[str, Value]) -> bytes:
    """Its expansion; roles are held by a key each."""
    roles = {role.name: [key_of(role.name).public.hex()] for role in contract.roles if role.bind == "order"}
    return expand(contract, b"c" * 32, AUTHOR.public, CONSUMER.public, answers, roles)


def changed(rng: random.Random, text: str) -> str:
    """One to four pieces put in, taken out or moved."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        how = rng.random()
        if how < 0.4:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif how < 0.7:
            text = text[:at] + text[at + rng.randint(1, 12) :]
        elif how < 0.85:
            lines = text.split("\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            text = "\n".join(lines)
        else:
            text = text[:at] + chr(rng.choice((0, 7, 34, 36, 58, 123, 233, 0x202E, 0x1F600))) + text[at + 1 :]
        text = text or " "
    return text


def guesses(rng: random.Random, contract: Contract) -> dict[str, Value]:
    """Answers, most of them in their bounds."""
    found: dict[str, Value] = {}
    for parameter in contract.parameters:
        if rng.random() < 0.3:
            continue
        if parameter.choices:
            found[parameter.name] = rng.choice(parameter.choices)
        elif parameter.type in ("string", "country"):
            found[parameter.name] = rng.choice(("BE", "CH", "x", "-rf", "${users}", "é" * 9))
        elif parameter.type == "boolean":
            found[parameter.name] = rng.random() < 0.5
        else:
            low, high = parameter.min or 0, parameter.max or 1_000
            found[parameter.name] = rng.choice((low, high, rng.randint(low, high), high + 1))
    return found


def run(rounds: int, seed: int) -> Report:
    """Raises whatever is neither an answer nor Refused, and AssertionError for what does not hold."""
    rng, report = random.Random(seed), Report()
    sources = texts()
    contracts = [built(text) for text in sources]
    for _ in range(rounds):
        _source(rng.choice(sources), rng, report)
        _built(rng.choice(contracts), rng, report)
        _answers(rng.choice(contracts), rng, report)
    return report


def _source(text: str, rng: random.Random, report: Report) -> None:
    text = changed(rng, text)
    try:
        parse_contract(text, "c.yaml")
        report.sources["taken"] += 1
    except ContractError as error:
        lines = text.count("\n") + 2
        assert all(1 <= p.mark.line <= lines and p.rule and p.suggestion for p in error.problems), text
        report.sources["refused"] += 1
        report.rules[error.problems[0].rule] += 1


def _built(contract: Contract, rng: random.Random, report: Report) -> None:
    data = contract.encode()
    at = rng.randrange(len(data))
    some = data[at : at + rng.randint(0, 3)]
    data = (
        data[:at]
        + rng.choice((b"", b"0", b'"', b"}", b"\xff", b"null", some + some))
        + data[at + len(some) :]
    )
    try:
        assert decode_contract(data).encode() == data
        report.built["taken"] += 1
    except Refused as error:
        report.built["refused"] += 1
        report.rules[error.rule] += 1


def _answers(contract: Contract, rng: random.Random, report: Report) -> None:
    answers = guesses(rng, contract)
    try:
        data = manifest_of(contract, answers)
    except Refused as error:
        report.answers["refused"] += 1
        report.rules[error.rule] += 1
        return
    backwards = dict(reversed(answers.items()))
    assert data == manifest_of(decode_contract(contract.encode()), backwards), "two expansions differ"
    assert decode_manifest(data).encode() == data
    report.answers["taken"] += 1


def timings() -> Iterator[tuple[str, float]]:
    """Milliseconds of the best of five: the largest example read and checked, and expanded."""
    text = max(texts(), key=len)
    contract = built(text)
    for name, work in (
        ("validate", lambda: parse_contract(text, "c.yaml")),
        ("expand", lambda: manifest_of(contract, {})),
    ):
        best = 1e9
        for _ in range(5):
            started = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - started)
        yield name, best * 1_000


def main() -> int:
    """Run, and print the counts."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    started = time.monotonic()
    report = run(rounds, seed)
    print(f"seed {seed}: {rounds} rounds in {time.monotonic() - started:.1f} s, only answers and refusals")
    for name, counts in (
        ("changed sources", report.sources),
        ("changed built bytes", report.built),
        ("answers", report.answers),
    ):  # fmt: skip
        print(f"{name:20} " + ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    print(
        f"{len(report.rules)} rules refused: "
        + ", ".join(f"{r} {n}" for r, n in report.rules.most_common(12))
    )
    for name, ms in timings():
        print(f"{name:20} {ms:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
