"""Tries the wasm driver out with a program that asks for too much memory, says so, and burns its fuel."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from ledger.manifests.wasm import engine_bytes
from node.executor.drivers.base import Exit, FileSpec, Resources, TaskSpec
from node.executor.errors import DriverUnavailable, ExecutorError
from node.executor.limits import TRIAL_TIMEOUT_S

Run = Callable[[TaskSpec], Awaitable[tuple[Exit, bytes]]]
SOURCE: Final = r"""(module
 (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1)
 (data (i32.const 0) "\10\00\00\00\0f\00\00\00")
 (data (i32.const 16) "no more memory\n")
 (func (export "_start")
  (if (i32.eq (memory.grow (i32.const 1024)) (i32.const -1))
   (then (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
  (loop $again (br $again))))"""
"""The program as text; `PROGRAM` are its bytes, so that no text is translated on the way."""

PROGRAM: Final = bytes.fromhex(
    "0061736d01000000010c0260047f7f7f7f017f60000002230116776173695f736e617073686f745f7072657669657731"
    "0866645f77726974650000030201010503010001071302066d656d6f72790200065f737461727400010a1f011d004180"
    "084000417f460440410141004101410810001a0b03400c000b0b0b22020041000b08100000000f0000000041100b0f6e"
    "6f206d6f7265206d656d6f72790a001b046e616d6501080100057772697465030a0101010105616761696e"
)
_SAID: Final = b"no more memory\n"
_FUEL: Final = 1_000_000
_DISK_BYTES: Final = 1 << 20
_MEMORY_BYTES: Final = 4 << 20


def try_out(run: Run) -> None:
    """Return nothing when the program was held to its memory and its fuel; else raises DriverUnavailable.

    `run` runs one task. Blocks, in a thread of its own, so that it can be called from any.
    """
    with tempfile.TemporaryDirectory(prefix="gridpact-trial-") as folder:
        source = Path(folder, "program")
        source.write_bytes(PROGRAM)
        spec = TaskSpec(
            task_id=f"wasm-trial-{os.getpid()}",
            command=("/program",),
            env={},
            files=(FileSpec("/program", hashlib.sha256(PROGRAM).hexdigest(), len(PROGRAM), 0o444, source),),
            trees=(),
            ports=(),
            resources=Resources(
                1000, engine_bytes(len(PROGRAM)) + _DISK_BYTES + _MEMORY_BYTES, _DISK_BYTES, 1
            ),
            runtime="wasm",
            fuel=_FUEL,
        )
        problem = ["the trial of the engine did not end"]

        async def tried() -> None:
            with trio.move_on_after(TRIAL_TIMEOUT_S):
                problem[0] = _verdict(*await run(spec))

        def thread() -> None:
            try:
                trio.run(tried)
            except (ExecutorError, OSError) as error:
                problem[0] = f"the trial of the engine: {error}"

        worker = threading.Thread(target=thread, name="wasm-trial")
        worker.start()
        worker.join()
    if problem[0]:
        raise DriverUnavailable(problem[0])


def _verdict(found: Exit, said: bytes) -> str:
    if said != _SAID:
        return f"the trial of the engine: {said.decode(errors='replace')[-300:] or found.reason}"
    if found.code is not None or "fuel" not in found.reason:
        return f"the trial of the engine did not run out of fuel: {found.reason}"
    return ""
