"""Deeds of organisations in files: what stands before one, what is signed, who has signed, and sending it."""

from __future__ import annotations

import secrets
from pathlib import Path

from ledger.errors import Refused
from ledger.keys import SEED_BYTES, Key
from ledger.organisations.organisation import (
    Deed,
    check_deed,
    check_deed_time,
    decode_deed,
    deed_message,
    organisation_id,
)
from ledger.organisations.records import Organisation
from ledger.organisations.words import words_of_deed
from ledger.transactions import ActOrganisation
from node.cli.approvals import KeyName, Ssh, Yes, signer_of
from node.cli.context import EXIT_REJECTED, Failure, current
from node.cli.organisation_state import organisation_of
from node.cli.output import clean, confirm, emit_facts, say
from node.cli.tx import Wait, print_result
from node.client.amounts import time_text
from node.client.deed_file import FORMAT, DeedFile, collected, read_deed, with_signature
from node.client.signed_file import write_signed


def sign(file: Path, /, *, key: KeyName = "", ssh: Ssh = "", yes: Yes = False) -> int:
    """Sign a deed as a member, or as one who becomes a member by it.

    Args:
        file: The deed's file; the signature is added to it.
    """
    read = read_deed(file)
    before, signer = _before(read.deed), signer_of(key, ssh)
    payload = read.deed.encode()
    if signer.public not in _who_may(before, read.deed):
        raise Failure(EXIT_REJECTED, f"organisation.signers: {signer.public.hex()[:16]} has no say in this")
    if not yes or current.output == "table":
        say("\n".join(_what_is_signed(before, read.deed, signer.public)))
    confirm("Sign this?", yes)
    if signer.key is not None:
        signature = signer.key.sign_raw(deed_message(payload))
    else:
        from node.client.ssh import sign as sign_by_ssh

        signature = sign_by_ssh(signer.ssh, signer.public, deed_message(payload))
    signed = with_signature(read, signer.public, signature)
    write_signed(file, signed)
    return show_file(signed)


def submit(file: Path, /, *, key: KeyName = "", wait: Wait = "final") -> int:
    """Send a deed that enough members have signed. It holds from the block after the one that takes it.

    Args:
        file: The deed's file.
        wait: none, accepted or final.
    """
    read = read_deed(file)
    before, payload = _before(read.deed), read.deed.encode()
    good, _ = collected(read)
    may = _who_may(before, read.deed)
    signatures = tuple((public, word) for public, word in good if public in may)
    check_deed(read.deed.chain_id, before, read.deed, payload, signatures)
    # Anybody may carry a deed in: without a key of ours, a key of the moment does.
    carrier = current.key(key) if key else Key(secrets.token_bytes(SEED_BYTES))
    result = current.client().send(carrier, ActOrganisation(payload, signatures), wait)
    if read.deed.act == "found":
        say(f"organisation {organisation_id(payload).hex()}")
    return print_result(result)


def write_unsigned(file: Path, now: Organisation | None, deed: Deed) -> int:
    """Write an unsigned deed that makes sense. Raises Refused for one that does not."""
    decode_deed(deed.encode())
    _check_unsigned(now, deed)
    written = DeedFile(format=FORMAT, deed=deed)
    write_signed(file, written, fresh=True)
    say(f"wrote {file}; members sign it: gridpact org sign {file} --key NAME")
    return show_file(written)


def _check_unsigned(now: Organisation | None, deed: Deed) -> None:
    """Raises Refused for what no signature would mend."""
    check_deed_time(deed, current.client().status().block_time_ms)
    try:
        check_deed(deed.chain_id, now, deed, deed.encode(), ())
    except Refused as error:
        if error.rule not in ("organisation.no_quorum", "organisation.signers"):
            raise


# ---------------------------------------------------------------------- what stands


def _before(deed: Deed) -> Organisation | None:
    """What the deed follows; it must be of this chain and fit. Raises Failure, Refused."""
    here = current.client().status().chain_id
    if deed.chain_id != here:
        raise Failure(EXIT_REJECTED, f"the deed is for chain {deed.chain_id!r}, the peer's is {here!r}")
    now = None if deed.act == "found" else organisation_of(deed.organisation)
    _check_unsigned(now, deed)
    return now


def _who_may(now: Organisation | None, deed: Deed) -> set[bytes]:
    """Keys whose signature belongs to a deed."""
    if deed.rotation is not None and now is not None:
        old = {seat.key for seat in now.seats if seat.name == deed.rotation.member}
        return old | {bytes.fromhex(deed.rotation.key)}
    after = deed.charter.members if deed.charter is not None else ()
    return {seat.key for seat in (now.seats if now is not None else ())} | {
        bytes.fromhex(member.key) for member in after
    }


def _what_is_signed(before: Organisation | None, deed: Deed, signer: bytes) -> list[str]:
    name = deed.charter.name if before is None and deed.charter is not None else before.name if before else ""
    verb = {"found": "FOUND", "change": "CHANGE", "rotate": "CHANGE A KEY in", "dissolve": "DISSOLVE"}
    of = f", version {deed.version}" if before is not None else ""
    return [
        f"You {verb[deed.act]} the organisation {clean(name)}{of}",
        f"  chain         {deed.chain_id}",
        f"  organisation  {deed.organisation or organisation_id(deed.encode()).hex()}",
        f"  your key      {signer.hex()}",
        *(f"  then          {clean(line)}" for line in words_of_deed(before, deed)),
        f"  void after    {time_text(deed.valid_until_ms)} UTC",
        *([f"  comment       {clean(deed.says)}"] if deed.says else []),
    ]


def show_file(read: DeedFile) -> int:
    deed = read.deed
    before = _before(deed)
    good, bad = collected(read)
    names = {seat.key: seat.name for seat in (before.seats if before is not None else ())}
    names |= {
        bytes.fromhex(m.key): m.name for m in (deed.charter.members if deed.charter is not None else ())
    }
    if deed.rotation is not None:
        names[bytes.fromhex(deed.rotation.key)] = f"{deed.rotation.member} (the new key)"
    by = [names.get(public, public.hex()[:16]) for public, _ in good]
    missing = _missing(before, deed, tuple(item for item in good if item[0] in _who_may(before, deed)))
    words = words_of_deed(before, deed)
    facts: list[tuple[str, object]] = [
        ("chain", deed.chain_id),
        ("organisation", deed.organisation or organisation_id(deed.encode()).hex()),
        ("version", deed.version),
        ("valid until", f"{time_text(deed.valid_until_ms)} UTC"),
        *(("deed", line) for line in words),
        ("signed by", ", ".join(by) or "nobody yet"),
        *(("no signature", f"{name}: does not hold") for name in bad),
        ("missing", missing or "nothing: submit it"),
    ]
    value = {
        "organisation": deed.organisation or organisation_id(deed.encode()).hex(),
        "version": deed.version,
        "act": deed.act,
        "valid_until_ms": deed.valid_until_ms,
        "words": words,
        "signed_by": by,
        "missing": missing,
    }
    emit_facts(value, facts)
    return 0


def _missing(before: Organisation | None, deed: Deed, good: tuple[tuple[bytes, bytes], ...]) -> str:
    """What keeps a deed from being submitted; "" when nothing does."""
    try:
        check_deed(deed.chain_id, before, deed, deed.encode(), good)
    except Refused as error:
        return error.detail
    return ""
