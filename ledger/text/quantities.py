"""Quantities as people write them, to whole numbers: 100m, 64MiB, 72h, 2.5 credits. No floats anywhere."""

from __future__ import annotations

import re
from typing import Final

from ledger.limits import NUMBER_MAX

CREDIT: Final = 1_000_000  # micro-credits

_DECIMAL: Final = r"([0-9]{1,16})(?:\.([0-9]{1,9}))?"
_SIZE: Final = re.compile(_DECIMAL + r"\s?(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)")
_DURATION: Final = re.compile(r"([0-9]{1,12})(s|m|h|d)")
_CPU: Final = re.compile(r"(?:([0-9]{1,9})m|" + _DECIMAL + r")")
_MONEY: Final = re.compile(_DECIMAL + r"\s?credits?")
_COUNTRY: Final = re.compile(r"[A-Z]{2}")
SIZES: Final[dict[str, int]] = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class QuantityError(ValueError):
    """The text is no such quantity; the message says which form is wanted."""


def parse_size(value: object) -> int:
    """Bytes, from an integer or text such as 64MiB. Raises QuantityError."""
    if (number := _integer(value)) is not None:
        return number
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise QuantityError("a size wanted, such as 64MiB or 2GB, or a number of bytes")
    return _scaled(match[1], match[2], SIZES[match[3]], "a whole number of bytes wanted")


def parse_duration(value: object) -> int:
    """Seconds, from an integer or text such as 30s, 5m, 72h, 30d. Raises QuantityError."""
    if (number := _integer(value)) is not None:
        return number
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise QuantityError("a duration wanted, such as 30s, 5m, 72h or 30d, or a number of seconds")
    return _bounded(int(match[1]) * _SECONDS[match[2]])


def parse_cpu(value: object) -> int:
    """Thousandths of a core, from 100m, 0.5, or a number of cores. Raises QuantityError."""
    if (number := _integer(value)) is not None:
        return _bounded(number * 1000)
    match = _CPU.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise QuantityError("cores wanted, such as 100m, 0.5 or 2")
    if match[1] is not None:
        return int(match[1])
    return _scaled(match[2], match[3], 1000, "at most three digits after the point")


def parse_money(value: object) -> int:
    """Micro-credits, from an integer or text such as '2.5 credits'. Raises QuantityError."""
    if (number := _integer(value)) is not None:
        return number
    match = _MONEY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise QuantityError("money wanted, such as '2.5 credits', or a number of micro-credits")
    return _scaled(match[1], match[2], CREDIT, "at most six digits after the point")


def credits_text(micro: int) -> str:
    """ "1.5" for 1_500_000 micro-credits; at least one, at most six decimals."""
    sign = "-" if micro < 0 else ""
    whole, rest = divmod(abs(micro), CREDIT)
    decimals = f"{rest:06d}".rstrip("0")
    return f"{sign}{whole:,}" + (f".{decimals}" if decimals else "")


def parse_integer(value: object) -> int:
    """An integer (a boolean is none). Raises QuantityError."""
    if (number := _integer(value, negative=True)) is not None:
        return number
    raise QuantityError("an integer wanted")


def parse_country(value: object) -> str:
    """An ISO 3166-1 alpha-2 code by its form. Raises QuantityError."""
    if isinstance(value, str) and _COUNTRY.fullmatch(value):
        return value
    raise QuantityError("a country wanted: two capital letters, such as BE (ISO 3166-1 alpha-2)")


def _integer(value: object, negative: bool = False) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    if abs(value) > NUMBER_MAX or (value < 0 and not negative):
        raise QuantityError(f"a number {'' if negative else 'of 0 '}up to {NUMBER_MAX} wanted")
    return value


def _scaled(whole: str, fraction: str | None, unit: int, rule: str) -> int:
    digits = fraction or ""
    number, rest = divmod(int(whole + digits) * unit, 10 ** len(digits))
    if rest:
        raise QuantityError(rule)
    return _bounded(number)


def _bounded(number: int) -> int:
    if number > NUMBER_MAX:
        raise QuantityError(f"more than {NUMBER_MAX}")
    return number
