"""Range sync of a simulated node: the production's questions and answers (`node.sync.ranges`), its proof
(`Notary.check_range`), at the sim's own pace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.messages import Synced
from ledger.blocks import batch_digest, decode_header
from ledger.codec import encode
from ledger.errors import PeerFault, Refused
from node.sync.ranges import answer_batch, answer_range, decode_range
from node.wire import RangeRequest

if TYPE_CHECKING:
    from tests.sim.node import SimNode

RANGE_BYTES: Final = 48 * 1024  # of one answer
RANGE_AFTER_MS: Final = 400  # behind a Final certificate for this long: ask for a range of blocks
_ASK, _ANSWER, _ASK_BATCH, _BATCH = b"?", b"!", b"b", b"B"


class Ranges:
    """Asks, answers and takes."""

    def __init__(self, node: SimNode) -> None:
        self.node = node
        self.behind_since_us: int | None = None
        self.batches: dict[bytes, bytes] = {}  # of a block that came without them

    def receive(self, sender: int, body: bytes) -> None:
        """A range message of a member."""
        try:
            kind, body = body[:1], body[1:]
            if kind == _ASK:
                self.node.post(sender, b"R" + _ANSWER + answer_range(self.node.store, body))
            elif kind == _ASK_BATCH:
                self.node.post(sender, b"R" + _BATCH + answer_batch(self.node.store, body))
            elif kind == _BATCH:
                self.batches[batch_digest(body)] = body
            else:
                self.take(sender, body)
        except Refused as error:
            self.node.world.fault(self.node, sender, PeerFault(str(sender), error.rule, error.detail))

    def maybe_ask(self) -> None:
        """Ask somebody for blocks when a Final certificate has been out of reach for a while."""
        node = self.node
        final = node.core.final
        if final is None or final.statement.view <= node.core.chain.tip.view or node.queue:
            self.behind_since_us = None
        elif self.behind_since_us is None:
            self.behind_since_us = node.world.now_us
        elif node.world.now_us - self.behind_since_us > RANGE_AFTER_MS * 1_000:
            self.behind_since_us = node.world.now_us
            self.ask()

    def ask_on(self, life: int) -> None:
        """Ask again and again for as long as the chain is older than the votes."""
        if life == self.node.life and self.node.is_waiting:
            self.ask()
            world = self.node.world
            world.at(world.now_us + RANGE_AFTER_MS * 1_000, self.node, self.ask_on, life)

    def ask(self) -> None:
        """Ask a member for what follows our tip."""
        node = self.node
        others = [m for m in range(len(node.world.instances)) if m != node.member]
        request = RangeRequest(node.height + 1, RANGE_BYTES, 0)
        node.post(node.world.rng.choice(others), b"R" + _ASK + encode(request))

    def take(self, sender: int, answer: bytes) -> None:
        """Prove all of it; then commit block by block, up to one whose batches must be asked for apart."""
        node = self.node
        blocks = decode_range(answer)
        if not blocks or node.queue:
            return
        blocks = tuple(b for b in blocks if decode_header(b.header).height > node.height)
        if not blocks or decode_header(blocks[0].header).parent_hash != node.tip.hash:
            return  # meanwhile we went on by ourselves
        proved = node.notary.check_range(blocks, node.tip)
        for block, (header, certificate, path) in zip(blocks, proved, strict=False):  # to an epoch's end
            if node.queue:
                return  # the core found the rest by itself
            batches = block.batches
            if not batches and header.batches:
                wanted = [digest for digest in header.batches if digest not in self.batches]
                for digest in wanted:
                    node.post(sender, b"R" + _ASK_BATCH + digest)
                if wanted:
                    return  # the next answer to `ask` finds them here
                batches = tuple(self.batches[digest] for digest in header.batches)
                self.batches.clear()
            node.apply(header, batches, certificate, path)
            node.step(Synced(header, certificate))
            node.executed(header.height)
        node.promises_reached()
