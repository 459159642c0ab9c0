"""Tables of all rules for docs/spec.md: what each says, where it stands in the code, which test holds it.

Numbered rules ([A1]) are read from module docstrings, refusals (`approval.expired`) from ledger.rules.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ledger.rules import RULES
from scripts.marked import table

PACKAGES = ("ledger", "consensus", "node", "bot")
AUDITS = (  # they check rules, and hold none
    "ledger/audit/checks.py",
    "ledger/audit/approvals.py",
    "ledger/audit/disputes.py",
    "ledger/audit/agreement.py",
    "ledger/audit/release.py",
)
TESTS_SHOWN = 2
_NUMBERED = re.compile(
    r"^\[([A-Z][0-9]+)\] (.+?)(?=^\[[A-Z][0-9]+\] |^\S(?!\[)|\Z)", re.MULTILINE | re.DOTALL
)
_MENTION = re.compile(r"\[([A-Z])([0-9]+)\](?:[–-]\[\1([0-9]+)\])?")
_FAMILIES = ("too_long", "malformed", "not_canonical")
_LISTS = ("rules.py", "rule_names.py", "suggestions.py")  # they name rules, and refuse nothing
_ALSO_A_FILE = "contract.yaml"  # in tests nearly always the file's name, not the rule

# Tests that do not name their rule: they hold it all the same.
HELD_BY = {
    "T1": ("tests/ledger/test_machine.py::test_window", "tests/ledger/test_machine.py::test_foreign_chain"),
    "T2": ("tests/ledger/test_machine.py::test_a_transaction_counts_once",),
    "T3": ("tests/ledger/test_machine.py::test_refused_halfway_changes_nothing",),
    "T4": ("tests/ledger/test_machine.py::test_replay_ids_are_kept_exactly_as_long_as_needed",),
    "M1": ("tests/ledger/test_money.py::test_transfer",),
    "M2": ("tests/ledger/test_money.py::test_refused_transfers",),
    "K1": ("tests/ledger/test_orders.py::test_publishing_rules",),
    "K2": (
        "tests/ledger/test_orders.py::test_publishing_rules",
        "tests/ledger/test_orders.py::test_semver_precedence",
    ),
    "K3": ("tests/ledger/test_manifest.py::test_any_contract_expands_or_is_refused",),
    "F1": ("tests/ledger/test_capacity.py::test_a_farm_belongs_to_its_first_registrant",),
    "F2": ("tests/ledger/test_capacity.py::test_a_node_key_belongs_to_one_farm",),
    "F3": (
        "tests/ledger/test_capacity.py::test_offer_replaces_and_withdraws",
        "tests/ledger/test_capacity.py::test_an_offer_keeps_what_is_used",
    ),
    "D1": (
        "tests/ledger/test_orders.py::test_an_order_moves_the_budget_and_waits",
        "tests/ledger/test_orders.py::test_bad_orders",
    ),
    "D7": ("tests/ledger/test_orders.py::test_cancel",),
    "A8": ("tests/ledger/test_updates.py::test_a_grant_of_one_update_is_none_of_the_next",),
    "E7": ("tests/ledger/test_updates.py::test_the_author_is_paid_what_the_fee_is_more",),
    "U1": (
        "tests/ledger/test_updates.py::test_refused_wishes",
        "tests/ledger/test_updates.py::test_volumes_stay_as_they_are",
    ),
    "U2": (
        "tests/ledger/test_updates.py::test_what_is_locked_is_not_spent_before_it_is_approved",
        "tests/ledger/test_updates.py::test_nothing_is_paid_twice",
    ),
    "U3": (
        "tests/ledger/test_updates.py::test_a_changed_signer_set_satisfies_both_policies",
        "tests/ledger/test_updates.py::test_revoked_while_it_rolls",
    ),
    "U4": ("tests/ledger/test_updates.py::test_not_approved_in_time",),
    "U5": (
        "tests/ledger/test_updates.py::test_a_canary_goes_alone",
        "tests/ledger/test_updates.py::test_what_others_depend_on_comes_first",
    ),
    "U6": (
        "tests/ledger/test_updates.py::test_a_canary_that_fails_reverts_by_itself",
        "tests/ledger/test_updates.py::test_held_until_the_consumer_says",
    ),
    "U7": ("tests/ledger/test_updates.py::test_what_stays_the_same_keeps_its_term",),
    "U8": (
        "tests/ledger/test_updates.py::test_reverted_it_gives_back_what_it_locked",
        "tests/ledger/test_updates.py::test_the_deployment_loses_its_approval_while_it_rolls",
    ),
    "U9": (
        "tests/ledger/test_updates.py::test_more_is_locked_and_less_goes_back",
        "tests/ledger/test_updates.py::test_a_sign_off_is_asked_for_anew",
    ),
    "A1": (
        "tests/ledger/test_approvals.py::test_refused_decisions",
        "tests/ledger/test_approvals.py::test_a_document_is_accepted_once",
    ),
    "A2": (
        "tests/ledger/test_approvals.py::test_refused_decisions",
        "tests/ledger/test_approvals.py::test_excluded_signers",
    ),
    "A5": (
        "tests/ledger/test_approvals.py::test_revoked_while_it_runs",
        "tests/ledger/test_approvals.py::test_rejected_out_of_reach",
    ),
    "S1": ("tests/ledger/test_machine_mutants.py::test_caught",),
    "S2": ("tests/ledger/test_reports.py::test_of_a_released_slot_only_the_stop_is_told",),
    "S3": ("tests/ledger/test_machine_mutants.py::test_caught",),
    "V1": (
        "tests/ledger/test_capacity.py::test_vault_versions",
        "tests/ledger/test_capacity.py::test_vault_bounds",
    ),
    "B1": ("tests/bot/test_agent.py::test_an_order_that_was_begun_is_made_once_by_the_successor",),
    "B2": (
        "tests/bot/test_policy.py::test_a_flood_of_orders_that_name_the_bot_is_bounded_and_own_ones_come_first",
    ),
    "B3": (
        "tests/bot/test_policy.py::test_the_life_of_a_service",
        "tests/bot/test_policy.py::test_approvals_that_run_out_and_the_end_of_the_term",
    ),
    "B4": ("tests/bot/test_policy.py::test_a_wish_to_cancel_is_asked_for_until_it_is_done",),
    "B5": ("tests/bot/test_policy.py::test_a_lost_lease_and_no_node_for_it",),
    "C15": ("tests/bot/test_volume_copies_real.py::test_what_is_lost_with_a_node_and_nothing_in_a_move",),
    "C16": ("tests/bot/test_volume_copies.py::test_a_slot_that_moves_loses_nothing",),
    "C18": (
        "tests/bot/test_volume_copies.py::test_a_slot_that_moves_loses_nothing",
        "tests/bot/test_volume_copies.py::test_a_copy_that_was_made_up_is_not_mounted",
    ),
    # contract.yaml is in tests nearly always the file's name.
    "contract.yaml": ("tests/ledger/test_contract.py::test_what_is_not_our_yaml",),
    "I1": (
        "tests/ledger/test_notices.py::test_the_wait_for_approval_ends_soon",
        "tests/ledger/test_notices.py::test_an_extension_moves_the_notice_and_an_end_by_hand_needs_none",
    ),
    "I2": (
        "tests/ledger/test_notices.py::test_an_approval_expires_soon",
        "tests/ledger/test_notices.py::test_one_that_is_renewed_or_revoked_says_nothing",
    ),
    "I3": ("tests/ledger/test_notices.py::test_an_escrow_that_does_not_last_is_told_once_until_money_comes",),
    "I4": (
        "tests/ledger/test_notices.py::"
        "test_an_offer_whose_time_is_over_says_so_unless_it_was_renewed_or_taken_back",
    ),
    "W2": ("tests/ledger/test_claims.py::test_timed_work_is_bounded_and_none_is_lost",),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A function, or a module's statement outside of one (`name` ""), with its source text."""

    file: str
    name: str
    text: str
    node: ast.AST


