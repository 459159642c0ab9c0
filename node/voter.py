"""The consensus core of a validator, made from its copy of the notary and its key."""

from __future__ import annotations

from consensus.chain import Chain
from consensus.core import Config, Core
from consensus.timers import Timing
from ledger.certificate import Certificate
from ledger.codec import decode
from ledger.genesis import ConsensusParameters
from ledger.keys import Key
from ledger.limits import RECENT_ROOTS
from node.notary import Notary


def timing_of(parameters: ConsensusParameters) -> Timing:
    """The core's timers from the genesis parameters (growth there is per cent above 100)."""
    return Timing(
        view_timeout_ms=parameters.view_timeout_ms,
        alpha_percent=100 + parameters.alpha_percent,
        timeout_max_ms=parameters.view_timeout_max_ms,
        idle_ms=parameters.idle_ms,
        standstill_ms=parameters.idle_ms + parameters.view_timeout_ms,
    )


def make_core(notary: Notary, key: Key, me: int) -> Core:
    """A core at the notary's tip. Votes of an earlier run are to be restored before it starts."""
    chain_id = notary.genesis.chain_id
    config = Config(
        chain_id=chain_id,
        validators=notary.validators,
        me=me,
        timing=timing_of(notary.genesis.consensus),
        scheme=notary.scheme,
        sign=lambda domain, message: key.sign(domain, chain_id, message),
    )
    tip = notary.store.tip
    stored = notary.store.certificate(tip.height)
    final = decode(Certificate, stored) if stored else None
    chain = Chain(notary.tip_header(), tip.hash)
    return Core(config, chain, notary.recent_roots(RECENT_ROOTS), final)
