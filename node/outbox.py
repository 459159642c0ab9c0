"""Transactions that were submitted here, told to validators again and again until final or expired.

A peer that votes puts them into its own mempool as well. Whatever a lost connection or a crashed
validator swallows is sent once more, so an accepted transaction is lost only with this process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from ledger.errors import Refused
from ledger.transactions import CheckedTx, Decide, PublishContract, VerifiedTx
from node.limits import OUTBOX_ASK_S, OUTBOX_RESEND_S, OUTBOX_TXS_MAX, OUTBOX_VALIDATORS, OVERLOAD_RETRY_S
from node.seam import Overloaded
from p2p.errors import Refused as PeerRefused
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("outbox")


def topic_kind(tx: CheckedTx) -> str:
    """The gossip topic that a transaction belongs to: what must reach strangers has its own."""
    if isinstance(tx.tx.body, PublishContract):
        return "contracts"
    return "approvals" if isinstance(tx.tx.body, Decide) else "transactions"


@dataclass(slots=True)
class Entry:
    """One transaction under way."""

    tx: VerifiedTx
    tries: int = 0


@dataclass(slots=True)
class Outbox:
    """`validators` gives the peer ids of connected validators, best first; `publish` gossips."""

    network: Network
    validators: Callable[[], list[str]]
    publish: Callable[[str, bytes], bool]
    height: Callable[[], int]
    entries: OrderedDict[bytes, Entry] = field(default_factory=OrderedDict)

    async def submit(self, tx: VerifiedTx) -> None:
        """Tell validators, wait for a first answer. Raises Refused when one refuses it, Overloaded when
        all that answered are. With no validator in reach it is gossiped and kept."""
        if len(self.entries) >= OUTBOX_TXS_MAX:
            raise Overloaded(OVERLOAD_RETRY_S)
        entry = self.entries.setdefault(tx.id, Entry(tx))
        self.publish(topic_kind(tx), tx.raw)
        overloaded = False
        for peer_id in self.validators()[:OUTBOX_VALIDATORS]:
            entry.tries += 1
            try:
                await self.network.request(peer_id, "tx", tx.raw, OUTBOX_ASK_S)
                return
            except PeerRefused as error:
                rule, _, detail = error.reason.partition(": ")
                if rule == "overloaded":
                    overloaded = True
                    continue
                self.entries.pop(tx.id, None)
                raise Refused(rule, detail) from None
            except RequestError:
                continue
        if overloaded:
            self.entries.pop(tx.id, None)
            raise Overloaded(OVERLOAD_RETRY_S)

    def final(self, ids: tuple[bytes, ...]) -> None:
        """These are final: done."""
        for id_ in ids:
            self.entries.pop(id_, None)

    async def run(self) -> None:
        """Re-send what is not final yet, to another validator each time. Until cancelled."""
        while True:
            await trio.sleep(OUTBOX_RESEND_S)
            height = self.height()
            for id_, entry in list(self.entries.items()):
                if entry.tx.tx.expires <= height:
                    self.entries.pop(id_, None)
                    log.info("tx_expired", tx=id_.hex())
                    continue
                await self._resend(entry)

    async def _resend(self, entry: Entry) -> None:
        validators = self.validators()
        if not validators:
            self.publish(topic_kind(entry.tx), entry.tx.raw)
            return
        peer_id = validators[entry.tries % len(validators)]
        entry.tries += 1
        try:
            await self.network.request(peer_id, "tx", entry.tx.raw, OUTBOX_ASK_S)
        except RequestError as error:
            log.debug("resend_failed", peer=peer_id, error=str(error))
