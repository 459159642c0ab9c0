"""Imports the library without what we never use of it, which is half the time of its import.

`import libp2p` loads every transport, security and store that it knows, with an HTTP client, an ACME client,
QUIC, mDNS and SQL behind them. While the library is first imported, the modules in LEFT_OUT are empty ones
whose names stand for classes that cannot be used: a use raises, and says so. Afterwards they are forgotten,
so that whoever imports the real ones gets them. Import this module before any of the library's.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from p2p.errors import LocalError

LEFT_OUT: Final = (
    "aioquic",  # QUIC: we speak TCP
    "httpcore2",  # DNS over HTTPS
    "httpx2",
    "libp2p.peer.persistent",  # peer stores in SQL and others: the peer book is ours
    "libp2p.security.tls.autotls",  # certificates of web addresses
    "trio_websocket",  # WebSocket: we speak TCP
    "zeroconf",  # mDNS
)
# Said not to be installed meanwhile: with it, pycryptodome (RSA keys) compiles C declarations at its import;
# without, it uses ctypes, as it does wherever this one is missing.
ABSENT: Final = ("cffi",)
# What the network needs of the library, so that all of it is loaded here and nothing twice.
_WANTED: Final = ("libp2p", "libp2p.pubsub.gossipsub", "libp2p.pubsub.pubsub")


class _NameLeftOut(type):
    """A class that stands for something that was left out; its attributes do, too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(f"{cls.__module__}.{cls.__qualname__}", name)

    def __call__(cls, *args: Any, **named: Any) -> Any:
        raise LocalError(f"{cls.__module__}.{cls.__qualname__}: this part of libp2p is left out")


def _stand_in(module: str, name: str) -> type:
    parts = {"__module__": module, "__class_getitem__": classmethod(lambda cls, key: cls)}
    return _NameLeftOut(name, (), parts)


class _ModuleLeftOut(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(self.__name__, name)


class _Finder(MetaPathFinder, Loader):
    """Finds every module under LEFT_OUT, and makes it empty."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if is_left_out(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _ModuleLeftOut(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def is_left_out(name: str) -> bool:
    """Whether the module of that name is one of LEFT_OUT or under one."""
    return any(name == left or name.startswith(f"{left}.") for left in LEFT_OUT)


@contextmanager
def _leaving_out() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    absent = [name for name in ABSENT if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: an import raises ImportError
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in absent:
            del sys.modules[name]
        for name, module in list(sys.modules.items()):
            if isinstance(module, _ModuleLeftOut):
                del sys.modules[name]


def load() -> None:
    """Imports the library, unless somebody has done so. Raises ImportError."""
    if "libp2p" not in sys.modules:
        with _leaving_out():
            for name in _WANTED:
                importlib.import_module(name)


load()
