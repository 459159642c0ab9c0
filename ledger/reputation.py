"""Reputation: one number from what a node's receipts and leases say. Pure, on whole numbers.

It tells how a node's terms ended so far, and nothing else: no opinions, no votes. A new node stands at the
top, because it has done nothing wrong; who wants proven nodes looks at the count of terms, too.
"""

from __future__ import annotations

from typing import Final

from ledger.records import Node

QUARANTINED_WEIGHS: Final = 4  # bytes that drifted are worse than a crash


def terms_ended(node: Node) -> int:
    """How many terms of this node have ended, well or not."""
    return node.terms_kept + node.broken_leases + _faults(node)


def reputation(node: Node) -> int:
    """0 to 1000: the share of terms that ended well ([R7], [L3]), one good term granted beforehand."""
    good = node.terms_kept + 1
    bad = node.broken_leases + _faults(node) + (QUARANTINED_WEIGHS - 1) * node.terms_quarantined
    return 1_000 * good // (good + bad)


def _faults(node: Node) -> int:
    return node.terms_failed + node.terms_quarantined + node.terms_given_up
