"""Packs what runs WebAssembly programs into one tar, to be sealed into the root of each: an interpreter for
Python, Wasmtime's library, our own few modules, and what these need of the host. Blocking.

So all code of such a task stands in its sealed root, as with any other: the host's files are not there, and a
re-check finds whatever else is executed. What is needed is not written down here but asked: a process like
the one that will run tells what it has loaded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import marshal
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import node
from node.executor.drivers.base import TreeSpec
from node.executor.errors import DriverUnavailable
from node.executor.limits import TRIAL_TIMEOUT_S

ENGINE: Final = "/engine"
INPUTS: Final = "/inputs"
LIBRARY: Final = f"{ENGINE}/so/_libwasmtime.so"
_PACKAGE: Final = "wasmtime"
_BOOT: Final = "from node.executor.wasm.run import main; main()"
_LOOK: Final = """
import sys
sys.path.insert(0, sys.argv[1])
import ctypes, json, node.executor.wasm.run
ctypes.PyDLL(sys.argv[2])
specs = {name: getattr(module, "__spec__", None) for name, module in sys.modules.items()}
print(json.dumps([
    (name, spec.origin, type(spec.loader).__name__, spec.submodule_search_locations is not None)
    for name, spec in specs.items() if spec is not None and spec.has_location
]))
"""
_LINKED: Final = re.compile(r"\s*(\S+) => (/\S+) \(")
_LOADER: Final = re.compile(rb"(/[!-~]*/ld-[!-~]+)\0")
_HEAD_BYTES: Final = 1 << 14


@dataclass(frozen=True)
class EngineRoot:
    """The packed engine. `command` wants one argument more (`node.executor.wasm.run`). `version`: of
    Wasmtime."""

    tree: TreeSpec
    command: tuple[str, ...]
    version: str


def pack(folder: Path) -> EngineRoot:
    """Return the engine, packed into a file in `folder`. Raises DriverUnavailable when a part is missing."""
    library, version = _library()
    python = os.path.realpath(sys.executable)
    try:
        loader = _loader(python)
        modules = _modules(str(library))
        found = {
            **modules.files,
            "bin/python3": Path(python),
            "so/ld.so": loader,
            "so/_libwasmtime.so": library,
        }
        linked = [python, str(library), *(str(path) for path in modules.files.values())]
        found |= _linked(str(loader), linked)
        data = _tar(found, modules.compiled)
    except (OSError, ValueError, subprocess.SubprocessError, SyntaxError) as error:
        raise DriverUnavailable(f"the engine cannot be packed: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    path = folder / f"engine-{digest}.tar"
    for old in folder.glob("engine-*.tar"):
        old.unlink()
    path.write_bytes(data)
    start = (f"{ENGINE}/so/ld.so", "--library-path", f"{ENGINE}/so", f"{ENGINE}/bin/python3")
    command = (*start, "-I", "-S", "-B", "-X", "frozen_modules=on", "-c", _BOOT)
    return EngineRoot(TreeSpec(ENGINE, digest, len(data), path), command, version)


@dataclass(frozen=True)
class _Modules:
    files: Mapping[str, Path]  # extensions, by their paths in the tar
    compiled: Mapping[str, bytes]  # byte code, likewise


def _library() -> tuple[Path, str]:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DriverUnavailable("wasmtime is not installed (Python package: wasmtime)")
    for path in spec.submodule_search_locations:
        found = Path(path) / f"linux-{os.uname().machine}" / "_libwasmtime.so"
        if found.is_file():
            return found, importlib.metadata.version(_PACKAGE)
    raise DriverUnavailable(f"the package wasmtime has no library for {os.uname().machine}")


def _loader(python: str) -> Path:
    """The program that links others (ld.so(8)), which the host's interpreter names in its head."""
    with open(python, "rb") as file:
        found = _LOADER.search(file.read(_HEAD_BYTES))
    if found is None:
        raise ValueError(f"{python} names no dynamic linker")
    return Path(os.path.realpath(found[1].decode()))


def _modules(library: str) -> _Modules:
    """All Python modules that the engine loads, by asking one that has loaded them."""
    home = str(Path(node.__file__).parent.parent)
    argv = [sys.executable, "-I", "-S", "-B", "-c", _LOOK, home, library]
    said = subprocess.run(argv, capture_output=True, timeout=TRIAL_TIMEOUT_S, env={}, cwd="/", check=True)
    stdlib = Path(sysconfig.get_path("stdlib"))
    top = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    # By these two the interpreter finds its library.
    compiled = {f"{top}/os.pyc": _compile("os", stdlib / "os.py")}
    files: dict[str, Path] = {}
    for name, origin, loader, is_package in json.loads(said.stdout):
        if loader == "ExtensionFileLoader":
            files[f"{top}/lib-dynload/{os.path.basename(origin)}"] = Path(origin)
        elif loader == "SourceFileLoader":
            inner = name.replace(".", "/") + ("/__init__" if is_package else "")
            compiled[f"{top}/{inner}.pyc"] = _compile(name, Path(origin))
    return _Modules(files, compiled)


def _compile(name: str, path: Path) -> bytes:
    code = compile(path.read_bytes(), f"<{name}>", "exec", dont_inherit=True, optimize=0)
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def _linked(loader: str, paths: list[str]) -> dict[str, Path]:
    """The libraries that these need, each under the name by which it is asked for."""
    found: dict[str, Path] = {}
    for path in paths:
        argv = [loader, "--list", path]
        said = subprocess.run(argv, capture_output=True, timeout=TRIAL_TIMEOUT_S, env={}, cwd="/", check=True)
        for line in said.stdout.decode(errors="surrogateescape").splitlines():
            if match := _LINKED.match(line):
                found[f"so/{os.path.basename(match[1])}"] = Path(os.path.realpath(match[2]))
    return found


def _tar(files: Mapping[str, Path], compiled: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted((*files, *compiled)):
            data = compiled[name] if name in compiled else files[name].read_bytes()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o444 if name in compiled else 0o555
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