def pieces(root: Path, folder: str) -> Iterator[Piece]:
    """Return every top-level piece of each Python file, methods one by one."""
    for file in sorted((root / folder).rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        lines = source.splitlines()
        where = file.relative_to(root).as_posix()
        pending: list[tuple[str, ast.stmt]] = [("", node) for node in ast.parse(source).body]
        while pending:
            prefix, node = pending.pop(0)
            if isinstance(node, ast.ClassDef):
                pending = [(f"{node.name}.", inner) for inner in node.body] + pending
                continue
            # Comments right before and decorators belong to it.
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            text = "\n".join(lines[first - 1 : node.end_lineno])
            name = prefix + node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""
            yield Piece(where, name, text, node)


def strings(node: ast.AST) -> set[str]:
    """Return every string constant below a node."""
    found = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return found | {text.replace("\\.", ".") for text in found if "\\." in text}  # match=r"a\.b" names a.b


def mentions(text: str) -> set[str]:
    """Return the numbered rules that a text names; [A1]–[A3] are three."""
    found = set()
    for letter, low, high in _MENTION.findall(text):
        found |= {f"{letter}{number}" for number in range(int(low), int(high or low) + 1)}
    return found


def numbered(root: Path) -> dict[str, tuple[str, str]]:
    """Return number to (text, file) of each numbered rule, as module docstrings define them."""
    found: dict[str, tuple[str, str]] = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            for number, words in _NUMBERED.findall(text):
                found[number] = " ".join(words.split()), file.relative_to(root).as_posix()
    return found


def numbered_table(root: Path) -> str:
    """Return the table of numbered rules."""
    code = [piece for package in PACKAGES for piece in pieces(root, package)]
    tests = list(pieces(root, "tests"))
    rows = []
    for number, (text, file) in sorted(numbered(root).items(), key=lambda item: _order(item[0])):
        inside = [p for p in code if p.name and number in mentions(p.text)]
        own = [p.name for p in inside if p.file == file]
        others = [f"{p.file}:{p.name}" for p in inside if p.file != file and p.file not in AUDITS]
        places = [f"{file}:{own[0]}" if own else file, *own[1:], *others]
        held = [f"{p.file}::{p.name}" for p in tests if _may_hold(p, number) and number in mentions(p.text)]
        held = list(dict.fromkeys([*HELD_BY.get(number, ()), *held]))
        where = ", ".join(f"`{place}`" for place in places)
        rows.append((f"**{number}**", text, where, _tests(held)))
    return table(("rule", "what holds", "where", "held by"), rows)


def refusals_table(root: Path) -> str:
    """Return the table of the names by which the ledger refuses."""
    code = [piece for piece in pieces(root, "ledger") if not piece.file.endswith(_LISTS)]
    words = [(piece, strings(piece.node)) for piece in code]
    tests = _tests_by_rule(root)
    rows = []
    for rule, text in RULES.items():
        places = [p for p, found in words if rule in found]
        family, _, suffix = rule.partition(".")
        if suffix in _FAMILIES:
            call = rf'decode_exact(?:_json)?\([^)]*"{family}"'
            places += [p for p, found in words if re.search(call, p.text)]
        shown = list(dict.fromkeys(f"{p.file}:{p.name}" if p.name else p.file for p in places))
        held = list(dict.fromkeys([*HELD_BY.get(rule, ()), *tests.get(rule, [])]))
        rows.append((f"`{rule}`", text, ", ".join(f"`{place}`" for place in shown[:2]), _tests(held)))
    return table(("rule", "what is refused", "where", "held by"), rows)


def _tests_by_rule(root: Path) -> dict[str, list[str]]:
    """Return rule to tests: first those that name it themselves, then those by a table or helper."""
    found: dict[str, list[tuple[bool, str]]] = {}
    by_file: dict[str, list[Piece]] = {}
    for piece in pieces(root, "tests"):
        by_file.setdefault(piece.file, []).append(piece)
    for file, parts in by_file.items():
        for piece in parts:
            rules = {word for word in strings(piece.node) if word in RULES and word != _ALSO_A_FILE}
            if not rules:
                continue
            for name in [piece.name] if _is_test(piece) else _users(piece, parts):
                for rule in rules:
                    found.setdefault(rule, []).append((not _is_test(piece), f"{file}::{name}"))
    return {rule: list(dict.fromkeys(test for _, test in sorted(held))) for rule, held in found.items()}


def _users(piece: Piece, parts: list[Piece]) -> list[str]:
    """Tests of a file that use a table or helper of its module."""
    defined = {piece.name.rpartition(".")[2]} if piece.name else _assigned(piece.node)
    return [
        p.name
        for p in parts
        if _is_test(p) and any(re.search(rf"\b{re.escape(name)}\b", p.text) for name in defined if name)
    ]


def _assigned(node: ast.AST) -> set[str]:
    """The names that a statement gives, not those that it uses."""
    names = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    return {n.id for n in names if isinstance(n.ctx, ast.Store)}


def _is_test(piece: Piece) -> bool:
    return piece.name.rpartition(".")[2].startswith("test_")


def _tests(held: list[str]) -> str:
    more = f" +{len(held) - TESTS_SHOWN}" if len(held) > TESTS_SHOWN else ""
    return ", ".join(f"`{test.removeprefix('tests/')}`" for test in held[:TESTS_SHOWN]) + more


def _may_hold(piece: Piece, number: str) -> bool:
    """Rules of the bot have their tests in tests/bot; in tests/consensus [B1] is a list of batches."""
    folder = piece.file.split("/")[1]
    if folder.endswith(".py"):
        return False  # tests of the house and its documents
    return _is_test(piece) and ((folder == "bot") if number[0] == "B" else folder not in ("bot", "consensus"))


def _order(number: str) -> tuple[int, int]:
    """The order of the machine: transactions, money, contracts, capacity, orders, approvals, claims …"""
    return "TMKFDUASCLREWVB".find(number[0]), int(number[1:])
