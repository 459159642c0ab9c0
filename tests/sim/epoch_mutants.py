"""Hand-broken variants of rule 12, each to be caught by the checker that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import consensus.core
from consensus.core import Core
from consensus.messages import Event, Executed, Ready
from consensus.safety import SafetyState
from consensus.state import Change
from ledger.blocks import Header
from ledger.codec import decode
from ledger.errors import PeerFault
from ledger.proofs.certificate import Certificate, ValidatorSet
from node.voting.safety_store import SafetyStore
from tests.sim.epoch_node import EpochNode
from tests.sim.epochs import make_epochs
from tests.sim.scenario import Fault, Scenario
from tests.sim.world import Variant

Loaded = tuple[SafetyState, dict[bytes, bytes]]

# ---------------------------------------------------------------------- cores


class CommitsTail(Core):
    """The whole final path is committed, whatever ends in it."""

    def _commit(self) -> None:
        real = consensus.core.until_boundary
        consensus.core.until_boundary = lambda path, validators: (path, ())
        try:
            super()._commit()
        finally:
            consensus.core.until_boundary = real


class PendingNotDelayed(Core):
    """The change counts as soon as it is executed here, whichever state a header names."""

    def _next_validators(self, state_height: int) -> bytes:
        return super()._next_validators(max(state_height, self.executed))


class NextNotChecked(Core):
    """Whatever a leader says of the next set is voted for."""

    def _broken_rule(self, header: Header, parent: Header) -> str | None:
        rule = super()._broken_rule(header, parent)
        return None if rule == "block.next_validators" else rule


class ForgetsChange(Core):
    """Nobody puts the pending set into a header."""

    def _executed(self, done: Executed) -> None:
        super()._executed(replace(done, next_validators=None))
        self.change = None


class EndsWithoutChange(Core):
    """A leader ends the epoch with the set that is about to be pending, before it is; the others let it."""

    def _next_validators(self, state_height: int) -> bytes:
        return self.change.next_validators if self.change is not None else self.config.validators.hash

    def _executed(self, done: Executed) -> None:
        super()._executed(done)
        if self.change is None and done.height > 3:
            self.change = Change(0, bytes(31) + b"\1")


class TailWithBatches(Core):
    """Blocks above the boundary carry batches, and are voted for."""

    def step(self, event: Event, now_ms: int, wall_ms: int) -> Ready:
        real = consensus.core.is_ending
        consensus.core.is_ending = self._is_ending
        try:
            return super().step(event, now_ms, wall_ms)
        finally:
            consensus.core.is_ending = real

    def _is_ending(self, header: Header, validators: ValidatorSet) -> bool:
        """Only where the path is committed and this core ends."""
        at_end = header.hash == self.chain.tip_hash or self._committing
        return at_end and header.epoch == validators.epoch and header.next_validators != header.validators

    _committing = False

    def _commit(self) -> None:
        TailWithBatches._committing = True
        try:
            super()._commit()
        finally:
            TailWithBatches._committing = False


# ---------------------------------------------------------------------- shells


class OldSetCounts(EpochNode):
    """The next epoch goes on with the quorum of the set before it."""

    def make_core(self) -> Core:
        core = super().make_core()
        now = core.config.validators
        if now.epoch and not self.is_following:
            before = self.notary.validators_of(now.epoch - 1)
            members = tuple(m for m in before.members if now.index(m.key) is not None) or now.members
            old = ValidatorSet(now.epoch, members)
            me = old.index(self.key.public)
            if me is not None:
                core.config = replace(core.config, validators=old, me=me)
        return core


class SmallQuorum(ValidatorSet, array_like=True, frozen=True, forbid_unknown_fields=True):  # type: ignore[misc]
    """Half of the weight is enough."""

    def reached(self, members: Any) -> bool:
        return 2 * sum(self.members[i].weight for i in set(members)) > self.total


class NewSetCountsWrongly(EpochNode):
    """After the first change, half of the weight is enough."""

    def turn(self) -> None:
        sets = self.notary.trust.sets
        sets[-1] = SmallQuorum(sets[-1].epoch, sets[-1].members)
        super().turn()

    def open_store(self) -> None:
        super().open_store()
        sets = self.notary.trust.sets
        sets[1:] = [SmallQuorum(s.epoch, s.members) for s in sets[1:]]


class MixesPromises(EpochNode):
    """Votes of the epoch before bind in this one."""

    def begin(self) -> None:
        real = SafetyStore.load
        SafetyStore.load = self._mixed(real)  # type: ignore[method-assign, assignment]
        try:
            super().begin()
        finally:
            SafetyStore.load = real  # type: ignore[method-assign]

    def _mixed(self, real: Callable[..., Loaded]) -> Callable[..., Loaded]:
        return lambda store, epoch, view: real(store, max(0, epoch - 1), view)


class ForgetsPromisesOfLaterEpochs(EpochNode):
    """Only the first epoch's votes come back after a crash."""

    def begin(self) -> None:
        if self.notary.validators.epoch:
            for key, _ in list(self.disk.scan(b"v/")):
                self.disk.write({}, [key], sync=True)
        super().begin()


class LeaverVotesOn(EpochNode):
    """Who has no seat any more takes one all the same."""

    def make_core(self) -> Core:
        core = super().make_core()
        self.is_following = self.is_following and not self.notary.validators.epoch
        return core


class JoinerFollowsOn(EpochNode):
    """Who joins goes on to follow."""

    def make_core(self) -> Core:
        core = super().make_core()
        self.is_following |= self.notary.validators.epoch > 0 and self.member not in self.world.founders()
        return core


