"""`python -m tests.sim.epochs --seeds 20`: networks whose validator set changes under all faults (rule 12).

A world of the simulator in which some nodes are validators at the beginning and others follow. Every few
seconds, and once more when the faults are over, a governor has a quorum of the current members sign the next
set: members join, leave, change weight and place. Nobody is a member for ever, and who was down meanwhile
comes back in an epoch that is over.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from random import Random
from typing import Any, Final

from consensus.core import Core
from ledger import epochs, keys
from ledger.codec import encode
from ledger.limits import EXPIRY_BLOCKS_DEFAULT
from ledger.proofs.certificate import Validator, ValidatorSet
from ledger.proofs.quorum import tolerated, weight_of
from ledger.records import key_offence
from ledger.transactions import ChangeValidators, Tx, decode_tx, sign_tx
from tests.sim.bounds import Memory
from tests.sim.checkers import Checker, Progress, Promises
from tests.sim.clients import Pending
from tests.sim.command import run_seeds
from tests.sim.epoch_checkers import (
    EpochMemory,
    EpochOffences,
    EpochProgress,
    EpochPromises,
    Epochs,
    MembersOnly,
    Tail,
)
from tests.sim.epoch_liars import EPOCH_LIARS
from tests.sim.epoch_node import EpochNode
from tests.sim.faults import Faults
from tests.sim.node import SimNode
from tests.sim.offences import Offences
from tests.sim.scenario import Fault, Scenario, make
from tests.sim.world import Result, Variant, World

NODES: Final = 7
GOVERN_MS: Final = (500, 4_000)  # from one change of the set to the next
TRIES: Final = 60
FINAL_VOTE: Final = b"\x94\xa4vote\x94\x03"  # how an encoded Final vote begins


PRODUCTION: Final = Variant(node=EpochNode)


class EpochFaults(Faults):
    """No more weight fails at a time than the sets that are in force, or about to be, tolerate."""

    world: EpochWorld

    def send(self, node: SimNode, to: int | None, data: bytes) -> None:
        """See Faults. With "finals" most Final votes are lost: what is notarized grows before it is final, so
        that certificates name blocks above a boundary."""
        if data.startswith(FINAL_VOTE):
            for fault in self.active:
                if fault.kind == "finals" and self.world.rng.random() < fault.rate:
                    return
        super().send(node, to, data)

    def may_fail(self, node: SimNode) -> bool:
        """See Faults. Who follows is not down."""
        return self.tolerates(self.down() | {node.member})

    def down(self) -> set[int]:
        """Members that would not vote now if they had a seat."""
        waiting = {
            n.member for n in self.world.nodes if n.is_waiting and not getattr(n, "is_following", False)
        }
        return self.failed() | waiting | self.jumped

    def tolerates(self, faulty: set[int]) -> bool:
        """May these members fail at the same time?"""
        return all(self.world.tolerated_by(members, faulty) for members in self.world.live_sets())


class EpochWorld(World):
    """See the module. `sets`: of each epoch that an honest node has seen end or begin."""

    def __init__(self, seed: int, variant: Variant = PRODUCTION, **more: Any) -> None:
        scenario = more.pop("scenario", None) or make_epochs(seed)
        super().__init__(seed, variant, scenario, **more)
        self.governor = Random(f"governor/{seed}")
        self.sets: dict[int, ValidatorSet] = {}
        self.proposed: ValidatorSet | None = None
        self.change_id = b""
        self.awaited = 0  # the epoch that all must reach at the end; 0: not proposed yet

    # ------------------------------------------------------------------ building

    def build(self) -> None:
        """See World; then numbers for keys."""
        count = len(self.scenario.weights)
        own = [keys.Key(bytes([1, i]) * 16) for i in range(count)]
        self.key_of = dict(enumerate(own))
        self.number_of = {key.public: i for i, key in self.key_of.items()}
        self.founding = ValidatorSet(0, ())  # set by the first node that is built
        super().build()
        self.faults = EpochFaults(self)
        everybody = zip(own, self.scenario.weights, strict=True)
        self.validators = ValidatorSet(
            0, tuple(Validator(k.public, w, f"v{i}") for i, (k, w) in enumerate(everybody))
        )

    def core_of(self, node: SimNode) -> type[Core]:
        """See World."""
        lies = EPOCH_LIARS.get(self.scenario.lie)
        return super().core_of(node) if node.is_honest or lies is None else lies

    def _make_nodes(self, own: list[keys.Key]) -> None:
        self.founding = self.sets[0] = self.validators
        super()._make_nodes(own)

    def founders(self) -> tuple[int, ...]:
        """Four or more whose faulty ones are tolerated."""
        rng, weights = Random(f"founders/{self.result.seed}"), self.scenario.weights
        for _ in range(TRIES):
            chosen = sorted(rng.sample(range(len(weights)), rng.randint(4, len(weights) - 1)))
            faulty = {m for m in chosen if m == self.scenario.twin or m in self.scenario.always_down}
            total = sum(weights[m] for m in chosen)
            if weight_of(faulty, weights) <= tolerated(total):
                return tuple(chosen)
        return tuple(range(len(weights)))

    def checker_kinds(self) -> tuple[type[Checker], ...]:
        """The same judges, those that speak of a set by epochs."""
        own = {
            Promises: EpochPromises,
            Progress: EpochProgress,
            Offences: EpochOffences,
            Memory: EpochMemory,
        }
        return (Epochs, MembersOnly, Tail, *(own.get(kind, kind) for kind in super().checker_kinds()))

    def seats(self, epoch: int) -> list[tuple[int, int]]:
        """See World."""
        found = self.sets.get(epoch)
        return [(self.number_of[m.key], m.weight) for m in found.members] if found else []

    @property
    def heal_bound_ms(self) -> int:
        """As much again for the change at the end."""
        return 2 * super().heal_bound_ms

    # ------------------------------------------------------------------ faults that a set bears

    def live_sets(self) -> list[ValidatorSet]:
        """In force at honest nodes or in a transaction under way; those that ended long ago left out."""
        newest = max(node.notary.validators.epoch for node in self.honest())
        found = [s for epoch, s in self.sets.items() if epoch >= newest - 1]
        return found if self.proposed is None else [*found, self.proposed]

    def tolerated_by(self, members: ValidatorSet, faulty: set[int]) -> bool:
        """Is the weight of the faulty ones below a third?"""
        weight = sum(m.weight for m in members.members if self.number_of[m.key] in faulty)
        return weight <= tolerated(members.total)

    # ------------------------------------------------------------------ the governor

    def schedule(self) -> None:
        """See World."""
        super().schedule()
        self.at(self.governor.randint(*GOVERN_MS) * 1_000, None, self._govern)

    def _heal(self) -> None:
        super()._heal()
        self.at(self.now_us + 500_000, None, self._last_change)

    def _govern(self) -> None:
        if not self.calm:
            self._change()
            self.at(self.now_us + self.governor.randint(*GOVERN_MS) * 1_000, None, self._govern)

    def _last_change(self) -> None:
        """When one is under way already, wait for it."""
        proposed = self._change()
        if proposed is None:
            self.at(self.now_us + 300_000, None, self._last_change)
        else:
            self.awaited = proposed.epoch

    def _change(self) -> ValidatorSet | None:
        """Propose the next set, by a transaction that clients hand in until it is final."""
        source = max((n for n in self.honest() if n.up), key=lambda n: n.height, default=None)
        if source is None or epochs.pending(source.store.state) is not None:
            return None
        now = source.notary.validators
        under_way = self.proposed is not None and self.proposed.epoch > now.epoch
        if under_way and self.change_id in self.clients.pending:
            return None
        next_ = self._candidate(source, now)
        if next_ is None:
            return None
        self.proposed = next_
        data, until_ms = encode(next_), source.notary.store.tip.time_ms + 3_600_000
        places = list(range(len(now.members)))
        self.governor.shuffle(places)
        while len(places) > 1 and now.reached(places[1:]):
            places.pop(0)
        signatures = tuple(
            (i, epochs.sign_change(self._key_at(now, i), self.chain_id, data, until_ms))
            for i in sorted(places)
        )
        sender, salt = self.clients.keys[0], self.governor.randbytes(12)
        expires = source.height + EXPIRY_BLOCKS_DEFAULT
        tx = Tx(self.chain_id, sender.public, expires, salt, ChangeValidators(data, until_ms, signatures))
        self._hand_in(sign_tx(sender, tx))
        self.result.faults["epoch.proposed"] += 1
        return next_

    def _key_at(self, now: ValidatorSet, place: int) -> keys.Key:
        return self.key_of[self.number_of[now.members[place].key]]

    def _hand_in(self, raw: bytes) -> None:
        tx, clients = decode_tx(raw, self.chain_id), self.clients
        self.change_id = tx.id
        clients.pending[tx.id] = Pending(raw, tx.tx.expires, self.now_us)
        self.at(self.now_us, None, clients._again, tx.id)

    def _candidate(self, source: SimNode, now: ValidatorSet) -> ValidatorSet | None:
        """Another set that bears the faulty members which it has."""
        rng, state = self.governor, source.store.state
        faulty = self.faults.down() | set(self.scenario.always_down)
        able = [m for m, key in self.key_of.items() if state.get(key_offence(key.public)) is None]
        for _ in range(TRIES):
            chosen = rng.sample(able, rng.randint(min(4, len(able)), len(able)))
            if rng.random() < 0.5:  # those that stay keep their order, as people would write it
                chosen.sort()
            even = rng.random() < 0.5
            members = tuple(
                Validator(self.key_of[m].public, 1 if even else rng.randint(1, 4), f"v{m}") for m in chosen
            )
            found = ValidatorSet(now.epoch + 1, members)
            if members != now.members and self.tolerated_by(found, faulty):
                return found
        return None

    def leaves(self, node: EpochNode) -> None:
        """A node has no seat any more: what waits with it goes to others, as by `node.outbox`."""
        self.result.faults["epoch.left"] += 1
        self.offences.crashed(node)
        up = self.clients._up()
        for tx in node.mempool.hand_over():
            if up:
                self.clients.give(self.rng.choice(up), tx.id, tx.raw)


def make_epochs(seed: int) -> Scenario:
    """The scenario of a seed, with seven nodes."""
    scenario, rng = make(seed), Random(f"epochs/{seed}")
    more = NODES - len(scenario.weights)
    scenario.weights += tuple(rng.randint(1, 3) for _ in range(more))
    scenario.rates_ppm += tuple(1_000_000 + rng.randint(-10_000, 10_000) for _ in range(more))
    scenario.wall_offsets_ms += tuple(rng.randint(-300, 300) for _ in range(more))
    scenario.faults_end_ms = min(scenario.faults_end_ms, 20_000)
    early = [fault for fault in scenario.faults if fault.at_ms < scenario.faults_end_ms]
    scenario.faults = [_widened(rng, fault, more) for fault in early]
    if rng.random() < 0.6:
        scenario.lie = rng.choice(tuple(EPOCH_LIARS))
    if rng.random() < 0.5:
        ends_ms = scenario.faults_end_ms
        scenario.faults += [Fault(at, "finals", 2_500, rate=0.5) for at in range(1_500, ends_ms, 6_000)]
    return scenario


def _widened(rng: Random, fault: Fault, more: int) -> Fault:
    """The same fault of a larger network; some crashes come where an epoch turns."""
    if fault.kind == "islands":
        return replace(fault, who=fault.who + tuple(rng.choice(fault.who) for _ in range(more)))
    if fault.kind == "crash" and rng.random() < 0.3:
        return replace(fault, point="at_turn")
    return fault


def run(seed: int, variant: Variant = PRODUCTION, ed25519: bool = False) -> Result:
    """One seed, start to finish."""
    return EpochWorld(seed, variant, ed25519=ed25519).run()


def main(argv: list[str]) -> int:
    """Exit code 1 on a violation."""
    return run_seeds("tests.sim.epochs", __doc__, EpochWorld, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
