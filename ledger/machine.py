"""The state machine: from a state and a block to receipts, events and changes. Pure and deterministic.

[T1] Window. A transaction counts in a block of height h when h <= expires <= h + EXPIRY_BLOCKS_MAX, its
     chain is ours, its sender signed it, and its id was not executed before. Any other is skipped:
     no effect, no receipt, nothing recorded. (A receipt would let a late or forged copy of a
     transaction overwrite the receipt of the real one; batches of two validators may overlap.)
[T2] A transaction that counts is recorded under `seen/` until it expires, with the rule that refused it
     or "" when it was applied; so its id never counts again. (Not under the state root: see
     ledger.storage.chain.UNPROVED_PREFIXES.)
[T3] A refused transaction changes nothing else. An applied one is applied whole.
[T4] Order in a block: time missed since its parent is noted (O1); timed work due at the header's time,
     oldest first, bounded (W1); then the transactions; then ids whose window has passed are forgotten; a
     block that ends its epoch puts the pending validator set in force at last (V4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from ledger import epochs
from ledger import transactions as t
from ledger.blocks import Header
from ledger.errors import LocalError, Refused
from ledger.limits import (
    BLOCK_TXS_MAX,
    DETAIL_CHARS_MAX,
    DUE_SLOTS_PER_BLOCK_MAX,
    EXPIRY_BLOCKS_MAX,
    SEEN_PRUNED_PER_BLOCK_MAX,
)
from ledger.outcome import BlockResult, Event, Receipt, Skipped
from ledger.records import be, due_parts, key_seen
from ledger.state import Overlay, Reader, State
from ledger.transactions import CheckedTx, Tx, VerifiedTx, verified
from ledger.transition import (
    approvals,
    capacity,
    claims,
    contracts,
    copies,
    deployments,
    disputes,
    funds,
    leases,
    money,
    organisations,
    outage,
    reports,
    standing,
    timed,
    updates,
    validators,
    vault,
)
from ledger.transition.env import Env

_SEEN: Final = b"seen/"

_HANDLERS: Final[dict[type[Any], Callable[[Env, Any], None]]] = {
    t.Transfer: money.transfer,
    t.PublishContract: contracts.publish,
    t.MarkContract: contracts.mark,
    t.RegisterFarm: capacity.register_farm,
    t.RegisterNode: capacity.register_node,
    t.PostOffer: capacity.post_offer,
    t.WithdrawOffer: capacity.withdraw_offer,
    t.CertifyNode: standing.certify_node,
    t.UncertifyNode: standing.uncertify_node,
    t.CertifyFarm: standing.certify_farm,
    t.UncertifyFarm: standing.uncertify_farm,
    t.DrainNode: standing.drain_node,
    t.OrderDeployment: deployments.order,
    t.Decide: approvals.decide,
    t.CancelDeployment: deployments.cancel,
    t.TopUp: funds.top_up,
    t.ExtendDeployment: funds.extend,
    t.UpdateDeployment: updates.update,
    t.SteerUpdate: updates.steer,
    t.OpenDispute: disputes.open_dispute,
    t.CloseDispute: disputes.close_dispute,
    t.Claim: claims.claim,
    t.Renew: leases.renew,
    t.Report: reports.report,
    t.RecordCopies: copies.record_copies,
    t.PutVault: vault.put_vault,
    t.ActOrganisation: organisations.act,
    t.ReportEvidence: validators.report_evidence,
    t.ChangeValidators: validators.change_validators,
}


class Context(msgspec.Struct, frozen=True):
    """The block in which a transaction runs. `seed`: the parent block's hash, for selections."""

    chain_id: str
    height: int
    time_ms: int
    seed: bytes

    @classmethod
    def of(cls, header: Header) -> Context:
        """The context of a block's transactions."""
        return cls(header.chain_id, header.height, header.time_ms, header.parent_hash)


def check_window(tx: Tx, context: Context) -> None:
    """[T1] Raises Refused("tx.foreign_chain" | "tx.expired" | "tx.expires_too_far")."""
    if tx.chain_id != context.chain_id:
        raise Refused("tx.foreign_chain", f"chain {tx.chain_id!r}, here {context.chain_id!r}", "chain_id")
    if tx.expires < context.height:
        raise Refused("tx.expired", f"expired at height {tx.expires}, now {context.height}", "expires")
    if tx.expires > context.height + EXPIRY_BLOCKS_MAX:
        latest = context.height + EXPIRY_BLOCKS_MAX
        raise Refused("tx.expires_too_far", f"{tx.expires}, at most {latest} now", "expires")


