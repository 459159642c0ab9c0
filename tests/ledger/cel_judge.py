"""Random expressions of our part of CEL, and what a CEL library (`common-expression-language`) says of them.

`python -m tests.ledger.cel_judge` writes tests/ledger/cel_cases.json anew; it needs that library installed.
"""

import json
import random
import warnings
from pathlib import Path
from typing import Any

CASES = Path(__file__).with_name("cel_cases.json")
VALUES: dict[str, int | bool | str] = {
    "users": 100,
    "size": 3 << 30,
    "none": 0,
    "less": -7,
    "large": (1 << 63) - 1,
    "fast": True,
    "slow": False,
    "tier": "gold",
    "country": "CH",
}
NAMES = {
    "number": ("users", "size", "none", "less", "large"),
    "truth": ("fast", "slow"),
    "text": ("tier", "country"),
}


def sample(rng: random.Random, kind: str, depth: int) -> str:
    """A well-typed expression of this kind."""
    if depth == 0 or rng.random() < 0.15:
        return _leaf(rng, kind)
    if rng.random() < 0.15:
        condition, yes, no = (sample(rng, k, depth - 1) for k in ("truth", kind, kind))
        return f"({condition} ? {yes} : {no})"
    if kind == "number":
        form = rng.choice(["infix"] * 5 + ["minus", "function", "bare"])
        left, right = sample(rng, kind, depth - 1), sample(rng, kind, depth - 1)
        if form == "minus":
            return f"-({left})"
        if form == "function":
            return f"{rng.choice(['min', 'max', 'ceil_div'])}({left}, {right})"
        op = rng.choice("+-*/%")
        return f"{left} {op} {right}" if form == "bare" else f"({left} {op} {right})"
    if kind == "truth":
        form = rng.choice(["both", "compare", "compare", "same", "not", "in"])
        if form == "both":
            return (
                f"({sample(rng, kind, depth - 1)} {rng.choice(['&&', '||'])} {sample(rng, kind, depth - 1)})"
            )
        if form == "not":
            return f"!({sample(rng, kind, depth - 1)})"
        other = "number" if form == "compare" else rng.choice(["number", "truth", "text"])
        left, right = sample(rng, other, depth - 1), sample(rng, other, depth - 1)
        if form == "in":
            return f"({left} in [{right}, {sample(rng, other, depth - 1)}])"
        signs = ["<", "<=", ">", ">="] if form == "compare" else ["==", "!="]
        return f"({left} {rng.choice(signs)} {right})"
    return _leaf(rng, kind)


def _leaf(rng: random.Random, kind: str) -> str:
    if rng.random() < 0.5:
        return rng.choice(NAMES[kind])
    if kind == "number":
        return rng.choice(["0", "1", "2", "3", "10", "64", "MiB", "4 * GiB", "DAY", "9223372036854775807"])
    return rng.choice(["true", "false"] if kind == "truth" else ["'gold'", '"CH"', "''", "'EU-1'"])


def judged(expression: str, units: dict[str, int]) -> int | bool | str | None:
    """What the library says; None for an error. Raises ImportError without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cel

        functions: dict[str, Any] = {"min": min, "max": max, "ceil_div": _ceil_div}
        context = cel.Context(variables={**VALUES, **units}, functions=functions)
        try:
            return cel.evaluate(expression, context)  # type: ignore[no-any-return]
        except (ArithmeticError, ValueError, RuntimeError, TypeError):
            return None


def _ceil_div(whole: int, part: int) -> int:
    if part < 1:
        raise ValueError("divisor")
    return -(-whole // part)


if __name__ == "__main__":
    from ledger.text.expression import UNITS

    rng = random.Random(5)
    rows = []
    while len(rows) < 400:
        text = sample(rng, rng.choice(["number", "number", "truth", "text"]), 3)
        if text not in [row[0] for row in rows]:
            rows.append((text, judged(text, UNITS)))
    CASES.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(f"{len(rows)} cases, {sum(result is None for _, result in rows)} errors")
