"""The rules that approval policies are held to, for every manifest and for a contract's fixed parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ledger.limits import (
    DURATION_S_MAX,
    NUMBER_MAX,
    POLICY_DEPTH_MAX,
    POLICY_NODES_MAX,
    POLICY_PLACES_MAX,
    POLICY_WEIGHT_MAX,
    ROLE_KEYS_MAX,
    ROLES_MAX,
)
from ledger.manifests.check import Report, check_number
from ledger.policies.types import ACTS, Auto, Policies, Rule, Weight
from ledger.text.nearest import nearest

FORMS: Final = ("role", "key", "all", "any", "weigh", "auto")
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_EXCLUDES_MAX: Final = ROLES_MAX + 2


def check_policies(policies: Policies, roles: Iterable[str], report: Report) -> None:
    """The policies of all acts, their roles, keys, times and bounds."""
    known = set(roles)
    for act in ACTS:
        rule = policies.of(act)
        if rule is not None and (act != "update" or policies.update != "as_deploy"):
            may_auto = act not in ("signoff", "release")
            _Check(known, policies.validity_s, report).rule(rule, f"approval.{act}", may_auto)
    check_number("validity", policies.validity_s, "approval.validity", report)
    if not 0 <= policies.run_on_s <= DURATION_S_MAX:
        report("approval.on_revoked", "contract.range", f"'stop', or at most {DURATION_S_MAX} s wanted")


class _Check:
    """One policy under check. `validity_s`: how long an approval counts by itself."""

    def __init__(self, known: set[str], validity_s: int, report: Report) -> None:
        self._known = known
        self._validity_s = validity_s
        self.report = report
        self._places = 0

    def rule(self, root: Rule, field: str, may_auto: bool) -> None:
        # rule, field, level, waits above it, shortest expiry above it, inside an ordered rule
        pending = [(root, field, 1, 0, self._validity_s, False)]
        nodes = 0
        while pending:
            node, where, depth, wait_s, expires_s, in_order = pending.pop()
            nodes += 1 + len(node.weigh)
            if depth > POLICY_DEPTH_MAX or nodes > POLICY_NODES_MAX:
                detail = f"{POLICY_DEPTH_MAX} levels, {POLICY_NODES_MAX} rules at most"
                self.report(where, "policy.too_large", detail)
                return
            self._form(node, where)
            self._beside(node, where)
            wait_s += max(node.wait_s, 0)
            expires_s = min(expires_s, node.expires_s) if node.expires_s > 0 else expires_s
            if wait_s and wait_s >= expires_s:
                detail = f"waits {wait_s} s in all, but an approval counts only {expires_s} s"
                self.report(f"{where}.wait", "policy.wait", detail)
            if node.auto is not None and in_order:
                self.report(where, "policy.rule", "auto does not stand in an ordered rule: nobody signs it")
            if node.auto is not None and not may_auto:
                detail = "a sign-off or a release is never automatic; write 'none' for none"
                self.report(where, "policy.rule", detail)
            in_order = in_order or node.ordered
            for step, children in (("all", node.all), ("any", node.any)):
                pending += [
                    (child, f"{where}.{step}[{i}]", depth + 1, wait_s, expires_s, in_order)
                    for i, child in enumerate(children)
                ]
        if self._places > POLICY_PLACES_MAX:
            detail = f"asks for {self._places} signatures, at most {POLICY_PLACES_MAX}"
            self.report(field, "policy.too_large", detail)

    def _form(self, node: Rule, where: str) -> None:
        given = [node.role, node.key, node.all, node.any, node.weigh, node.auto]
        if sum(bool(x) if isinstance(x, tuple) else x is not None for x in given) != 1:
            self.report(where, "policy.rule", f"exactly one of {', '.join(FORMS)} wanted")
        elif node.role is not None:
            self._places += max(node.count, 0)
            self._role(node.role, f"{where}.role")
            if not 1 <= node.count <= ROLE_KEYS_MAX:
                self.report(f"{where}.count", "policy.count", f"1 to {ROLE_KEYS_MAX} wanted")
        elif node.any:
            if not 1 <= node.count <= len(node.any):
                count, most = node.count, len(node.any)
                detail = f"{count} of {most} can never be met" if count > most else f"{count} asks for nobody"
                self.report(f"{where}.any.count", "policy.count", detail)
        elif node.weigh:
            self._weigh(node.weigh, node.count, f"{where}.weigh")
        elif node.count != 1:
            what = "all" if node.all else "this rule"
            self.report(f"{where}.count", "policy.count", f"{what} has no count")
        if node.key is not None:
            self._places += 1
            self._key(node.key, f"{where}.key")
        if node.auto is not None:
            self._auto(node.auto, f"{where}.auto")
        if node.ordered and not node.all:
            self.report(f"{where}.ordered", "policy.rule", "only all has an order")

    def _weigh(self, entries: Sequence[Weight], least: int, where: str) -> None:
        if not 1 <= least <= POLICY_WEIGHT_MAX:
            self.report(f"{where}.least", "policy.count", f"1 to {POLICY_WEIGHT_MAX} wanted")
        most = 0
        for index, entry in enumerate(entries):
            field = f"{where}[{index}]"
            if (entry.role is None) == (entry.key is None):
                self.report(field, "policy.rule", "exactly one of role and key wanted")
            elif entry.role is not None:
                self._role(entry.role, f"{field}.role")
            elif entry.key is not None:
                self._key(entry.key, f"{field}.key")
            if not 1 <= entry.weight <= POLICY_WEIGHT_MAX:
                self.report(f"{field}.weight", "policy.count", f"1 to {POLICY_WEIGHT_MAX} wanted")
                continue
            signers = ROLE_KEYS_MAX if entry.role is not None else 1
            most += signers * entry.weight
            self._places += min(signers, -(-max(least, 0) // entry.weight))
        who = [(entry.role, entry.key) for entry in entries]
        if len(set(who)) != len(who):
            self.report(where, "contract.duplicate", "a role or key is there twice")
        if most < least:
            self.report(f"{where}.least", "policy.count", f"{least} of {most} can never be met")

    def _auto(self, auto: Auto, where: str) -> None:
        if auto.budget is None and auto.approved_within_s is None:
            self.report(where, "policy.rule", "budget, approved_within or both wanted: none is always true")
        if auto.budget is not None and not 0 <= auto.budget <= NUMBER_MAX:
            self.report(f"{where}.budget", "contract.range", f"0 to {NUMBER_MAX} wanted")
        if auto.approved_within_s is not None:
            check_number("validity", auto.approved_within_s, f"{where}.approved_within", self.report)

    def _beside(self, node: Rule, where: str) -> None:
        if node.expires_s:
            check_number("validity", node.expires_s, f"{where}.expires", self.report)
        if not 0 <= node.wait_s <= DURATION_S_MAX:
            self.report(f"{where}.wait", "contract.range", f"1 s to {DURATION_S_MAX} s wanted")
        if len(node.exclude) > _EXCLUDES_MAX or len(set(node.exclude)) != len(node.exclude):
            self.report(f"{where}.exclude", "policy.rule", f"at most {_EXCLUDES_MAX}, each once")
            return
        for index, word in enumerate(node.exclude):
            kind, colon, name = word.partition(":")
            field = f"{where}.exclude[{index}]"
            if kind == "role" and colon:
                self._role(name, field)
            elif kind == "key" and colon:
                self._key(name, field)
            elif word not in ("author", "consumer"):
                detail = f"author, consumer, role:NAME or key:HEX wanted, not {word[:80]!r}"
                self.report(field, "policy.rule", detail)
        if len(node.veto) > ROLES_MAX or len(set(node.veto)) != len(node.veto):
            self.report(f"{where}.veto", "policy.rule", f"at most {ROLES_MAX} roles, each once")
            return
        for index, name in enumerate(node.veto):
            self._role(name, f"{where}.veto[{index}]")

    def _role(self, name: str, field: str) -> None:
        if name not in self._known:
            wanted = ", ".join(sorted(self._known)) or "none is declared"
            detail = f"no role {name[:80]!r}; roles: {wanted}"
            self.report(field, "policy.unknown_role", detail, nearest(name, self._known))

    def _key(self, key: str, field: str) -> None:
        if not _HEX64.fullmatch(key):
            self.report(field, "contract.role_keys", "a public key wanted: 64 lower-case hex digits")
