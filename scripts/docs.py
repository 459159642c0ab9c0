"""`make docs`: writes the generated parts of the documents. tests/test_docs.py holds them current."""

from __future__ import annotations

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

from bench.exec_report import running
from bench.report import comparison
from ledger.contracts.rule_names import CONTRACT_RULES, SUGGESTIONS
from node.api.routes import ROUTES
from node.config import KEYS
from scripts import schema
from scripts.marked import filled, names, table
from scripts.spec_rules import numbered_table, refusals_table
from scripts.vectors import vectors_table
from tests.attacks.catalogue import ATTACKS, SELF

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ("ledger", "consensus", "p2p", "node", "bot")

# Structs of the wire and the state by block: their fields are shown in order, as they are encoded.
STRUCTS = {
    "transactions": ("ledger/transactions.py", ("Tx", "SignedTx", "Price", "RenewItem", "+_Body")),
    "records": ("ledger/records.py", ("+_Record",)),
    "trade-records": ("ledger/trade_records.py", ("+_Record",)),
    "certification": ("ledger/certification.py", ("Certification", "FarmCertification")),
    "blocks": ("ledger/blocks.py", ("Header", "Batch")),
    "certificates": (
        "ledger/proofs/certificate.py",
        ("Validator", "ValidatorSet", "Statement", "Certificate"),
    ),
    "evidence": ("ledger/evidence.py", ("+_Part",)),
    "proofs": ("ledger/proofs/light.py", ("FinalityProof", "EpochProof", "QueryProof")),
    "proof-file": ("ledger/proofs/proof_file.py", ("ProofFile",)),
    "tree-proofs": ("ledger/proofs/tree.py", ("Proof",)),
    "inclusion": ("ledger/proofs/inclusion.py", ("Inclusion",)),
    "predicates": (
        "ledger/predicates.py",
        ("ContractPredicate", "ApprovalPredicate", "ReceiptPredicate", "ResultFile", "Usage"),
    ),
    "manifest": (
        "ledger/manifests/types.py",
        (
            "Manifest",
            "Workload",
            "Artifact",
            "Resources",
            "Port",
            "Health",
            "Restart",
            "Placement",
            "Spread",
            "Apart",
            "Terms",
            "PriceCaps",
            "Volume",
            "Needs",
        ),
    ),
    "organisations": ("ledger/organisations/organisation.py", ("Deed", "Charter", "Member", "Rotation")),
    "organisation-records": ("ledger/organisations/records.py", ("+_Record",)),
    "policies": ("ledger/policies/types.py", ("Policies", "Role", "Rule", "Weight", "Auto")),
    "consensus-messages": ("consensus/messages.py", ("+_Message",)),
    "bulk-messages": (
        "node/wire.py",
        ("Hello", "BatchPush", "TxPush", "TipNote", "RangeRequest", "Announcement"),
    ),
    "state-messages": ("node/sync/state_wire.py", ("Offer", "EpochsRequest", "ChunkRequest")),
    "state-chunks": ("ledger/storage/snapshot.py", ("StateChunk",)),
    "artifact-messages": (
        "node/files/artifact_wire.py",
        ("HeldRequest", "HeldAnswer", "InfoRequest", "InfoAnswer", "ChunkRequest"),
    ),
    "stored-blocks": ("ledger/storage/stored.py", ("StoredBlock",)),
    "audit-file": ("ledger/audit/file.py", ("AuditFile", "AuditBlock", "AuditTx", "AuditRecord")),
}
LIMITS = {
    "ledger-limits": "ledger/limits.py",
    "consensus-limits": "consensus/limits.py",
    "network-limits": "p2p/limits.py",
    "node-limits": "node/limits.py",
}


def structs_table(root: Path, file: str, wanted: tuple[str, ...]) -> str:
    """Return name, tag, fields and meaning of structs; `+Base` means all that derive from it."""
    source = (root / file).read_text(encoding="utf-8")
    rows = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {ast.unparse(base) for base in node.bases}
        if node.name not in wanted and not any(f"+{base}" in wanted for base in bases):
            continue
        tag = next((ast.literal_eval(k.value) for k in node.keywords if k.arg == "tag"), "")
        fields = [_field(item) for item in node.body if isinstance(item, ast.AnnAssign)]
        text = " ".join((ast.get_docstring(node) or "").split())
        shown = f"`{node.name}`" + (f" `{tag}`" if tag else "")
        rows.append((shown, "<br>".join(fields) or "none", text))
    return table(("struct and tag", "fields, in order", "what it is"), rows)


def _field(item: ast.AnnAssign) -> str:
    default = ""
    if item.value is not None and "msgspec.field" not in ast.unparse(item.value):
        default = f" = {ast.unparse(item.value)}"
    name = ast.unparse(item.target)
    if item.value is not None and "msgspec.field" in ast.unparse(item.value):
        name = re.findall(r"name='([^']+)'", ast.unparse(item.value))[0]
    return f"`{name}: {ast.unparse(item.annotation)}{default}`"


