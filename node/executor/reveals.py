"""Results that this node has committed to, until it may tell them (ledger.transition.agreement).

The receipt that will tell them, with the number that opens the commitment, is on disk before the commitment
is sent: a node that restarts in between still tells. One small file for each term; it goes when all is told,
or when nobody asks any more.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
import trio

from ledger.commitments import NONCE_BYTES, commitment_of
from ledger.documents import sign_receipt
from ledger.predicates import ReceiptPredicate
from ledger.records import Deployment, Slot, key_deployment, key_slot
from ledger.state import read
from ledger.trade_records import Agreement, key_agreement
from ledger.transactions import Report
from ledger.transition.deal import ENDED

if TYPE_CHECKING:
    from node.executor.workshop import Workshop

log = structlog.get_logger("executor")

_SUFFIX: Final = ".reveal"


class Kept(msgspec.Struct, frozen=True):
    """What will be told, and the manifest (hex) that the term is of."""

    manifest: str
    receipt: ReceiptPredicate


class Reveals:
    """The folder. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, kept: Kept) -> None:
        """On disk, synced, before anybody hears of it. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._file(kept.receipt)
        part = file.with_suffix(".part")
        with part.open("wb") as out:
            out.write(msgspec.json.encode(kept))
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
        at = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(at)
        finally:
            os.close(at)

    def all(self) -> list[Kept]:
        """What waits to be told. One that cannot be read is left out, and said so."""
        found = []
        for file in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                found.append(msgspec.json.decode(file.read_bytes(), type=Kept))
            except (OSError, msgspec.MsgspecError) as error:
                log.error("reveal_unreadable", file=file.name, error=str(error))
        return found

    def drop(self, kept: Kept) -> None:
        """Forget it; gone already is fine."""
        with contextlib.suppress(OSError):
            self._file(kept.receipt).unlink(missing_ok=True)

    def _file(self, receipt: ReceiptPredicate) -> Path:
        return self._folder / f"{receipt.deployment}.{receipt.slot.replace('/', '.')}.{receipt.term}{_SUFFIX}"


def reveals_of(shop: Workshop) -> Reveals:
    """Where this node keeps them."""
    return Reveals(shop.peer.home / "reveals")


async def commit_to(
    shop: Workshop, facts: Mapping[str, Any], manifest: bytes, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Keep the receipt of these `facts` and `found` results for later. Returns the fields of the one that
    commits to it. Raises OSError."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    told = ReceiptPredicate(**facts, status="succeeded", time_ms=shop.wall_ms(), nonce=nonce.hex(), **found)
    await trio.to_thread.run_sync(reveals_of(shop).keep, Kept(manifest.hex(), told))
    bound = commitment_of(
        told.chain_id,
        bytes.fromhex(told.deployment),
        told.slot,
        told.term,
        bytes.fromhex(told.node),
        nonce,
        {path: file.sha256 for path, file in told.results.items()},
    )
    return {**{name: value for name, value in found.items() if name != "results"}, "commitment": bound.hex()}


class Teller:
    """Tells each of them when it is time."""

    def __init__(self, shop: Workshop, nursery: trio.Nursery) -> None:
        self._shop = shop
        self._nursery = nursery
        self._sending: set[tuple[str, str, int]] = set()

    async def look(self) -> None:
        """At each block: tell what may be told, forget what is told or wanted no more."""
        shelf = reveals_of(self._shop)
        for kept in await trio.to_thread.run_sync(shelf.all):
            receipt = kept.receipt
            name = (receipt.deployment, receipt.slot, receipt.term)
            state = _standing(self._shop, receipt)
            if state == "over":
                await trio.to_thread.run_sync(shelf.drop, kept)
            elif state == "now" and name not in self._sending:
                self._sending.add(name)
                self._nursery.start_soon(self._tell, kept, name)

    async def _tell(self, kept: Kept, name: tuple[str, str, int]) -> None:
        receipt, shop = kept.receipt, self._shop
        about = {"slot": receipt.slot, "term": receipt.term}
        envelope = sign_receipt(shop.sender.key, receipt, bytes.fromhex(kept.manifest))
        sent = await shop.sender.deliver(Report(envelope), lambda: _standing(shop, receipt) == "now")
        if sent is not None and sent.rule:
            log.warning("reveal_refused", rule=sent.rule, detail=sent.detail, **about)
        else:
            log.info("results_told", **about)
        self._sending.discard(name)


def _standing(shop: Workshop, receipt: ReceiptPredicate) -> str:
    """ "wait", "now" or "over"."""
    state, deployment = shop.peer.state, bytes.fromhex(receipt.deployment)
    record = read(state, Deployment, key_deployment(deployment))
    slot = read(state, Slot, key_slot(deployment, receipt.slot))
    if record is None or slot is None:
        return "wait"  # this peer may be behind
    if record.status in ENDED or slot.term > receipt.term:
        return "over"
    if slot.status == "committed":
        found = read(state, Agreement, key_agreement(deployment, receipt.slot.partition("/")[0]))
        return "now" if found is not None and found.reveals else "wait"
    return "wait" if slot.holder == shop.sender.key.public and slot.term == receipt.term else "over"
