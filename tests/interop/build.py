"""Installs and builds the foreign peers under .cache/interop. At once when nothing has changed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = HERE.parent.parent / ".cache" / "interop"
NODE_MAJOR: Final = 20
BUILD_S: Final = 900  # a first build of go-libp2p on two busy cores
LANGUAGES: Final = ("js", "go")
WANTED: Final = "INTEROP_LANGUAGES"  # those to run, with spaces; a first build of the Go peer takes minutes


class NotHere(Exception):
    """This machine has not what the peer needs; the text says what."""


@dataclass(frozen=True, slots=True)
class Made:
    """How a foreign peer is started."""

    command: tuple[str, ...]


def made(language: str) -> Made:
    """The peer of that language, installed and built. Raises NotHere, or RuntimeError when a step fails."""
    if language not in os.environ.get(WANTED, " ".join(LANGUAGES)).split():
        raise NotHere(f"{WANTED} does not name it")
    return {"js": _js, "go": _go}[language]()


def _js() -> Made:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotHere(f"{'node' if node is None else 'npm'} is not installed (Node.js {NODE_MAJOR} or newer)")
    version = _version([node, "--version"], r"v(\d+)")
    if version < (NODE_MAJOR,):
        raise NotHere(f"Node.js {NODE_MAJOR} or newer is needed, here is {version[0]}")
    home = CACHE / "js"

    def install() -> None:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copyfile(HERE / "js" / name, home / name)
        _run([npm, "ci", "--cache", str(CACHE / "npm")], home)

    _once(home, [HERE / "js" / name for name in ("package.json", "package-lock.json", ".npmrc")], install)
    # Node looks for packages beside the program, and the work tree stays as it is in git.
    shutil.rmtree(home / "src", ignore_errors=True)
    shutil.copytree(HERE / "js" / "src", home / "src")
    return Made((node, str(home / "src" / "peer.js")))


def _go() -> Made:
    go = shutil.which("go")
    if go is None:
        raise NotHere("go is not installed")
    wanted = re.search(r"^go (\d+)\.(\d+)\.?(\d*)$", (HERE / "go" / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None, "go.mod names the Go that it needs"
    needed = tuple(int(part or 0) for part in wanted.groups())
    version = _version([go, "env", "GOVERSION"], r"go(\d+)\.(\d+)\.?(\d*)")
    if version < needed:
        raise NotHere(f"Go {'.'.join(map(str, needed))} or newer is needed, here is {version}")
    home = CACHE / "go"
    program = home / "peer"

    def build() -> None:
        caches = {"GOMODCACHE": str(CACHE / "gomod"), "GOCACHE": str(CACHE / "gobuild")}
        flags = {"GOFLAGS": "-modcacherw -buildvcs=false -mod=readonly", "CGO_ENABLED": "0"}
        _run([go, "build", "-trimpath", "-o", str(program), "."], HERE / "go", caches | flags)

    _once(home, [HERE / "go" / "go.mod", HERE / "go" / "go.sum", *sorted((HERE / "go").glob("*.go"))], build)
    return Made((str(program),))


def _version(command: Sequence[str], pattern: str) -> tuple[int, ...]:
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=HERE / "go").stdout
    found = re.search(pattern, said)
    if found is None:
        raise NotHere(f"{command[0]} does not say its version: {said[:80]!r}")
    return tuple(int(part or 0) for part in found.groups())


def _once(home: Path, sources: Sequence[Path], build: Callable[[], None]) -> None:
    """Calls `build` unless it has ended well for these very sources."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    stamp = home / ".made"
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return
    stamp.unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    build()
    stamp.write_text(digest.hexdigest())


def _run(command: Sequence[str], folder: Path, more: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | (more or {}), capture_output=True, text=True, timeout=BUILD_S
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"[-4_000:]
        )
