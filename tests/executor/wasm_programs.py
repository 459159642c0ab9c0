"""WebAssembly programs for tests, as text; `built` makes their bytes, the same each time."""

from __future__ import annotations

from functools import cache

from wasmtime import wat2wasm

_IMPORTS = {
    "args_get": "i32 i32",
    "args_sizes_get": "i32 i32",
    "clock_time_get": "i32 i64 i32",
    "environ_get": "i32 i32",
    "fd_filestat_get": "i32 i32",
    "fd_read": "i32 i32 i32 i32",
    "fd_readdir": "i32 i32 i32 i64 i32",
    "fd_write": "i32 i32 i32 i32",
    "path_filestat_get": "i32 i32 i32 i32 i32",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
    "poll_oneoff": "i32 i32 i32 i32",
    "random_get": "i32 i32",
}
WRITE_RESULT = """
 (func $result (param $at i32) (param $size i32)
  (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 10) (i32.const 1)
       (i64.const 0x3fffffff) (i64.const 0) (i32.const 0) (i32.const 32)) (then (unreachable)))
  (i32.store (i32.const 40) (local.get $at))
  (i32.store (i32.const 44) (local.get $size))
  (if (call $fd_write (i32.load (i32.const 32)) (i32.const 40) (i32.const 1) (i32.const 48))
   (then (unreachable)))
  (if (i32.ne (i32.load (i32.const 48)) (local.get $size)) (then (unreachable))))
 (data (i32.const 64) "result/out")
"""
"""`$result at size`: puts a piece of memory into /result/out, and traps when it cannot."""


@cache
def built(body: str, pages: int = 2) -> bytes:
    """A program with those functions of WASI that the tests use, a memory of so many pages, and `body`."""
    imports = "".join(
        f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {given}) (result i32)))\n'
        for name, given in _IMPORTS.items()
    )
    leave = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))\n'
    return bytes(wat2wasm(f'(module {imports}{leave}(memory (export "memory") {pages})\n{body})'))


def start(body: str, more: str = "") -> bytes:
    """A program of which `body` is all that it does."""
    return built(f'{more}(func (export "_start") {body})')


HELLO = start(
    """(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
   (call $exit (i32.const 7))""",
    r'(data (i32.const 0) "\10\00\00\00\06\00\00\00") (data (i32.const 16) "hello\n")',
)
"""Says hello and ends with 7."""

LOOP = start("(loop $again (br $again))")
TELL = start(
    """(if (call $args_get (i32.const 1024) (i32.const 2048)) (then (unreachable)))
   (if (call $environ_get (i32.const 1200) (i32.const 3072)) (then (unreachable)))
   (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 8) (i32.const 0)
        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)) (then (unreachable)))
   (i32.store (i32.const 40) (i32.const 4096))
   (i32.store (i32.const 44) (i32.const 1000))
   (if (call $fd_read (i32.load (i32.const 32)) (i32.const 40) (i32.const 1) (i32.const 48))
    (then (unreachable)))
   (call $result (i32.const 2048) (i32.const 3072))""",
    WRITE_RESULT + '(data (i32.const 80) "data/one")',
)
"""Leaves its words, its environment and the file /data/one as a result, each a kibibyte after the other."""

WORLD = start(
    """(if (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 1024)) (then (unreachable)))
   (if (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 1032)) (then (unreachable)))
   (i64.store (i32.const 160) (i64.const 5000000000))
   (if (call $poll_oneoff (i32.const 136) (i32.const 1100) (i32.const 1) (i32.const 1132))
    (then (unreachable)))
   (if (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 1040)) (then (unreachable)))
   (if (call $random_get (i32.const 1048) (i32.const 40)) (then (unreachable)))
   (if (call $path_filestat_get (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 8) (i32.const 1200))
    (then (unreachable)))
   (if (call $fd_filestat_get (i32.const 1) (i32.const 1300)) (then (unreachable)))
   (if (call $fd_readdir (i32.const 3) (i32.const 1400) (i32.const 600) (i64.const 0) (i32.const 1396))
    (then (unreachable)))
   (f64.store (i32.const 2040) (f64.sub (f64.const inf) (f64.const inf)))
   (f64.store (i32.const 2048) (f64.mul (f64.const nan:0x8000000000123) (f64.const -1)))
   (f32.store (i32.const 2056) (f32.div (f32.const 0) (f32.const -0)))
   (v128.store (i32.const 2064) (f64x2.div (v128.const f64x2 0 nan:0x8000000000456) (v128.const f64x2 0 1)))
   (i32.store (i32.const 2080) (memory.grow (i32.const 65000)))
   (call $result (i32.const 1024) (i32.const 1100))""",
    WRITE_RESULT + '(data (i32.const 80) "data/one")',
)
"""Leaves all that could differ between two machines: times, chance, files, folders, not-a-numbers, memory."""
