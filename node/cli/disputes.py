"""`gridpact deployment dispute` and `close-dispute`: what a party says against another, on record."""

from __future__ import annotations

from ledger.transactions import CloseDispute, OpenDispute
from node.cli.context import current
from node.cli.output import say
from node.cli.tx import print_result


def dispute(deployment: str, /, *, says: str, key: str, slot: str = "", term: int = 0) -> int:
    """Put a complaint about a deployment, or about a term of one of its slots, on record.

    Args:
        deployment: Its id, or the first 6 or more digits.
        says: Your complaint. Everybody can read it, for good.
        key: Name of your key.
        slot: The slot that it is about, such as web/0.
        term: The term of that slot (default: its last).
    """
    client = current.client()
    found = client.deployment(deployment)
    if slot and not term:
        term = next((s.term for s in found.slots if s.name == slot), 0)
    opener = current.key(key)
    result = client.send(opener, OpenDispute(bytes.fromhex(found.id), slot, term, says))
    mine = [d.number for d in client.deployment(found.id).disputes if d.opener == opener.public.hex()]
    if mine:  # the last of one's own: numbers rise
        closes = f"gridpact deployment close-dispute {found.id[:12]} {mine[-1]} --key {key}"
        say(f"it is dispute {mine[-1]}; when it is settled: {closes}")
    return print_result(result)


def close_dispute(deployment: str, number: int, /, *, key: str, says: str = "") -> int:
    """Close a dispute that you opened; it stays on record.

    Args:
        deployment: Its id, or the first 6 or more digits.
        number: Which one, as `deployment show` numbers them, from 0.
        key: Name of your key.
        says: How it was settled.
    """
    client = current.client()
    found = client.deployment(deployment)
    body = CloseDispute(bytes.fromhex(found.id), number, says)
    return print_result(client.send(current.key(key), body))