class NeverTurns(EpochNode):
    """The shell keeps the core of the epoch that is over."""

    def turn(self) -> None:
        return


class LateAreLeftAlone(EpochNode):
    """Messages of other epochs are dropped, nothing is told, nothing asked for."""

    def other_epoch(self, sender: int, key: bytes, epoch: int) -> None:
        return

    def told(self, peer_id: str, height: int) -> None:
        return


class LateAreBlamed(EpochNode):
    """A message of another epoch is a fault of its sender."""

    def other_epoch(self, sender: int, key: bytes, epoch: int) -> None:
        raise PeerFault(str(sender), "consensus.vote.epoch")


class KeepsOldFinal(EpochNode):
    """The certificate that ended the last epoch counts as one of this."""

    def make_core(self) -> Core:
        core = super().make_core()
        stored = self.store.certificate(self.height)
        if stored is not None and core.final is None:
            core.final = decode(Certificate, stored)
        return core


class StartsInGenesisSet(EpochNode):
    """After a restart the set of the genesis file votes again."""

    def open_store(self) -> None:
        super().open_store()
        del self.notary.trust.sets[1:]


class TellsNoPath(EpochNode):
    """The headers between a boundary and its certificate are not kept."""

    def apply(
        self,
        header: Header,
        batches: tuple[bytes, ...],
        certificate: Certificate,
        path: tuple[bytes, ...] = (),
    ) -> None:
        super().apply(header, batches, certificate, ())


# ---------------------------------------------------------------------- the list


@dataclass(frozen=True, slots=True)
class EpochMutant:
    """A variant, the checkers of which one must complain, and where to look for it."""

    variant: Variant
    caught_by: tuple[str, ...]
    lossy: bool = False  # Final votes are lost, so that certificates name blocks of the tail
    crashes: bool = False  # outages of all, and slow execution
    lie: str = ""  # with a Byzantine member that lies like this
    away: bool = False  # one after the other is down for seconds
    seeds: int = 12


def _core(name: str, core: type[Core], *caught_by: str, **more: Any) -> EpochMutant:
    return EpochMutant(Variant(name, core=core, node=EpochNode), caught_by, **more)


def _shell(name: str, node: type[EpochNode], *caught_by: str, **more: Any) -> EpochMutant:
    return EpochMutant(Variant(name, node=node), caught_by, **more)


EPOCH_MUTANTS: Final = (
    _core("commits_above_the_boundary", CommitsTail, "Epochs", "Exception", lossy=True),
    _core("pending_not_delayed", PendingNotDelayed, "Alarms", "Epochs"),
    _core("next_set_not_checked", NextNotChecked, "Epochs", "Exception", lie="next"),
    _core("change_may_be_left_out", NextNotChecked, "Epochs", lie="leaves_out"),
    _core("change_never_in_a_header", ForgetsChange, "Epochs"),
    _core("ends_without_a_change", EndsWithoutChange, "Epochs", "Exception"),
    _core("tail_with_batches", TailWithBatches, "Tail", lossy=True),
    _shell("quorum_of_the_old_set", OldSetCounts, "Epochs", "Certificates", "PeerFault", "Exception"),
    _shell("half_of_the_next_set_is_enough", NewSetCountsWrongly, "Certificates"),
    _shell("promises_of_two_epochs_mixed", MixesPromises, "EpochPromises", "MembersOnly", away=True),
    _shell("later_promises_forgotten", ForgetsPromisesOfLaterEpochs, "EpochPromises", away=True),
    _shell("leaver_votes_on", LeaverVotesOn, "MembersOnly"),
    _shell("joiner_follows_on", JoinerFollowsOn, "EpochProgress"),
    _shell("never_turns", NeverTurns, "EpochProgress", "PeerFault"),
    _shell("late_are_left_alone", LateAreLeftAlone, "EpochProgress", away=True),
    _shell("late_are_blamed", LateAreBlamed, "PeerFault"),
    _shell("certificate_of_the_old_epoch_kept", KeepsOldFinal, "PeerFault", "Exception", "Progress"),
    _shell("genesis_set_after_a_restart", StartsInGenesisSet, "Epochs", "Exception", away=True),
    _shell("path_to_the_certificate_not_kept", TellsNoPath, "Exception", "Epochs", lossy=True),
)


def scenarios(mutant: EpochMutant) -> list[tuple[int, Scenario]]:
    """Seeds narrowed to what the mutant breaks: without Byzantine members, or with one that lies so."""
    found: list[tuple[int, Scenario]] = []
    seed = 0
    while len(found) < mutant.seeds:
        scenario = make_epochs(seed)
        if (scenario.twin is None) != bool(mutant.lie):
            scenario.lie = mutant.lie or scenario.lie
            scenario.faults_end_ms = min(scenario.faults_end_ms, 12_000)
            if mutant.lossy:
                scenario.faults = [Fault(at, "finals", 1_500, rate=0.5) for at in range(300, 11_000, 2_000)]
            if mutant.crashes:
                scenario.faults = [Fault(at, "outage", 100) for at in range(700, 11_000, 1_100)]
                scenario.execute_ms, scenario.batch_every_ms = 100, 60
            if mutant.away:
                scenario.faults = [
                    Fault(at, "crash", 2_500, (at // 1_500 % 7,), point="after_send")
                    for at in range(1_000, 11_000, 1_500)
                ]
            scenario.faults = [f for f in scenario.faults if f.at_ms < scenario.faults_end_ms]
            found.append((seed, scenario))
        seed += 1
    return found
