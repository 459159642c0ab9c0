"""Work that every node of a network would do alike on the same bytes, done once: decoding and checking are
pure. What is shared is what passed every check with nothing known beforehand; all else each node does itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.messages import Received, decode_message
from consensus.verify import Rules, check
from ledger.errors import PeerFault
from ledger.proofs.certificate import Scheme, Statement
from ledger.transactions import verified
from node.voting.mempool import HeldBatch, open_batch

if TYPE_CHECKING:
    from tests.sim.node import SimNode

REMEMBERED: Final = 2_048  # messages; the late ones are checked again


def _nothing(statement: Statement) -> bool:
    return False


class Shared:
    """Of one world."""

    def __init__(self, chain_id: str, scheme: Scheme) -> None:
        self.chain_id, self.scheme = chain_id, scheme
        self.events: dict[tuple[bytes, int, bytes], Received] = {}
        self.batches: dict[bytes, HeldBatch] = {}

    def opened(self, data: bytes) -> HeldBatch:
        """A batch with each signature checked. Raises Refused."""
        found = self.batches.get(data)
        if found is None:
            if len(self.batches) >= REMEMBERED:
                self.batches.clear()
            found = self.batches[data] = open_batch(data, self.chain_id, verified)
        return found

    def checked(self, node: SimNode, sender: int, data: bytes) -> Received:
        """The event of a message to a node. Raises PeerFault."""
        validators = node.core.config.validators
        key = (validators.members[0].key, sender + 256 * validators.epoch, data)
        found = self.events.get(key)
        if found is not None:
            return found
        message = decode_message(str(sender), data)
        try:
            found = check(Rules(self.chain_id, validators, self.scheme, _nothing), sender, message)
        except PeerFault:  # of what this node knows already it need not look at each signature
            return check(Rules(self.chain_id, validators, self.scheme, node.core.knows), sender, message)
        if len(self.events) >= REMEMBERED:
            self.events.clear()
        self.events[key] = found
        return found
