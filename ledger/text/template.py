"""`${parameter}` in a contract: where the references stand, and what they become.

A scalar that is one reference takes the parameter's type; inside other text a value becomes text.
`$${` is a plain `${`. Values replace text inside one scalar and are never read again, so a value
cannot bring in another reference, argument, key or path. `${= expression}` is a sizing rule, and stands
where a reference may stand (ledger.text.expression).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ledger.contracts.types import Value
from ledger.text.expression import ExpressionError, Part, evaluate, names_in, parse_expression

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")

# Fixed ranges and not Unicode categories, which change between versions of Python: C0, DEL, C1,
# soft hyphen, Arabic letter mark, zero-width and direction marks, line and paragraph separators,
# invisible operators, byte order mark, interlinear marks, surrogates, tags.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


class TemplateError(ValueError):
    """A reference that is malformed; `rule` names what is broken."""

    def __init__(self, rule: str, detail: str) -> None:
        self.rule = rule
        super().__init__(detail)


def unsafe_character(text: str) -> str | None:
    """The first control, invisible or direction character of a text, as U+XXXX; None when there is none."""
    match = _UNSAFE.search(text)
    return None if match is None else f"U+{ord(match[0]):04X}"


def references(text: str) -> tuple[str, ...]:
    """Names of the parameters in a text, in order, also those in its expressions. Raises TemplateError."""
    names: list[str] = []
    for match in _REFERENCE.finditer(text):
        if match[0] != "$${":
            found = _read(match)
            names += [found] if isinstance(found, str) else names_in(found)
    return tuple(names)


def expressions(text: str) -> tuple[Part, ...]:
    """The sizing rules in a text, in order. Raises TemplateError."""
    found = [_read(match) for match in _REFERENCE.finditer(text) if match[0] != "$${"]
    return tuple(part for part in found if isinstance(part, Part))


def whole(text: str) -> str | Part | None:
    """The parameter's name or the expression, when the text is one reference and nothing else."""
    match = _REFERENCE.fullmatch(text)
    return _read(match) if match is not None and match[0] != "$${" else None


def whole_reference(text: str) -> str | None:
    """The parameter's name when the text is one reference to it and nothing else."""
    found = whole(text)
    return found if isinstance(found, str) else None


def has_template(text: str) -> bool:
    """True when a text holds a reference or an escape."""
    return "${" in text


def starts_with_reference(text: str) -> bool:
    """True when a value would stand at the very beginning."""
    return text.startswith("${")


def substitute(text: str, values: Mapping[str, Value]) -> str:
    """The text with each reference replaced. Raises TemplateError, ExpressionError for a rule without a value
    (a division by zero), KeyError for an unknown name."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        found = _read(match)
        return value_text(values[found] if isinstance(found, str) else evaluate(found, values))

    return _REFERENCE.sub(one, text)


def value_text(value: Value) -> str:
    """A value inside other text: true and false in lower case, numbers in decimal."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(match: re.Match[str]) -> str | Part:
    """A parameter's name, or an expression."""
    inner = match[1]
    if inner is None:
        raise TemplateError("contract.reference", "a ${ without its }; write $${ for the text itself")
    if inner.startswith("="):
        try:
            return parse_expression(inner[1:])
        except ExpressionError as error:
            raise TemplateError("contract.expression", f"{match[0][:80]}: {error}") from None
    if not NAME.fullmatch(inner):
        raise TemplateError("contract.reference", f"${{{inner}}} is not a parameter's name")
    return inner
