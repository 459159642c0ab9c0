"""`gridpact deployment top-up` and `extend`: more money and more time, within a deployment's terms."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter

from ledger.manifests.expansion import extension_cost
from ledger.transactions import ExtendDeployment, TopUp
from node.cli.context import current
from node.cli.output import confirm
from node.cli.tx import print_result
from node.client.amounts import credits_text, duration_text, parse_credits, parse_span

Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask.")]


def top_up(deployment: str, amount: str, /, *, key: str, yes: Yes = False) -> int:
    """Put credits into a deployment's escrow, on top of its budget, as far as its terms let you.

    Args:
        deployment: Its id, or the first 6 or more digits.
        amount: Credits, such as 2.5.
        key: Name of the key that pays; anybody may.
    """
    client = current.client()
    found, micro = client.deployment(deployment), parse_credits(amount)
    confirm(f"Put {credits_text(micro)} credits on top of {found.manifest.name} {found.id[:12]}?", yes)
    return print_result(client.send(current.key(key), TopUp(bytes.fromhex(found.id), micro)))


def extend(deployment: str, /, *, by: str, key: str, yes: Yes = False) -> int:
    """Extend a deployment's term, as far as its terms let you, and pay for it.

    Args:
        deployment: Its id, or the first 6 or more digits.
        by: By how much, such as 30d.
        key: Name of the consumer's key.
    """
    client = current.client()
    found = client.deployment(deployment)
    extra_s = parse_span(by, "--by")
    terms = found.manifest.terms
    so_far = msgspec.structs.replace(
        terms, budget=found.funded, duration_s=terms.duration_s + found.extended_s
    )
    cost = extension_cost(so_far, extra_s)
    confirm(f"Extend it by {duration_text(extra_s)} for {credits_text(cost)} credits?", yes)
    body = ExtendDeployment(bytes.fromhex(found.id), found.extended_s, extra_s, cost)
    return print_result(client.send(current.key(key), body))
