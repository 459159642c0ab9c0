"""`gridpact query`: any record of the state, and what proves it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ledger.light import Fact, Trust, verify_query
from node.cli.context import EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.output import clean, emit, emit_facts, say
from node.home import read_genesis


def trust_of(genesis: Path | None) -> Trust:
    """Trust in the validators of a genesis file: the one given, or the home's. Raises ConfigError."""
    found = read_genesis(genesis if genesis is not None else current.home().genesis_file)
    return Trust(found.chain_id, found.validator_set)


def query(
    path: str,
    /,
    *,
    prove: Annotated[bool, Parameter(negative="")] = False,
    verify: Annotated[bool, Parameter(negative="")] = False,
    genesis: Path | None = None,
    out: Path | None = None,
) -> int:
    """Read a record of the state, with its proof.

    Parameters
    ----------
    path: A state path such as account/HEX, slot/HEX/web/0 or farm/NAME; or 0x and a raw key in hex.
    prove: Ask for a proof of presence or absence.
    verify: Check the proof here, against nothing but the genesis file; implies --prove.
    genesis: Genesis file to verify against (default: the home's).
    out: Write the proof to this file.
    """
    from node.api.show import show_record, state_key

    try:
        key = bytes.fromhex(path[2:]) if path.startswith("0x") else state_key(path)
    except ValueError as error:
        raise Failure(EXIT_USAGE, str(error)) from None
    trust = trust_of(genesis) if verify else None
    found = current.client().query(key, prove or verify or out is not None)
    if out is not None and found.proof is not None:
        out.write_bytes(found.proof)
        say(f"wrote {out}, {len(found.proof)} bytes")
    if trust is not None:
        fact = proved(trust, found.proof, key)
        if fact.value != found.value:
            raise Failure(EXIT_REJECTED, "the proof shows another value than the peer's answer")
        found_text = "present" if fact.value is not None else "absent"
        say(f"proved: {found_text} in the state of height {fact.height}")
        found.shown = show_record(key, fact.value)  # from the proved bytes, not from the peer's words
    if current.output != "table":
        emit(found)
        return 0
    if found.value is None:
        print(f"nothing stands there at height {found.height}")
        return 0
    shown = found.shown if isinstance(found.shown, dict) else {"value": found.shown}
    emit_facts(found, [(name, clean(value)) for name, value in shown.items()])
    say(f"height {found.height}" + (f", proof of {len(found.proof)} bytes" if found.proof else ""))
    return 0


def proved(trust: Trust, proof: bytes | None, key: bytes) -> Fact:
    """The proved fact about `key`. Raises Refused, or Failure(4) for a proof of something else."""
    if proof is None:
        raise Failure(EXIT_REJECTED, "the peer sent no proof")
    fact = verify_query(trust, proof)
    if fact.key != key:
        raise Failure(EXIT_REJECTED, "the proof is about another record")
    return fact
