"""Runs one WebAssembly program to its end. `python -I -S -B -c … CONFIG`, inside the sandbox.

The program's result depends on its bytes, its words and environment, its files, its fuel and its memory, and
on nothing else. When it has ended, the files that the contract names as results are put into /result, and how
it ended into /tmp/end, which no program can write: its files are in memory (see `files`).

Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

from node.executor.limits import RESULT_BYTES_MAX
from node.executor.wasm import calls, files
from node.executor.wasm.guest import NoFuel
from node.executor.wasm.library import OUT_OF_FUEL, Ended, Engine, EngineError
from node.executor.wasm.wasi import Exit, System

END: Final = "/tmp/end"
TEXT_CHARS_MAX: Final = 300


def main() -> None:
    """Run what the first argument says, as JSON; ends with 0 whenever it could tell how the program ended."""
    config: dict[str, Any] = json.loads(sys.argv[1])
    code: int | None = None
    try:
        root = files.tree(config["inputs"], config["disk_bytes"])
    except files.TooMany as error:
        reason = f"no program for this engine: {error}"
    else:
        code, reason = _run(config, root)
    if code == 0:
        for path in config["results"]:
            _leave(path, files.written(root, path))
    with open(END, "w", encoding="utf-8") as file:
        json.dump({"code": code, "reason": reason[:TEXT_CHARS_MAX]}, file)


def _run(config: dict[str, Any], root: files.Folder) -> tuple[int | None, str]:
    """Its exit code, None when it has none, and what ended it."""
    engine = Engine(config["library"], config["memory_bytes"], config["fuel"])
    system = System(engine, root, config["words"], config["environment"])
    try:
        _link_and_call(engine, system, config["inputs"] + config["words"][0])
    except (Ended, EngineError) as error:
        return _told(system.ended, error, config["fuel"])
    finally:
        engine.close()
    return 0, "ended with code 0"


def _link_and_call(engine: Engine, system: System, path: str) -> None:
    for name, call in system.calls().items():
        engine.define(calls.HOST, name.encode(), call)
    shim = engine.adapter(calls.module(), calls.WASI, [name.encode() for name in calls.SIGNATURES])
    page = engine.memory(shim, calls.PAGE)
    assert page is not None, "made by `calls`"
    system.joins(None, engine.place(page)[0])
    with open(path, "rb") as file:
        program = engine.program(file.read())
    system.joins(engine.memory(program, b"memory"), engine.place(page)[0])
    start = engine.function(program, b"_start")
    if start is None:
        raise EngineError("it exports no function _start")
    engine.call(start)


def _told(ended: BaseException | None, error: Ended | EngineError, fuel: int) -> tuple[int | None, str]:
    if isinstance(ended, Exit):
        code = ended.code & 0xFF
        return code, f"ended with code {code}"
    if isinstance(ended, NoFuel) or (isinstance(error, Ended) and error.code == OUT_OF_FUEL):
        return None, f"its fuel is used up: {fuel}"
    if ended is not None:
        raise ended  # a fault of ours
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, Ended):
        return None, f"it trapped: {lines[-1].removeprefix('wasm trap: ')}"
    return None, f"no program for this engine: {': '.join((lines[0], *lines[-1:][: len(lines) - 1]))}"


def _leave(path: str, file: files.File | None) -> None:
    """Put a result where the node collects it; what is not there, the node misses."""
    if file is not None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as target:
            # No more than that is collected; one byte beyond says that it was too much.
            target.write(memoryview(file.data)[: RESULT_BYTES_MAX + 1])
        file.resize(0)


if __name__ == "__main__":
    main()
