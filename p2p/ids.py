"""Peer ids of Ed25519 keys, without the network library, so that client commands start fast.

A peer id is the base58 (Bitcoin alphabet) form of the identity multihash of the protobuf-encoded public key,
as the libp2p specification (peer-ids/peer-ids.md) says for keys of at most 42 bytes.
"""

from p2p.errors import LocalError
from p2p.limits import ADDRESS_BYTES_MAX

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_INDEX = {letter: number for number, letter in enumerate(_ALPHABET)}
# Multihash: identity (0x00), 36 bytes (0x24); protobuf: KeyType = Ed25519 (08 01), Data of 32 bytes (12 20).
_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
_PEER_ID_LETTERS_MAX = 64


def base58_encode(data: bytes) -> str:
    """Returns ``data`` in base58 (Bitcoin alphabet, leading zero bytes as ``1``)."""
    number = int.from_bytes(data, "big")
    letters = []
    while number:
        number, rest = divmod(number, 58)
        letters.append(_ALPHABET[rest])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(letters))


def base58_decode(text: str) -> bytes:
    """Returns the bytes behind base58 ``text``; raises LocalError for a letter outside the alphabet."""
    number = 0
    for letter in text:
        if letter not in _INDEX:
            raise LocalError(f"peer id: {letter!r} is no base58 letter")
        number = number * 58 + _INDEX[letter]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def peer_id_of(public_key: bytes) -> str:
    """Returns the peer id (``12D3KooW…``) of a raw 32-byte Ed25519 public key; raises LocalError for another
    size."""
    if len(public_key) != 32:
        raise LocalError(f"public key: must be 32 bytes, has {len(public_key)}")
    return base58_encode(_PREFIX + public_key)


def public_key_of(peer_id: str) -> bytes:
    """Returns the raw 32-byte Ed25519 public key inside ``peer_id``; raises LocalError when it is not such
    an id."""
    raw = base58_decode(peer_id) if len(peer_id) <= _PEER_ID_LETTERS_MAX else b""
    if len(raw) != len(_PREFIX) + 32 or not raw.startswith(_PREFIX):
        raise LocalError("peer id: must be the identity multihash of an Ed25519 public key, in base58")
    return raw[len(_PREFIX) :]


def peer_of_address(address: str) -> tuple[str, str]:
    """Splits ``/ip4/…/tcp/…/p2p/ID`` into (the transport part, ID).

    Raises LocalError when the address is too long, has no ``/p2p/ID`` at its end, or the id is not an
    Ed25519 one.
    """
    head, mark, peer_id = address.rpartition("/p2p/")
    is_plain = address.isascii() and address.isprintable() and len(address) <= ADDRESS_BYTES_MAX
    if not is_plain or not mark or not head.startswith("/"):
        raise LocalError(f"address {address[:80]!r}: must be a multiaddr that ends in /p2p/ID")
    public_key_of(peer_id)
    return head, peer_id


def relay_of_address(address: str) -> str | None:
    """Returns the relay's own address in ``RELAY/p2p-circuit/p2p/ID``; None for one that needs no relay."""
    relay, mark, _ = address.partition("/p2p-circuit/")
    return relay if mark else None
