"""Sizing rules, `${= expression}`: a small part of CEL (Common Expression Language) with a bound on steps.

An author's expression runs on every peer while it executes a block. So: integers of 64 bits whose overflow
is an error, booleans and text; no loops, no floats, no text that grows; types known before a value is. Each
part of an expression is looked at once at most, so the number of parts bounds the steps. What is taken here
means what CEL says: division rounds towards zero, `&&` and `||` forgive an error on one side when the other
side decides, a choice takes one branch only. tests/ledger/test_expression.py holds it against a CEL library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from ledger.limits import EXPRESSION_CHARS_MAX, EXPRESSION_DEPTH_MAX, EXPRESSION_PARTS_MAX
from ledger.text.nearest import nearest
from ledger.text.quantities import SIZES

Kind = Literal["number", "truth", "text"]
Result = int | bool | str

INT_MAX: Final = (1 << 63) - 1
INT_MIN: Final = -(1 << 63)

# Units are names, so that `64 * MiB` is CEL as well. No parameter has a capital letter in its name.
UNITS: Final[dict[str, int]] = {
    **SIZES,
    "SECOND": 1,
    "MINUTE": 60,
    "HOUR": 3_600,
    "DAY": 86_400,
    "CORE": 1_000,
    "CREDIT": 1_000_000,
}
KINDS: Final[dict[str, Kind]] = {
    "integer": "number",
    "size": "number",
    "duration": "number",
    "money": "number",
    "boolean": "truth",
    "string": "text",
    "country": "text",
}
_FUNCTIONS: Final = ("min", "max", "ceil_div")
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>[0-9]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<text>'[^'\"\\]*'|\"[^'\"\\]*\")"
    r"|(?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!?:(),\[\]]))"
)
_LEVELS: Final = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))


class ExpressionError(ValueError):
    """What is wrong with an expression, and at which of its columns, from 1."""

    def __init__(self, column: int, detail: str) -> None:
        self.column = column
        super().__init__(f"column {column}: {detail}")


@dataclass(frozen=True, slots=True)
class Part:
    """An operator with what it works on, a name, or a constant (`value`)."""

    op: str
    column: int
    inside: tuple[Part, ...] = ()
    value: Result = 0


@lru_cache(maxsize=1024)  # by its text alone, so right for every contract
def parse_expression(text: str) -> Part:
    """The tree of an expression. Raises ExpressionError."""
    if len(text) > EXPRESSION_CHARS_MAX:
        raise ExpressionError(1, f"{len(text)} characters, at most {EXPRESSION_CHARS_MAX}")
    return _Parser(text).whole()


def names_in(part: Part) -> Iterator[str]:
    """Parameters that an expression names, in order."""
    if part.op == "name":
        yield str(part.value)
    for child in part.inside:
        yield from names_in(child)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._end = len(text) + 1
        self._at = 0
        self._parts = 0
        self._depth = 0

    def whole(self) -> Part:
        part = self._choice()
        if self._at < len(self._tokens):
            _, word, column = self._tokens[self._at]
            raise ExpressionError(column, f"{word!r} is not expected here")
        return part

    def _peek(self) -> str:
        """The next operator or keyword; empty for a constant, a name and the end."""
        if self._at >= len(self._tokens):
            return ""
        kind, word, _ = self._tokens[self._at]
        return word if kind == "sign" or word == "in" else ""

    def _column(self) -> int:
        return self._tokens[self._at][2] if self._at < len(self._tokens) else self._end

    def _expect(self, sign: str) -> None:
        if self._peek() != sign:
            raise ExpressionError(self._column(), f"{sign!r} wanted here")
        self._at += 1

    def _part(self, op: str, column: int, inside: tuple[Part, ...] = (), value: Result = 0) -> Part:
        self._parts += 1
        if self._parts > EXPRESSION_PARTS_MAX:
            raise ExpressionError(column, f"more than {EXPRESSION_PARTS_MAX} parts")
        return Part(op, column, inside, value)

    def _choice(self) -> Part:
        self._depth += 1
        if self._depth > EXPRESSION_DEPTH_MAX:
            raise ExpressionError(self._column(), f"more than {EXPRESSION_DEPTH_MAX} levels")
        part = self._binary(0)
        column = self._column()
        if self._peek() == "?":
            self._at += 1
            yes = self._binary(0)
            self._expect(":")
            part = self._part("?", column, (part, yes, self._choice()))
        self._depth -= 1
        return part

    def _binary(self, level: int) -> Part:
        if level == len(_LEVELS):
            return self._unary()
        part = self._binary(level + 1)
        while (op := self._peek()) in _LEVELS[level]:
            column = self._column()
            self._at += 1
            if op == "in":
                part = self._part(op, column, (part, self._list()))
            else:
                part = self._part(op, column, (part, self._binary(level + 1)))
        return part

    def _unary(self) -> Part:
        column, sign = self._column(), self._peek()
        if sign not in ("-", "!"):
            return self._operand()
        count = 0
        while self._peek() == sign:
            self._at += 1
            count += 1
        part = self._operand()
        for _ in range(count):
            part = self._part("not" if sign == "!" else "negative", column, (part,))
        return part

    def _operand(self) -> Part:
        if self._at >= len(self._tokens):
            raise ExpressionError(self._end, "a value wanted here, found the end")
        kind, word, column = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            if int(word) > INT_MAX:
                raise ExpressionError(column, "more than 64 bits")
            return self._part("constant", column, value=int(word))
        if kind == "text":
            return self._part("constant", column, value=word[1:-1])
        if word == "(":
            part = self._choice()
            self._expect(")")
            return part
        if kind != "name" or word == "in":
            raise ExpressionError(column, f"a value wanted here, found {word!r}")
        if word in ("true", "false"):
            return self._part("constant", column, value=word == "true")
        if self._peek() == "(":
            if word not in _FUNCTIONS:
                raise ExpressionError(column, f"no function {word}; there are {', '.join(_FUNCTIONS)}")
            return self._part(word, column, self._several("(", ")"))
        if word in UNITS:
            return self._part("constant", column, value=UNITS[word])
        return self._part("name", column, value=word)

    def _list(self) -> Part:
        column = self._column()
        return self._part("list", column, self._several("[", "]"))

    def _several(self, opening: str, closing: str) -> tuple[Part, ...]:
        self._expect(opening)
        parts = [self._choice()]
        while self._peek() == ",":
            self._at += 1
            parts.append(self._choice())
        self._expect(closing)
        return tuple(parts)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, word, column from 1) of each token."""
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            column = at + len(text[at:]) - len(text[at:].lstrip()) + 1
            raise ExpressionError(column, f"{text[column - 1]!r} has no meaning here")
        yield match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1
        at = match.end()


