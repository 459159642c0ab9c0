"""Wasmtime's C API (https://docs.wasmtime.dev/c-api/), as far as the engine needs it, by ctypes.

Not the `wasmtime` package: it makes functions for C to call as soon as it is imported, and a function made
while running is memory that is written and then executed, which nothing in a sandbox may have. Nothing here
is. Where Wasmtime calls us, it calls CPython's own `PyObject_Size(object)`: of the arguments of a host
function the first, `env`, is our object, whose `__len__` is then called, and its number is what the host
function returns: 0, or the address of a trap. The caller cleans up, on all machines that Wasmtime knows, so
arguments that are not looked at do no harm. The library is opened as `PyDLL`, so that the interpreter's
lock is held all the while.

Standard library only: runs inside the sandbox.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import POINTER, byref, c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, Final, Protocol

OUT_OF_FUEL: Final = 11  # wasmtime/trap.h
STACK_BYTES: Final = 1 << 20
_FUNC, _MEMORY = 0, 3  # wasmtime/extern.h
_TABLE_ELEMENTS_MAX: Final = 1 << 19
_TABLES_MAX: Final = 8
_REFUSED: Final = (
    "wasm_threads",
    "shared_memory",
    "wasm_relaxed_simd",
    "wasm_memory64",
    "wasm_multi_memory",
    "wasm_gc",
    "wasm_function_references",
    "wasm_exceptions",
    "wasm_tail_call",
    "wasm_component_model",
    "wasm_wide_arithmetic",
    "wasm_custom_page_sizes",
    "wasm_stack_switching",
    "parallel_compilation",
)
"""Switched off by name: what WebAssembly 2.0 does not have, and what may differ from machine to machine."""


class Bytes(ctypes.Structure):
    """wasm_byte_vec_t"""

    _fields_ = (("size", c_size_t), ("data", c_void_p))


class Function(ctypes.Structure):
    """wasmtime_func_t"""

    _fields_ = (("store", c_uint64), ("private", c_void_p))


class _Place(ctypes.Structure):
    _fields_ = (("store", c_uint64), ("private", c_uint32))


class Memory(ctypes.Structure):
    """wasmtime_memory_t"""

    _fields_ = (("place", _Place), ("private", c_uint32))


class Instance(ctypes.Structure):
    """wasmtime_instance_t"""

    _fields_ = (("store", c_uint64), ("private", c_size_t))


class _Extern(ctypes.Union):
    _fields_ = (("func", Function), ("memory", Memory), ("room", c_uint64 * 3))


class Extern(ctypes.Structure):
    """wasmtime_extern_t"""

    _fields_ = (("kind", c_uint8), ("of", _Extern))


class EngineError(Exception):
    """Wasmtime refused something: its own words."""


class Ended(Exception):
    """The program was ended. `code`: Wasmtime's trap code, or None where it has none."""

    def __init__(self, text: str, code: int | None) -> None:
        super().__init__(text)
        self.code = code


class Host(Protocol):
    """What a host function calls: returns 0, or the address of a trap. Must never raise."""

    def __len__(self) -> int: ...


