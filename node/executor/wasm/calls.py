"""The functions of WASI preview 1 as a WebAssembly module, which puts what it is called with where we look.

Wasmtime calls us without arguments (see `library`), so the program links against this module: each function
puts its arguments into a page of memory, as 64-bit numbers, calls us, and returns what we left in that page.
The program cannot reach the page: it belongs to this module.

Binary format: WebAssembly Core 2.0, section 5. Signatures: wasi_snapshot_preview1.witx, where a result is an
`errno`, and of `proc_exit` nothing. Standard library only: runs inside the sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

WASI: Final = b"wasi_snapshot_preview1"
HOST: Final = b"host"
PAGE: Final = b"page"
ANSWER_AT: Final = 16  # the number in the page, counted from 0, that is the errno; arguments stand before it

SIGNATURES: Final = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "fd_advise": "iIIi",
    "fd_allocate": "iII",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "iII",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi",
    "fd_pread": "iiiIi",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_pwrite": "iiiIi",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_renumber": "ii",
    "fd_seek": "iIii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi",
    "path_link": "iiiiiii",
    "path_open": "iiiiiIIii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}
"""Parameters in order: `i` for i32, `I` for i64. All of preview 1, in the order of its names."""

NO_RESULT: Final = ("proc_exit",)
_TYPES: Final = {"i": 0x7F, "I": 0x7E}
_TYPE, _IMPORT, _FUNCTION, _MEMORY, _EXPORT, _CODE = 1, 2, 3, 5, 7, 10
_END, _CALL, _LOCAL_GET, _I32_LOAD, _I64_STORE, _I32_CONST, _I64_EXTEND = (
    0x0B,
    0x10,
    0x20,
    0x28,
    0x37,
    0x41,
    0xAD,
)


def module() -> bytes:
    """The module; equal bytes each time."""
    names = list(SIGNATURES)
    types = [_type("", False)]
    types += [_type(SIGNATURES[name], name not in NO_RESULT) for name in names]
    imports = [_name(HOST) + _name(name.encode()) + b"\x00" + _number(0) for name in names]
    exports = [_name(PAGE) + b"\x02" + _number(0)]
    exports += [_name(n.encode()) + b"\x00" + _number(len(names) + i) for i, n in enumerate(names)]
    return b"\x00asm\x01\x00\x00\x00" + b"".join(
        (
            _section(_TYPE, types),
            _section(_IMPORT, imports),
            _section(_FUNCTION, [_number(1 + i) for i in range(len(names))]),
            _section(_MEMORY, [b"\x01\x01\x01"]),  # one page, and never more
            _section(_EXPORT, exports),
            _section(_CODE, [_body(i, SIGNATURES[n], n not in NO_RESULT) for i, n in enumerate(names)]),
        )
    )


def _body(index: int, parameters: str, result: bool) -> bytes:
    code = bytearray(_number(0))  # no locals
    for at, kind in enumerate(parameters):
        code += bytes((_I32_CONST, 0, _LOCAL_GET)) + _number(at)
        code += bytes((_I64_EXTEND,)) if kind == "i" else b""
        code += bytes((_I64_STORE, 3)) + _number(8 * at)
    code += bytes((_CALL,)) + _number(index)
    if result:
        code += bytes((_I32_CONST, 0, _I32_LOAD, 2)) + _number(8 * ANSWER_AT)
    code.append(_END)
    return _number(len(code)) + bytes(code)


def _type(parameters: str, result: bool) -> bytes:
    results = bytes((1, _TYPES["i"])) if result else b"\x00"
    return b"\x60" + _number(len(parameters)) + bytes(_TYPES[kind] for kind in parameters) + results


def _section(kind: int, items: Iterable[bytes]) -> bytes:
    listed = list(items)
    data = _number(len(listed)) + b"".join(listed)
    return bytes((kind,)) + _number(len(data)) + data


def _name(text: bytes) -> bytes:
    return _number(len(text)) + text


def _number(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes((value,))
