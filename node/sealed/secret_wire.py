"""What a consumer's bot and the holder of a slot say to each other about secrets.

`here` (bot to holder, signed by the consumer or the bot): secrets for this slot and term are with me.
`ask` (holder to that bot): give them. Who asks is said by the connection: a peer id is the node's key.
`given`: a box that only the holder's node key opens, signed by the giver, with what it is for inside.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.codec import decode, encode, sha256
from ledger.errors import Refused
from ledger.keys import Key, verify
from node.limits import SECRET_BYTES_MAX, SECRETS_BYTES_MAX
from node.sealed.sealing import seal, unseal

HERE: Final = "secrets/here"
ASK: Final = "secrets/ask"
_HERE_DOMAIN: Final = "secrets-here/1"
_GIVEN_DOMAIN: Final = "secrets-given/1"
WORD_BYTES_MAX: Final = 512  # of `here` and `ask`: ids, names, a signature
GIVEN_BYTES_MAX: Final = SECRETS_BYTES_MAX + 4_096  # names, what it is for, the box's own bytes


class _Wire(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of what is sent."""


class Place(_Wire, frozen=True):
    """One term of one slot, and its holder's node key. What both sides must agree about."""

    chain_id: str
    deployment: bytes
    slot: str
    term: int
    node: bytes


class Here(_Wire, frozen=True):
    """Signed, so that nobody else can send a holder round for its secrets."""

    place: Place
    sender: bytes
    signature: bytes


class Ask(_Wire, frozen=True):
    """`volumes`: of whose copies the keys are wanted, too; they come under KEY_NAME and the volume's name."""

    deployment: bytes
    slot: str
    term: int
    volumes: tuple[str, ...] = ()


class Given(_Wire, frozen=True):
    sender: bytes
    sealed: bytes
    signature: bytes  # over place and box: the giver's word that these are the consumer's


class _Inside(_Wire, frozen=True):
    place: Place
    secrets: dict[str, bytes]


def make_here(key: Key, place: Place) -> Here:
    """The bot's signed word."""
    return Here(place, key.public, key.sign(_HERE_DOMAIN, place.chain_id, encode(place)))


def check_here(here: Here, chain_id: str, senders: tuple[bytes, ...]) -> None:
    """Raises Refused("secrets.sender") unless one of `senders` signed it for this chain."""
    _check_sender(here.sender, senders, _HERE_DOMAIN, chain_id, encode(here.place), here.signature)


def make_given(key: Key, place: Place, secrets: dict[str, bytes]) -> Given:
    """Secrets for the holder of a term alone; another box each time. Raises Refused: secrets.too_long,
    seal.key."""
    check_sizes(secrets)
    sealed = seal(place.node, encode(_Inside(place, secrets)))
    signature = key.sign(_GIVEN_DOMAIN, place.chain_id, encode(place) + sealed)
    return Given(key.public, sealed, signature)


def open_given(
    given: Given, key: Key, place: Place, senders: tuple[bytes, ...], names: tuple[str, ...]
) -> dict[str, bytes]:
    """The secrets, exactly those named. Raises Refused: secrets.sender, secrets.place (made for another
    slot, term, node or chain), secrets.names, secrets.too_long, seal.not_ours, secrets.malformed."""
    signed = encode(place) + given.sealed
    _check_sender(given.sender, senders, _GIVEN_DOMAIN, place.chain_id, signed, given.signature)
    try:
        inside = decode(_Inside, unseal(key, given.sealed))
    except (msgspec.MsgspecError, ValueError):
        raise Refused("secrets.malformed", "what was sealed are no secrets") from None
    if inside.place != place:
        raise Refused("secrets.place", "sealed for another slot, term or node")
    if set(inside.secrets) != set(names):
        raise Refused("secrets.names", f"named are {', '.join(sorted(names))}; given are others")
    check_sizes(inside.secrets)
    return inside.secrets


def digest_of(given: Given) -> str:
    """What a receipt says of it: the sha256 (hex) of the box. It tells nothing of what is inside."""
    return sha256(given.sealed).hex()


def check_sizes(secrets: dict[str, bytes]) -> None:
    """Raises Refused("secrets.too_long")."""
    for name, value in secrets.items():
        if len(value) > SECRET_BYTES_MAX:
            raise Refused("secrets.too_long", f"{name} has {len(value)} bytes, at most {SECRET_BYTES_MAX}")
    total = sum(map(len, secrets.values()))
    if total > SECRETS_BYTES_MAX:
        raise Refused("secrets.too_long", f"{total} bytes together, at most {SECRETS_BYTES_MAX}")


def _check_sender(
    sender: bytes, senders: tuple[bytes, ...], domain: str, chain_id: str, signed: bytes, signature: bytes
) -> None:
    if sender not in senders or not verify(sender, domain, chain_id, signed, signature):
        raise Refused("secrets.sender", "not signed by the deployment's consumer or its bot")
