"""WASI preview 1 (wasi_snapshot_preview1.witx), the same on every machine: what a program asks of its host.

[Z8] What a program does depends on its bytes, words, environment, files, fuel and memory alone. Its clocks
     begin at 0, move by a millisecond each time they are asked, and by what is slept, which takes no time;
     what is random is one stream for all programs; names come in order of their characters, numbers of files
     in order of their making, times of files are 0; there is no network, no signal and no link.
[Z9] Fuel is burnt by instructions as Wasmtime counts them, and by calls: CALL_FUEL each, one for each 8 bytes
     moved and each byte of chance, 100 for each name listed and each byte of a path.

Standard library only: runs inside the sandbox.
"""

from __future__ import annotations

import ctypes
import struct
from _random import Random  # without what the module `random` imports beside it
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from node.executor.wasm.calls import ANSWER_AT, SIGNATURES
from node.executor.wasm.files import INVAL, NOSYS, NOTSOCK, Folder, WasiError
from node.executor.wasm.library import Engine, Memory
from node.executor.wasm.wasi_files import FileCalls

CALL_FUEL: Final = 4_000  # about as long as so many instructions
_TICK_NS: Final = 1_000_000
_CLOCKS: Final = 4
_SUBSCRIPTIONS_MAX: Final = 1024
_U64: Final = (1 << 64) - 1


class Exit(Exception):
    """The program asked to end, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Call:
    """One function, as `library` wants it."""

    def __init__(self, system: System, name: str) -> None:
        self._system = system
        self._name = name

    def __len__(self) -> int:
        return self._system.call(self._name)


class System(FileCalls):
    """The host of one program. `ended`: what ended the program in a call, if anything did."""

    def __init__(
        self, engine: Engine, root: Folder, words: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        super().__init__(engine, root)
        self.ended: BaseException | None = None
        self._words = [word.encode() + b"\0" for word in words]
        self._environment = [
            f"{name}={value}".encode() + b"\0" for name, value in sorted(environment.items())
        ]
        self._page: ctypes.Array[ctypes.c_uint64] | None = None
        self._now_ns = 0
        self._random = Random(0)

    def calls(self) -> dict[str, _Call]:
        """Each function of WASI by its name."""
        return {name: _Call(self, name) for name in SIGNATURES}

    def joins(self, memory: Memory | None, page: int) -> None:
        """The program's own memory, and where its calls are put."""
        self._memory = memory
        self._page = (ctypes.c_uint64 * (ANSWER_AT + 1)).from_address(page)

    def call(self, name: str) -> int:
        """Carry one call out; 0, or the address of a trap that ends the program. Never raises."""
        try:
            assert self._page is not None, "nothing runs before it joined"
            self._pay(CALL_FUEL)
            self._look()
            method: Callable[..., int | None] = getattr(self, name)
            try:
                errno = method(*self._page[: len(SIGNATURES[name])])
            except WasiError as error:
                errno = error.errno
            self._page[ANSWER_AT] = errno or 0
        except BaseException as error:  # noqa: BLE001 - nothing may reach Wasmtime's frames
            self.ended = error
            return self._engine.trap(b"the host ended the program")
        return 0

    # ------------------------------------------------------------------ words, environment

    def _texts(self, texts: list[bytes], pointers: int, at: int) -> None:
        for text in texts:
            self._number(pointers, at)
            self._write(at, text)
            pointers, at = pointers + 4, at + len(text)

    def _sizes(self, texts: list[bytes], count: int, size: int) -> None:
        self._number(count, len(texts))
        self._number(size, sum(map(len, texts)))

    def args_get(self, pointers: int, at: int) -> None:
        self._texts(self._words, pointers, at)

    def args_sizes_get(self, count: int, size: int) -> None:
        self._sizes(self._words, count, size)

    def environ_get(self, pointers: int, at: int) -> None:
        self._texts(self._environment, pointers, at)

    def environ_sizes_get(self, count: int, size: int) -> None:
        self._sizes(self._environment, count, size)

    # ------------------------------------------------------------------ time, chance, the end

    def clock_res_get(self, clock: int, out: int) -> None:
        if clock >= _CLOCKS:
            raise WasiError(INVAL)
        self._number(out, _TICK_NS, 8)

    def clock_time_get(self, clock: int, precision: int, out: int) -> None:
        if clock >= _CLOCKS:
            raise WasiError(INVAL)
        self._now_ns = min(self._now_ns + _TICK_NS, _U64)
        self._number(out, self._now_ns, 8)

    def random_get(self, at: int, size: int) -> None:
        self._within(at, size)
        self._pay(size)
        for where, length in self._pieces(((at, size),)):
            self._write(where, self._random.getrandbits(8 * length).to_bytes(length, "little"))

    def poll_oneoff(self, given: int, out: int, count: int, found: int) -> None:
        """Files are ready at once; else the earliest clock rings, at once, too, and it is that late then."""
        if not 0 < count <= _SUBSCRIPTIONS_MAX:
            raise WasiError(INVAL)
        ready, clocks = [], []
        for user, kind, clock, timeout, flags in struct.iter_unpack(
            "<QB7xI4xQ8xH6x", self._read(given, 48 * count)
        ):
            if kind == 0:
                at_ns = timeout if flags & 1 else self._now_ns + timeout
                clocks.append((max(self._now_ns, min(at_ns, _U64)), user))
            else:
                ready.append((user, kind, self._ready(clock)))
        if not ready:
            first = min(at_ns for at_ns, _ in clocks)
            self._now_ns = first
            ready = [(user, 0, 0) for at_ns, user in clocks if at_ns == first]
        events = [struct.pack("<QHB5xQHxxxxxx", user, errno, kind, 0, 0) for user, kind, errno in ready]
        self._write(out, b"".join(events))
        self._number(found, len(events))

    def _ready(self, fd: int) -> int:
        try:
            self._files.any(fd)
        except WasiError as error:
            return error.errno
        return 0

    def proc_exit(self, code: int) -> None:
        raise Exit(code)

    def proc_raise(self, signal: int) -> int:
        return NOSYS

    def sched_yield(self) -> None:
        return None

    # ------------------------------------------------------------------ there is no network

    def sock_accept(self, *given: int) -> int:
        return NOTSOCK

    sock_recv = sock_send = sock_shutdown = sock_accept
