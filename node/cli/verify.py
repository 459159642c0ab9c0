"""`gridpact verify`: check a proof file with nothing but the genesis. No peer, no network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from ledger.proofs.proof_file import PROOF_FILE_BYTES_MAX, verify_proof_file
from node.cli.context import EXIT_OK, current
from node.cli.output import clean, emit_facts, say
from node.client.amounts import time_text
from node.home import read_genesis


class Proved(msgspec.Struct, frozen=True):
    """What a proof file proves. `value` in hex, None when absent; as of the state after `height`."""

    chain_id: str
    key: str
    present: bool
    value: str | None
    shown: object
    height: int
    time_ms: int


def verify(
    file: Path,
    /,
    *,
    genesis: Path | None = None,
    any_age: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Check a proof file with nothing but the genesis. No network is used.

    Args:
        file: A file of gridpact query --out.
        genesis: The chain's genesis file (default: the home's).
        any_age: Also when the proving block is older than the trusting period of 14 days: it says what
            was so.
    """
    from node.api.show import show_record

    trusted = read_genesis(genesis if genesis is not None else current.home().genesis_file)
    with file.open("rb") as stream:
        data = stream.read(PROOF_FILE_BYTES_MAX + 1)
    fact = verify_proof_file(data, trusted, None if any_age else time.time_ns() // 1_000_000)
    shown = show_record(fact.key, fact.value)
    value = None if fact.value is None else fact.value.hex()
    found = Proved(
        trusted.chain_id, fact.key.hex(), value is not None, value, shown, fact.height, fact.time_ms
    )
    parts = shown if isinstance(shown, dict) else {} if shown is None else {"value": shown}
    there = "yes" if found.present else "no"
    facts: list[tuple[str, object]] = [("key", _key_text(fact.key)), ("present", there)]
    emit_facts(found, facts + [(name, clean(part)) for name, part in parts.items()])
    say(f"VALID: so at height {fact.height}, {time_text(fact.time_ms)} UTC, from genesis alone")
    return EXIT_OK


def _key_text(key: bytes) -> str:
    """As state paths are written, where that is possible."""
    kind, _, rest = key.partition(b"/")
    if kind.isalpha() and len(rest) == 32:
        return f"{kind.decode()}/{rest.hex()}"
    return key.decode() if key.isascii() and key.decode().isprintable() else f"0x{key.hex()}"
