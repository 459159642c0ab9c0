"""`gridpact artifact`: the files that a running peer holds for contracts, and those on their way to it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from node.cli.context import EXIT_USAGE, Failure, current
from node.cli.output import emit, emit_facts, say
from node.client.amounts import size_text
from node.files.cid import cid_of, sha256_of

if TYPE_CHECKING:
    from node.api.file_models import TransferView
    from node.client.sdk import Client

_LOOK_S: Final = 0.5  # between two looks at how far it is
_TELL_S: Final = 5.0  # between two lines where nobody watches
_TURN_S: Final = 120.0  # one request to fetch; what came by then is kept
_READ_BYTES: Final = 1024 * 1024


def list_artifacts() -> int:
    """Show what the peer holds, what of it may go when room is needed, and what is on its way."""
    client = current.client()
    found = client.artifacts()
    page = found
    while page.next:
        page = client.artifacts(page.next)
        found.held += page.held
    found.next = ""
    rows: list[tuple[object, ...]] = [
        (item.sha256, item.cid, size_text(item.size_bytes), _state(item.kept, item.in_use, item.whole))
        for item in found.held
        if item.sha256 not in {transfer.sha256 for transfer in found.transfers}
    ]
    rows += [(t.sha256, t.cid, size_text(t.bytes_total), progress_text(t)) for t in found.transfers]
    if current.output == "table":
        say(f"{size_text(found.bytes_used)} of {size_text(found.bytes_max)} used")
    emit(found, ("sha256", "cid", "size", "state"), rows)
    return 0


def _state(kept: bool, in_use: bool, whole: bool) -> str:
    words = "kept" if kept else "cached" if whole else "a part, left by a fetch"
    return f"{words}, in use" if in_use else words


def add(file: Path, /) -> int:
    """Give the peer a file. It is kept until it is dropped by order.

    Args:
        file: The file.
    """
    try:
        digest = _digest(file)
    except OSError as error:
        raise Failure(EXIT_USAGE, f"{file}: {error.strerror}") from None
    client = current.client()
    client.put_artifact(digest, file)
    facts = {"sha256": digest, "cid": cid_of(digest), "size_bytes": file.stat().st_size}
    emit_facts(facts, list(facts.items()))
    return 0


def _digest(file: Path) -> str:
    whole = sha256()
    with file.open("rb") as stream:
        while data := stream.read(_READ_BYTES):
            whole.update(data)
    return whole.hexdigest()


def fetch(name: str, /, *, size: int, chunks: str = "", wait: float = 600.0) -> int:
    """Have the peer fetch an artifact from others, checked against its digest.

    Args:
        name: Its sha256, or its CIDv1.
        size: Its size in bytes.
        chunks: The root of its chunk list, as its contract signs it: then each part is checked as it comes.
        wait: Seconds to wait in all.
    """
    digest = _named(name)
    got = bring(current.client(), digest, size, chunks, wait)
    emit_facts(got, [("sha256", got.sha256), ("cid", got.cid), ("size_bytes", got.size_bytes)])
    return 0


def drop(name: str, /) -> int:
    """Have the peer drop an artifact; none that a task uses or that is being fetched.

    Args:
        name: Its sha256, or its CIDv1.
    """
    done = current.client().drop_artifact(_named(name))
    emit_facts(done, [("sha256", done.sha256), ("freed", size_text(done.bytes_freed))])
    return 0


def _named(name: str) -> str:
    try:
        return sha256_of(name)
    except ValueError as error:
        raise Failure(EXIT_USAGE, f"{name[:80]}: {error}") from None


def bring(client: Client, digest: str, size_bytes: int, chunks: str, wait_s: float) -> Any:
    """Have the peer fetch it, and tell how far it is meanwhile. Returns an ArtifactView. Raises
    ClientError."""
    from node.client.sdk import ApiError, ClientError

    until_s = time.monotonic() + wait_s
    while True:
        turn_s = min(_TURN_S, max(1.0, until_s - time.monotonic()))
        ends: list[Any] = []

        def ask(turn_s: float = turn_s, ends: list[Any] = ends) -> None:
            try:
                ends.append(client.bring_artifact(digest, size_bytes, chunks, turn_s))
            except ClientError as error:
                ends.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        tell = _teller()
        while asking.is_alive():
            asking.join(_LOOK_S)
            try:
                now = [t for t in client.artifacts(limit=1).transfers if t.sha256 == digest]
            except ClientError:
                now = []  # the order itself tells what is wrong
            if now and asking.is_alive():
                tell(progress_text(now[0]))
        tell("")
        end = ends[0]
        if not isinstance(end, ClientError):
            return end
        if not isinstance(end, ApiError) or end.status != 504 or time.monotonic() >= until_s:
            raise end


def progress_text(transfer: TransferView) -> str:
    """How far it is, in words."""
    percent = 100 * transfer.bytes_done // max(1, transfer.bytes_total)
    words = [f"{percent} % of {size_text(transfer.bytes_total)}", f"{size_text(transfer.bytes_s)}/s"]
    if transfer.left_s is not None:
        words.append(f"{transfer.left_s} s left")
    words.append(f"{len(transfer.sources)} sources" if transfer.sources else "no source")
    if transfer.dropped:
        words.append(f"{len(transfer.dropped)} dropped")
    return ", ".join(words)


def _teller() -> Callable[[str], None]:
    """Tells a line over the last one where somebody watches, else now and then; "" ends it."""
    if sys.stderr.isatty():
        width = 0

        def over(text: str) -> None:
            nonlocal width
            print("\r" + text.ljust(width), end="" if text else "\r", file=sys.stderr, flush=True)
            width = len(text)

        return over
    told_s = time.monotonic()

    def line(text: str) -> None:
        nonlocal told_s
        if text and time.monotonic() - told_s >= _TELL_S:
            told_s = time.monotonic()
            say(text)

    return line
