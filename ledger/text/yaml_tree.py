"""YAML to a tree that knows its lines: a small, strict part of YAML 1.2.

Mappings with text keys, sequences and scalars. Refused: duplicate keys, tags, several documents, too much of
anything; unless asked for, anchors, aliases and merge keys. Plain `true`, `false`, whole numbers and `null`
are typed (so `NO` stays a country and `1.0` a text); all else is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from ledger.contracts.suggestions import suggestion
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
    """All problems found in a source, in the order of its lines, each with a way out. `rule`, `detail` and
    `field` are those of the first."""

    def __init__(self, filename: str, problems: Iterable[Problem]) -> None:
        self.filename = filename
        found = sorted(set(problems))[:PROBLEMS_MAX]
        self.problems = tuple(
            p if p.suggestion else replace(p, suggestion=suggestion(p.rule, p.field)) for p in found
        )
        first = self.problems[0]
        super().__init__(first.rule, first.detail, first.field)

    def __str__(self) -> str:
        return "\n".join(problem.text(self.filename) for problem in self.problems)


class _Stop(Exception):
    """A source that cannot be read on."""

    def __init__(self, mark: Mark, rule: str, detail: str, suggestion: str = "") -> None:
        self.mark, self.rule, self.detail, self.suggestion = mark, rule, detail, suggestion


def load(text: str, filename: str, *, shared: bool = False) -> Node:
    """The tree of the one document in `text`. Raises ContractError: contract.too_long, contract.yaml,
    contract.duplicate_key, contract.yaml_feature, contract.too_deep, contract.too_many.

    `shared`: anchors, aliases and merge keys are followed, as compose files have them. What an alias brings
    in counts each time, so that it is bounded like all else.
    """
    size = len(text.encode("utf-8", "replace"))
    if size > CONTRACT_BYTES_MAX:
        detail = f"{size} bytes, at most {CONTRACT_BYTES_MAX}"
        raise ContractError(filename, [Problem(Mark(1, 1), "", "contract.too_long", detail)])
    composer = _Composer(_events(text), shared)
    try:
        root = composer.document()
    except _Stop as stop:
        found = Problem(stop.mark, composer.field, stop.rule, stop.detail, stop.suggestion)
    except yaml.MarkedYAMLError as error:
        found = _syntax(error, text, composer.field)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        detail = f"the character U+{_code(error.character):04X} is not allowed"
        found = Problem(Mark(line, 1), composer.field, "contract.yaml", detail, "take it out")
    else:
        if composer.duplicates:
            raise ContractError(filename, composer.duplicates)
        return root
    raise ContractError(filename, [*composer.duplicates, found])


def _code(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


def _events(text: str) -> Iterator[Any]:
    # The events of the parser, which does not recurse; PyYAML's own composer would, and expands aliases.
    return iter(yaml.parse(text, Loader=yaml.SafeLoader))


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _syntax(error: yaml.MarkedYAMLError, text: str, field: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    at = Mark(mark.line + 1, mark.column + 1) if mark is not None else Mark(1, 1)
    lines = text.splitlines()
    near = "".join(lines[max(0, at.line - 2) : at.line])
    hint = 'put a text with ${ … } in quotes, as in "${= a > 1 ? 2 : 1}"' if "${" in near else ""
    detail = " ".join(part for part in (error.context, error.problem) if part)
    return Problem(at, field, "contract.yaml", detail or "not YAML", hint)


class _Composer:
    """Builds the tree from parser events, bounded in depth and number."""

    def __init__(self, events: Iterator[Any], shared: bool) -> None:
        self.duplicates: list[Problem] = []
        self._events = events
        self._nodes = 0
        self._path: list[str] = []
        self._shared = shared
        self._anchors: dict[str, tuple[Node, int]] = {}  # with the number of its nodes

    @property
    def field(self) -> str:
        """The field that is being read."""
        return "".join(self._path).removeprefix(".")

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    detail, hint = "one document wanted, here starts another", "take out what follows '---'"
                    raise _Stop(_mark(event), "contract.yaml_feature", detail, hint)
                root = self._node(next(self._events), 1)
        if root is None:
            raise _Stop(Mark(1, 1), "contract.yaml", "the file is empty", "gridpact contract init writes one")
        return root

    def _node(self, event: Any, depth: int) -> Node:
        mark = _mark(event)
        before = self._nodes
        self._count(1, mark)
        if depth > YAML_DEPTH_MAX:
            raise _Stop(mark, "contract.too_deep", f"more than {YAML_DEPTH_MAX} levels")
        if not self._shared and (isinstance(event, yaml.AliasEvent) or event.anchor is not None):
            raise _Stop(
                mark, "contract.yaml_feature", "anchors (&) and aliases (*) are not allowed", "quote the text"
            )
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor or "", mark)
        if event.tag is not None:
            raise _Stop(mark, "contract.yaml_feature", "tags (!) are not allowed", "quote the text")
        if isinstance(event, yaml.ScalarEvent):
            node: Node = Scalar(event.value, event.style is None, mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, depth)
        else:
            node = self._mapping(mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node, self._nodes - before
        return node

    def _count(self, nodes: int, mark: Mark) -> None:
        self._nodes += nodes
        if self._nodes > YAML_NODES_MAX:
            raise _Stop(mark, "contract.too_many", f"more than {YAML_NODES_MAX} values")

    def _alias(self, name: str, mark: Mark) -> Node:
        if name not in self._anchors:
            raise _Stop(mark, "contract.yaml", f"no anchor &{name[:80]} before this alias", "write the value")
        node, nodes = self._anchors[name]
        self._count(nodes, mark)
        return node

    def _sequence(self, mark: Mark, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._path.append(f"[{len(items)}]")
            items.append(self._node(event, depth + 1))
            self._path.pop()
        return Sequence(tuple(items), mark)

    def _mapping(self, mark: Mark, depth: int) -> Mapping:
        entries: dict[str, Node] = {}
        marks: dict[str, Mark] = {}
        merged: list[Mapping] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            merges = isinstance(key, Scalar) and key.text == "<<"
            if not isinstance(key, Scalar) or (merges and not self._shared):
                detail, hint = "a key is plain text", "as in 'a key: value'"
                raise _Stop(key.mark, "contract.yaml_feature", detail, hint)
            self._path.append(f".{key.text[:80]}")
            node = self._node(next(self._events), depth + 1)
            if merges:
                merged += self._merged(node)
            elif key.text in entries:
                detail = f"the key {key.text!r} is there twice, first in line {marks[key.text].line}"
                self.duplicates.append(Problem(key.mark, self.field, "contract.duplicate_key", detail))
            else:
                entries[key.text] = node
                marks[key.text] = key.mark
            self._path.pop()
        for other in merged:  # what stands here itself comes first, then what was merged first
            entries = {**other.entries, **entries}
            marks = {**other.marks, **marks}
        return Mapping(entries, marks, mark)

    def _merged(self, node: Node) -> list[Mapping]:
        found = node.items if isinstance(node, Sequence) else (node,)
        for item in found:
            if not isinstance(item, Mapping):
                raise _Stop(item.mark, "contract.yaml", "<< merges mappings alone", "name one by its anchor")
        return [item for item in found if isinstance(item, Mapping)]