def kind_of(part: Part, kinds: Mapping[str, Kind]) -> Kind:
    """What an expression gives, when its parameters are of these kinds. Raises ExpressionError."""
    op, inside = part.op, part.inside
    if op == "constant":
        return (
            "truth" if isinstance(part.value, bool) else "text" if isinstance(part.value, str) else "number"
        )
    if op == "name":
        return _kind_of_name(part, kinds)
    if op in ("||", "&&", "not"):
        return _all_of(part, "truth", kinds)
    if op in ("<", "<=", ">", ">="):
        _all_of(part, "number", kinds)
        return "truth"
    if op in ("==", "!="):
        _same(inside, kinds)
        return "truth"
    if op == "in":
        _same((inside[0], *inside[1].inside), kinds)
        return "truth"
    if op == "?":
        if kind_of(inside[0], kinds) != "truth":
            raise ExpressionError(inside[0].column, "a condition wanted before '?'")
        return _same(inside[1:], kinds)
    if op in ("min", "max", "ceil_div") and (len(inside) < 2 or (op == "ceil_div" and len(inside) > 2)):
        wanted = "two numbers" if op == "ceil_div" else "at least two numbers"
        raise ExpressionError(part.column, f"{op} takes {wanted}")
    return _all_of(part, "number", kinds)


