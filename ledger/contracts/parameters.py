"""Answers to a contract's questions: each value checked against its parameter, in canonical form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ledger.contracts.types import Contract, Parameter, Value
from ledger.errors import Refused
from ledger.limits import NUMBER_MAX, PARAMETER_CHARS_MAX
from ledger.text.nearest import nearest
from ledger.text.pattern import matches
from ledger.text.quantities import (
    QuantityError,
    credits_text,
    parse_country,
    parse_duration,
    parse_integer,
    parse_money,
    parse_size,
)
from ledger.text.template import unsafe_character

_PARSERS: Final[dict[str, Callable[[object], Value]]] = {
    "integer": parse_integer,
    "size": parse_size,
    "duration": parse_duration,
    "money": parse_money,
    "country": parse_country,
}


def parameter_value(parameter: Parameter, given: object, field: str) -> Value:
    """The canonical value (sizes in bytes, durations in seconds, money in micro-credits).

    Raises Refused: parameter.type, parameter.range, parameter.length, parameter.pattern,
    parameter.choices, parameter.character.
    """
    value = _typed(parameter, given, field)
    if isinstance(value, int) and not isinstance(value, bool):
        least = -NUMBER_MAX if parameter.min is None else parameter.min
        most = NUMBER_MAX if parameter.max is None else parameter.max
        if not least <= value <= most:
            detail = f"{_told(parameter, value)} is not in {_range(parameter)}"
            raise Refused("parameter.range", detail, field)
    elif parameter.type == "string":
        _check_text(parameter, str(value), field)
    if parameter.choices and value not in parameter.choices:
        wanted = ", ".join(_told(parameter, choice) for choice in parameter.choices)
        shown = _shown(value) if isinstance(value, str) else _told(parameter, value)
        raise Refused("parameter.choices", f"{shown} is none of {wanted}", field)
    return value


def resolve_parameters(contract: Contract, given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters with their values, defaults filled in, in the order of the contract.

    Raises Refused naming `parameters.NAME`: parameter.unknown, parameter.missing and those of
    `parameter_value`.
    """
    known = {parameter.name for parameter in contract.parameters}
    for name in sorted(given):
        if name not in known:
            wanted = ", ".join(sorted(known)) or "none"
            detail = f"this contract asks for: {wanted}. {nearest(name, known)}".strip()
            raise Refused("parameter.unknown", detail, f"parameters.{_shown(name)}")
    values: dict[str, Value] = {}
    for parameter in contract.parameters:
        field = f"parameters.{parameter.name}"
        if parameter.name in given:
            values[parameter.name] = parameter_value(parameter, given[parameter.name], field)
        elif parameter.default is not None:
            values[parameter.name] = parameter_value(parameter, parameter.default, field)
        else:
            raise Refused("parameter.missing", f"a {parameter.type} wanted, no default", field)
    return values


def parameters_from_text(contract: Contract, given: Mapping[str, str]) -> dict[str, Value]:
    """Values as typed on a command line or form, to typed ones. Raises as `resolve_parameters` does.

    Only the given ones are returned; the defaults stay with the contract.
    """
    types = {parameter.name: parameter.type for parameter in contract.parameters}
    typed: dict[str, Value] = {}
    for name, text in given.items():
        kind = types.get(name)
        if kind == "boolean" and text in ("true", "false"):
            typed[name] = text == "true"
        elif kind in ("integer", "size", "duration", "money") and _is_integer(text):
            typed[name] = int(text)
        else:
            typed[name] = text
    resolved = resolve_parameters(contract, typed)
    return {name: resolved[name] for name in given}


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return 0 < len(digits) <= 20 and digits.isascii() and digits.isdigit()


def _typed(parameter: Parameter, given: object, field: str) -> Value:
    kind = parameter.type
    if kind == "string":
        if not isinstance(given, str):
            raise Refused("parameter.type", "text wanted", field)
        return given
    if kind == "boolean":
        if not isinstance(given, bool):
            raise Refused("parameter.type", "true or false wanted", field)
        return given
    try:
        return _PARSERS[kind](given)
    except QuantityError as error:
        raise Refused("parameter.type", f"{_shown(given)}: {error}", field) from None


def _check_text(parameter: Parameter, text: str, field: str) -> None:
    least = parameter.min or 0
    most = PARAMETER_CHARS_MAX if parameter.max is None else min(parameter.max, PARAMETER_CHARS_MAX)
    if not least <= len(text) <= most:
        raise Refused("parameter.length", f"{len(text)} characters, {least} to {most} wanted", field)
    unsafe = unsafe_character(text)
    if unsafe is not None:
        raise Refused("parameter.character", f"the control or invisible character {unsafe}", field)
    if parameter.pattern is not None and not matches(parameter.pattern, text):
        raise Refused("parameter.pattern", f"{_shown(text)} does not match {parameter.pattern}", field)


def _range(parameter: Parameter) -> str:
    low, high = ("any" if n is None else _told(parameter, n) for n in (parameter.min, parameter.max))
    return f"{low} to {high}{' ' + parameter.unit if parameter.unit else ''}"


def _told(parameter: Parameter, value: Value) -> str:
    """A value with its unit: who answers knows no micro-credits."""
    if parameter.type == "money" and isinstance(value, int):
        return f"{credits_text(value)} credits"
    unit = {"duration": " s", "size": " B"}.get(parameter.type, "")
    return f"{value}{unit}"


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "…"
