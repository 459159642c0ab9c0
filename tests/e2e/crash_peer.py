"""`gridpact`, with named points at everything that it persists: `python crash_peer.py start --home HOME`.

CRASH_POINT=NAME:N kills the process with SIGKILL when it comes to point NAME the Nth time. CRASH_VOTES=FILE
gets a line for each vote and proposal before it is sent. The product knows nothing of this: the points are
put around its own functions here.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import node.sync.pruner
from consensus.messages import Propose, Send, Vote
from ledger.blocks import header_hash
from ledger.epochs import is_ending
from ledger.storage.chain import Chain
from ledger.storage.group import Group
from ledger.storage.retention import Retention
from ledger.storage.store import KeyValue, Store
from node.cli.main import main
from node.notary import Notary
from node.sync.pruner import Pruner
from node.voting.engine import Engine
from node.voting.safety_store import SafetyStore

_REPLACED = (
    (re.compile(r"/run\.json$"), "run.rename"),
    (re.compile(r"/peers\.json$"), "book.rename"),
    (re.compile(r"/(genesis\.json|config\.toml)$"), "home.file.rename"),
    (re.compile(r"/[0-9a-f]{64}\.chunks$"), "artifact.list.rename"),
    (re.compile(r"/[0-9a-f]{64}$"), "artifact.rename"),
)
_SYNCED = (
    (re.compile(r"/\.run\.json\.\d+\.new$"), "run.sync"),
    (re.compile(r"/peers\.json\.new$"), "book.sync"),
    (re.compile(r"/artifacts/[0-9a-f]{16}\.tmp$"), "artifact.sync"),
    (re.compile(r"/artifacts$"), "artifact.folder.sync"),
    (re.compile(r"/data$"), "reset.folder.sync"),
    (re.compile(r"/\.(genesis\.json|config\.toml)\.\d+\.new$"), "home.file.sync"),
    (re.compile(r"/\.(node_key|validator_key|api_token)\.\d+\.new$"), "home.secret.sync"),
)


class Points:
    """Counts what is reached, and ends the process at the chosen point."""

    def __init__(self) -> None:
        name, _, number = os.environ.get("CRASH_POINT", "").partition(":")
        self.name, self.left = name, int(number or 1)

    def reach(self, name: str) -> None:
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, method: str, name: str, when: Callable[..., bool] | None = None) -> None:
        """NAME.before and NAME.after around a method."""
        real = getattr(owner, method)

        @functools.wraps(real)
        def wrapped(*args: Any, **named: Any) -> Any:
            counts = when is None or when(*args, **named)
            if counts:
                self.reach(f"{name}.before")
            result = real(*args, **named)
            if counts:
                self.reach(f"{name}.after")
            return result

        setattr(owner, method, wrapped)

    def around_commands(self, verb: str) -> None:
        """Points in commands on a stopped home."""
        if verb == "rollback":
            self.around(KeyValue, "write", "rollback.write")
        elif verb == "reset":
            self.around(os, "rename", "reset.rename")
            self.around(shutil, "rmtree", "reset.remove")

    def around_files(self) -> None:
        """Points around renames and syncs of the files that the product writes itself."""
        replace, fsync, touch = os.replace, os.fsync, Path.touch

        def named(patterns: tuple[tuple[re.Pattern[str], str], ...], path: str) -> str:
            return next((name for pattern, name in patterns if pattern.search(path)), "")

        def new_replace(source: Any, target: Any) -> None:
            name = named(_REPLACED, str(target))
            self.reach(f"{name}.before")
            replace(source, target)
            self.reach(f"{name}.after")

        def new_fsync(handle: int) -> None:
            name = named(_SYNCED, os.readlink(f"/proc/self/fd/{handle}"))
            self.reach(f"{name}.before")
            fsync(handle)
            self.reach(f"{name}.after")

        def new_touch(path: Path, *args: Any, **more: Any) -> None:
            name = "sign_state.made" if path.suffix == ".signs" else "artifact.cached"
            self.reach(f"{name}.before")
            touch(path, *args, **more)
            self.reach(f"{name}.after")

        os.replace, os.fsync = new_replace, new_fsync
        self.around(os, "link", "home.secret.link")
        Path.touch = new_touch  # type: ignore[method-assign]


def small_budget(blocks: int) -> None:
    """The history's budget is so many blocks: a real one, of 16 MiB and more, takes an hour to fill."""

    def history_bytes(self: Store) -> int:
        return self.tip.height - self.first_height + 1

    real = Pruner.round

    async def round_(self: Pruner) -> int:
        self.budget_bytes, self.keep_blocks = blocks, blocks // 2
        return await real(self)

    Store.history_bytes = history_bytes  # type: ignore[method-assign]
    Pruner.round = round_  # type: ignore[method-assign]
    node.sync.pruner.PRUNE_EVERY_BLOCKS = 5  # type: ignore[misc]


def tell_votes(file: str) -> None:
    """A line for each promise before it is sent: kind, epoch, view, block."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    real = Engine._send

    def told(self: Engine, send: Send) -> None:
        message = send.message
        if isinstance(message, Vote):
            statement = message.statement
            place = f"{statement.epoch} {statement.view}"
            os.write(handle, f"{statement.kind.name} {place} {statement.block.hex()}\n".encode())
        elif isinstance(message, Propose):
            os.write(handle, f"PROPOSE {header_hash(message.header).hex()}\n".encode())
        real(self, send)

    Engine._send = told  # type: ignore[method-assign]


def put_points() -> None:
    """All points; tests/e2e/crash_points.py lists them."""
    points = Points()
    points.around(SafetyStore, "persist", "safety.persist", lambda self, ready, batch: bool(ready.records))
    points.around(SafetyStore, "prune", "safety.prune")
    points.around(SafetyStore, "close", "safety.close")
    points.around(Chain, "begin", "store.begin")
    points.around(Chain, "commit", "store.commit")
    points.around(Chain, "commit", "store.boundary", lambda self, data: is_ending(data.header))
    points.around(Group, "flush", "store.group", lambda self: bool(self._layers))
    points.around(Retention, "drop", "store.drop")
    points.around(Chain, "close", "store.close")
    points.around(Notary, "commit", "notary.commit")
    points.around(KeyValue, "_check_owner", "store.owner")
    points.around_files()
    points.around_commands(sys.argv[1] if len(sys.argv) > 1 else "")
    if "CRASH_BUDGET_BLOCKS" in os.environ:
        small_budget(int(os.environ["CRASH_BUDGET_BLOCKS"]))
    if "CRASH_VOTES" in os.environ:
        tell_votes(os.environ["CRASH_VOTES"])
    points.around(Engine, "_send", "engine.send", lambda self, send: isinstance(send.message, Vote))


if __name__ == "__main__":
    put_points()
    sys.exit(main())
