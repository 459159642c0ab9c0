"""Signs and sends the node's transactions, and waits until they are final."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from ledger.errors import Refused
from ledger.keys import Key
from ledger.transactions import Body, Tx, decode_tx, sign_tx
from node.executor.limits import FINAL_WAIT_S, TX_BLOCKS
from node.seam import NotFinal, Overloaded, PeerSeam, TxOutcome

_OUT_OF_STEP: Final = ("tx.expired", "tx.expires_too_far")
"""This peer is far behind, or ahead of whom it asked: signed anew when it has moved on."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction ready to go. After height `expires` it can't execute any more."""

    id: bytes
    raw: bytes
    expires: int


@dataclass(frozen=True, slots=True)
class Sent:
    """How it ended: `rule` is empty when it was executed, else the refusal. `outcome` when it was final."""

    rule: str
    detail: str
    outcome: TxOutcome | None


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends as the node key."""

    peer: PeerSeam
    key: Key

    def sign(self, body: Body) -> Signed:
        """The transaction of this body, never the same twice."""
        expires = self.peer.height + TX_BLOCKS
        tx = Tx(self.peer.chain_id, self.key.public, expires, secrets.token_bytes(8), body)
        raw = sign_tx(self.key, tx)
        return Signed(decode_tx(raw, self.peer.chain_id).id, raw, expires)

    async def deliver(self, body: Body, wanted: Callable[[], bool]) -> Sent | None:
        """Until it is final, again and again while `wanted`. None when it is no longer wanted."""
        while wanted():
            signed = self.sign(body)
            try:
                await self.peer.submit(signed.raw)
                outcome = await self.final(signed, wanted)
            except Overloaded as error:
                await trio.sleep(error.retry_s)
                continue
            except Refused as error:
                if error.rule in _OUT_OF_STEP:
                    await trio.sleep(1.0)
                    continue
                return Sent(error.rule, error.detail, None)
            if outcome is not None:
                return Sent(outcome.receipt.rule, outcome.receipt.detail, outcome)
        return None

    async def final(self, signed: Signed, wanted: Callable[[], bool]) -> TxOutcome | None:
        """The outcome; None when it expired or is no longer wanted. Raises Overloaded."""
        while wanted():
            try:
                return await self.peer.wait_final(signed.id, FINAL_WAIT_S)
            except NotFinal:
                if self.peer.height > signed.expires:
                    return None
        return None
