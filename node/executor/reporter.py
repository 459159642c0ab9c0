"""One term's receipts: signed, sent in order, each once; of words on a running slot only the newest waits."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import trio

from ledger.documents import sign_receipt
from ledger.errors import Refused
from ledger.limits import TEXT_CHARS_MAX
from ledger.predicates import ReceiptPredicate, ReceiptStatus
from ledger.transactions import Report
from node.executor.sender import Sender
from node.seam import Overloaded

log = structlog.get_logger("executor")

_GIVES_UP: Final = ("failed", "quarantined", "released")
_LAST: Final = ("committed", "succeeded", *_GIVES_UP)


@dataclass(slots=True)
class Reporter:
    """`facts` are the fields that all receipts of the term share; `held` tells whether it is still ours."""

    sender: Sender
    manifest: bytes
    facts: Mapping[str, Any]
    wall_ms: Callable[[], int]
    held: Callable[[], bool]
    sent: int = 0
    _queue: deque[ReceiptPredicate] = field(default_factory=deque)
    _bell: trio.Event = field(default_factory=trio.Event)

    def tell(self, status: ReceiptStatus, **fields: Any) -> None:
        """Queue a receipt. What gives the slot up goes first: what was not sent yet no longer matters."""
        # What a workload named or wrote may be no text; a receipt is.
        detail = str(fields.get("detail", "")).encode(errors="replace").decode()
        fields["detail"] = detail[:TEXT_CHARS_MAX]
        predicate = ReceiptPredicate(**self.facts, status=status, time_ms=self.wall_ms(), **fields)
        if status in _GIVES_UP:
            self._queue.clear()
        elif status == "running" and self._queue and self._queue[-1].status == "running":
            self._queue.pop()
        self._queue.append(predicate)
        self._bell.set()

    async def run(self) -> None:
        """Send until a last receipt is final, or the term is no longer ours."""
        while True:
            while not self._queue:
                self._bell = trio.Event()
                await self._bell.wait()
            predicate = self._queue.popleft()
            await self._send(predicate)
            if predicate.status in _LAST or not self.held():
                return

    async def goodbye(self) -> None:
        """Send what waits once, without waiting for more than an answer: the node stops."""
        for predicate in self._queue:
            with contextlib.suppress(Refused, Overloaded):
                envelope = sign_receipt(self.sender.key, predicate, self.manifest)
                await self.sender.peer.submit(self.sender.sign(Report(envelope)).raw)
        self._queue.clear()

    async def _send(self, predicate: ReceiptPredicate) -> None:
        about = {"slot": predicate.slot, "term": predicate.term, "status": predicate.status}
        try:
            envelope = sign_receipt(self.sender.key, predicate, self.manifest)
        except Refused as error:  # ours is malformed: loud, but the workload's life goes on
            log.error("receipt_malformed", rule=error.rule, detail=error.detail, **about)
            return
        sent = await self.sender.deliver(Report(envelope), self.held)
        if sent is None:
            log.info("receipt_not_wanted", **about)
        elif sent.rule:
            log.warning("receipt_refused", rule=sent.rule, detail=sent.detail, **about)
        else:
            self.sent += 1
            log.info("receipt_final", **about)
