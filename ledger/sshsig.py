"""SSHSIG signatures by Ed25519 keys: what `ssh-keygen -Y sign -n gridpact` makes (OpenSSH PROTOCOL.sshsig).

A blob is magic, version, public key, namespace, reserved, hash name and signature; the signature is over
magic, namespace, reserved, hash name and the message's hash. Of all that only the 64 signature bytes are
free here: namespace `gridpact`, hash sha512, Ed25519. So a blob is checked by making it again.

[X1] A document's signature may be an SSHSIG over the same bytes as a plain one (the DSSE encoding), in the
     namespace `gridpact`, with sha512, by an Ed25519 key; in no other form.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from ledger import keys
from ledger.errors import Refused

MAGIC: Final = b"SSHSIG"
NAMESPACE: Final = b"gridpact"
_HASH: Final = b"sha512"
_TYPE: Final = b"ssh-ed25519"
_VERSION: Final = (1).to_bytes(4, "big")
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR_CHARS_MAX: Final = 2_000  # one with an Ed25519 key has some 300


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def public_blob(public: bytes) -> bytes:
    """An Ed25519 public key as SSH encodes it."""
    return _string(_TYPE) + _string(public)


def public_line(public: bytes, comment: str = "") -> str:
    """The line of an OpenSSH public key file."""
    return f"{_TYPE.decode()} {base64.b64encode(public_blob(public)).decode()} {comment}".strip()


def public_from_line(line: str) -> bytes:
    """32 bytes of an Ed25519 key in an OpenSSH public key line. Raises Refused(key.malformed)."""
    words = line.split()
    try:
        blob = base64.b64decode(words[1], validate=True)
        public = blob[-keys.PUBLIC_KEY_BYTES :]
        if words[0] == _TYPE.decode() and blob == public_blob(public):
            return public
    except (IndexError, binascii.Error, ValueError):
        pass
    raise Refused("key.malformed", "an OpenSSH public key of type ssh-ed25519 wanted", "key")


def signed_bytes(message: bytes) -> bytes:
    """What an SSHSIG over `message` signs."""
    digest = hashlib.sha512(message).digest()
    return MAGIC + _string(NAMESPACE) + _string(b"") + _string(_HASH) + _string(digest)


def blob_of(public: bytes, signature: bytes) -> bytes:
    """The blob around a 64-byte signature over `signed_bytes`."""
    parts = (public_blob(public), NAMESPACE, b"", _HASH, _string(_TYPE) + _string(signature))
    return MAGIC + _VERSION + b"".join(_string(part) for part in parts)


def verify(public: bytes, message: bytes, blob: bytes) -> bool:
    """[X1] True when `blob` is `public`'s SSHSIG over `message`. Never raises on foreign bytes."""
    signature = blob[-keys.SIGNATURE_BYTES :]
    if blob != blob_of(public, signature):
        return False
    return keys.verify_raw(public, signed_bytes(message), signature)


def to_armor(blob: bytes) -> str:
    """The text file that ssh-keygen reads, in lines of 70 characters as it writes them."""
    text = base64.b64encode(blob).decode()
    lines = [text[i : i + 70] for i in range(0, len(text), 70)]
    return "\n".join((_BEGIN, *lines, _END)) + "\n"


def from_armor(text: str) -> bytes:
    """The blob of what ssh-keygen wrote. Raises Refused(document.malformed)."""
    lines = text[:_ARMOR_CHARS_MAX].split("\n")
    try:
        if lines[0] != _BEGIN or lines[-2:] != [_END, ""]:
            raise ValueError
        return base64.b64decode("".join(lines[1:-2]), validate=True)
    except (IndexError, binascii.Error, ValueError):
        raise Refused("document.malformed", "no SSH signature as ssh-keygen writes it", "signature") from None
