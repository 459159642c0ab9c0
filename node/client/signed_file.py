"""Files of readable JSON to which people add signatures one by one: read within bounds, replaced whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from ledger.errors import Refused
from ledger.keys import public_key_from_hex
from node.errors import ConfigError
from node.home import write_atomic


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One person's word for it, in hex."""

    key: str
    signature: str


class Signed(Protocol):
    """What each such file holds, beside what it is about."""

    @property
    def format(self) -> str: ...
    @property
    def signatures(self) -> tuple[Signature, ...]: ...


T = TypeVar("T", bound=Signed)


def with_word(signatures: tuple[Signature, ...], public: bytes, word: bytes) -> tuple[Signature, ...]:
    """The signatures with this key's in place of any former one."""
    kept = (found for found in signatures if found.key != public.hex())
    return (*kept, Signature(key=public.hex(), signature=word.hex()))


def judged(
    signatures: tuple[Signature, ...], holds: Callable[[bytes, bytes], bool]
) -> tuple[dict[bytes, bytes], list[str]]:
    """By key what holds, and the keys of what does not, or is none."""
    good: dict[bytes, bytes] = {}
    bad: list[str] = []
    for found in signatures:
        try:
            public, word = public_key_from_hex(found.key, "signatures"), bytes.fromhex(found.signature)
        except (Refused, ValueError):
            bad.append(found.key[:64])
            continue
        if holds(public, word):
            good[public] = word
        else:
            bad.append(found.key)
    return good, bad


def read_signed(
    file: Path, kind: type[T], what: str, *, format_: str, bytes_max: int, signatures_max: int
) -> T:
    """The file, decoded; `what` it should be, in words. Raises ConfigError naming what is wrong."""
    try:
        with file.open("rb") as stream:
            data = stream.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise ConfigError(f"{file}: longer than {bytes_max} bytes")
        found = msgspec.json.decode(data, type=kind)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{file}: no {what}: {error}") from None
    if found.format != format_:
        raise ConfigError(f"{file}: format {found.format[:40]!r}, this program reads {format_!r}")
    if len(found.signatures) > signatures_max:
        raise ConfigError(f"{file}: more than {signatures_max} signatures")
    return found


def write_signed(file: Path, content: Signed, *, fresh: bool = False) -> None:
    """Replace the file whole. Raises ConfigError; with `fresh`, also when it exists."""
    if fresh and file.exists():
        raise ConfigError(f"{file}: exists already")
    write_atomic(file, msgspec.json.format(msgspec.json.encode(content)) + b"\n", 0o644)