def _kind_of_name(part: Part, kinds: Mapping[str, Kind]) -> Kind:
    name = str(part.value)
    if name in kinds:
        return kinds[name]
    hyphened = [known for known in kinds if "-" in known and known.split("-")[0] == name]
    hint = f"; {hyphened[0]!r} has a '-', which means minus here: name it with _" if hyphened else ""
    declared = ", ".join(kinds) or "none"
    near = nearest(name, [*kinds, *UNITS])
    hint = hint or (f"; {near}" if near else "")
    raise ExpressionError(part.column, f"no parameter or unit {name[:80]}; parameters: {declared}{hint}")


def _all_of(part: Part, wanted: Kind, kinds: Mapping[str, Kind]) -> Kind:
    for child in part.inside:
        found = kind_of(child, kinds)
        if found != wanted:
            raise ExpressionError(child.column, f"a {wanted} wanted here, found a {found}")
    return wanted


def _same(parts: tuple[Part, ...], kinds: Mapping[str, Kind]) -> Kind:
    first = kind_of(parts[0], kinds)
    for part in parts[1:]:
        found = kind_of(part, kinds)
        if found != first:
            raise ExpressionError(part.column, f"a {first} wanted here, found a {found}")
    return first


def evaluate(part: Part, values: Mapping[str, Result]) -> Result:
    """The value of an expression that `kind_of` passed. Raises ExpressionError: a division by zero, a number
    of more than 64 bits."""
    op, inside = part.op, part.inside
    if op == "constant":
        return part.value
    if op == "name":
        return values[str(part.value)]
    if op in ("||", "&&"):
        return _decided(inside, op == "||", values)
    if op == "?":
        return evaluate(inside[1] if evaluate(inside[0], values) else inside[2], values)
    if op == "in":
        wanted = evaluate(inside[0], values)
        return wanted in [evaluate(item, values) for item in inside[1].inside]
    found = [evaluate(child, values) for child in inside]
    if op == "not":
        return not found[0]
    if op == "==":
        return found[0] == found[1]
    if op == "!=":
        return found[0] != found[1]
    numbers = [int(value) for value in found]
    if op in _COMPARISONS:
        return _COMPARISONS[op](numbers[0], numbers[1])
    result = _arithmetic(part, numbers)
    if not INT_MIN <= result <= INT_MAX:
        raise ExpressionError(part.column, "the number has more than 64 bits")
    return result


_COMPARISONS: Final[dict[str, Callable[[int, int], bool]]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _decided(sides: tuple[Part, ...], decisive: bool, values: Mapping[str, Result]) -> bool:
    """CEL: the side that decides does so, even when the other is an error."""
    fault: ExpressionError | None = None
    for side in sides:
        try:
            if evaluate(side, values) is decisive:
                return decisive
        except ExpressionError as error:
            fault = fault or error
    if fault is not None:
        raise fault
    return not decisive


def _arithmetic(part: Part, n: list[int]) -> int:
    op = part.op
    if op == "+":
        return n[0] + n[1]
    if op == "-":
        return n[0] - n[1]
    if op == "*":
        return n[0] * n[1]
    if op == "negative":
        return -n[0]
    if op == "min":
        return min(n)
    if op == "max":
        return max(n)
    if op == "ceil_div":
        if n[1] < 1:
            raise ExpressionError(part.column, "ceil_div wants a divisor of 1 or more")
        return -(-n[0] // n[1])
    if n[1] == 0:
        raise ExpressionError(part.column, "division by zero")
    whole = abs(n[0]) // abs(n[1])
    whole = whole if (n[0] < 0) == (n[1] < 0) else -whole  # towards zero
    return whole if op == "/" else n[0] - n[1] * whole
