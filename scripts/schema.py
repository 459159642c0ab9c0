"""Writes docs/schema/contract-1.json: the JSON Schema of `contract.yaml`, for editors. `make docs` runs it.

It is not kept by hand: the reader of the language reads EVERYTHING below, a source that uses every field, and
a recorder notes which fields it knows at each place and how it reads each. A field that the source forgets is
an error here. The schema says what a file looks like; rules over several fields are the validator's alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from ledger.contracts import language
from ledger.contracts.reader import Reader
from ledger.text import quantities as q
from ledger.text.template import NAME
from ledger.text.yaml_tree import Node, load
from scripts.schema_words import describe

ROOT: Final = Path(__file__).resolve().parent.parent
TARGET: Final = ROOT / "docs" / "schema" / "contract-1.json"
EVERYTHING: Final = Path(__file__).with_name("schema_sample.yaml")

SCALAR: Final = {"type": ["string", "number", "boolean"]}
TEMPLATE: Final = {"type": "string", "pattern": r"\$\{"}


def _quantity(pattern: str, number: str = "integer") -> list[dict[str, Any]]:
    return [{"type": number, "minimum": 0}, {"type": "string", "pattern": f"^(?:{pattern})$"}]


PARSED: Final[dict[Callable[..., Any], list[dict[str, Any]]]] = {
    q.parse_integer: [{"type": "integer"}],
    q.parse_size: _quantity(q._SIZE.pattern),
    q.parse_duration: _quantity(q._DURATION.pattern),
    q.parse_money: _quantity(q._MONEY.pattern),
    q.parse_cpu: _quantity(q._CPU.pattern, "number"),
    q.parse_country: [{"type": "string", "pattern": f"^{q._COUNTRY.pattern}$"}],
}
# Words that stand in place of a mapping: the reader compares them by itself.
WORDS: Final = {
    "approval.deploy": "none",
    "approval.signoff": "none",
    "approval.delete": "none",
    "approval.update": "none",
    "approval.release": "none",
    "approval.on_revoked": "stop",
}


class Place:
    """What the reader did at one place of the source."""

    def __init__(self) -> None:
        self.required: Collection[str] = ()
        self.known: Collection[str] = ()
        self.is_mapping = self.is_list = False
        self.scalars: list[dict[str, Any]] = []
        self.children: dict[str, Place] = {}

    def child(self, name: str) -> Place:
        return self.children.setdefault(name if self.known or name == "[]" else "*", Place())

    def scalar(self, *forms: dict[str, Any]) -> None:
        self.scalars = [*self.scalars, *(form for form in forms if form not in self.scalars)]


class Recorder(Reader):
    """Reads as the reader does, and remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Place()
        self._plain = True  # the innermost call decides what a scalar is

    def place(self, field: str) -> Place:
        at = self.root
        for part in field.replace("[", ".[").split(".") if field else ():
            at = at.child("[]" if part.startswith("[") else part)
        return at

    def mapping(
        self,
        node: Node | None,
        field: str,
        required: Collection[str] = (),
        optional: Collection[str] = (),
    ) -> dict[str, Node]:
        if node is not None:
            at = self.place(field)
            at.is_mapping, at.required = True, tuple(required)
            at.known = (*required, *optional)
        return super().mapping(node, field, required, optional)

    def sequence(self, node: Node | None, field: str) -> list[tuple[Node, str]]:
        if node is not None:
            self.place(field).is_list = True
        return super().sequence(node, field)

    def some(self, node: Node | None, field: str) -> list[tuple[Node, str]]:
        if node is not None:
            self.place(field).scalar(SCALAR)
        return super().some(node, field)

    def text(self, node: Node | None, field: str, default: str = "") -> str:
        if node is not None and self._plain:
            self.place(field).scalar(SCALAR)
        return super().text(node, field, default)

    def words(self, node: Node | None, field: str, known: Collection[str]) -> tuple[str, ...]:
        if node is not None:
            self.place(f"{field}[0]").scalar({"enum": list(known)})
        self._plain = False
        try:
            return super().words(node, field, known)
        finally:
            self._plain = True

    def boolean(self, node: Node | None, field: str, default: bool) -> bool:
        if node is not None:
            self.place(field).scalar({"type": "boolean"})
        return super().boolean(node, field, default)

    def choice(self, node: Node | None, field: str, known: Collection[str], default: str) -> str:
        if node is not None:
            self.place(field).scalar({"enum": list(known)})
        self._plain = False
        try:
            return super().choice(node, field, known, default)
        finally:
            self._plain = True

    def parsed(self, node: Node | None, field: str, parse: Callable[[object], Any], default: Any) -> Any:
        if node is not None:
            self.place(field).scalar(*PARSED[parse])
        return super().parsed(node, field, parse, default)

    def number(
        self, node: Node | None, field: str, parse: Callable[[object], int], default: int
    ) -> int | str:
        if node is not None:
            self.place(field).scalar(*PARSED[parse], TEMPLATE)
        return super().number(node, field, parse, default)


