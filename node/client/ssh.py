"""SSH keys and agents as stakeholders' keys: `ssh-keygen -Y sign` signs, and asks for passphrases itself.

We never read the private half: for a file, ssh-keygen does; for `agent`, the agent that SSH_AUTH_SOCK names.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from ledger import sshsig
from ledger.errors import Refused
from node.errors import ConfigError

AGENT: Final = "agent"
_SIGN_S: Final = 300.0  # somebody may have to find a passphrase or confirm at the agent
_ASK_S: Final = 10.0
_NO_IDENTITIES: Final = 1  # how ssh-add -L ends where the agent is there and empty
_PUBLIC_BYTES_MAX: Final = 16 * 1024


def public_key(where: str) -> bytes:
    """32 bytes of the SSH key `where`: a private or public key file, `agent`, or `agent:WORD`, when the agent
    holds several: WORD stands in the line of one of them only. Raises ConfigError."""
    if where == AGENT or where.startswith(AGENT + ":"):
        return _from_agent(where.partition(":")[2])
    file = Path(where).expanduser()
    public = file if file.suffix == ".pub" else file.with_name(file.name + ".pub")
    if public.exists():
        return _from_text(_read(public), str(public))
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    return _from_text(_run(["ssh-keygen", "-y", "-f", str(file)], _SIGN_S), where)


def sign(where: str, public: bytes, message: bytes) -> bytes:
    """The SSHSIG blob of the key `where` over `message`, checked. Raises ConfigError."""
    with tempfile.TemporaryDirectory(prefix="gridpact-") as name:
        folder = Path(name)
        file = folder / "statement"
        file.write_bytes(message)
        key = Path(where).expanduser()
        if where.startswith(AGENT):
            if not os.environ.get("SSH_AUTH_SOCK"):
                raise ConfigError("no SSH agent: SSH_AUTH_SOCK is not set")
            key = folder / "key.pub"  # ssh-keygen asks the agent for the private half of a public key file
            key.write_text(sshsig.public_line(public) + "\n")
        namespace = sshsig.NAMESPACE.decode()
        _run(["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(key), str(file)], _SIGN_S)
        try:
            blob = sshsig.from_armor((folder / "statement.sig").read_text())
        except (OSError, Refused) as error:
            raise ConfigError(f"ssh-keygen left no signature: {error}") from error
    if not sshsig.verify(public, message, blob):
        raise ConfigError("ssh-keygen signed otherwise than asked: another key, hash or namespace")
    return blob


def _from_agent(word: str) -> bytes:
    if not os.environ.get("SSH_AUTH_SOCK"):
        raise ConfigError("no SSH agent: SSH_AUTH_SOCK is not set")
    told = _run(["ssh-add", "-L"], _ASK_S, (0, _NO_IDENTITIES))
    lines = [line for line in told.splitlines() if line.startswith("ssh-ed25519 ")]
    if not lines:
        raise ConfigError("the agent holds no Ed25519 key: ssh-add FILE adds one")
    fitting = [line for line in lines if word in line]
    if len(fitting) != 1:
        known = ", ".join(line.split(" ", 2)[-1] for line in lines)
        raise ConfigError(
            f"the agent holds {len(fitting)} Ed25519 keys that fit (its Ed25519 keys: {known}); "
            "name one as agent:WORD"
        )
    return _from_text(fitting[0], "the agent")


def _from_text(text: str, where: str) -> bytes:
    try:
        return sshsig.public_from_line(text)
    except Refused as error:
        raise ConfigError(f"{where}: {error.detail}") from None


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_PUBLIC_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error


def _run(words: list[str], within_s: float, codes: tuple[int, ...] = (0,)) -> str:
    """Its stdout; prompts and errors go to the terminal. Raises ConfigError."""
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=within_s, check=False)
    except OSError as error:
        raise ConfigError(f"{words[0]} (OpenSSH) cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{words[0]} took longer than {within_s:.0f} s") from None
    if done.returncode not in codes:
        raise ConfigError(f"{' '.join(words[:3])} failed (exit {done.returncode})")
    return done.stdout.decode(errors="replace")
