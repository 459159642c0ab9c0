"""What differs between two contracts, or two manifests, field by field. Lists of things with names are
compared by name. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec

from ledger.contracts.types import Contract
from ledger.manifests.types import Manifest
from ledger.policies.decision import describe
from ledger.policies.types import ACTS

_MISSING = object()
_SHOWN_CHARS: Final = 120
Document = TypeVar("Document", Contract, Manifest)


class Difference(msgspec.Struct, frozen=True):
    """A field that is not the same; None where one of the two has no such field."""

    field: str
    before: Any
    after: Any

    @property
    def before_text(self) -> str:
        """For people; "" when there was none."""
        return _text(self.before)

    @property
    def after_text(self) -> str:
        """For people; "" when there is none any more."""
        return _text(self.after)


def differences(before: Document, after: Document) -> tuple[Difference, ...]:
    """Every field that differs, in the order of the contract, or manifest."""
    return tuple(_compare("", msgspec.to_builtins(before), msgspec.to_builtins(after)))


def manifest_changes(before: Manifest, after: Manifest) -> Iterator[Difference]:
    """As `differences`, for people who decide on it: a policy that is not the same is one field, in words."""
    rules = {f"policies.{act}": (getattr(before.policies, act), getattr(after.policies, act)) for act in ACTS}
    told: set[str] = set()
    for found in differences(before, after):
        name = ".".join(found.field.split(".")[:2])
        if name not in rules:
            yield found
        elif name not in told:
            told.add(name)
            yield Difference(name, *map(_rule_text, rules[name]))


def _rule_text(rule: Any) -> str:
    return "what deploying asks for" if rule == "as_deploy" else describe(rule)


def _compare(field: str, before: Any, after: Any) -> Iterator[Difference]:
    one, two = _named(before), _named(after)
    if isinstance(one, dict) and isinstance(two, dict):
        for key in [*one, *(key for key in two if key not in one)]:
            path = f"{field}.{key}" if field else str(key)
            yield from _compare(path, one.get(key, _MISSING), two.get(key, _MISSING))
    elif before != after:
        yield Difference(field, _shown(before), _shown(after))


def _named(value: Any) -> Any:
    """A list of things with names of their own becomes a mapping."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value):
        for key in ("name", "path"):
            names = [item.get(key) for item in value]
            if None not in names and len(set(names)) == len(names):
                return dict(zip(names, value, strict=True))
    return value


def _shown(value: Any) -> Any:
    return None if value is _MISSING else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
