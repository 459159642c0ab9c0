"""`gridpact inspect`, `rollback`, `reset`: a stopped peer's stores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from node.cli.context import EXIT_ERROR, EXIT_OK, EXIT_USAGE, Failure, current
from node.cli.output import confirm, emit, emit_facts, say
from node.client.amounts import size_text, time_text

if TYPE_CHECKING:
    from node.home import Home
    from node.inspection import Inspection

_BLOCKS_MAX = 1_000_000


def inspect(*, blocks: int = 100) -> int:
    """Show what the home of a stopped peer holds, and check it.

    Exit code 1 when something is damaged.

    Args:
        blocks: How many of the newest blocks are checked: hashes, batches, receipts, roots, certificates.
    """
    from node.inspection import inspect_home

    if not 0 <= blocks <= _BLOCKS_MAX:
        raise Failure(EXIT_USAGE, f"--blocks: 0 to {_BLOCKS_MAX} wanted")
    home = current.home()
    found = inspect_home(home, home.read_genesis(), _validator(home), blocks)
    if current.output == "table":
        _show(found)
    else:
        emit(found)
    return EXIT_ERROR if found.damage else EXIT_OK


def rollback(*, blocks: int = 1) -> int:
    """Take the newest blocks back, so that the peer fetches and executes them again.

    The peer must be stopped, and must have stopped cleanly. The sign state stays as it is.

    Args:
        blocks: How many, at most 16.
    """
    from ledger.storage.rollback import roll_back
    from ledger.storage.store import Store

    home = current.home()
    genesis = home.read_genesis()
    kv = Store.open_raw(home.store_dir, genesis.chain_id, genesis.hash)
    try:
        tip = roll_back(kv, blocks, genesis.time_ms)
    finally:
        kv.close()
    say("Other peers must hold the blocks that were taken back: this one fetches them there.")
    facts = {"height": tip.height, "block_hash": tip.hash.hex(), "state_root": tip.root.hex()}
    emit_facts(facts, list(facts.items()))
    return EXIT_OK


def reset(*, artifacts: bool = False, yes: Annotated[bool, Parameter(name=["--yes", "-y"])] = False) -> int:
    """Remove the chain of a stopped peer; it fetches it anew. Keys, settings and sign state stay.

    Args:
        artifacts: Remove the artifacts, too.
        yes: Do not ask.
    """
    from node.config import load_settings
    from node.reset import check_memory, reset_home, stopped

    home = current.home()
    settings = load_settings(home.config_file, os.environ)
    check_memory(home, "validator" in settings.roles)
    with stopped(home):
        pass  # told before the question
    what = "the chain and the artifacts" if artifacts else "the chain"
    confirm(f"Remove {what} of {home.root}? It is fetched anew from other peers.", yes)
    removed = reset_home(home, artifacts=artifacts)
    emit([str(path) for path in removed], ("removed",), [(path,) for path in removed])
    return EXIT_OK


def _validator(home: Home) -> bytes | None:
    from node.config import load_settings

    settings = load_settings(home.config_file, os.environ)
    return home.validator_key().public if "validator" in settings.roles else None


def _show(found: Inspection) -> None:
    state = found.sign_state
    votes = "none" if state is None else (
        f"highest views: notar {state.notar}, skip {state.skip}, final {state.final}; "
        f"forgotten up to {state.floor}"
    )  # fmt: skip
    facts: list[tuple[str, object]] = [
        ("chain", f"{found.chain_id}, genesis {found.genesis}"),
        ("format", found.format),
        ("height", f"{found.height}, view {found.view}, block time {time_text(found.block_time_ms)} UTC"),
        ("block", found.block_hash),
        ("state root", found.state_root),
        ("epoch", found.epoch),
        ("blocks held", f"from height {found.first_height} on; {found.kept_blocks} older ones for audits"),
        ("can roll back", f"{found.rollback_blocks} blocks"),
        ("sign state", votes),
        ("torn logs", ", ".join(f"{store} {count}" for store, count in found.torn_logs.items())),
    ]
    facts += [(f"final {c.height}", f"view {c.view}, by {', '.join(c.signers)}") for c in found.certificates]
    facts += [(name, size_text(size)) for name, size in found.sizes.items() if size]
    facts.append(("checked", f"heights {found.checked_from} to {found.height}"))
    facts += [("damaged", problem) for problem in found.damage] or [("damage", "none found")]
    emit_facts(found, facts)
