"""How a peer looks from outside: its status for people and probes, its metrics for machines."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from ledger.records import key_offence
from node.limits import BEHIND_BLOCKS_MAX
from node.seam import PeerStatus
from node.sync.repair import NO_CHANCE

if TYPE_CHECKING:
    from node.peer import Peer

Metric = tuple[str, dict[str, str], float, str]


def status_of(peer: Peer) -> PeerStatus:
    """A snapshot. See PeerSeam.status."""
    tip = peer.store.tip
    best = peer.follower.best_height
    engine = peer.engine
    return PeerStatus(
        chain_id=peer.chain_id,
        moniker=peer.identity.moniker,
        roles=peer.identity.roles,
        peer_id=peer.network.peer_id,
        addresses=peer.network.addresses(),
        version=version("gridpact"),
        height=tip.height,
        first_height=peer.store.first_height,
        block_time_ms=tip.time_ms,
        block_hash=tip.hash.hex(),
        state_root=tip.root.hex(),
        view=engine.core.frontier if engine else 0,
        catching_up=best > tip.height + BEHIND_BLOCKS_MAX or _is_stale(peer),
        best_height=best,
        last_final_ms=peer.last_final_ms,
        neighbours=len(peer.network.neighbours()),
        validators_connected=len(peer.handlers.members),
        mempool_txs=peer.mempool.tx_count if engine else len(peer.outbox.entries),
        mempool_bytes=peer.mempool.size_bytes,
        started_ms=peer.started_ms,
        alarms=_alarms(peer),
        sync=_sync(peer),
        sync_height=peer.state_sync.target,
        sync_share=peer.state_sync.share,
        stale=_is_stale(peer),
    )


def _is_stale(peer: Peer) -> bool:
    """Is what is read here known not to be what the validators signed, or no longer followed?"""
    return peer.notary.differs > 0 or peer.follower.off_chain


def _sync(peer: Peer) -> str:
    """How the peer follows the chain now."""
    if peer.follower.off_chain:
        return "stopped"
    phase = peer.state_sync.phase or peer.repair.phase
    if peer.notary.differs:
        return "stopped" if peer.repair.gave_up else f"mending: {phase or 'waiting'}"
    return f"state: {phase}" if phase else "blocks"


def _alarms(peer: Peer) -> tuple[str, ...]:
    ours: tuple[str, ...] = ("state_root_differs",) if peer.notary.wrong_roots else ()
    if peer.repair.gave_up:
        ours = (*ours, NO_CHANCE)
    if peer.follower.off_chain:
        ours = (*ours, "final_off_chain")
    if peer.follower.is_too_old:
        ours = (*ours, "blocks_gone")
    return (*ours, *peer.engine.counters.alarms) if peer.engine else ours


def _suspended(peer: Peer) -> int:
    """How many validators in force have an offence on the ledger."""
    return sum(peer.state.get(key_offence(v.key)) is not None for v in peer.validators.members)


def _admission(peer: Peer) -> list[Metric]:
    """What waits for a batch here, how fast batches become final, and what was not taken."""
    pool = peer.mempool
    rows: list[Metric] = [
        ("mempool_pending_txs", {}, len(pool.pending), "gauge"),
        ("mempool_pending_bytes", {}, pool.pending.size_bytes, "gauge"),
        ("mempool_pending_clients", {}, pool.pending.source_count, "gauge"),
    ]
    rows += [("mempool_refused_total", {"why": why}, n, "counter") for why, n in pool.refused.items()]
    if pool.pace is not None:
        pace = pool.pace
        rows.append(("mempool_wait_seconds", {}, pace.wait_ms(pool.pending.cost) / 1000, "gauge"))
        rows.append(("mempool_window_bytes", {}, pace.window_bytes, "gauge"))
        rows.append(("mempool_under_way_bytes", {}, pace.under_way_bytes, "gauge"))
        rows.append(("mempool_batch_final_seconds", {}, pace.last_ms / 1000, "gauge"))
    return rows


def metrics_of(peer: Peer) -> list[Metric]:
    """See PeerSeam.metrics. Names follow cometbft where there is one."""
    tip = peer.store.tip
    rows: list[Metric] = [
        ("consensus_height", {}, tip.height, "gauge"),
        ("consensus_latest_block_age_seconds", {}, max(0.0, time.time() - tip.time_ms / 1000), "gauge"),
        ("consensus_validators", {}, len(peer.validators.members), "gauge"),
        ("consensus_byzantine_validators", {}, _suspended(peer), "gauge"),
        ("p2p_peers", {}, len(peer.network.neighbours()), "gauge"),
        ("mempool_txs", {}, peer.mempool.tx_count, "gauge"),
        ("mempool_size_bytes", {}, peer.mempool.size_bytes, "gauge"),
        ("sync_blocks_fetched_total", {}, peer.follower.fetched_blocks, "counter"),
        ("sync_lies_total", {}, peer.follower.lies, "counter"),
        ("state_root_differs_total", {}, peer.notary.wrong_roots, "counter"),
        ("state_mended_total", {}, peer.repair.done, "counter"),
        ("state_stale", {}, int(_is_stale(peer)), "gauge"),
        ("sync_pieces_hedged_total", {}, peer.follower.plan.hedged, "counter"),
        ("sync_groups_total", {}, peer.follower.groups, "counter"),
        ("outbox_txs", {}, len(peer.outbox.entries), "gauge"),
    ]
    rows += [("p2p_events_total", {"kind": k}, v, "counter") for k, v in peer.network.stats().items()]
    rows += [("refused_total", {"rule": k}, v, "counter") for k, v in peer.handlers.refused.items()]
    rows += [("ledger_refused_total", {"rule": k}, v, "counter") for k, v in peer.refused_final.items()]
    rows += _admission(peer)
    rows += [row for source in peer.sources for row in source()]
    if peer.engine is not None:
        counters = peer.engine.counters
        rows.append(("consensus_view", {}, peer.engine.core.frontier, "gauge"))
        duplicates = peer.engine.core.watch.duplicates
        rows.append(("consensus_duplicate_vote_total", {}, duplicates, "counter"))
        for key, view in peer.engine.roll_call.last_views.items():
            rows.append(("consensus_validator_last_vote_view", {"key": key.hex()}, view, "gauge"))
        rows.append(("consensus_steps_total", {}, counters.steps, "counter"))
        rows.append(("consensus_dropped_total", {}, counters.dropped, "counter"))
        rows.append(("consensus_messages_sent_total", {}, counters.sent, "counter"))
        rows.append(("consensus_messages_received_total", {}, counters.received, "counter"))
        rows += [("consensus_faults_total", {"rule": k}, v, "counter") for k, v in counters.faults.items()]
        rows += [("consensus_alarms_total", {"rule": k}, v, "counter") for k, v in counters.alarms.items()]
    return rows