def apply(state: State, tx: VerifiedTx, context: Context) -> Receipt:
    """Execute one transaction on `state` and return its receipt.

    Raises Refused when it does not count in this block at all (T1; `state` is untouched), LocalError
    when our own rules are broken. To try a transaction out, apply it to an `Overlay` and drop that.
    """
    if not isinstance(tx, VerifiedTx):
        raise LocalError("apply takes verified transactions only")
    check_window(tx.tx, context)
    seen = key_seen(tx.tx.expires, tx.id)
    if state.get(seen) is not None:
        raise Refused("tx.duplicate", "already executed")
    overlay = Overlay(state)
    env = _env(overlay, context, tx.tx.sender, tx.id)
    try:
        _HANDLERS[type(tx.tx.body)](env, tx.tx.body)
    except Refused as error:
        state.put(seen, error.rule.encode())
        return Receipt(tx.id, False, error.rule, _detail(error), (), tuple(env.deployments))
    except LocalError:
        raise
    except Exception as error:
        raise LocalError(f"transaction {tx.id.hex()} broke the state machine: {error!r}") from error
    overlay.commit(state)
    state.put(seen, b"")
    return Receipt(tx.id, True, "", "", tuple(env.events), tuple(env.deployments))


def _env(overlay: Overlay, context: Context, sender: bytes = b"", tx_id: bytes = b"") -> Env:
    return Env(
        overlay,
        chain_id=context.chain_id,
        height=context.height,
        time_ms=context.time_ms,
        seed=context.seed,
        sender=sender,
        tx_id=tx_id,
    )


def _detail(error: Refused) -> str:
    text = f"{error.field}: {error.detail}" if error.field else error.detail
    return text[:DETAIL_CHARS_MAX]


def execute(state: Reader, header: Header, txs: Sequence[CheckedTx], parent_ms: int) -> BlockResult:
    """Execute a final block over `state`, which is only read; the caller commits `changes`.

    `txs` in block order; those that are not VerifiedTx yet are verified here. `parent_ms`: the parent
    block's time (genesis' for the first). Raises LocalError when our own rules are broken: then the
    process must stop.
    """
    if len(txs) > BLOCK_TXS_MAX:
        raise LocalError(f"{len(txs)} transactions in a block: the limit is checked before voting")
    context = Context.of(header)
    block = Overlay(state)
    events = outage.note_gap(block, header.time_ms, parent_ms)
    events += _run_timed(block, context)
    receipts: list[Receipt] = []
    skipped: list[Skipped] = []
    for tx in txs:
        try:
            receipt = apply(block, verified(tx), context)
        except Refused as error:
            skipped.append(Skipped(tx.id, error.rule))
            continue
        receipts.append(receipt)
        events.extend(receipt.events)
    _forget(block, header.height)
    if epochs.is_ending(header):
        events.append(epochs.turn(block, header))
    return BlockResult(tuple(receipts), tuple(events), block.changes(), tuple(skipped))


def next_due_ms(state: Reader) -> int | None:
    """When the next timed work is due, or None: a leader with nothing else to propose waits no longer."""
    first = next(state.scan(timed.DUE_PREFIX, limit=1), None)
    return None if first is None else due_parts(first[0])[0]


def _run_timed(block: Overlay, context: Context) -> list[Event]:
    """[T4] [W1] The timed work of this block."""
    events: list[Event] = []
    slots = 0
    for key in timed.due_keys(_env(block, context)):
        if slots >= DUE_SLOTS_PER_BLOCK_MAX:
            break
        if block.get(key) is None:
            continue  # an entry before it ended what this one was for
        overlay = Overlay(block)
        env = _env(overlay, context)
        try:
            slots += timed.run_entry(env, key)
        except LocalError:
            raise
        except Exception as error:
            raise LocalError(f"timed work {key!r} broke the state machine: {error!r}") from error
        overlay.commit(block)
        events.extend(env.events)
    return events


def _forget(block: Overlay, height: int) -> None:
    """[T4] Drop replay ids that no later block could accept: all that expire at or before `height`."""
    past: list[bytes] = []
    for key, _ in block.scan(_SEEN, limit=SEEN_PRUNED_PER_BLOCK_MAX):
        if key >= _SEEN + be(height + 1):
            break
        past.append(key)
    for key in past:
        block.delete(key)
