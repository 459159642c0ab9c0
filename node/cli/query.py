"""`gridpact query`: any record of the state, and what proves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from cyclopts import Parameter

from ledger.blocks import decode_header
from ledger.codec import decode, decode_exact
from ledger.proofs.light import (
    QUERY_PROOF_BYTES_MAX,
    EpochProof,
    Fact,
    QueryProof,
    Trust,
    check_query,
    decode_epoch_proof,
)
from ledger.proofs.proof_file import PROOF_FILE_BYTES_MAX, make_proof_file
from node.cli.context import EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.output import clean, emit, emit_facts, say
from node.client.sdk import ApiError, Client
from node.errors import ConfigError
from node.home import read_genesis

R = TypeVar("R")
_PROOF_WAIT_S: Final = 10.0


def trust_of(genesis: Path | None) -> Trust:
    """Trust in the validators of a genesis file: the one given, or the home's. Raises ConfigError."""
    return Trust.of(read_genesis(genesis if genesis is not None else current.home().genesis_file))


def follow(trust: Trust, client: Client, epoch: int) -> list[EpochProof]:
    """The peer's proofs of how each epoch before `epoch` ended, with `trust` advanced over them. Raises
    Refused when one does not hold, Failure(4) when one is missing."""
    walked = []
    if trust.latest.epoch < epoch:
        for view in client.epochs(trust.latest.epoch):
            proof = decode_epoch_proof(view.proof)
            trust.advance(proof)
            walked.append(proof)
            if trust.latest.epoch == epoch:
                return walked
        raise Failure(EXIT_REJECTED, f"the peer does not prove how epoch {trust.latest.epoch} ended")
    return walked


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

    Args:
        path: A state path such as account/HEX, slot/HEX/web/0 or farm/NAME; or 0x and a raw key in hex.
        prove: Ask for a proof of presence or absence.
        verify: Check the proof here, against nothing but the genesis file; implies --prove.
        genesis: Genesis file to verify against (default: the home's).
        out: Write a proof file, which proves the answer to anybody who has the genesis: see gridpact verify.
    """
    from node.api.show import near_kind, show_record, state_key

    try:
        key = bytes.fromhex(path[2:]) if path.startswith("0x") else state_key(path)
    except ValueError as error:
        raise Failure(EXIT_USAGE, str(error)) from None
    trust = trust_of(genesis) if verify or out is not None else None
    client = current.client()
    found = client.query(key, prove or trust is not None)
    if trust is not None:
        fact, file = _prove(trust, client, found.proof, key)
        if fact.value != found.value:
            raise Failure(EXIT_REJECTED, "the proof shows another value than the peer's answer")
        found_text = "present" if fact.value is not None else "absent"
        say(f"proved: {found_text} in the state of height {fact.height}")
        found.shown = show_record(key, fact.value)  # from the proved bytes, not from the peer's words
        if out is not None:
            data = _file_bytes(trust, genesis, file)
            out.write_bytes(data)
            say(f"wrote {out}, {len(data)} bytes; check it anywhere: gridpact verify {out}")
    if current.output != "table":
        emit(found)
        return 0
    if found.value is None:
        print(f"nothing stands there at height {found.height}")
        if meant := near_kind(path):
            say(f"a path begins with the kind of the record: {meant}")
        return 0
    shown = found.shown if isinstance(found.shown, dict) else {"value": found.shown}
    emit_facts(found, [(name, clean(value)) for name, value in shown.items()])
    say(f"height {found.height}" + (f", proof of {len(found.proof)} bytes" if found.proof else ""))
    return 0


def proved(trust: Trust, client: Client, proof: bytes | None, key: bytes) -> Fact:
    """The proved fact about `key`, by an encoded QueryProof, for whose epoch the client's peer is asked to
    prove the validators. Raises Refused, or Failure(4) for a proof of something else."""
    return _prove(trust, client, proof, key)[0]


def read_proved(
    client: Client, type_: type[R], key: bytes, what: str, enough: Callable[[R], bool]
) -> R | None:
    """The record under `key`, proved against the home's genesis; None, and said so, where there is none to
    prove it. A header proves a state of some blocks ago: it is asked again, some seconds long, until what was
    done since is `enough`. Raises Failure(4) when there is no such record, Refused, ApiError."""
    try:
        trust = trust_of(None)
    except ConfigError:
        say(f"no genesis in the home: {what} is taken on the peer's word")
        return None
    deadline = time.monotonic() + _PROOF_WAIT_S
    while True:
        late = time.monotonic() > deadline
        try:
            value = proved(trust, client, client.query(key, True).proof, key).value
        except ApiError as error:
            if error.problem.rule != "proof.not_yet" or late:
                raise
        else:
            record = None if value is None else _decoded(type_, value)
            if record is not None and (late or enough(record)):
                return record
            if record is None and late:
                raise Failure(EXIT_REJECTED, f"the ledger's state does not hold {what}")
        time.sleep(0.2)


def _decoded(type_: type[R], data: bytes) -> R:
    try:
        return decode(type_, data)
    except msgspec.MsgspecError as error:
        raise Failure(EXIT_REJECTED, f"the proved record is not understood: {error}") from None


def _prove(
    trust: Trust, client: Client, data: bytes | None, key: bytes
) -> tuple[Fact, tuple[list[EpochProof], QueryProof]]:
    if data is None:
        raise Failure(EXIT_REJECTED, "the peer sent no proof")
    proof = decode_exact(QueryProof, data, "query_proof", QUERY_PROOF_BYTES_MAX)
    epochs = follow(trust, client, decode_header(proof.finality.header).epoch)
    fact = check_query(trust, proof)
    if fact.key != key:
        raise Failure(EXIT_REJECTED, "the proof is about another record")
    return fact, (epochs, proof)


def _file_bytes(trust: Trust, genesis: Path | None, parts: tuple[list[EpochProof], QueryProof]) -> bytes:
    epochs, proof = parts
    found = read_genesis(genesis if genesis is not None else current.home().genesis_file)
    data = make_proof_file(trust.chain_id, found.hash, epochs, proof)
    if len(data) > PROOF_FILE_BYTES_MAX:
        raise Failure(EXIT_REJECTED, f"the proof would be {len(data)} bytes, at most {PROOF_FILE_BYTES_MAX}")
    return data