def limits_table(root: Path, file: str) -> str:
    """Return name, value and reason of each limit of a file. A comment above is that of the next limit."""
    lines = (root / file).read_text(encoding="utf-8").splitlines()
    module = import_module(file.removesuffix(".py").replace("/", "."))
    rows: list[tuple[str, ...]] = []
    above: list[str] = []
    for line in lines:
        if line.startswith("# ---"):
            continue
        if line.startswith("#"):
            above.append(line.strip("# "))
            continue
        found = re.match(r"([A-Z][A-Z0-9_]*)(?:: Final)?\s*=\s*([^#]+?)\s*(?:#\s*(.*))?$", line)
        if found and found[1] not in ("KIB", "MIB"):
            value = found[2] if found[2] != "(" else str(vars(module)[found[1]])
            rows.append((f"`{found[1]}`", f"`{value}`", found[3] or " ".join(above)))
        above = []
    return table(("limit", "value", "why"), rows)


def house_table(root: Path) -> str:
    """Return every file of the five folders with the first sentence of its docstring."""
    parts = []
    for folder in HOUSE:
        rows = []
        for file in sorted((root / folder).rglob("*.py"), key=lambda f: (f.parent.as_posix(), f.name)):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "(no docstring)"
            first = " ".join(text.split("\n\n")[0].split())
            rows.append((f"`{file.relative_to(root).as_posix()}`", first))
        parts.append(f"### {folder}\n\n" + table(("file", "what it is for"), rows))
    return "\n\n".join(parts)


def config_table() -> str:
    """Return every setting with its variable, default and meaning."""
    rows = []
    for key in KEYS:
        default = ", ".join(key.default) if key.is_list else str(key.default)
        rows.append((f"`{key.name}`", f"`{key.env}`", f"`{default}`" if default else "", key.description))
    return table(("key and flag", "variable", "default", "meaning"), rows)


def metrics_table(root: Path) -> str:
    """Return every metric that code names: a tuple (name, labels, value, "counter" or "gauge")."""
    rows = set()
    for file in (*(root / "node").rglob("*.py"), *(root / "bot").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Tuple) or len(node.elts) != 4:
                continue
            first, labels, _, kind = node.elts
            name = _metric_name(first)
            if name and isinstance(kind, ast.Constant) and kind.value in ("counter", "gauge"):
                where = file.relative_to(root).as_posix()
                shown = ", ".join(_labels(labels))
                rows.add((f"`gridpact_{name}`", str(kind.value), shown, f"`{where}`"))
    return table(("metric", "kind", "labels", "from"), sorted(rows))


def _metric_name(node: ast.expr) -> str:
    """The name as text; what code fills in stands in capitals; "" when it is none."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = (
        part.value if isinstance(part, ast.Constant) else ast.unparse(part).strip("f'\"{}").upper()
        for part in node.values
    )
    return "".join(str(part) for part in parts)


def _labels(node: ast.expr) -> list[str]:
    if not isinstance(node, ast.Dict):
        return []
    return [f"`{key.value}`" for key in node.keys if isinstance(key, ast.Constant)]


def routes_table() -> str:
    """Return every resource of the API."""
    rows = [
        (
            f"`{r.method} {r.path}`",
            r.text,
            ", ".join(f"`{q.name}`" for q in r.query),
            "yes" if r.token else "",
        )
        for r in ROUTES
    ]
    return table(("resource", "what", "query", "needs the token"), rows)


def contract_errors_table() -> str:
    """Return the rules that a contract's author may meet."""
    rows = [(f"`{rule}`", text, SUGGESTIONS.get(rule, "")) for rule, text in CONTRACT_RULES.items()]
    return table(("rule", "what is wrong", "what to do"), rows)


def attacks_table() -> str:
    """Return every attack on what runs, with the tests that try it and their controls."""
    rows = []
    for attack in ATTACKS:
        tests, controls = (
            ", ".join(test if test == SELF else f"`{test}`" for test in ids)
            for ids in (attack.tests, attack.controls)
        )
        rows.append((attack.who, attack.what, attack.stops, tests, controls, attack.left))
    return table(("who", "what they try", "what stops it", "tests", "controls", "not stopped"), rows)


def blocks(root: Path) -> dict[str, str]:
    """Return every generated part by its name."""
    found = {name: structs_table(root, file, wanted) for name, (file, wanted) in STRUCTS.items()}
    found |= {name: limits_table(root, file) for name, file in LIMITS.items()}
    found |= {
        "rules": numbered_table(root),
        "refusals": refusals_table(root),
        "house": house_table(root),
        "config": config_table(),
        "metrics": metrics_table(root),
        "routes": routes_table(),
        "contract-errors": contract_errors_table(),
        "vectors": vectors_table(),
        "attacks": attacks_table(),
        "comparison": comparison(root / "bench" / "results"),
        "running": running(root / "bench" / "results"),
    }
    return found


def documents(root: Path) -> list[Path]:
    """Return the Markdown files that hold generated parts."""
    files = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    return sorted(file for file in files if names(file.read_text(encoding="utf-8")))


def main() -> int:
    """Write what is not current; say which documents changed."""
    made = blocks(ROOT)
    for file in documents(ROOT):
        old = file.read_text(encoding="utf-8")
        new = filled(old, made)
        if new != old:
            file.write_text(new, encoding="utf-8")
            print(f"wrote {file.relative_to(ROOT)}")
    return schema.main()


if __name__ == "__main__":
    sys.exit(main())
