"""`gridpact status`: what a running peer says of itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from node.cli.context import current
from node.cli.output import emit_facts
from node.client.amounts import size_text, span_text, time_text

if TYPE_CHECKING:
    from node.api.models import Status


def status() -> int:
    """Show the peer's status."""
    found = current.client().status()
    now_ms = time.time_ns() // 1_000_000
    final = (
        span_text(max(0, now_ms - found.last_final_ms)) + " ago" if found.last_final_ms else "none seen yet"
    )
    emit_facts(
        found,
        (
            ("chain", found.chain_id),
            ("peer", f"{found.moniker} ({', '.join([*found.roles, 'observer'])})"),
            ("peer id", found.peer_id),
            ("addresses", " ".join(found.addresses)),
            ("state", "ready" if found.ready else f"not ready: {found.not_ready}"),
            (
                "height",
                f"{found.height} of {found.best_height}, block time {time_text(found.block_time_ms)} UTC",
            ),
            ("sync", _sync_text(found)),
            ("blocks held", f"from height {found.first_height} on"),
            ("last final block", final),
            ("block", found.block_hash),
            ("state root", found.state_root),
            (
                "neighbours",
                f"{found.neighbours}, {found.validators_connected} of {found.validators} validators",
            ),
            ("waiting", f"{found.mempool_txs} transactions, {size_text(found.mempool_bytes)}"),
            ("alarms", ", ".join(found.alarms) or "none"),
            ("up for", span_text(max(0, now_ms - found.started_ms))),
        ),
    )
    return 0


def _sync_text(found: Status) -> str:
    text = found.sync
    if found.sync_height:
        text += f", {found.sync_share:.0%} of the state of height {found.sync_height}"
    return f"{text}; what is read here is stale" if found.stale else text