def schema() -> dict[str, Any]:
    """The schema. Raises ValueError when EVERYTHING breaks a rule or leaves a field out."""
    recorder = Recorder()
    language._read(recorder, load(EVERYTHING.read_text(encoding="utf-8"), EVERYTHING.name))
    if recorder.problems:
        raise ValueError("\n".join(problem.text(EVERYTHING.name) for problem in recorder.problems))
    rules: list[Place] = []
    _put_of(recorder.root)
    body = _emit(recorder.root, "", rules)
    merged = rules[0]
    for rule in rules[1:]:
        _merge(merged, rule)
    made = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Gridpact contract, language version 1",
        **body,
        "$defs": {"rule": _emit(merged, "rule", [])},
    }
    silent = describe(made)
    if silent:
        raise ValueError(f"docs/authoring.md and scripts/schema_words.py say nothing of {', '.join(silent)}")
    return made


def _put_of(at: Place) -> None:
    """The reader names the items of an `of:` list without the `of`."""
    for child in at.children.values():
        _put_of(child)
    if "of" in at.known and at.is_list:
        inside = at.children["of"] = Place()
        inside.is_list, at.is_list = True, False
        inside.children["[]"] = at.children.pop("[]")


def _merge(into: Place, other: Place) -> None:
    into.is_list |= other.is_list
    into.is_mapping |= other.is_mapping
    into.required, into.known = into.required or other.required, into.known or other.known
    into.scalar(*other.scalars)
    for name, child in other.children.items():
        _merge(into.children.setdefault(name, Place()), child)


def _emit(at: Place, field: str, rules: list[Place]) -> dict[str, Any]:
    forms: list[dict[str, Any]] = list(at.scalars)
    if field in WORDS:
        forms.append({"const": WORDS[field]})
    if {"role", "all", "any"} <= set(at.known) and field != "rule":
        rules.append(at)
        _collect(at, rules)
        forms.append({"$ref": "#/$defs/rule"})
    elif at.is_mapping:
        forms.append(_mapping(at, field, rules))
    if at.is_list:
        forms.append({"type": "array", "items": _emit(at.child("[]"), f"{field}[]", rules)})
    if not forms:
        raise ValueError(f"{EVERYTHING.name}: nothing reads {field}")
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _collect(at: Place, rules: list[Place]) -> None:
    """Rules inside a rule."""
    for child in at.children.values():
        if {"role", "all", "any"} <= set(child.known):
            rules.append(child)
        _collect(child, rules)


def _mapping(at: Place, field: str, rules: list[Place]) -> dict[str, Any]:
    if not at.known:  # null, an empty mapping, is refused where something must be there
        names = {"propertyNames": {"pattern": f"^{NAME.pattern}$"}} if field in _NAMED else {}
        items = _emit(at.child("*"), f"{field}.*", rules)
        return {"type": ["object", "null"], **names, "additionalProperties": items}
    forgotten = set(at.known) - set(at.children)
    if forgotten:
        raise ValueError(f"{EVERYTHING.name}: {field} leaves out {', '.join(sorted(forgotten))}")
    found = {name: _emit(at.children[name], f"{field}.{name}" if field else name, rules) for name in at.known}
    kind: Any = "object" if at.required else ["object", "null"]
    out = {"type": kind, "properties": found, "additionalProperties": False}
    return out | ({"required": list(at.required)} if at.required else {})


_NAMED: Final = ("parameters", "roles", "workloads", "workloads.*.ports")


def text() -> str:
    """The schema as it is published."""
    return json.dumps(schema(), indent=1) + "\n"


def main() -> int:
    """Write it when it changed."""
    TARGET.parent.mkdir(exist_ok=True)
    made = text()
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != made:
        TARGET.write_text(made, encoding="utf-8")
        print(f"wrote {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
