"""The documents are held true: generated parts are current, and what they name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ledger.rules import RULES
from node.cli.commands import COMMANDS
from node.cli.context import GLOBAL_FLAGS
from node.config import KEYS
from scripts.docs import blocks, documents
from scripts.marked import filled, names, table
from scripts.spec_rules import mentions, numbered

ROOT = Path(__file__).resolve().parent.parent
MADE_BY_ANOTHER = {"cli.md"}  # docs/cli.md has a script and a test of its own

CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TEST = re.compile(r"\b((?:tests/)?(?:[a-z0-9_]+/)*test_[a-z0-9_]+\.py)::(test_[A-Za-z0-9_]+)")
PATHS = re.compile(
    r"(?<![\w/.-])((?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_-]+\.(?:py|md|yaml|sh|txt|toml|png))(?![\w/])"
)
PLACE = re.compile(r"`((?:ledger|consensus|p2p|node|bot|scripts)/[a-z0-9_/]+\.py):([A-Za-z_][\w.]*)")
COMMAND = re.compile(r"(?:^|`|\$ )gridpact ((?:-{0,2}[a-z][a-z-]* ?)+)", re.MULTILINE)
MAKE = re.compile(r"(?:^|`|\$ )make ([a-z][a-z0-9-]*)", re.MULTILINE)
NUMBER = re.compile(r"\[([TMKFDAGSCLREWVB][0-9]+)\](?!\()")
DECISION_PARTS = ("**Context.**", "**Decision.**", "**Consequences.**", "**How to undo.**")

# Files that a reader or a running peer makes, which documents name.
NOT_IN_THE_HOUSE = {
    "contract.yaml",
    "config.toml",
    "config/config.toml",
    "mysite/contract.yaml",
    "Simplex.md",
}


@cache
def made() -> dict[str, str]:
    """Return the generated parts, made once for all tests."""
    return blocks(ROOT)


def documents_of(root: Path) -> list[Path]:
    """Return every document that people read."""
    found = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.md")]
    return sorted(file for file in found if file.name not in MADE_BY_ANOTHER)


DOCUMENTS = documents_of(ROOT)
IDS = [file.relative_to(ROOT).as_posix() for file in DOCUMENTS]


def code_in(text: str) -> str:
    """Return only what stands in code, block or inline, one piece a line."""
    return "\n".join(piece.strip("`").strip() for piece in CODE.findall(text))


@cache
def functions(file: Path) -> frozenset[str]:
    """Return functions, classes and methods of a Python file, methods as Class.name."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{method.name}" for method in inner}
    return frozenset(found)


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as common Markdown viewers make them."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def exists(named: str, document: Path) -> bool:
    """True for a path from the root, from the document's folder or docs/, or under tests/."""
    bases = (ROOT, document.parent, ROOT / "docs", ROOT / "tests")
    if "/" not in named and any((*ROOT.glob(f"*/{named}"), *ROOT.glob(f"tests/*/{named}"))):
        return True  # a name that several folders have, such as limits.py, or a test's without its folder
    return any((base / named).exists() for base in bases)


def missing_paths(text: str, document: Path) -> Iterator[str]:
    for named in PATHS.findall(code_in(text)):
        if named not in NOT_IN_THE_HOUSE and not exists(named, document):
            yield named


def missing_tests(text: str) -> Iterator[str]:
    for file, name in TEST.findall(text):
        short = file.removeprefix("tests/")
        places = [ROOT / "tests" / short] if "/" in short else [*ROOT.glob(f"tests/**/{short}")]
        if not any(where.is_file() and name in functions(where) for where in places):
            yield f"{file}::{name}"


def missing_places(text: str) -> Iterator[str]:
    for file, name in PLACE.findall(text):
        where = ROOT / file
        if not where.is_file() or name.rstrip(".") not in functions(where):
            yield f"{file}:{name}"


def dead_links(text: str, document: Path) -> Iterator[str]:
    for target in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue  # another house; the network is not asked in a test
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            yield target


def unknown_commands(text: str) -> Iterator[str]:
    known = {words for words, _, _ in COMMANDS}
    groups = {words.partition(" ")[0] for words in known if " " in words}
    for line in COMMAND.findall(code_in(text)):
        words = line.split()
        if words[0].startswith("-"):
            if words[0] not in {"--version", "--help", *GLOBAL_FLAGS}:
                yield line
        elif words[0] in known:
            continue
        elif words[0] not in groups or (len(words) > 1 and " ".join(words[:2]) not in known):
            yield line


def unknown_targets(text: str) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    yield from (target for target in MAKE.findall(code_in(text)) if target not in known)


def test_generated_parts_are_current() -> None:
    stale = []
    for file in documents(ROOT):
        text = file.read_text(encoding="utf-8")
        if filled(text, made()) != text:
            stale.append(file.relative_to(ROOT).as_posix())
    assert not stale, f"run `make docs`: {', '.join(stale)}"


