"""The house holds its own rules: one-way imports, a quick CLI, files of one purpose, nothing of one host."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter import api

PACKAGES = ("ledger", "consensus", "p2p", "node", "bot")

# A file is a room with one purpose. 100 to 300 lines is usual; past this it is two rooms.
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# Written in pieces, so that this file does not hold what it looks for.
FOREIGN = {
    "a package index or mirror": re.compile(
        r"python"
        r"hosted\.org|py"
        r"pi\.(?:python\.)?org|npm"
        r"js\.org|deb"
        r"ian\.org/debian|"
        r"crat"
        r"es\.io|proxy\.go"
        r"lang\.org|--(?:extra-)?index-"
        r"url[ =]+\S"
    ),
    "a path of one machine": re.compile(
        r"/wo" r"rk/(?:main|brief|shared|\.\w)|/tm" r"p/probe|/opt/whe" r"els|(?<![\w}])/ro" r"ot/\.?\w"
    ),
}


def tracked(checkout: Path) -> list[Path]:
    """Return every committed file that is there: what a reader gets with a clone."""
    # safe.directory: in a container the checkout may belong to another user than the one who runs the tests.
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=checkout, check=True, capture_output=True
    )
    names = (name for name in listed.stdout.decode().split("\0") if name)
    # A file that is deleted, but not yet committed as such, is still listed.
    return [checkout / name for name in names if (checkout / name).is_file()]


def long_functions(source: str) -> Iterator[str]:
    for item in ast.walk(ast.parse(source)):
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (item.end_lineno or item.lineno) - item.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{item.name} has {lines} lines"


def foreign_words(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for what, pattern in FOREIGN.items():
            if match := pattern.search(line):
                yield f"line {number} names {what}: {match.group(0)}"


def lint_imports(house: Path, config: Path, *only: str) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages in `house`; only the named contracts, or all."""
    # In a process of its own: the linter finds packages by sys.path and keeps state in globals.
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    chosen = [word for contract in only for word in ("--contract", contract)]
    command = [sys.executable, "-c", code, "--config", str(config), "--no-cache", "--no-logo", *chosen]
    return subprocess.run(command, cwd=house, capture_output=True, text=True)


def test_imports_run_one_way(checkout: Path) -> None:
    done = lint_imports(checkout, checkout / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("contract", "file", "line"),
    [
        ("layers", "ledger/blocks.py", "import node.peer"),
        ("layers", "consensus/core.py", "import p2p.host"),
        ("p2p", "p2p/host.py", "import ledger.blocks"),
        ("plyvel", "ledger/blocks.py", "import plyvel"),
        ("libp2p", "node/peer.py", "from libp2p import new_host"),
        ("pure", "consensus/core.py", "from time import monotonic"),
        ("pure", "ledger/blocks.py", "import trio"),
    ],
)
def test_a_wrong_import_breaks_its_contract(
    checkout: Path, tmp_path: Path, contract: str, file: str, line: str
) -> None:
    for room in (
        "ledger/blocks.py",
        "ledger/storage/store.py",
        "ledger/storage/store_files.py",
        "consensus/core.py",
        "p2p/host.py",
        "node/peer.py",
    ):
        (tmp_path / room).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / room).write_text("")
        (tmp_path / room).with_name("__init__.py").write_text("")
    for package in PACKAGES:
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").write_text("")
    # What the exceptions allow.
    (tmp_path / "ledger/storage/store.py").write_text("import os\nimport plyvel\n")
    (tmp_path / "ledger/storage/store_files.py").write_text("import os\n")
    config = checkout / "pyproject.toml"

    right = lint_imports(tmp_path, config, contract)
    assert right.returncode == 0, right.stdout + right.stderr
    (tmp_path / file).write_text(line + "\n")
    wrong = lint_imports(tmp_path, config, contract)
    assert wrong.returncode == 1, wrong.stdout + wrong.stderr
    assert "1 broken" in wrong.stdout


def test_the_linter_reads_all_five_packages(checkout: Path) -> None:
    options = api.read_configuration(str(checkout / "pyproject.toml"))["session_options"]
    assert sorted(options["root_packages"]) == sorted(PACKAGES)


def test_client_commands_do_not_import_libp2p() -> None:
    """libp2p costs a second to import; a client command starts in under 150 ms."""
    code = "import sys, node.cli.main; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "node" in loaded
    assert not loaded & {"libp2p", "multiaddr", "aioquic", "grpc", "zeroconf"}


def test_each_file_is_one_room(checkout: Path) -> None:
    faults = []
    for file in tracked(checkout):
        name = file.relative_to(checkout)
        if file.suffix != ".py" or name.parts[0] not in PACKAGES:
            continue
        source = file.read_text(encoding="utf-8")
        if (lines := source.count("\n")) > FILE_LINES_MAX:
            faults.append(f"{name}: {lines} lines, over {FILE_LINES_MAX}")
        faults += [f"{name}: {what}, over {FUNCTION_LINES_MAX}" for what in long_functions(source)]
    assert not faults, "\n".join(faults)


def test_a_long_function_is_seen() -> None:
    body = "    x = 1\n"
    assert not list(long_functions("def short():\n" + body * (FUNCTION_LINES_MAX - 1)))
    assert list(long_functions("async def long():\n" + body * FUNCTION_LINES_MAX)) == ["long has 71 lines"]


def test_nothing_of_one_machine_is_committed(checkout: Path) -> None:
    faults = []
    for file in tracked(checkout):
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # an image or a font
            continue
        faults += [f"{file.relative_to(checkout)}: {what}" for what in foreign_words(text)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("https://files.python" + "hosted.org/packages/x.whl", True),
        ("deb http://deb.deb" + "ian.org/debian bookworm main", True),
        ("--index-" + "url https://mirror.example/simple", True),
        ("/wo" + "rk/main/.venv/bin/python", True),
        ("cd /ro" + "ot/.pyenv", True),
        ("/proc/1234/root/bin/busybox", False),
        ('f"/proc/{pid}/root/bin/busybox"', False),
        ("https://www.debian.org", False),
        ("/tmp and /result are writable inside", False),
    ],
)
def test_foreign_words_are_seen(line: str, seen: bool) -> None:
    assert bool(list(foreign_words(line))) == seen
