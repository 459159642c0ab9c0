"""`gridpact tx`: transactions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ledger.transactions import Transfer
from node.api.models import TxResult
from node.cli.context import current
from node.cli.keys import public_key
from node.cli.output import confirm, emit_facts, say
from node.client.amounts import credits_text, parse_credits, time_text
from node.client.sdk import TxRefused

Wait = Literal["none", "accepted", "final"]


def print_result(result: TxResult) -> int:
    """Show what became of a transaction. Raises TxRefused for a final refusal."""
    facts: list[tuple[str, object]] = [("transaction", result.id), ("state", result.state)]
    if result.state == "final":
        facts += [("height", result.height), ("time", f"{time_text(result.time_ms)} UTC")]
        facts += [("outcome", "applied" if result.ok else f"refused: {result.rule}: {result.detail}")]
    emit_facts(result, facts)
    if result.state == "final" and not result.ok:
        raise TxRefused(result)
    return 0


def show(transaction: str, /) -> int:
    """Show a final transaction.

    Args:
        transaction: Its id.
    """
    found = current.client().tx(transaction)
    facts: list[tuple[str, object]] = [
        ("transaction", found.id),
        ("kind", found.kind),
        ("sender", found.sender),
        ("height", found.height),
        ("time", f"{time_text(found.time_ms)} UTC"),
        ("outcome", "applied" if found.ok else f"refused: {found.rule}: {found.detail}"),
    ]
    facts += [(f"  {name}", value) for name, value in found.body.items()]
    facts += [("event", f"{event.kind} {event.subject}") for event in found.events]
    emit_facts(found, facts)
    return 0


def send(file: Path, /, *, wait: Wait = "final") -> int:
    """Send a signed transaction from a file.

    Args:
        file: Raw bytes of a signed transaction.
        wait: none, accepted or final.
    """
    return print_result(current.client().submit(file.read_bytes(), wait))


def transfer(
    to: str,
    amount: str,
    /,
    *,
    key: Annotated[str, Parameter(name=["--key", "--from"])],
    wait: Wait = "final",
    out: Path | None = None,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False,
) -> int:
    """Move credits to another account.

    Args:
        to: The recipient: a public key, or the name of a key here.
        amount: Credits, such as 1.5.
        key: Name of the key that pays.
        wait: none, accepted or final.
        out: Write the signed transaction to this file instead of sending it.
        yes: Do not ask.
    """
    recipient, micro, sender = public_key(to), parse_credits(amount), current.key(key)
    client = current.client()
    confirm(f"Move {credits_text(micro)} credits from {key} to {recipient.hex()}?", yes)
    raw = client.sign(sender, Transfer(recipient, micro))
    if out is not None:
        out.write_bytes(raw)
        say(f"wrote {out}; send it: gridpact tx send {out}")
        return 0
    return print_result(client.submit(raw, wait))
