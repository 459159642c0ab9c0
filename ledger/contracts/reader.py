"""Reads typed fields from a YAML tree, collecting every problem with its place and a suggestion."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from ledger.contracts.suggestions import example, listed, quantity, truth
from ledger.limits import PROBLEMS_MAX
from ledger.text.nearest import nearest
from ledger.text.quantities import QuantityError
from ledger.text.template import has_template
from ledger.text.yaml_tree import Mapping, Mark, Node, Problem, Scalar, Sequence

T = TypeVar("T")


class Reader:
    """Every method returns a usable value also when it reports a problem, so that reading goes on."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.marks: dict[str, Mark] = {}
        self._broken: set[str] = set()

    def report(self, field: str, rule: str, detail: str, suggestion: str = "") -> None:
        """A problem at a field; one below a field that is broken already is its consequence, and not told."""
        if any(part in self._broken for part in _prefixes(field)):
            return
        self._add(place_of(self.marks, field), field, rule, detail, suggestion)

    def _add(self, mark: Mark, field: str, rule: str, detail: str, suggestion: str = "") -> None:
        self._broken.add(field)
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(mark, field, rule, detail, suggestion))

    def mapping(
        self,
        node: Node | None,
        field: str,
        required: Collection[str] = (),
        optional: Collection[str] = (),
    ) -> dict[str, Node]:
        """Entries of a mapping; with `required` or `optional` given, other keys are refused."""
        if node is None:
            return {}
        self.marks.setdefault(field, node.mark)
        if not isinstance(node, Mapping):
            if not (isinstance(node, Scalar) and node.value is None and not required):
                detail = f"a mapping wanted, found {_kind(node)}"
                self._add(node.mark, field, "contract.type", detail, example(field, "{name: value}"))
            return {}
        known = {*required, *optional}
        for name, mark in node.marks.items():
            path = f"{field}.{name}" if field else name
            self.marks[path] = mark
            if known and name not in known:
                absent = known - set(node.entries)
                there = nearest(name, known - absent)
                suggestion = nearest(name, absent) or (there and f"{there} it is there already")
                suggestion = suggestion or f"known: {', '.join(sorted(absent or known))}"
                self._add(mark, path, "contract.unknown_field", f"no such field {name!r}", suggestion)
        for name in required:
            if name not in node.entries:
                path = f"{field}.{name}" if field else name
                self._add(node.mark, path, "contract.missing_field", f"the field {name!r} is missing")
        return node.entries

    def sequence(self, node: Node | None, field: str) -> list[tuple[Node, str]]:
        """Items of a sequence with their fields."""
        if node is None:
            return []
        self.marks[field] = node.mark
        if not isinstance(node, Sequence):
            detail = f"a list wanted, found {_kind(node)}"
            self._add(node.mark, field, "contract.type", detail, listed(field, _text(node)))
            return []
        items = [(item, f"{field}[{index}]") for index, item in enumerate(node.items)]
        self.marks.update((path, item.mark) for item, path in items)
        return items

    def some(self, node: Node | None, field: str) -> list[tuple[Node, str]]:
        """A list, or one scalar in place of a list of one."""
        if isinstance(node, Scalar):
            self.marks[field] = node.mark
            return [(node, field)]
        return self.sequence(node, field)

    def text(self, node: Node | None, field: str, default: str = "") -> str:
        """Text as written: also `8080` and `true` are text where text is wanted."""
        if node is None:
            return default
        if not isinstance(node, Scalar) or node.value is None:
            detail = f"text wanted, found {_kind(node)}"
            self._add(node.mark, field, "contract.type", detail, "as in 'a text'")
            return default
        self.marks[field] = node.mark
        return node.text

    def texts(self, node: Node | None, field: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self.text(item, path) for item, path in self.sequence(node, field))

    def words(self, node: Node | None, field: str, known: Collection[str]) -> tuple[str, ...]:
        """A list of texts, each one of `known`: that is checked with the rule of this list, and told to
        editors by the schema."""
        return self.texts(node, field)

    def boolean(self, node: Node | None, field: str, default: bool) -> bool:
        """true or false, in no other spelling."""
        if node is None:
            return default
        value = node.value if isinstance(node, Scalar) else None
        if not isinstance(value, bool):
            detail = f"true or false wanted, found {_kind(node)}"
            self._add(node.mark, field, "contract.type", detail, truth(_text(node)))
            return default
        return value

    def choice(self, node: Node | None, field: str, known: Collection[str], default: str) -> str:
        """One of a few words."""
        if node is None:
            return default
        word = self.text(node, field, default)
        if word not in known:
            detail = f"{word[:80]!r} is none of {', '.join(known)}"
            self._add(node.mark, field, "contract.choice", detail, nearest(word, known))
            return default
        return word

    def parsed(self, node: Node | None, field: str, parse: Callable[[object], T], default: T) -> T:
        """A quantity."""
        if node is None:
            return default
        if not isinstance(node, Scalar):
            detail = f"one value wanted, found {_kind(node)}"
            self._add(node.mark, field, "contract.type", detail, quantity(parse, ""))
            return default
        self.marks[field] = node.mark
        try:
            return parse(node.value)
        except QuantityError as error:
            detail = f"{node.text[:80]!r}: {error}"
            self._add(node.mark, field, "contract.value", detail, quantity(parse, node.text))
            return default

    def number(
        self, node: Node | None, field: str, parse: Callable[[object], int], default: int
    ) -> int | str:
        """A quantity, or the parameter that will give it."""
        if isinstance(node, Scalar) and has_template(node.text):
            self.marks[field] = node.mark
            return node.text
        return self.parsed(node, field, parse, default)


def place_of(marks: dict[str, Mark], field: str) -> Mark:
    """Where a field stands, or what it stands in."""
    return next((marks[part] for part in _prefixes(field) if part in marks), Mark(1, 1))


def _prefixes(field: str) -> list[str]:
    """The field and all that it stands in, from the inside out."""
    out = [field]
    while field:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
        out.append(field)
    return out[:-1] or [""]


def _kind(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    return "nothing" if node.value is None else repr(node.text[:80])


def _text(node: Node) -> str:
    return node.text if isinstance(node, Scalar) else ""
