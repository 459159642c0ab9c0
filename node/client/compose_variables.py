"""Variables of a compose file: parameters where a contract may have one, else written out by their defaults.

`$NAME` and `${NAME…}` are filled in by compose from its caller's shell; `$$` is a plain `$`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from ledger.errors import Refused
from ledger.limits import PARAMETERS_MAX
from ledger.text.template import NAME, unsafe_character
from ledger.text.yaml_tree import Mark, Node, Scalar

Kind = Literal["dropped", "refused", "to do"]
Tell = Callable[[Mark, str, Kind, str], None]  # where in the file, field, kind, why

_VARIABLE: Final = re.compile(
    r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?::?([-?+])([^${}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))"
)


@dataclass(frozen=True, slots=True, order=True)
class Remark:
    """Something that was not taken over as it stands."""

    line: int
    field: str
    kind: Kind
    why: str


class Variables:
    """Those of one file. `parameters`: what a contract asks for in their place."""

    def __init__(self, tell: Tell) -> None:
        self.parameters: dict[str, dict[str, Any]] = {}
        self._variables: dict[str, str] = {}  # parameter: the variable that it stands for
        self._tell = tell

    def filled(self, text: str, mark: Mark, where: str) -> str:
        """The text with parameters for variables. Raises Refused(compose.names) for two that differ by signs
        only."""
        made, at = "", 0
        for match in _VARIABLE.finditer(text):
            made = _joined(made, self._plain(text[at : match.start()], mark, where))
            at = match.end()
            made = _joined(made, "$" if match[1] else self._parameter(match, mark, where))
        made = _joined(made, self._plain(text[at:], mark, where))
        if unsafe_character(made) is not None:
            why = "no text of a contract has line breaks or other control characters: put it into a file"
            self._tell(mark, where, "refused", why)
        return made

    def _plain(self, text: str, mark: Mark, where: str) -> str:
        if "${" in text:
            why = f"{text[:40]!r}: a variable within another, or none: it stays as it is"
            self._tell(mark, where, "refused", why)
        return text.replace("${", "$${")

    def _parameter(self, match: re.Match[str], mark: Mark, where: str) -> str:
        variable, sign, rest = match[2] or match[5], match[3], match[4] or ""
        if sign == "+":
            self._tell(mark, where, "refused", f"${{{variable}:+…}} has no counterpart")
            return ""
        name = name_of(variable)
        if self._variables.setdefault(name, variable) != variable:
            detail = f"${variable} and ${self._variables[name]} differ by signs only"
            raise Refused("compose.names", detail, where)
        if name not in self.parameters and len(self.parameters) >= PARAMETERS_MAX:
            why = f"${variable}: a contract has {PARAMETERS_MAX} parameters; it became {rest!r}: write it out"
            self._tell(mark, where, "refused", why)
            return rest if sign == "-" else ""
        known = self.parameters.setdefault(name, {"type": "string", "description": f"from ${variable}"})
        if sign == "?" and rest:
            known["description"] = f"from ${variable}: {rest}"
        if sign == "-" and known.setdefault("default", rest) != rest:
            why = f"${variable} has the default {known['default']!r} before; {rest!r} is lost"
            self._tell(mark, where, "dropped", why)
        return "${" + name + "}"

    def fixed(self, node: Node | None, where: str) -> str:
        """The text of a place where no parameter stands: what variables are by default."""
        if not isinstance(node, Scalar) or node.value is None:
            return ""

        def one(match: re.Match[str]) -> str:
            if match[1]:
                return "$"
            variable = match[2] or match[5]
            if match[3] == "-":
                why = f"no parameter stands here: ${variable} became its default {match[4]!r}"
                self._tell(node.mark, where, "dropped", why)
                return str(match[4])
            self._tell(node.mark, where, "to do", f"no parameter stands here: write out what ${variable} is")
            return str(variable)

        return _VARIABLE.sub(one, node.text)


def _joined(made: str, piece: str) -> str:
    """Both texts, so that no '$' at the end of the first makes the second a reference, or none of it."""
    bare = made.rstrip("$")
    if bare != made and piece.startswith("{"):
        return f"{made}${piece}"
    if bare != made and piece.startswith("${"):
        return bare + "${= '" + "$" * (len(made) - len(bare)) + "'}" + piece
    return made + piece


def name_of(text: str) -> str:
    """The nearest name of the language."""
    found = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60].strip("_")
    return found if NAME.fullmatch(found) else f"x{found}" if found else "unnamed"
