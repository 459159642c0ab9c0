"""YAML to a tree that knows its lines: a small, strict part of YAML 1.2.

Mappings with text keys, sequences and scalars. Refused: duplicate keys, anchors and aliases, tags,
merge keys, several documents, too much of anything. Plain `true`, `false`, whole numbers and `null`
are typed (so `NO` stays a country and `1.0` a text); all else is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from ledger.errors import Refused
from ledger.limits import CONTRACT_BYTES_MAX, PROBLEMS_MAX, YAML_DEPTH_MAX, YAML_NODES_MAX

_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the source, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """`text` as written; `plain` when it stands without quotes."""

    text: str
    plain: bool
    mark: Mark

    @property
    def value(self) -> str | int | bool | None:
        """The typed value."""
        if not self.plain:
            return self.text
        if self.text in ("", "~", "null"):
            return None
        if self.text in ("true", "false"):
            return self.text == "true"
        return int(self.text) if _INTEGER.fullmatch(self.text) else self.text


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    """Entries in the order of the source; `marks` are those of the keys."""

    entries: dict[str, Node]
    marks: dict[str, Mark]
    mark: Mark


Node = Scalar | Sequence | Mapping


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One broken rule of a source."""

    mark: Mark
    field: str
    rule: str
    detail: str
    suggestion: str = ""

    def text(self, filename: str) -> str:
        """FILE:LINE:COLUMN: FIELD: RULE: DETAIL (SUGGESTION)"""
        where = f"{filename}:{self.mark.line}:{self.mark.column}: "
        field = f"{self.field}: " if self.field else ""
        return f"{where}{field}{self.rule}: {self.detail}" + (
            f" ({self.suggestion})" if self.suggestion else ""
        )


class ContractError(Refused):
    """All problems found in a contract's source, in the order of its lines. `rule`, `detail` and `field`
    are those of the first."""

    def __init__(self, filename: str, problems: Iterable[Problem]) -> None:
        self.filename = filename
        self.problems = tuple(sorted(set(problems)))[:PROBLEMS_MAX]
        first = self.problems[0]
        super().__init__(first.rule, first.detail, first.field)

    def __str__(self) -> str:
        return "\n".join(problem.text(self.filename) for problem in self.problems)


class _Stop(Exception):
    """A source that cannot be read on."""

    def __init__(self, mark: Mark, rule: str, detail: str, suggestion: str = "") -> None:
        self.problem = Problem(mark, "", rule, detail, suggestion)


def load(text: str, filename: str) -> Node:
    """The tree of the one document in `text`. Raises ContractError: contract.too_long, contract.yaml,
    contract.duplicate_key, contract.yaml_feature, contract.too_deep, contract.too_many."""
    size = len(text.encode("utf-8", "replace"))
    if size > CONTRACT_BYTES_MAX:
        detail = f"{size} bytes, at most {CONTRACT_BYTES_MAX}"
        raise ContractError(filename, [Problem(Mark(1, 1), "", "contract.too_long", detail)])
    duplicates: list[Problem] = []
    try:
        root = _Composer(_events(text), duplicates).document()
    except _Stop as stop:
        raise ContractError(filename, [*duplicates, stop.problem]) from None
    except yaml.MarkedYAMLError as error:
        raise ContractError(filename, [*duplicates, _syntax(error, text)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        detail = f"the character U+{_code(error.character):04X} is not allowed"
        raise ContractError(filename, [Problem(Mark(line, 1), "", "contract.yaml", detail)]) from None
    if duplicates:
        raise ContractError(filename, duplicates)
    return root


def _code(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


def _events(text: str) -> Iterator[Any]:
    # The events of the parser, which does not recurse; PyYAML's own composer would, and expands aliases.
    return iter(yaml.parse(text, Loader=yaml.SafeLoader))


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _syntax(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    at = Mark(mark.line + 1, mark.column + 1) if mark is not None else Mark(1, 1)
    lines = text.splitlines()
    near = "".join(lines[max(0, at.line - 2) : at.line])
    hint = 'put a text with ${ … } in quotes, as in "${= a > 1 ? 2 : 1}"' if "${" in near else ""
    detail = " ".join(part for part in (error.context, error.problem) if part)
    return Problem(at, "", "contract.yaml", detail or "not YAML", hint)


class _Composer:
    """Builds the tree from parser events, bounded in depth and number."""

    def __init__(self, events: Iterator[Any], duplicates: list[Problem]) -> None:
        self._events = events
        self._duplicates = duplicates
        self._nodes = 0

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise _Stop(
                        _mark(event), "contract.yaml_feature", "one document wanted, here starts another"
                    )
                root = self._node(next(self._events), 1)
        if root is None:
            raise _Stop(Mark(1, 1), "contract.yaml", "the file is empty")
        return root

    def _node(self, event: Any, depth: int) -> Node:
        mark = _mark(event)
        self._nodes += 1
        if depth > YAML_DEPTH_MAX:
            raise _Stop(mark, "contract.too_deep", f"more than {YAML_DEPTH_MAX} levels")
        if self._nodes > YAML_NODES_MAX:
            raise _Stop(mark, "contract.too_many", f"more than {YAML_NODES_MAX} values")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Stop(
                mark, "contract.yaml_feature", "anchors (&) and aliases (*) are not allowed", "quote the text"
            )
        if event.tag is not None:
            raise _Stop(mark, "contract.yaml_feature", "tags (!) are not allowed", "quote the text")
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, event.style is None, mark)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(mark, depth)
        return self._mapping(mark, depth)

    def _sequence(self, mark: Mark, depth: int) -> Sequence:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Sequence(tuple(items), mark)

    def _mapping(self, mark: Mark, depth: int) -> Mapping:
        entries: dict[str, Node] = {}
        marks: dict[str, Mark] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar) or key.text == "<<":
                raise _Stop(key.mark, "contract.yaml_feature", "a key is plain text")
            node = self._node(next(self._events), depth + 1)
            if key.text in entries:
                detail = f"the key {key.text!r} is there twice, first in line {marks[key.text].line}"
                self._duplicates.append(Problem(key.mark, key.text, "contract.duplicate_key", detail))
                continue
            entries[key.text] = node
            marks[key.text] = key.mark
        return Mapping(entries, marks, mark)
