"""Transactions that were submitted here, told to validators again and again until final or expired.

A peer that votes puts them into its own mempool as well. Whatever a lost connection or a crashed
validator swallows is sent once more, so an accepted transaction is lost only with this process.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from ledger.errors import Refused
from ledger.limits import DETAIL_CHARS_MAX
from ledger.transactions import CheckedTx, Decide, PublishContract, VerifiedTx
from node.limits import (
    OUTBOX_ASK_S,
    OUTBOX_ASKED_MAX,
    OUTBOX_RESEND_S,
    OUTBOX_RESENDS_AT_ONCE,
    OUTBOX_SENDER_TXS_MAX,
    OUTBOX_SOURCE_TXS_MAX,
    OUTBOX_TXS_MAX,
    OVERLOAD_RETRY_S,
)
from node.seam import Overloaded
from node.voting.mempool import OURS
from node.voting.pace import retry_ms
from p2p.errors import Refused as PeerRefused
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("outbox")

NO_SEAT: Final = "tx.not_a_validator"  # it left, or does not know yet that it has joined: another one will
_RETRY: Final = re.compile(r"overloaded: retry in (\d{1,6}) ms")
_RULE: Final = re.compile(r"(tx|request)(\.[a-z0-9_]{1,40}){1,2}")


RARE_KINDS: Final = frozenset(("contracts", "approvals"))  # what strangers wait for, too


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
    source: str = OURS


@dataclass(slots=True)
class Outbox:
    """`validators` gives the peer ids of connected validators; `publish` gossips; `faulty_max` tells how
    many validators may lie: one refusal more than that is the word of an honest one."""

    network: Network
    validators: Callable[[], list[str]]
    publish: Callable[[str, bytes], bool]
    height: Callable[[], int]
    faulty_max: Callable[[], int]
    entries: OrderedDict[bytes, Entry] = field(default_factory=OrderedDict)
    _senders: Counter[bytes] = field(default_factory=Counter)
    _sources: Counter[str] = field(default_factory=Counter)
    _bell: trio.Event = field(default_factory=trio.Event)

    async def submit(self, tx: VerifiedTx, source: str = OURS) -> None:
        """Tell validators until one takes it. Raises Refused when more refuse it than may lie, Overloaded
        when all that answered are; then it says when the first of them has room again. With no validator in
        reach it is gossiped and kept. `source` is the client that brought it."""
        if tx.id in self.entries:
            return
        if not self._has_room(tx, source):
            raise Overloaded(OVERLOAD_RETRY_S)
        entry = self._enter(tx, source)
        kind = topic_kind(tx)
        if kind in RARE_KINDS:
            self.publish(kind, tx.raw)
        refusals: list[Refused] = []
        retries_ms: list[int] = []
        for peer_id in self._in_turn(tx)[:OUTBOX_ASKED_MAX]:
            entry.tries += 1
            try:
                await self.network.request(peer_id, "tx", tx.raw, OUTBOX_ASK_S)
                return
            except PeerRefused as error:
                refusal = _refusal(error.reason)
                if refusal is None:
                    retries_ms.append(_retry_ms(error.reason))
                    continue
                if refusal.rule == NO_SEAT:
                    continue
                refusals.append(refusal)
                if len(refusals) > self.faulty_max():
                    self._drop(tx.id)
                    raise refusal from None
            except RequestError:
                continue
        if retries_ms and not refusals:
            self._drop(tx.id)
            raise Overloaded(min(retries_ms) / 1000)
        if kind not in RARE_KINDS:  # a delivery costs a peer a hundred times that of a stream
            self.publish(kind, tx.raw)

    def _has_room(self, tx: VerifiedTx, source: str) -> bool:
        return (
            len(self.entries) < OUTBOX_TXS_MAX
            and self._senders.get(tx.tx.sender, 0) < OUTBOX_SENDER_TXS_MAX
            and self._sources.get(source, 0) < OUTBOX_SOURCE_TXS_MAX
        )

    def _enter(self, tx: VerifiedTx, source: str) -> Entry:
        entry = self.entries[tx.id] = Entry(tx, source=source)
        self._senders[tx.tx.sender] += 1
        self._sources[source] += 1
        return entry

    def adopt(self, tx: VerifiedTx) -> None:
        """Take over a transaction that was accepted here while this peer voted: it is gossiped now and
        re-sent as all others. Beyond the bounds it is gossiped only."""
        self.publish(topic_kind(tx), tx.raw)
        if tx.id not in self.entries and self._has_room(tx, OURS):
            self._enter(tx, OURS)
            self._bell.set()

    def _in_turn(self, tx: VerifiedTx) -> list[str]:
        """Validators in an order of the transaction's own, so that no one of them is everybody's first."""
        validators = self.validators()
        start = tx.id[0] % len(validators) if validators else 0
        return validators[start:] + validators[:start]

    def _drop(self, id_: bytes) -> None:
        entry = self.entries.pop(id_, None)
        if entry is None:
            return
        sender = entry.tx.tx.sender
        self._senders[sender] -= 1
        if not self._senders[sender]:
            del self._senders[sender]
        self._sources[entry.source] -= 1
        if not self._sources[entry.source]:
            del self._sources[entry.source]

    def final(self, ids: tuple[bytes, ...]) -> None:
        """These are final: done."""
        for id_ in ids:
            self._drop(id_)

    async def run(self) -> None:
        """Re-send what is not final yet, to another validator each time. Until cancelled."""
        while True:
            with trio.move_on_after(OUTBOX_RESEND_S):
                await self._bell.wait()
            self._bell = trio.Event()
            height = self.height()
            room = trio.Semaphore(OUTBOX_RESENDS_AT_ONCE)
            async with trio.open_nursery() as nursery:
                for id_, entry in list(self.entries.items()):
                    if entry.tx.tx.expires <= height:
                        self._drop(id_)
                        log.info("tx_expired", tx=id_.hex())
                        continue
                    await room.acquire()
                    nursery.start_soon(self._resend, entry, room)

    async def _resend(self, entry: Entry, room: trio.Semaphore) -> None:
        try:
            validators = self._in_turn(entry.tx)
            if entry.tx.id not in self.entries:
                return  # final by now
            if not validators:
                self.publish(topic_kind(entry.tx), entry.tx.raw)
                return
            for _ in validators:
                peer_id = validators[entry.tries % len(validators)]
                entry.tries += 1
                try:
                    await self.network.request(peer_id, "tx", entry.tx.raw, OUTBOX_ASK_S)
                    return
                except PeerRefused as error:
                    refusal = _refusal(error.reason)
                    if refusal is None or refusal.rule != NO_SEAT:
                        raise
        except RequestError as error:
            log.debug("resend_failed", error=str(error))
        finally:
            room.release()


def _retry_ms(reason: str) -> int:
    """A validator's hint when to come again, within our own bounds."""
    found = _RETRY.fullmatch(reason)
    return retry_ms(int(found[1]) if found else OVERLOAD_RETRY_S * 1000)


def _refusal(reason: str) -> Refused | None:
    """A validator's answer "rule: detail" as a refusal; None when it is overloaded. Foreign text: a rule
    becomes a label of metrics, so only what looks like one of ours is taken."""
    rule, _, detail = reason.partition(": ")
    if rule == "overloaded":
        return None
    return Refused(rule if _RULE.fullmatch(rule) else "tx.refused", detail[:DETAIL_CHARS_MAX])
