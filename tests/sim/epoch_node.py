"""The simulated peer of a network whose validators change: a core for each epoch in which it has a seat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from consensus.core import Config, Core
from consensus.messages import BatchHeld, Ready, decode_message, epoch_of
from ledger import epochs
from ledger.codec import encode
from ledger.errors import PeerFault
from node.voting.other_epochs import OtherEpochs, is_answer
from node.voting.voter import core_at
from node.wire import RangeRequest
from p2p.network import Lane
from tests.sim.node import SimNode

if TYPE_CHECKING:
    from tests.sim.epochs import EpochWorld

ASK_EVERY_MS: Final = 300


class _Wire:
    """What `node.voting.other_epochs` sends by: messages as they are, hints as hints. Peers are numbers."""

    def __init__(self, node: EpochNode) -> None:
        self.node = node

    def send(self, peer_id: str, lane: Lane, payload: bytes) -> bool:
        self.node.post(int(peer_id), payload if lane is Lane.CONSENSUS else b"N" + payload)
        return True


class EpochNode(SimNode):
    """A peer with a validator key: it votes while the set has the key, and follows in the other epochs.

    Members have one number for ever (`member`); in the core they have the places of the epoch's set.
    """

    world: EpochWorld
    is_following = False
    asked_us = -1

    def open_store(self) -> None:
        super().open_store()
        self.notary.trust.sets[0] = self.world.founding  # as `SimNode`: a variant may count wrongly
        wire: Any = _Wire(self)
        self.others = OtherEpochs(self.notary, wire, self.key.public, self.told, self._mono_ms)

    def _mono_ms(self) -> int:
        return self.clock.now(self.world.now_us)[0]

    def make_core(self) -> Core:
        """As `node.voting.voter`; one that is never started where the key has no place."""
        world, me = self.world, self.notary.validators.index(self.key.public)
        self.is_following = me is None
        config = Config(
            world.chain_id, self.notary.validators, me or 0, world.timing, world.scheme, self.sign
        )
        return core_at(self.notary, config, world.core_of(self))

    def begin(self) -> None:
        """Vote, or follow until the key gets a place."""
        if self.is_following:
            self.is_waiting = True
            self.ranges.ask_on(self.life)
        else:
            super().begin()

    def promises_reached(self) -> None:
        """See SimNode."""
        if not self.is_following:
            super().promises_reached()

    def executed(self, height: int) -> None:
        """See SimNode; and the next epoch begins where one has ended."""
        super().executed(height)
        if self.notary.validators.epoch != self.core.config.validators.epoch:
            self.turn()

    def turn(self) -> None:
        """Another core, with what waited for it (`node.voting.seat`, `node.voting.engine`)."""
        was_following = self.is_following
        self.world.result.faults["epoch.turned"] += 1
        self.queue, self.core = [], self.make_core()
        self.point("at_turn")
        if self.is_following:
            if not was_following:
                self.world.leaves(self)
                self.begin()
            return
        if was_following:
            self.world.result.faults["epoch.joined"] += 1
        for batch in list(self.mempool.batches.values()):
            self.step(BatchHeld(batch.digest, batch.count, self.mempool.makers[batch.digest]))
            if self.mempool.makers[batch.digest] == self.member:
                self.push(batch)
        self.is_waiting = self.safety.floor > self.tip.view
        if self.is_waiting:  # its chain comes anew, and is not yet where votes were forgotten
            self.ranges.ask_on(self.life)
        else:
            self.begin()

    # ------------------------------------------------------------------ places and members

    def member_at(self, place: int) -> int:
        """The member with a place in the core's set."""
        return self.world.number_of[self.core.config.validators.members[place].key]

    def post(self, to: int | None, data: bytes) -> None:
        """To one peer, or to all members of the set."""
        members = self.core.config.validators.members
        targets = [self.world.number_of[m.key] for m in members] if to is None else [to]
        for member in targets:
            if member != self.member:
                super().post(member, data)

    def receive(self, sender: int, data: bytes) -> None:
        """As `node.handlers` and `node.voting.engine`: what another epoch's message means comes first."""
        tag = data[:1]
        if tag == b"R":
            self.ranges.receive(sender, data[1:])
            return
        if tag == b"N":
            self.told(str(sender), self.height + 1)
            return
        key = self.world.key_of[sender].public
        place = self.core.config.validators.index(key)
        if tag == b"B":
            if place is not None and not self.is_waiting:
                self.hold_batch(sender, data[1:])
            return
        ours = self.notary.validators.epoch
        try:
            message = decode_message(str(sender), data)
            epoch = epoch_of(message)
            if epoch is not None and epoch != ours:
                if epoch > ours or not is_answer(message):
                    self.other_epoch(sender, key, epoch)
            elif place is not None and not self.is_waiting:
                self.handle(self.world.checked(self, place, data))
            elif place is None and epoch == ours:
                raise PeerFault(str(sender), "consensus.not_a_validator")
        except PeerFault as fault:
            self.world.fault(self, sender, fault)

    def other_epoch(self, sender: int, key: bytes, epoch: int) -> None:
        """One of the two is behind, if the sender has a seat there."""
        if epoch > self.notary.validators.epoch or self.others.voted(key, epoch):
            self.world.result.faults[
                "epoch.late" if epoch < self.notary.validators.epoch else "epoch.early"
            ] += 1
            self.others.heard(str(sender), epoch)

    def told(self, peer_id: str, height: int) -> None:
        """A peer holds blocks that are not here: ask it for them."""
        now_us = self.world.now_us
        if height > self.height and not self.queue and now_us >= self.asked_us + ASK_EVERY_MS * 1_000:
            self.asked_us = now_us
            self.post(int(peer_id), b"R?" + encode(RangeRequest(self.height + 1, 48 * 1024, 0)))

    def carry_out(self, ready: Ready) -> None:
        """See SimNode. Counts what rule 12 did."""
        faults = self.world.result.faults
        for commit in ready.commit:
            faults["epoch.boundary"] += epochs.is_ending(commit.header)
            faults["epoch.cut"] += bool(commit.path)
        super().carry_out(ready)
