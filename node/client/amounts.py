"""Amounts as people read and write them: credits, sizes, durations, times. Whole numbers inside."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from ledger.text.quantities import QuantityError, parse_duration, parse_money
from ledger.text.quantities import credits_text as credits_text

_SIZES: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_SHOWN_CHARS: Final = 40  # of what cannot be read
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def parse_credits(text: str) -> int:
    """Micro-credits of "1.5", "1.5 credits" or "3". Raises QuantityError."""
    stripped = text.strip()
    try:
        return parse_money(stripped if "credit" in stripped else f"{stripped} credits")
    except QuantityError:  # its words are for contracts, where a bare number is one of micro-credits
        words = "credits wanted, such as 1.5, with at most six digits after the point"
        raise QuantityError(f"{text[:_SHOWN_CHARS]!r}: {words}") from None


def parse_span(text: str, flag: str) -> int:
    """Seconds of what a flag was given, such as "30d"; a bare number has no unit. Raises QuantityError."""
    try:
        return parse_duration(text)
    except QuantityError:
        words = "a duration wanted, such as 30s, 5m, 72h or 30d"
        raise QuantityError(f"{flag} {text[:_SHOWN_CHARS]}: {words}") from None


def size_text(size_bytes: int) -> str:
    """ "64 MiB", "1.5 GiB", "12 B": rounded down to one decimal."""
    for unit, name in _SIZES:
        if size_bytes >= unit:
            tenths = size_bytes * 10 // unit
            return f"{tenths // 10}.{tenths % 10} {name}" if tenths % 10 else f"{tenths // 10} {name}"
    return f"{size_bytes} B"


def cpu_text(cpu_millis: int) -> str:
    """ "2 cores", "0.25 cores"."""
    whole, rest = divmod(cpu_millis, 1000)
    text = f"{whole}.{rest:03d}".rstrip("0").rstrip(".")
    return f"{text} core" if cpu_millis == 1000 else f"{text} cores"


def span_text(milliseconds: int) -> str:
    """A length of time: "340 ms", "1.4 s", "3 min", "2 h 5 min", "3 d"."""
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    seconds = milliseconds // 1_000
    if seconds < 60:
        tenths = milliseconds // 100 % 10
        return f"{seconds}.{tenths} s" if seconds < 20 and tenths else f"{seconds} s"
    parts = []
    for unit, name in _SPANS:
        count, seconds = divmod(seconds, unit)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def duration_text(seconds: int) -> str:
    """A time that is agreed on, to the second: "1 d", "1 min 30 s"; `span_text` rounds."""
    parts = []
    for unit, name in (*_SPANS, (1, "s")):
        count, seconds = divmod(seconds, unit)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts) or "0 s"


def room_text(size_bytes: int) -> str:
    """A size that is agreed on, to the byte: "64 MiB", "95.3 MiB (100,000,000 B)"."""
    unit = next((unit for unit, _ in _SIZES if size_bytes >= unit), 1)
    text = size_text(size_bytes)
    return f"{text} ({size_bytes:,} B)" if size_bytes * 10 % unit else text


def term_text(field: str, text: str, kinds: Mapping[str, str] = MappingProxyType({})) -> str:
    """A manifest's field in its units, exactly: nobody signs for a number of micro-credits. `kinds`: the type
    of each parameter."""
    if not text.isdecimal():
        return text
    number = int(text)
    if field.startswith("parameters."):
        kind = kinds.get(field.removeprefix("parameters."), "string")
        return text if kind == "string" else value_text(kind, number)
    if field in ("terms.budget", "terms.fee", "terms.top_up") or field.startswith("terms.price."):
        return value_text("money", number)
    if field.endswith("cpu_millis"):
        return cpu_text(number)
    if field.endswith("_bytes"):
        return value_text("size", number)
    return value_text("duration", number) if field.endswith("_s") else text


def value_text(kind: str, value: str | int | bool) -> str:
    """A contract parameter's value by its type: "5 credits", "1 d", "64 MiB"; others as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if kind == "money":
            return f"{credits_text(value)} credits"
        if kind == "duration":
            return duration_text(value)
        if kind == "size":
            return room_text(value)
    return str(value)


def time_text(time_ms: int) -> str:
    """UTC to the second, "2026-01-31 12:00:05"; "-" for 0 (not yet)."""
    if time_ms <= 0:
        return "-"
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
