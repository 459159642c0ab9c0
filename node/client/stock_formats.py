"""A signed statement in the formats of stock tools, so that nobody needs us to check a signature.

openssl: RFC 8410 public keys in PEM and raw signatures. ssh-keygen: SSHSIG and allowed_signers. minisign:
its public keys and `.minisig` files, whose trusted comment only the key's holder can sign, too.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from ledger import sshsig
from ledger.documents import PAYLOAD_TYPE, pae, signature_of
from ledger.keys import SIGNATURE_BYTES, Key

_SPKI: Final = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of Ed25519, without the key
_MINISIGN: Final = b"Ed"  # Ed25519 over the message itself, not over its hash


def openssl_public(public: bytes) -> str:
    """A public key in PEM."""
    text = base64.b64encode(_SPKI + public).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


def allowed_signer(public: bytes) -> str:
    """The line of an allowed_signers file; who signs is called by the public key in hex."""
    namespace = sshsig.NAMESPACE.decode()
    return f'{public.hex()} namespaces="{namespace}" {sshsig.public_line(public)}\n'


def minisign_public(public: bytes) -> str:
    """A minisign public key file; the key id is the key's first 8 bytes."""
    text = base64.b64encode(_MINISIGN + public[:8] + public).decode()
    return f"untrusted comment: gridpact key {public.hex()}\n{text}\n"


def minisign_signature(key: Key, message: bytes, comment: str) -> str:
    """A .minisig file over `message`; `comment` is signed with it and has no line break."""
    signature = key.sign_raw(message)
    both = key.sign_raw(signature + comment.encode())
    text = base64.b64encode(_MINISIGN + key.public[:8] + signature).decode()
    lines = (
        "untrusted comment: signature of a gridpact statement",
        text,
        f"trusted comment: {comment}",
        base64.b64encode(both).decode(),
    )
    return "\n".join(lines) + "\n"


def write_statement(folder: Path, name: str, envelope: bytes, key: Key | None = None) -> list[str]:
    """Write a document's statement and signature into `folder`; returns the commands that check it there.

    NAME.signed are the bytes that were signed, NAME.json the statement in them. With the signer's `key` also
    what minisign reads. Raises Refused for a malformed envelope, OSError.
    """
    payload, signer, signature = signature_of(envelope)
    message = pae(PAYLOAD_TYPE, payload)
    (folder / f"{name}.json").write_bytes(payload)
    (folder / f"{name}.signed").write_bytes(message)
    commands = []
    if len(signature) == SIGNATURE_BYTES:
        (folder / f"{name}.sig").write_bytes(signature)
        (folder / f"{name}.pem").write_text(openssl_public(signer))
        commands.append(
            f"openssl pkeyutl -verify -pubin -inkey {name}.pem -rawin -in {name}.signed -sigfile {name}.sig"
        )
    else:
        (folder / f"{name}.sig").write_text(sshsig.to_armor(signature))
        (folder / f"{name}.signers").write_text(allowed_signer(signer))
        commands.append(
            f"ssh-keygen -Y verify -f {name}.signers -I {signer.hex()} -n {sshsig.NAMESPACE.decode()} "
            f"-s {name}.sig < {name}.signed"
        )
    if key is not None:
        (folder / f"{name}.minisig").write_text(minisign_signature(key, message, f"gridpact {name}"))
        (folder / f"{name}.minipub").write_text(minisign_public(signer))
        commands.append(f"minisign -V -p {name}.minipub -x {name}.minisig -m {name}.signed")
    return commands
