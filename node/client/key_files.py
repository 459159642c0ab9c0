"""Key files: a seed in hex, or sealed under a passphrase (Argon2id, RFC 9106; XSalsa20-Poly1305 as in NaCl).

A sealed file is one line, `gridpact-key/1 PUBLIC OPS MEMORY SALT BOX`, in hex but for the two costs. The
public half stands in it in the clear, so that keys can be listed without a passphrase; it is checked when
the seed is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nacl import pwhash, secret, utils
from nacl.exceptions import CryptoError

from ledger.keys import PUBLIC_KEY_BYTES, SEED_BYTES, Key
from node.errors import ConfigError

MAGIC: Final = "gridpact-key/1"
PASSPHRASE_VARIABLE: Final = "GRIDPACT_PASSPHRASE_FILE"
PASSPHRASE_CHARS_MIN: Final = 8
_PASSPHRASE_BYTES_MAX: Final = 1_024
# RFC 9106's choice where memory is scarce: 3 passes over 64 MiB, some 0.15 s. libsodium runs one lane.
OPS: Final = 3
MEMORY_BYTES: Final = 64 * 1024 * 1024
# A file that asks for more is not ours: it would freeze whoever opens it.
_OPS_MAX: Final = 20
_MEMORY_BYTES_MAX: Final = 1024 * 1024 * 1024

Ask = Callable[[str], bytes]  # the passphrase of what the text names


def is_sealed(text: str) -> bool:
    """True for the text of a file that a passphrase opens."""
    return text.startswith(MAGIC + " ")


def seal(key_seed: bytes, passphrase: bytes) -> str:
    """The line of a sealed key file. Raises ConfigError for a passphrase that is too short or too long."""
    if not PASSPHRASE_CHARS_MIN <= len(passphrase) <= _PASSPHRASE_BYTES_MAX:
        raise ConfigError(f"a passphrase has {PASSPHRASE_CHARS_MIN} to {_PASSPHRASE_BYTES_MAX} bytes")
    salt = utils.random(pwhash.argon2id.SALTBYTES)
    box = secret.SecretBox(_stretch(passphrase, salt, OPS, MEMORY_BYTES)).encrypt(key_seed)
    words = (MAGIC, Key(key_seed).public.hex(), OPS, MEMORY_BYTES, salt.hex(), bytes(box).hex())
    return " ".join(map(str, words)) + "\n"


def public_of(text: str, where: str) -> bytes:
    """The public key that a key file names, sealed or not; unproved when it is sealed. Raises ConfigError."""
    if not is_sealed(text):
        return Key(_plain(text, where)).public
    return _parts(text, where)[0]


def seed_of(text: str, where: str, ask: Ask) -> bytes:
    """The seed of a key file's text; `ask` is called when it is sealed. Raises ConfigError."""
    if not is_sealed(text):
        return _plain(text, where)
    public, ops, memory, salt, box = _parts(text, where)
    try:
        seed = secret.SecretBox(_stretch(ask(where), salt, ops, memory)).decrypt(box)
    except CryptoError:
        raise ConfigError(f"{where}: wrong passphrase, or the file was changed") from None
    if Key(seed).public != public:
        raise ConfigError(f"{where}: the key inside is not the one that the file names")
    return seed


def passphrase_file(file: Path) -> bytes:
    """The first line of a file that its owner alone can read. Raises ConfigError."""
    from node.home import read_secret

    return read_secret(file).split("\n", 1)[0].encode()


def from_environment(where: str) -> bytes:
    """The passphrase for programs that nobody sits at. Raises ConfigError when the variable is not set."""
    name = os.environ.get(PASSPHRASE_VARIABLE)
    if not name:
        raise ConfigError(f"{where} is encrypted: name a file with its passphrase in {PASSPHRASE_VARIABLE}")
    return passphrase_file(Path(name))


def _stretch(passphrase: bytes, salt: bytes, ops: int, memory: int) -> bytes:
    return pwhash.argon2id.kdf(secret.SecretBox.KEY_SIZE, passphrase, salt, opslimit=ops, memlimit=memory)


def _plain(text: str, where: str) -> bytes:
    try:
        if len(text) != 2 * SEED_BYTES or text != text.lower():
            raise ValueError
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{where}: a key file holds one line of 64 lower-case hex digits") from None


def _parts(text: str, where: str) -> tuple[bytes, int, int, bytes, bytes]:
    try:
        _, public, ops, memory, salt, box = text.split(" ")
        parts = bytes.fromhex(public), int(ops), int(memory), bytes.fromhex(salt), bytes.fromhex(box)
    except ValueError:
        raise ConfigError(f"{where}: not a sealed key: six words wanted") from None
    sizes = len(parts[0]), len(parts[3])
    if sizes != (PUBLIC_KEY_BYTES, pwhash.argon2id.SALTBYTES):
        raise ConfigError(f"{where}: not a sealed key: a key or salt of a wrong length")
    if not 1 <= parts[1] <= _OPS_MAX or not 8_192 <= parts[2] <= _MEMORY_BYTES_MAX:
        raise ConfigError(f"{where}: a sealed key that costs more than {_OPS_MAX} passes or 1 GiB to open")
    return parts
