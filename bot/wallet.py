"""Signs and sends transactions of the bot's account."""

from __future__ import annotations

import trio
from nacl.utils import random

from bot.limits import FINAL_WAIT_S, RETRY_S_MAX, SUBMIT_TRIES_MAX
from ledger.errors import Refused
from ledger.keys import Key
from ledger.transactions import Body, Tx, decode_tx, sign_tx
from node.seam import Overloaded, PeerSeam, TxOutcome


class Wallet:
    """One account on one peer."""

    def __init__(self, peer: PeerSeam, key: Key) -> None:
        self._peer = peer
        self._key = key
        self.account = key.public

    def make(self, body: Body, blocks: int) -> Tx:
        """A new transaction that expires after so many blocks; each one has an id of its own."""
        return Tx(self._peer.chain_id, self.account, self._peer.height + blocks, random(8), body)

    async def send(self, tx: Tx) -> TxOutcome:
        """Sign, submit, and wait until it is final, applied or refused. The same one may be sent again.

        Raises Refused when no block will take it, Overloaded after SUBMIT_TRIES_MAX, NotFinal after
        FINAL_WAIT_S (it may still become final).
        """
        raw = sign_tx(self._key, tx)
        await self._submit(raw)
        return await self._peer.wait_final(decode_tx(raw, self._peer.chain_id).id, FINAL_WAIT_S)

    async def _submit(self, raw: bytes) -> None:
        for attempt in range(1, SUBMIT_TRIES_MAX + 1):
            try:
                await self._peer.submit(raw)
                return
            except Refused as error:
                if error.rule == "tx.duplicate":
                    return  # it is final already
                raise
            except Overloaded as error:
                if attempt == SUBMIT_TRIES_MAX:
                    raise
                await trio.sleep(min(error.retry_s * 2 ** (attempt - 1), RETRY_S_MAX))
