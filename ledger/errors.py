"""The ledger's errors: two kinds of fault, told apart by type.

`Refused` and `PeerFault` are about somebody else's bytes: say which rule, count it, go on.
`LocalError` is ours: stop loudly.
"""

from __future__ import annotations


class Refused(Exception):
    """A document or transaction that breaks a rule. Nothing was changed.

    `rule` is a stable dotted name (listed in docs/spec.md, used as a metrics label),
    `detail` says what was found, `field` where.
    """

    def __init__(self, rule: str, detail: str = "", field: str = "") -> None:
        self.rule = rule
        self.detail = detail
        self.field = field
        where = f" at {field}" if field else ""
        super().__init__(f"{rule}{where}: {detail}" if detail else f"{rule}{where}")


class PeerFault(Exception):
    """A peer sent bytes that no honest peer sends. Score the peer and go on."""

    def __init__(self, peer: str, rule: str, detail: str = "") -> None:
        self.peer = peer
        self.rule = rule
        self.detail = detail
        super().__init__(f"{peer}: {rule}: {detail}" if detail else f"{peer}: {rule}")


class LocalError(Exception):
    """Something of ours is wrong (store, key, configuration, a broken invariant): stop loudly."""
