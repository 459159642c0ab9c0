"""What the ledger would say now: its own rules, tried on a copy of the state that is dropped. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from ledger.errors import Refused
from ledger.state import Overlay, Reader
from ledger.transition.env import Env

B = TypeVar("B")


class Here(msgspec.Struct, frozen=True):
    """The committed state that a plan is made on, and who asks."""

    state: Reader
    chain_id: str
    height: int
    time_ms: int
    account: bytes
    balance: int


def env_of(here: Here) -> Env:
    """What a transaction of that account would find there."""
    return Env(
        Overlay(here.state),
        chain_id=here.chain_id,
        height=here.height,
        time_ms=here.time_ms,
        seed=b"",
        sender=here.account,
        tx_id=bytes(32),
    )


def refusal(here: Here, rule: Callable[[Env, B], None], body: B) -> str:
    """Why the ledger would refuse `body` now, in words, or ""."""
    try:
        rule(env_of(here), body)
    except Refused as error:
        return f"{error.rule}: {error.detail}"
    return ""
