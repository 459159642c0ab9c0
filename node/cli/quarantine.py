"""`gridpact node quarantine` and `node release`: what the home's node runs no more, and letting it go."""

from __future__ import annotations

from node.cli.context import EXIT_ERROR, EXIT_USAGE, Failure, current
from node.cli.output import emit, say
from node.client.amounts import time_text
from node.executor.errors import ExecutorError
from node.executor.quarantine import Held, Quarantine


def quarantine() -> int:
    """List the manifests that the home's node runs no more, since their bytes drifted on this host."""
    held = _all()
    rows = [(one.manifest, one.slot, time_text(one.time_ms), one.detail) for one in held]
    emit(held, ("manifest", "slot", "since", "what differed"), rows)
    return 0


def release(manifest: str, /) -> int:
    """Let the home's node run a quarantined manifest again. Find out first who changed what.

    Args:
        manifest: Its digest in hex, or the beginning of it.
    """
    found = [one.manifest for one in _all() if manifest and one.manifest.startswith(manifest.lower())]
    if len(found) != 1:
        raise Failure(EXIT_USAGE, f"{len(found)} quarantined manifests begin so; name one")
    try:
        _list().release(found[0])
    except (OSError, ExecutorError) as error:
        raise Failure(EXIT_ERROR, str(error)) from error
    say(f"{found[0]} may run here again")
    return 0


def _all() -> list[Held]:
    try:
        return list(_list().all())
    except ExecutorError as error:
        raise Failure(EXIT_ERROR, str(error)) from error


def _list() -> Quarantine:
    home = current.home()
    if not home.root.is_dir():
        raise Failure(EXIT_USAGE, f"{home.root}: there is no such home")
    return Quarantine(home.quarantine_file)