class Engine:
    """One store of one engine: modules are compiled to Wasmtime's portable byte code and interpreted."""

    def __init__(self, path: str, memory_bytes: int, fuel: int) -> None:
        """`path`: of the library. `memory_bytes`: the most that a program's memory may grow to."""
        self._c = ctypes.PyDLL(path)
        self._declare()
        self._engine = self._c.wasm_engine_new_with_config(self._configuration(memory_bytes))
        if not self._engine:
            raise EngineError("no engine of this configuration")
        self._store = self._c.wasmtime_store_new(self._engine, None, None)
        self._context = self._c.wasmtime_store_context(self._store)
        # Two: the program, and the module through which it calls us, with a page of memory.
        self._c.wasmtime_store_limiter(self._store, memory_bytes, _TABLE_ELEMENTS_MAX, 2, _TABLES_MAX, 2)
        # Two, so that a program can import what it is meant to, and not what that is made of.
        self._inner = self._c.wasmtime_linker_new(self._engine)
        self._linker = self._c.wasmtime_linker_new(self._engine)
        self._hosts: list[Host] = []
        self.fuel = fuel

    @property
    def fuel(self) -> int:
        """What is left to burn; may be set at any time, also while a host function is called."""
        left = c_uint64()
        self._check(self._c.wasmtime_context_get_fuel(self._context, byref(left)))
        return left.value

    @fuel.setter
    def fuel(self, fuel: int) -> None:
        self._check(self._c.wasmtime_context_set_fuel(self._context, fuel))

    def define(self, module: bytes, name: bytes, host: Host) -> None:
        """Let `adapter`'s module import a function without parameters that calls `host`."""
        kind = self._c.wasm_functype_new(byref(Bytes()), byref(Bytes()))
        call = ctypes.cast(ctypes.pythonapi.PyObject_Size, c_void_p)
        self._hosts.append(host)  # kept as long as the engine: Wasmtime holds its address alone
        where = (module, len(module), name, len(name))
        error = self._c.wasmtime_linker_define_func(self._inner, *where, kind, call, id(host), None)
        self._c.wasm_functype_delete(kind)
        self._check(error)

    def adapter(self, module: bytes, name: bytes, functions: Iterable[bytes]) -> Instance:
        """Link a module of ours, from which programs may import these functions by `name`, no other thing."""
        instance = self._instantiate(self._inner, module)
        for each in functions:
            found = self._export(instance, each)
            assert found is not None, f"the adapter has no {each!r}"
            where = name, len(name), each, len(each)
            self._check(self._c.wasmtime_linker_define(self._linker, self._context, *where, byref(found)))
        return instance

    def program(self, module: bytes) -> Instance:
        """Compile and link a program. Raises EngineError, or Ended by its start function."""
        return self._instantiate(self._linker, module)

    def _instantiate(self, linker: int, module: bytes) -> Instance:
        compiled, instance, trap = c_void_p(), Instance(), c_void_p()
        self._check(self._c.wasmtime_module_new(self._engine, module, len(module), byref(compiled)))
        linked = byref(instance), byref(trap)
        error = self._c.wasmtime_linker_instantiate(linker, self._context, compiled, *linked)
        self._c.wasmtime_module_delete(compiled)
        self._check(error)
        self._ended(trap)
        return instance

    def function(self, instance: Instance, name: bytes) -> Function | None:
        """The exported function of that name, if there is one."""
        found = self._export(instance, name)
        return found.of.func if found is not None and found.kind == _FUNC else None

    def memory(self, instance: Instance, name: bytes) -> Memory | None:
        """The exported memory of that name, if there is one."""
        found = self._export(instance, name)
        return found.of.memory if found is not None and found.kind == _MEMORY else None

    def call(self, function: Function) -> None:
        """Call a function that takes and gives nothing. Raises Ended, or EngineError when it is another."""
        trap = c_void_p()
        nothing = None, 0, None, 0
        self._check(self._c.wasmtime_func_call(self._context, byref(function), *nothing, byref(trap)))
        self._ended(trap)

    def place(self, memory: Memory) -> tuple[int, int]:
        """Where a memory is now, and its size in bytes; both may change whenever the program runs."""
        where = self._context, byref(memory)
        return self._c.wasmtime_memory_data(*where) or 0, self._c.wasmtime_memory_data_size(*where)

    def trap(self, text: bytes) -> int:
        """The address of a new trap, for a host function to return."""
        made: int = self._c.wasmtime_trap_new(text, len(text))
        return made

    def close(self) -> None:
        """Give the program's memory back."""
        self._c.wasmtime_linker_delete(self._linker)
        self._c.wasmtime_linker_delete(self._inner)
        self._c.wasmtime_store_delete(self._store)
        self._c.wasm_engine_delete(self._engine)

    # ------------------------------------------------------------------ inside

    def _configuration(self, memory_bytes: int) -> int:
        config: int = self._c.wasm_config_new()

        def switch(name: str, value: int | bool) -> None:
            kind = c_bool if isinstance(value, bool) else c_uint64
            setter = getattr(self._c, f"wasmtime_config_{name}_set")
            setter.restype, setter.argtypes = None, (c_void_p, kind)
            setter(config, value)

        self._check(self._c.wasmtime_config_target_set(config, b"pulley64"))
        for name in _REFUSED:
            switch(name, False)
        switch("consume_fuel", True)
        switch("cranelift_nan_canonicalization", True)
        switch("signals_based_traps", False)
        switch("memory_init_cow", False)
        # All of it at once: a memory that had to move would be there twice. Untouched, it costs nothing.
        switch("memory_reservation", memory_bytes)
        switch("memory_reservation_for_growth", 0)
        switch("memory_guard_size", 0)
        switch("max_wasm_stack", STACK_BYTES)
        return config

    def _declare(self) -> None:
        pointer, text = c_void_p, c_char_p
        vec = POINTER(Bytes)
        signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "wasm_config_new": (pointer, ()),
            "wasm_engine_new_with_config": (pointer, (pointer,)),
            "wasm_engine_delete": (None, (pointer,)),
            "wasm_functype_new": (pointer, (vec, vec)),
            "wasm_functype_delete": (None, (pointer,)),
            "wasm_byte_vec_delete": (None, (vec,)),
            "wasm_trap_message": (None, (pointer, vec)),
            "wasm_trap_delete": (None, (pointer,)),
            "wasmtime_config_target_set": (pointer, (pointer, text)),
            "wasmtime_context_get_fuel": (pointer, (pointer, POINTER(c_uint64))),
            "wasmtime_context_set_fuel": (pointer, (pointer, c_uint64)),
            "wasmtime_error_delete": (None, (pointer,)),
            "wasmtime_error_message": (None, (pointer, vec)),
            "wasmtime_func_call": (
                pointer,
                (pointer, POINTER(Function), pointer, c_size_t, pointer, c_size_t, POINTER(pointer)),
            ),
            "wasmtime_instance_export_get": (
                c_bool,
                (pointer, POINTER(Instance), text, c_size_t, POINTER(Extern)),
            ),
            "wasmtime_linker_define_func": (
                pointer,
                (pointer, text, c_size_t, text, c_size_t, pointer, pointer, pointer, pointer),
            ),
            "wasmtime_linker_define": (
                pointer,
                (pointer, pointer, text, c_size_t, text, c_size_t, POINTER(Extern)),
            ),
            "wasmtime_linker_delete": (None, (pointer,)),
            "wasmtime_linker_instantiate": (
                pointer,
                (pointer, pointer, pointer, POINTER(Instance), POINTER(pointer)),
            ),
            "wasmtime_linker_new": (pointer, (pointer,)),
            "wasmtime_memory_data": (pointer, (pointer, POINTER(Memory))),
            "wasmtime_memory_data_size": (c_size_t, (pointer, POINTER(Memory))),
            "wasmtime_module_delete": (None, (pointer,)),
            "wasmtime_module_new": (pointer, (pointer, text, c_size_t, POINTER(pointer))),
            "wasmtime_store_context": (pointer, (pointer,)),
            "wasmtime_store_delete": (None, (pointer,)),
            "wasmtime_store_limiter": (None, (pointer, c_int64, c_int64, c_int64, c_int64, c_int64)),
            "wasmtime_store_new": (pointer, (pointer, pointer, pointer)),
            "wasmtime_trap_code": (c_bool, (pointer, POINTER(c_uint8))),
            "wasmtime_trap_new": (pointer, (text, c_size_t)),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._c, name)
            function.restype, function.argtypes = result, arguments

    def _export(self, instance: Instance, name: bytes) -> Extern | None:
        found = Extern()
        where = self._context, byref(instance), name, len(name)
        return found if self._c.wasmtime_instance_export_get(*where, byref(found)) else None

    def _text(self, message: Bytes) -> str:
        text = ctypes.string_at(message.data, message.size).rstrip(b"\0").decode(errors="replace")
        self._c.wasm_byte_vec_delete(byref(message))
        return text

    def _check(self, error: int | None) -> None:
        if error:
            message = Bytes()
            self._c.wasmtime_error_message(error, byref(message))
            self._c.wasmtime_error_delete(error)
            raise EngineError(self._text(message))

    def _ended(self, trap: c_void_p) -> None:
        if trap.value:
            message, code = Bytes(), c_uint8()
            self._c.wasm_trap_message(trap, byref(message))
            known = self._c.wasmtime_trap_code(trap, byref(code))
            self._c.wasm_trap_delete(trap)
            raise Ended(self._text(message), code.value if known else None)
