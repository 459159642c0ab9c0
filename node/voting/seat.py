"""The seat of a validator key: an engine for each epoch whose set has the key, none in others (rule 12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from ledger.keys import Key
from ledger.proofs.certificate import ValidatorSet
from node.notary import Notary
from node.voting.engine import Engine
from node.voting.former_epoch import FormerEpoch
from node.voting.mempool import Mempool
from node.voting.safety_store import SafetyStore
from p2p.network import Network

log = structlog.get_logger("seat")


@dataclass(slots=True)
class Seat:
    """See the module. `key` and `safety` are None for a peer that never votes; `on_other_epoch`: see
    Engine."""

    notary: Notary
    mempool: Mempool
    network: Network
    key: Key | None
    safety: SafetyStore | None
    on_other_epoch: Callable[[str, int], None]
    stopped: bool = False  # our state is not to be trusted: no votes
    engine: Engine | None = field(init=False)
    _members: ValidatorSet = field(init=False)

    def __post_init__(self) -> None:
        self._members = self.notary.validators
        self.engine = self._make(None)

    @property
    def has_turned(self) -> bool:
        """Has the notary come to another epoch since `turn`?"""
        return self.notary.validators.epoch != self._members.epoch

    def turn(self) -> None:
        """The next epoch has begun: `engine` is another one, or None. What waits in the mempool stays."""
        before, self._members = self._members, self.notary.validators
        places = {i: self._members.index(member.key) for i, member in enumerate(before.members)}
        self.mempool.renumber({i: place for i, place in places.items() if place is not None})
        was = self.engine
        self.engine = self._make(was)
        if (was is None) != (self.engine is None):
            log.info("seat_taken" if was is None else "seat_left", epoch=self._members.epoch)

    def _make(self, before: Engine | None) -> Engine | None:
        if self.key is None or self.safety is None or self.stopped:
            return None
        me = self._members.index(self.key.public)
        if me is None:
            log.warning("not_in_validator_set", key=self.key.public.hex(), epoch=self._members.epoch)
            return None
        engine = Engine(
            self.notary, self.mempool, self.safety, self.network, self.key, me, self.on_other_epoch
        )
        if before is not None:  # what it counted, and offences not yet on the ledger
            engine.counters, engine.roll_call = before.counters, before.roll_call
            engine.accuser.cases.update(before.accuser.cases)
            is_next = before.core.config.validators.epoch == self._members.epoch - 1
            engine.former = FormerEpoch.of(before.core) if is_next else None
        return engine
