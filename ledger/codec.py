"""Encodings, msgpack and canonical JSON, and the refusal of all that is not the one encoding of a value."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from ledger.errors import Refused

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}
_json_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def sha256(data: bytes) -> bytes:
    """The one hash of the system: 32 bytes."""
    return hashlib.sha256(data).digest()


def encode(value: Any) -> bytes:
    """Deterministic msgpack of a struct made of ints, bytes, str, tuples, structs and str-keyed dicts."""
    return _encoder.encode(value)


def decode(kind: type[T], data: bytes) -> T:
    """Decode bytes that we wrote ourselves (store, cache). Raises msgspec.MsgspecError."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return decoder.decode(data)  # type: ignore[no-any-return]


def decode_exact(kind: type[T], data: bytes, rule: str, limit: int) -> T:
    """Decode foreign bytes. Raises Refused(rule…) unless `data` is the exact encoding of the result.

    One value has one encoding: unknown fields, duplicate keys, long integer forms and trailing
    bytes all fail here, so ids and signatures over bytes are ids and signatures over values.
    """
    if len(data) > limit:
        raise Refused(f"{rule}.too_long", f"{len(data)} bytes, at most {limit}")
    try:
        value = decode(kind, data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(f"{rule}.malformed", str(error)) from None
    if _encoder.encode(value) != data:
        raise Refused(f"{rule}.not_canonical", "bytes are not the canonical encoding of their value")
    return value


def encode_json(value: Any) -> bytes:
    """Canonical JSON of a struct: sorted keys, no spaces, UTF-8."""
    return msgspec.json.encode(value, order="sorted")


def decode_exact_json(kind: type[T], data: bytes, rule: str, limit: int, field: str = "") -> T:
    """As `decode_exact`, of canonical JSON."""
    if len(data) > limit:
        raise Refused(f"{rule}.too_long", f"{len(data)} bytes, at most {limit}", field)
    decoder = _json_decoders.get(kind)
    if decoder is None:
        decoder = _json_decoders[kind] = msgspec.json.Decoder(kind)
    try:
        value = decoder.decode(data)
        again = encode_json(value)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(f"{rule}.malformed", str(error), field) from None
    if again != data:
        raise Refused(f"{rule}.not_canonical", "bytes are not the canonical JSON of their value", field)
    return value  # type: ignore[no-any-return]