def test_every_part_that_is_made_has_a_place() -> None:
    placed = [name for file in documents(ROOT) for name in names(file.read_text(encoding="utf-8"))]
    assert sorted(set(placed)) == sorted(made())


def test_the_spec_names_every_refusal_and_every_rule() -> None:
    text = (ROOT / "docs/spec.md").read_text(encoding="utf-8")
    assert not [rule for rule in RULES if f"`{rule}`" not in text]
    assert not [number for number in numbered(ROOT) if f"**{number}**" not in text]


def test_every_numbered_rule_has_a_test() -> None:
    text = (ROOT / "docs/spec.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*([A-Z][0-9]+)\*\* .*\| ([^|]*) \|$", text, re.MULTILINE)
    assert len(rows) == len(numbered(ROOT))
    assert not [number for number, held in rows if not held.strip()]


def test_every_refusal_has_a_test() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| .* \| ([^|]*) \|$", made()["refusals"], re.MULTILINE)
    assert [rule for rule, _ in rows] == list(RULES)
    assert not [rule for rule, held in rows if not held.strip()]


def test_every_refusal_is_found_where_it_is_made() -> None:
    """A function that refuses, not a list of the names of rules."""
    rows = re.findall(r"^\| `([a-z_.]+)` \| .* \| ([^|]*) \| [^|]* \|$", made()["refusals"], re.MULTILINE)
    assert [rule for rule, _ in rows] == list(RULES)
    assert not [rule for rule, where in rows if not re.match(r"`ledger/[a-z_/]+\.py(:[\w.]+)?`", where)]
    assert not [rule for rule, where in rows if "rule_names.py" in where or "/rules.py" in where]


def test_every_setting_is_told() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    assert not [key.name for key in KEYS if f"| `{key.name}` | `{key.env}` |" not in text]


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    faults = [f"no file {named}" for named in missing_paths(text, document)]
    faults += [f"no test {named}" for named in missing_tests(text)]
    faults += [f"no function {named}" for named in missing_places(text)]
    faults += [f"dead link {target}" for target in dead_links(text, document)]
    faults += [f"no command gridpact {line}" for line in unknown_commands(text)]
    faults += [f"no target make {target}" for target in unknown_targets(text)]
    known = made()["rules"]
    faults += [f"no rule [{number}]" for number in NUMBER.findall(text) if f"**{number}**" not in known]
    assert not faults, "\n".join(faults)


def test_decisions_have_their_parts_and_stand_in_the_list() -> None:
    listed = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert [part for part in DECISION_PARTS if part in text] == list(DECISION_PARTS), file.name
        assert f"({file.name})" in listed
        assert text.startswith(f"# {file.name[:4]}. ")


def test_the_readme_has_its_first_screen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("make demo") < text.index("make test") < 2_000
    assert "<!-- demo-output:begin -->" in text
    assert "<!-- demo-output:end -->" in text


# What finds faults must find some.


@pytest.mark.parametrize(
    ("text", "finder"),
    [
        ("see `ledger/nothing.py`", lambda t: missing_paths(t, ROOT / "README.md")),
        ("held by `ledger/test_money.py::test_nothing`", missing_tests),
        ("in `ledger/money.py:pay`", missing_places),
        ("in `ledger/policies/decision.py:guess`", missing_places),
        ("[x](docs/nothing.md)", lambda t: dead_links(t, ROOT / "README.md")),
        ("[x](docs/spec.md#nothing)", lambda t: dead_links(t, ROOT / "README.md")),
        ("`gridpact contract frobnicate x`", unknown_commands),
        ("```\ngridpact conjure\n```", unknown_commands),
        ("`gridpact --nothing`", unknown_commands),
        ("`make sense`", unknown_targets),
    ],
)
def test_a_fault_is_found(text: str, finder) -> None:  # type: ignore[no-untyped-def]
    assert len(list(finder(text))) == 1


@pytest.mark.parametrize(
    ("text", "finder"),
    [
        ("`ledger/policies/decision.py:evaluate` and `README.md`", missing_places),
        ("`ledger/test_money.py::test_transfer`", missing_tests),
        ("[x](docs/spec.md#7-numbered-rules)", lambda t: dead_links(t, ROOT / "README.md")),
        ("`gridpact contract validate mysite`", unknown_commands),
        ("`gridpact testnet`, `gridpact --version`", unknown_commands),
        ("`make test ARGS='tests/ledger -x'`", unknown_targets),
    ],
)
def test_no_fault_is_found(text: str, finder) -> None:  # type: ignore[no-untyped-def]
    assert not list(finder(text))


def test_marks_and_tables() -> None:
    text = "a\n<!-- generated:x -->\nold\n<!-- /generated -->\nb"
    assert names(text) == ["x"]
    assert filled(text, {"x": "new"}) == "a\n<!-- generated:x -->\nnew\n<!-- /generated -->\nb"
    with pytest.raises(KeyError):
        filled(text, {})
    assert table(("a", "b"), [("1|2", "3\n4")]) == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 4 |"
    assert mentions("[A1]–[A3] and [C2]") == {"A1", "A2", "A3", "C2"}
