"""The simulator, with each step of its production cores replayed against the model (formal/replay.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from consensus.messages import Message, Ready, Vote
from formal.replay import Replay
from ledger.proofs.certificate import Statement
from tests.sim.checkers import Checker
from tests.sim.disk import durable_record
from tests.sim.epochs import PRODUCTION, EpochWorld
from tests.sim.node import CrashNow, SimNode
from tests.sim.world import Variant, World

if TYPE_CHECKING:
    from tests.sim.checkers import Report


PLAIN: Final = Variant()


class Modelled(Checker):
    """Complains when a core does what the model forbids."""

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        honest = {node.member for node in world.nodes if world.is_honest(node.member)}
        self.replay = Replay(
            honest, lambda epoch: dict(world.seats(epoch)), world.genesis_hash, self.complain
        )

    def sent(self, node: SimNode, message: Message) -> None:
        """See Checker."""
        if isinstance(message, Vote):
            self.replay.send(node.member, message.statement)

    def crashed(self, node: SimNode) -> None:
        """See Checker."""
        if node.is_honest:
            self.replay.crash(node.member)


class _Recording(SimNode):
    """Tells the replay what its core does. Goes before the class of a world's nodes."""

    is_fresh = False

    def begin(self) -> None:
        """See SimNode."""
        self.is_fresh = True
        super().begin()

    def carry_out(self, ready: Ready) -> None:
        """See SimNode."""
        if self.is_honest:
            self._tell(self.world.checker(Modelled).replay, ready)
        super().carry_out(ready)

    def _tell(self, replay: Replay, ready: Ready) -> None:
        core = self.core
        if self.is_fresh:
            self.is_fresh = False
            cast = {(r.kind, r.view, r.block) for r in ready.records}
            own = [v.statement for s in core.views.values() for v in core._own_votes_of(s)]
            old = [s for s in own if (s.kind, s.view, s.block) not in cast]
            replay.restored(self.member, core.config.validators.epoch, core.chain.tip.view, old)
        for record in ready.records:
            replay.cast(self.member, record)
        for certificate in ready.certificates:
            replay.holds(self.member, certificate)
        for commit in ready.commit:
            replay.commits(self.member, commit.header.hash, commit.certificate)

    def persist(self, ready: Ready) -> None:
        """See SimNode."""
        try:
            super().persist(ready)
        except CrashNow as crash:
            if self.is_honest and str(crash) == "in_persist":
                self.world.checker(Modelled).replay.doubt(self.member)
            elif self.is_honest and str(crash) == "after_persist":
                self._kept(ready)
            raise
        if self.is_honest and ready.records:
            self._kept(ready)

    def _kept(self, ready: Ready) -> None:
        """What the disk says, not the shell."""
        checker = self.world.checker(Modelled)
        for record in ready.records:
            statement = Statement(record.kind, record.epoch, record.view, record.block)
            if durable_record(self.disk, statement) is None:
                checker.complain(f"node {self.id} goes on, and its vote {statement} is not on disk")
                return
        checker.replay.keep(self.member)


def modelled(variant: Variant) -> Variant:
    """The variant with nodes that tell."""
    return replace(variant, node=type("Recording", (_Recording, variant.node), {}))


class ModelWorld(World):
    """A world of one validator set."""

    def __init__(self, seed: int, variant: Variant = PLAIN, **more: Any) -> None:
        super().__init__(seed, modelled(variant), **more)

    def checker_kinds(self) -> tuple[type[Checker], ...]:
        """See World."""
        return (*super().checker_kinds(), Modelled)


class ModelEpochWorld(EpochWorld):
    """A world whose validator set changes."""

    def __init__(self, seed: int, variant: Variant = PRODUCTION, **more: Any) -> None:
        super().__init__(seed, modelled(variant), **more)

    def checker_kinds(self) -> tuple[type[Checker], ...]:
        """See World."""
        return (*super().checker_kinds(), Modelled)
