"""Timed work: what the ledger does by itself when block time reaches an entry of `due/`.

[W1] Entries run once, oldest first, at the time of the first block that reaches them. A block runs at
     most DUE_PER_BLOCK_MAX; the rest waits for the next.
[W2] Each entry is all or nothing, and every entry in the state has something to do: what it was for is
     removed together with it. A broken entry is our own fault and stops the process.
"""

from __future__ import annotations

from typing import Final

from ledger.errors import LocalError
from ledger.limits import DUE_PER_BLOCK_MAX
from ledger.records import due_parts
from ledger.transition.approvals import expire_approval
from ledger.transition.claims import select
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.leases import lease_over
from ledger.transition.lifecycle import term_over
from ledger.transition.slots import slot_of_rest

DUE_PREFIX: Final = b"due/"


def run_entry(env: Env, key: bytes) -> None:
    """[W2] Do what an entry is for, and remove it. Raises LocalError when it makes no sense."""
    _, kind, rest = due_parts(key)
    if kind == "approval":
        env.state.delete(key)
        expire_approval(Deal.of(env, rest[:32]), rest[33:])
    elif kind == "duration":
        term_over(Deal.of(env, rest))
    elif kind in ("window", "lease"):
        deployment, name = slot_of_rest(rest)
        (select if kind == "window" else lease_over)(Deal.of(env, deployment), name)
    else:
        raise LocalError(f"unknown timed work {kind!r}")
    if env.state.get(key) is not None:
        raise LocalError(f"timed work {key!r} was not removed by what it did")


def due_keys(env: Env) -> list[bytes]:
    """[W1] Keys of the entries that are due at the block's time, oldest first."""
    keys = []
    for key, _ in env.state.scan(DUE_PREFIX, limit=DUE_PER_BLOCK_MAX):
        if due_parts(key)[0] > env.time_ms:
            break
        keys.append(key)
    return keys
