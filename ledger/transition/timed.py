"""Timed work: what the ledger does by itself when block time reaches an entry of `due/`.

[W1] Entries run once, oldest first, at the time of the first block that reaches them. A block runs at
     most DUE_PER_BLOCK_MAX, and begins no other once they touched DUE_SLOTS_PER_BLOCK_MAX slots; the
     rest waits for the next.
[W2] Each entry is all or nothing, and every entry in the state has something to do: what it was for is
     removed together with it. A broken entry is our own fault and stops the process.
"""

from __future__ import annotations

from typing import Final

from ledger.errors import LocalError
from ledger.limits import DUE_PER_BLOCK_MAX
from ledger.records import due_parts
from ledger.transition.agreement import agreement_due
from ledger.transition.approvals import expire_approval, judge_again
from ledger.transition.claims import select
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.grace import term_over
from ledger.transition.leases import lease_over
from ledger.transition.lifecycle import ends_soon, run_on_over
from ledger.transition.notices import approval_ends_soon, offer_over
from ledger.transition.organisations import judge_uses
from ledger.transition.results import release_over
from ledger.transition.rollout import update_over
from ledger.transition.standing import leave

DUE_PREFIX: Final = b"due/"


def run_entry(env: Env, key: bytes) -> int:
    """[W2] Do what an entry is for, and remove it; returns how many slots that touched at most.

    Raises LocalError when the entry makes no sense.
    """
    _, kind, rest = due_parts(key)
    if kind == "drain":
        env.state.delete(key)
        return leave(env, rest)
    if kind == "members":
        env.state.delete(key)
        return judge_uses(env, rest)
    if kind == "offer":
        env.state.delete(key)
        offer_over(env, rest)
        return 1
    deal = Deal.of(env, rest[:32])
    if kind == "approval":
        env.state.delete(key)
        expire_approval(deal, rest[33:65], int(rest[65:]))
    elif kind == "approval_notice":
        env.state.delete(key)
        approval_ends_soon(deal, rest[33:65], int(rest[65:]))
    elif kind == "notice":
        ends_soon(deal)
    elif kind == "judge":
        judge_again(deal, rest[33:].decode())
    elif kind == "agreement":
        agreement_due(deal, rest[33:].decode())
    elif kind == "release":
        release_over(deal)
    elif kind == "update":
        update_over(deal)
    elif kind == "run_on":
        run_on_over(deal)
    elif kind == "duration":
        term_over(deal)
    elif kind == "window":
        select(deal, rest[33:].decode())
    elif kind == "lease":
        lease_over(deal, rest[33:].decode())
    else:
        raise LocalError(f"unknown timed work {kind!r}")
    if env.state.get(key) is not None:
        raise LocalError(f"timed work {key!r} was not removed by what it did")
    return 1 if kind == "lease" else len(deal.record.slots)


def due_keys(env: Env) -> list[bytes]:
    """[W1] Keys of the entries that are due at the block's time, oldest first."""
    keys = []
    for key, _ in env.state.scan(DUE_PREFIX, limit=DUE_PER_BLOCK_MAX):
        if due_parts(key)[0] > env.time_ms:
            break
        keys.append(key)
    return keys
