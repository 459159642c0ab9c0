"""Patterns for parameters: a small part of regular expressions that is linear to match.

An author's pattern runs on every peer while it executes a block, so it must cost little whatever
the text, and mean the same on every version of Python: no groups, alternatives, look-arounds or
back-references; classes are ASCII. A pattern is a sequence of atoms (a character, `.`, `\\d`, `\\w`,
`[a-z0-9]`, `[^/]`), each with `?`, `*`, `+`, `{n}`, `{n,}` or `{n,m}`; it must match the whole text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ledger.limits import PATTERN_ATOMS_MAX, PATTERN_CHARS_MAX, PATTERN_REPEAT_MAX

_DIGITS: Final = "0123456789"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CLASSES: Final = {"d": frozenset(_DIGITS), "w": frozenset(_DIGITS + _LETTERS + "_")}
_SPECIAL: Final = frozenset("()|^$*+?{}[]\\.")
_BRACES: Final = re.compile(r"\{([0-9]{1,4})(,?)([0-9]{0,4})\}")


class PatternError(ValueError):
    """The text is no pattern of this language."""


@dataclass(frozen=True, slots=True)
class _Atom:
    chars: frozenset[str]
    negated: bool
    least: int
    most: int

    def takes(self, char: str) -> bool:
        return (char in self.chars) != self.negated


def parse_pattern(text: str) -> tuple[_Atom, ...]:
    """The atoms of a pattern. Raises PatternError saying what is not allowed."""
    if len(text) > PATTERN_CHARS_MAX:
        raise PatternError(f"a pattern of at most {PATTERN_CHARS_MAX} characters wanted")
    atoms: list[_Atom] = []
    at = 0
    while at < len(text):
        chars, negated, at = _one(text, at)
        least, most, at = _repeat(text, at)
        atoms.append(_Atom(chars, negated, least, most))
        if len(atoms) > PATTERN_ATOMS_MAX:
            raise PatternError(f"at most {PATTERN_ATOMS_MAX} parts wanted")
    return tuple(atoms)


def matches(pattern: str, text: str) -> bool:
    """True when the whole text matches: a set of reached positions, as bits, moves over the atoms."""
    reached = 1
    length = len(text)
    for atom in parse_pattern(pattern):
        after = 0
        run = 0  # characters from `position` on that the atom takes
        for position in range(length, -1, -1):
            run = run + 1 if position < length and atom.takes(text[position]) else 0
            most = min(run, atom.most)
            if reached >> position & 1 and most >= atom.least:
                after |= ((1 << (most - atom.least + 1)) - 1) << (position + atom.least)
        reached = after
        if not reached:
            return False
    return bool(reached >> length & 1)


def _one(text: str, at: int) -> tuple[frozenset[str], bool, int]:
    char = text[at]
    if char == ".":
        return frozenset(), True, at + 1
    if char == "\\":
        return (*_escape(text, at), at + 2)
    if char == "[":
        return _class(text, at + 1)
    if char in _SPECIAL:
        raise PatternError(f"{char!r} has no meaning here; write \\{char} for the character itself")
    return frozenset(char), False, at + 1


def _escape(text: str, at: int) -> tuple[frozenset[str], bool]:
    following = text[at + 1 : at + 2]
    if following in _CLASSES:
        return _CLASSES[following], False
    if not following or following in _LETTERS + _DIGITS:
        raise PatternError("after \\ a punctuation character, d or w is wanted")
    return frozenset(following), False


def _class(text: str, at: int) -> tuple[frozenset[str], bool, int]:
    negated = text[at : at + 1] == "^"
    at += negated
    chars: set[str] = set()
    start = at
    while True:
        if at >= len(text):
            raise PatternError("a [ without its ]")
        char = text[at]
        if char == "]" and at > start:
            return frozenset(chars), negated, at + 1
        if char == "\\":
            chars |= _escape(text, at)[0]
            at += 2
        elif text[at + 1 : at + 2] == "-" and text[at + 2 : at + 3] not in ("", "]"):
            last = text[at + 2]
            if not (char.isascii() and last.isascii() and char <= last):
                raise PatternError(f"the range {char}-{last} must be ASCII and ascending")
            chars |= {chr(code) for code in range(ord(char), ord(last) + 1)}
            at += 3
        else:
            chars.add(char)
            at += 1


def _repeat(text: str, at: int) -> tuple[int, int, int]:
    char = text[at : at + 1]
    if char and char in "?*+":
        return int(char == "+"), 1 if char == "?" else PATTERN_REPEAT_MAX, at + 1
    if char != "{":
        return 1, 1, at
    match = _BRACES.match(text, at)
    if match is None:
        raise PatternError("{n}, {n,} or {n,m} wanted")
    least = int(match[1])
    most = int(match[3]) if match[3] else (PATTERN_REPEAT_MAX if match[2] else least)
    if (match[3] and not match[2]) or not least <= most <= PATTERN_REPEAT_MAX:
        raise PatternError(f"{{n,m}} with n <= m <= {PATTERN_REPEAT_MAX} wanted")
    return least, most, match.end()
