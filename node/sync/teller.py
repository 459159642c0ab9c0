"""Tells others of new final blocks: neighbours at once, strangers by gossip now and then."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from ledger.blocks import Header
from ledger.codec import decode, encode
from ledger.storage.store import Store
from node.clock import now_ms
from node.handlers import PeerHandlers
from node.limits import ANNOUNCE_EVERY_S, TIP_EVERY_S, TIP_VALIDATORS_EVERY_S
from node.sync.follower import Follower
from node.voting.engine import Engine
from node.wire import Announcement, TipNote, topic
from p2p.network import Lane, Network


@dataclass(slots=True)
class Teller:
    """See the module. `committed` after each block."""

    network: Network
    store: Store
    chain_id: str
    follower: Follower
    handlers: PeerHandlers
    engine: Engine | None
    _bell: trio.Event = field(default_factory=trio.Event)
    _validators_told_ms: int = 0
    _told_epoch: int = 0

    def committed(self) -> None:
        """A block was committed."""
        self._bell.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_tips)
            nursery.start_soon(self._announce)

    async def _tell_tips(self) -> None:
        """Tell all neighbours of new final blocks, coalesced."""
        while True:
            await self._bell.wait()
            self._bell = trio.Event()
            tip = self.store.tip
            note = encode(TipNote(tip.height, tip.time_ms))
            to_validators = self._tells_validators()
            for neighbour in self.network.neighbours():
                peer_id = neighbour.peer_id
                if self.follower.holds(peer_id, tip.height):
                    continue
                if to_validators or peer_id not in self.handlers.members:
                    self.network.send(peer_id, Lane.BULK, note)
            await trio.sleep(TIP_EVERY_S)

    def _tells_validators(self) -> bool:
        """Validators hear of blocks by consensus, so they tell each other of tips only now and then; and of a
        new epoch at once, as some of them did not vote in the last one."""
        epoch = self.handlers.notary.validators.epoch
        if epoch == self._told_epoch and now_ms() - self._validators_told_ms < TIP_VALIDATORS_EVERY_S * 1000:
            return False
        self._validators_told_ms, self._told_epoch = now_ms(), epoch
        return True

    async def _announce(self) -> None:
        """Gossip the newest certified block for strangers; validators only, in turns of height."""
        while True:
            await trio.sleep(ANNOUNCE_EVERY_S)
            height = self.store.tip.height
            certificate, header = self.store.certificate(height), self.store.header(height)
            if self.engine is None or certificate is None or header is None:
                continue
            decoded = decode(Header, header)
            if self.store.epochs.tail(decoded):
                continue  # its certificate names a header above it: nothing to show to strangers
            if decoded.proposer == self.engine.key.public:
                payload = encode(Announcement(header, certificate))
                self.network.publish(topic(self.chain_id, "blocks"), payload)
