"""A validator's consensus core, made from its copy of the notary and its key, and what it hears of it."""

from __future__ import annotations

from consensus.chain import Chain
from consensus.core import Config, Core
from consensus.messages import Executed
from consensus.state import Change
from consensus.timers import Timing
from ledger.blocks import decode_header
from ledger.codec import decode
from ledger.epochs import pending_hash
from ledger.genesis import ConsensusParameters
from ledger.keys import Key
from ledger.limits import RECENT_ROOTS
from ledger.machine import next_due_ms
from ledger.proofs.certificate import Certificate
from ledger.storage.store import Store
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
    """The core of member `me` at the notary's tip. Votes of an earlier run are to be restored before it
    starts."""
    chain_id = notary.genesis.chain_id
    config = Config(
        chain_id=chain_id,
        validators=notary.validators,
        me=me,
        timing=timing_of(notary.genesis.consensus),
        scheme=notary.scheme,
        sign=lambda domain, message: key.sign(domain, chain_id, message),
    )
    return core_at(notary, config)


def core_at(notary: Notary, config: Config, kind: type[Core] = Core) -> Core:
    """A core at the notary's tip, of the epoch that begins or goes on there."""
    store = notary.store
    tip, header = store.tip, notary.tip_header()
    stored = store.certificate(tip.height)
    final = decode(Certificate, stored) if stored else None
    chain = Chain(header, tip.hash)
    if final is not None and final.statement.epoch != config.validators.epoch:
        final = None  # the tip ended the epoch before
        above = [decode_header(data) for data in store.epochs.tail(header)]
        chain.recent = {block.hash: block for block in above}  # for who still wants to make it final
    roots, due_ms = notary.recent_roots(RECENT_ROOTS), next_due_ms(store.state)
    return kind(config, chain, roots, final, change_of(store), due_ms=due_ms)


def change_of(store: Store) -> Change | None:
    """[12] The change of validators that is pending at the tip, and since which height; None: there is none.

    The height stands in no record: it is that of the block with the event, a few blocks back. When that is
    not held, it counts as pending since ever: blocks that tell otherwise are skipped here, which harms
    nobody.
    """
    next_validators = pending_hash(store.state)
    if next_validators is None:
        return None
    tip = store.tip.height
    for height in range(tip, max(tip - RECENT_ROOTS, store.first_height - 1), -1):
        events = (event for receipt in store.receipts(height) for event in receipt.events)
        if any(event.kind == "validators.pending" for event in events):
            return Change(height, next_validators)
    return Change(0, next_validators)


def executed(store: Store, height: int, root: bytes) -> Executed:
    """The event for a block that was just executed, or a few blocks ago."""
    change = change_of(store)
    next_validators = change.next_validators if change is not None and change.since <= height else None
    return Executed(height, root, next_due_ms(store.state), next_validators)
