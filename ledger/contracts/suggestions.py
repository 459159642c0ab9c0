"""A way out of each problem of a contract's source: what to write instead, near to what was meant.

Where the place that finds a problem has no better word, `ledger.contracts.rule_names` has one for its rule,
and `EXAMPLES` one for a field that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from ledger.contracts.rule_names import SUGGESTIONS
from ledger.limits import NAME_CHARS_MAX
from ledger.text.quantities import SIZES, QuantityError

EXAMPLES: Final[dict[str, str]] = {
    "approval": "approval: {deploy: {role: owner}, signoff: none, delete: none}",
    "artifacts": "artifacts: [{path: /bin/app, file: app, executable: true}]",
    "budget": "budget: 10 credits",
    "by": "by: farm",
    "count": "count: 1",
    "cpu": "cpu: 250m",
    "delete": "delete: {role: owner}, or 'delete: none' when nobody is asked",
    "deploy": "deploy: {role: owner}, or 'deploy: none' when nobody is asked",
    "duration": "duration: 30d",
    "from": "from: [db]",
    "gridpact": "gridpact: 1",
    "kind": "kind: service, or 'kind: job' for what ends by itself",
    "least": "least: 60",
    "memory": "memory: 64MiB",
    "most": "most: 2",
    "name": "name: my-site",
    "of": "of: [{role: owner}]",
    "path": "path: /data",
    "resources": "resources: {cpu: 250m, memory: 64MiB}",
    "run_until": "run_until: 2h",
    "signoff": "signoff: {role: owner}, or 'signoff: none' when nobody is asked",
    "size": "size: 1GiB",
    "terms": "terms: {duration: 30d, budget: 10 credits}",
    "title": "title: What it is, in one line",
    "type": "type: integer",
    "version": "version: 1.0.0",
    "weight": "weight: 20",
    "workloads": "workloads: {web: {kind: service, …}}",
}
"""Each field that must be there, as it may be written: its last name is enough."""

_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_CHARS_MAX: Final = 40  # what is longer is no slip of the pen
_SIZES: Final = {unit[0].lower(): unit for unit in SIZES if unit.endswith("iB")}
_TIMES: Final = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), (1, "s")),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), (1, "m")),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), (1, "h")),
    **dict.fromkeys(("d", "day", "days"), (1, "d")),
    **dict.fromkeys(("w", "week", "weeks"), (7, "d")),
    **dict.fromkeys(("month", "months"), (30, "d")),
    **dict.fromkeys(("y", "year", "years"), (365, "d")),
}
_VERSION: Final = re.compile(r"v?([0-9]{1,8})(?:\.([0-9]{1,8}))?(?:\.([0-9]{1,8}))?")
_FORMS: Final = {
    "parse_integer": "as in 3",
    "parse_size": "as in 64MiB",
    "parse_duration": "as in 72h",
    "parse_cpu": "as in 500m",
    "parse_money": "as in 2.5 credits",
    "parse_country": "as in BE",
}


def suggestion(rule: str, field: str) -> str:
    """What to do about a rule broken at a field; empty for a rule that no source breaks."""
    return example(field, field) if rule.endswith(".missing_field") else SUGGESTIONS.get(rule, "")


def example(field: str, default: str) -> str:
    """How a field may be written."""
    return f"as in {EXAMPLES.get(field.rpartition('.')[2], default)}"


def quantity(parse: Callable[[object], object], text: str) -> str:
    """What a quantity that `parse` refused may have been meant to be: 256M, 1 hour, 0.5 cores."""
    for meant in _meant(parse.__name__, text.strip()):
        try:
            parse(meant)
        except QuantityError:
            continue
        return f"did you mean {meant}?"
    return _FORMS.get(parse.__name__, "")


def truth(text: str) -> str:
    """What was meant where only true and false are known."""
    if text.lower() in ("yes", "on", "y", "1", "true"):
        return "did you mean true?"
    return "did you mean false?" if text.lower() in ("no", "off", "n", "0", "false") else "as in true"


def listed(field: str, text: str) -> str:
    """One text where a list is wanted."""
    if field.rpartition(".")[2] in EXAMPLES or not 0 < len(text) <= _CHARS_MAX:
        return example(field, "[one, two]")
    return f"did you mean [{text}]?"


def named(text: str) -> str:
    """The nearest name."""
    found = re.sub(r"[^a-z0-9]+", "-", text[:NAME_CHARS_MAX].lower()).strip("-")
    return f"did you mean {found}?" if found[:1].isalpha() else ""


def versioned(text: str) -> str:
    """The nearest version: v1.0, 1 and 1.0 are short for three numbers."""
    found = _VERSION.fullmatch(text[:_CHARS_MAX])
    return "did you mean " + ".".join(str(int(part or 0)) for part in found.groups()) + "?" if found else ""


def _meant(kind: str, text: str) -> Iterator[int | str]:
    found = _NUMBER.fullmatch(text)
    if kind == "parse_country":
        yield text.upper()
    if found is None or len(text) > _CHARS_MAX:
        return
    number, unit = found[1], found[2].lower()
    if kind == "parse_size" and unit[:1] in _SIZES and unit[1:] in ("", "b", "i", "ib"):
        yield number + _SIZES[unit[:1]]
    elif kind == "parse_duration" and unit in _TIMES and "." not in number:
        count, letter = _TIMES[unit]
        yield f"{int(number) * count}{letter}"
    elif kind == "parse_cpu" and unit in ("", "c", "cpu", "cpus", "core", "cores"):
        yield number
    elif kind == "parse_cpu" and unit in ("m", "mcpu", "milli", "millis"):
        yield f"{number}m"
    elif kind == "parse_money":
        yield f"{number} credits"
    elif kind == "parse_integer":
        yield int(number.partition(".")[0])
