"""Range sync of a simulated node: committed blocks of a peer, proved by links and a Final certificate."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from consensus.messages import Synced
from ledger.blocks import batch_digest, decode_header
from ledger.certificate import Certificate, Ed25519Scheme, VoteKind
from ledger.codec import decode, encode

if TYPE_CHECKING:
    from tests.sim.node import SimNode

RANGE_BLOCKS: Final = 20
RANGE_AFTER_MS: Final = 400  # behind a Final certificate for this long: ask for a range of blocks


class RangeAsk(msgspec.Struct, array_like=True, frozen=True, tag="range_ask"):
    """Committed blocks from a height on, please."""

    height: int


class RangeReply(msgspec.Struct, array_like=True, frozen=True, tag="range"):
    """Blocks (encoded header, batches) and a Final certificate that names the last."""

    blocks: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    certificate: Certificate


class Ranges:
    """Asks, answers and takes."""

    def __init__(self, node: SimNode) -> None:
        self.node = node
        self.behind_since_us: int | None = None

    def receive(self, sender: int, body: bytes) -> None:
        """A range message of a member."""
        message: RangeAsk | RangeReply = decode(RangeAsk | RangeReply, body)  # type: ignore[arg-type]
        if isinstance(message, RangeAsk):
            self.answer(sender, message.height)
        else:
            self.take(message)

    def maybe_ask(self) -> None:
        """Ask somebody for blocks when a Final certificate has been out of reach for a while."""
        final, now_us = self.node.core.final, self.node.world.now_us
        if final is None or final.statement.view <= self.node.core.chain.tip.view or self.node.queue:
            self.behind_since_us = None
        elif self.behind_since_us is None:
            self.behind_since_us = now_us
        elif now_us - self.behind_since_us > RANGE_AFTER_MS * 1_000:
            self.behind_since_us = now_us
            others = [m for m in range(len(self.node.world.validators.members)) if m != self.node.member]
            self.node.post(
                self.node.world.rng.choice(others), b"R" + encode(RangeAsk(self.node.store.height + 1))
            )

    def answer(self, to: int, height: int) -> None:
        if not 0 < height <= self.node.store.height:
            return
        last = min(self.node.store.height, height + RANGE_BLOCKS - 1)
        while (
            self.node.store.blocks[last - 1].certificate.statement.block
            != self.node.store.blocks[last - 1].hash
        ):
            if last == self.node.store.height:
                return
            last += 1
        blocks = self.node.store.blocks[height - 1 : last]
        reply = RangeReply(tuple((b.header.encode(), b.batches) for b in blocks), blocks[-1].certificate)
        self.node.post(to, b"R" + encode(reply))

    def take(self, reply: RangeReply) -> None:
        """Verify links, batches and the certificate; then commit block by block."""
        headers = [decode_header(data) for data, _ in reply.blocks]
        tip, tip_hash = self.node.store.tip
        if self.node.queue or not headers or headers[0].parent_hash != tip_hash:
            return  # meanwhile we went on by ourselves
        for before, header in pairwise(headers):
            if header.parent_hash != before.hash:
                return
        statement = reply.certificate.statement
        if statement.kind is not VoteKind.FINAL or statement.block != headers[-1].hash:
            return
        Ed25519Scheme().verify(self.node.world.chain_id, self.node.world.validators, reply.certificate)
        for header, (_, data) in zip(headers, reply.blocks, strict=True):
            if self.node.queue or tuple(batch_digest(b) for b in data) != header.batches:
                return  # the core found the rest by itself, or the peer sent other batches
            self.node.apply(header, data, reply.certificate)
            self.node.step(Synced(header, reply.certificate))
            self.node.executed(header.height)
