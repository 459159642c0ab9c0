"""`gridpact validators`: who votes, and how the validators agree on their next set.

A change is a small JSON file that goes from hand to hand: one proposes, a BFT quorum of the validators in
force sign, anybody submits. It holds no secret.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ledger.codec import encode
from ledger.epochs import check_next, check_time
from ledger.errors import Refused
from ledger.keys import short
from ledger.proofs.certificate import Validator, ValidatorSet
from ledger.transactions import ChangeValidators
from node.api import models as m
from node.cli.context import EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.output import confirm, emit, emit_facts, say
from node.cli.query import follow, trust_of
from node.cli.tx import Wait, print_result
from node.client.amounts import parse_span, time_text
from node.client.change_file import ChangeFile, collected, read_change, signed
from node.client.change_words import words_of
from node.client.sdk import Client
from node.client.signed_file import write_signed
from node.errors import ConfigError
from node.home import load_key

ChangePath = Annotated[Path, Parameter(name=["--file", "-f"], help="Where to.")]


def _several(text: str) -> Parameter:
    return Parameter(negative="", help=f"{text} May be given several times.")


def show_all() -> int:
    """Show the validators in force, since when one is suspended, and what the next epoch changes."""
    found = current.client().validators()
    rows: list[tuple[object, ...]] = [(v.moniker, v.key, v.weight, _suspended(v)) for v in found.members]
    columns: tuple[str, ...] = ("name", "key", "weight", "suspended since height")
    if found.next is not None:
        columns = (*columns, "next epoch")
        following = {v.key: v for v in found.next.members}
        rows = [(*row, _next_of(v, following)) for row, v in zip(rows, found.members, strict=True)]
        joining = following.keys() - {v.key for v in found.members}
        rows += [
            (v.moniker, v.key, 0, "-", f"joins: {v.weight}") for v in found.next.members if v.key in joining
        ]
    emit(found, columns, rows)
    if current.output == "table":
        say(f"epoch {found.epoch}: {found.quorum} of {found.total} are a BFT quorum")
    return 0


def _suspended(v: m.ValidatorView) -> object:
    return "-" if v.suspended_height is None else v.suspended_height


def _next_of(v: m.ValidatorView, following: dict[str, m.ValidatorView]) -> str:
    then = following.get(v.key)
    return "leaves" if then is None else "stays" if then.weight == v.weight else f"weight {then.weight}"


def propose(
    *,
    file: ChangePath,
    add: Annotated[tuple[str, ...], _several("KEY:WEIGHT:NAME of one that joins.")] = (),
    remove: Annotated[tuple[str, ...], _several("Key or name of one that leaves.")] = (),
    weight: Annotated[tuple[str, ...], _several("KEY:WEIGHT or NAME:WEIGHT, a new weight.")] = (),
    valid: Annotated[str, Parameter(help="How long it may be signed and submitted, at most 30d.")] = "7d",
) -> int:
    """Write a change of the validator set to a file, to be signed by the validators."""
    client = current.client()
    status = client.status()
    until_ms = status.block_time_ms + parse_span(valid, "--valid") * 1000
    check_time(until_ms, status.block_time_ms)
    now, suspended = _in_force(client)
    members = list(now.members)
    for text in remove:
        del members[_place(members, text)]
    for text in weight:
        name, _, number = text.rpartition(":")
        place = _place(members, name)
        members[place] = Validator(members[place].key, _weight(number, text), members[place].moniker)
    for text in add:
        members.append(_newcomer(text))
    next_ = encode(ValidatorSet(now.epoch + 1, tuple(members)))
    check_next(now, next_, suspended.__contains__)
    change = ChangeFile.of(status.chain_id, next_, until_ms)
    write_signed(file, change, fresh=True)
    say(f"wrote {file}; validators sign it: gridpact validators sign {file}")
    return _show(change, now)


def _place(members: list[Validator], text: str) -> int:
    found = [i for i, v in enumerate(members) if text in (v.key.hex(), v.moniker)]
    if len(found) != 1:
        raise Failure(EXIT_USAGE, f"{text!r}: the key or name of one validator wanted, found {len(found)}")
    return found[0]


def _newcomer(text: str) -> Validator:
    from ledger.keys import public_key_from_hex

    key, _, rest = text.partition(":")
    number, _, moniker = rest.partition(":")
    return Validator(public_key_from_hex(key, "add"), _weight(number, text), moniker or key[:8])


def _weight(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise Failure(EXIT_USAGE, f"{whole!r}: a weight is a whole number of at least 1")
    return int(text)


def sign(
    file: Path,
    /,
    *,
    key: str = "",
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False,
) -> int:
    """Sign a change as a validator in force.

    Args:
        file: The change's file; the signature is added to it.
        key: Name or file of the validator key (default: the home's).
        yes: Do not ask.
    """
    signer = (
        current.home().validator_key() if not key else load_key(Path(key)) if "/" in key else current.key(key)
    )
    change, now = _of_now(file)
    if now.index(signer.public) is None:
        raise Failure(EXIT_REJECTED, f"{short(signer.public)} is no validator of epoch {now.epoch}")
    say("\n".join(words_of(now, change.next_set)))
    confirm("Sign this?", yes)
    change = signed(change, signer)
    write_signed(file, change)
    return _show(change, now)


def show(file: Path, /) -> int:
    """Say what a change would do, who has signed it, and what is missing.

    Args:
        file: The change's file.
    """
    return _show(*_of_now(file))


def submit(
    file: Path, /, *, key: Annotated[str, Parameter(name=["--key", "--from"])], wait: Wait = "final"
) -> int:
    """Send a change that a BFT quorum has signed. It comes into force some blocks later.

    Args:
        file: The change's file.
        key: Name of any account key: whoever carries it in.
        wait: none, accepted or final.
    """
    change, now = _of_now(file)
    signatures, _ = collected(change, now)
    if not now.reached(signatures):
        _show(change, now)
        raise Failure(EXIT_REJECTED, "change.no_quorum: more validators must sign it")
    signers = tuple(sorted(signatures.items()))
    body = ChangeValidators(change.encoded, change.valid_until_ms, signers)
    return print_result(current.client().send(current.key(key), body, wait))


def _of_now(file: Path) -> tuple[ChangeFile, ValidatorSet]:
    """A change and the set in force, which it must follow. Raises Refused, ConfigError, Failure."""
    change = read_change(file)
    client = current.client()
    status = client.status()
    if change.chain_id != (here := status.chain_id):
        raise Failure(EXIT_REJECTED, f"the change is for chain {change.chain_id!r}, the peer's is {here!r}")
    now, suspended = _in_force(client)
    check_next(now, change.encoded, suspended.__contains__)
    check_time(change.valid_until_ms, status.block_time_ms)
    return change, now


def _in_force(client: Client) -> tuple[ValidatorSet, set[bytes]]:
    """The validators in force, proved from the home's genesis where there is one, and those suspended."""
    found = client.validators()
    members = tuple(Validator(bytes.fromhex(v.key), v.weight, v.moniker) for v in found.members)
    now = ValidatorSet(found.epoch, members)
    suspended = {bytes.fromhex(v.key) for v in found.members if v.suspended_height is not None}
    try:
        trust = trust_of(None)
    except ConfigError:
        say("no genesis in the home: the validators in force are taken on the peer's word")
        return now, suspended
    follow(trust, client, now.epoch)
    if trust.latest != now:
        raise Refused("light.other_validators", "the peer shows others than genesis and its proofs lead to")
    return now, suspended


def _show(change: ChangeFile, now: ValidatorSet) -> int:
    signatures, foreign = collected(change, now)
    reached = sum(now.members[index].weight for index in signatures)
    by = [now.members[index].moniker for index in signatures]
    facts: list[tuple[str, object]] = [
        ("chain", change.chain_id),
        ("epoch", f"{now.epoch} to {now.epoch + 1}"),
        ("valid until", time_text(change.valid_until_ms)),
    ]
    facts += [("change", line) for line in words_of(now, change.next_set)]
    facts.append(("signed by", ", ".join(by) or "nobody yet"))
    facts += [("no signature", f"{name}: does not hold, or not of a validator in force") for name in foreign]
    missing = now.quorum - reached
    facts.append(("missing", f"weight {missing} of {now.quorum}" if missing > 0 else "nothing: submit it"))
    value = {
        "chain_id": change.chain_id,
        "epoch": now.epoch + 1,
        "valid_until_ms": change.valid_until_ms,
        "changes": words_of(now, change.next_set),
        "signed_by": by,
        "weight": reached,
        "quorum": now.quorum,
    }
    emit_facts(value, facts)
    return 0
