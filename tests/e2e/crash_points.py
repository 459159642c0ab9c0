"""The named points at which `make crash` kills a peer: everything that one persists, before and after.

`tests/e2e/crash_peer.py` puts them round the product's own functions. `docs/operating.md` holds the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

By = Literal["", "stop", "artifact", "behind", "change", "prune", "rollback", "reset", "init"]

WHAT: Final = {
    "store.owner": "a LevelDB directory says whose it is (block store, then sign state)",
    "store.begin": "the genesis state is written",
    "sign_state.made": "the note that a sign state exists, without which no validator starts",
    "safety.persist": "own votes, their headers and batches: synced before they are sent",
    "engine.send": "a vote leaves",
    "notary.commit": "a block is executed and stored",
    "store.commit": "one block's write: batches, receipts, state, tree, indexes",
    "store.group": "several blocks' commits in one synced write, while catching up",
    "store.boundary": "the block that ends an epoch, with the proof of it and the next validator set",
    "safety.prune": "sign state of what is committed is forgotten",
    "run.sync": "run.json, which tells local programs of the peer: the new file's bytes",
    "run.rename": "run.json takes its place",
    "book.sync": "the peer book: the new file's bytes",
    "book.rename": "the peer book takes its place",
    "artifact.sync": "an artifact's bytes",
    "artifact.list.rename": "its list of chunks takes its place",
    "artifact.rename": "the artifact takes its place",
    "artifact.folder.sync": "the names in the artifact store",
    "safety.close": "the sign state is closed at a clean stop",
    "store.close": "the block store is closed at a clean stop, with its undo window",
    "store.drop": "the oldest block goes: history over its budget",
    "rollback.write": "`gridpact rollback` takes blocks back",
    "reset.rename": "`gridpact reset`: the chain's directory is out of the way",
    "reset.folder.sync": "`gridpact reset`: that it is gone is on disk",
    "reset.remove": "`gridpact reset`: its files are removed",
    "home.secret.sync": "`gridpact init`: a key's or token's bytes",
    "home.secret.link": "`gridpact init`: a key or token takes its name",
    "home.file.sync": "`gridpact init`: genesis or settings, the new file's bytes",
    "home.file.rename": "`gridpact init`: genesis or settings take their place",
}


@dataclass(frozen=True, slots=True)
class Point:
    """Where to die, the how-manieth time, and what brings the peer there: "" its work, "stop" a SIGTERM,
    "artifact" an upload, "change" a transaction that changes the validator set, "prune" a small budget,
    the others the command of that name."""

    name: str
    times: int = 1
    by: By = ""


def _both(name: str, times: int = 1, by: By = "") -> tuple[Point, Point]:
    assert name in WHAT, name
    return Point(f"{name}.before", times, by), Point(f"{name}.after", times, by)


# These die in homes of their own, and are made again by the same command.
INIT: Final = (
    *_both("home.secret.sync", 1, "init"),
    *_both("home.secret.link", 1, "init"),
    *_both("home.secret.sync", 2, "init"),
    *_both("home.secret.link", 2, "init"),
    *_both("home.file.sync", 1, "init"),
    *_both("home.file.rename", 1, "init"),
    *_both("home.file.rename", 2, "init"),
)
# The first ones need a home that was never started, so they come in this order.
FIRST: Final = (
    *_both("store.owner", 1),
    *_both("store.begin"),
    *_both("store.owner", 2),  # of the sign state
    *_both("sign_state.made"),
)
LATER: Final = (
    *_both("safety.persist", 3),
    *_both("engine.send", 7),
    *_both("notary.commit", 2),
    *_both("store.commit", 4),
    *_both("store.group", 1, "behind"),
    *_both("safety.prune", 3),
    *_both("run.sync"),
    *_both("run.rename"),
    *_both("book.sync"),
    *_both("book.rename"),
    *_both("artifact.sync", 1, "artifact"),
    *_both("artifact.list.rename", 1, "artifact"),
    *_both("artifact.rename", 1, "artifact"),
    *_both("artifact.folder.sync", 1, "artifact"),
    *_both("store.boundary", 1, "change"),
    *_both("safety.close", 1, "stop"),
    *_both("store.close", 1, "stop"),
    *_both("rollback.write", 1, "rollback"),
    *_both("store.drop", 5, "prune"),
    # After these the peer fetches the whole chain again, what was dropped, too: so they come last.
    *_both("reset.rename", 1, "reset"),
    *_both("reset.folder.sync", 1, "reset"),
    *_both("reset.remove", 1, "reset"),
)
SHORT: Final = (
    Point("safety.persist.after", 5),
    Point("store.commit.before", 3),
    Point("safety.prune.after", 4),
)


def table() -> str:
    """For docs: every point and what is persisted there."""
    named = {point.name.rpartition(".")[0] for point in (*INIT, *FIRST, *LATER)}
    assert named == WHAT.keys(), named ^ WHAT.keys()
    rows = [f"| `{name}` | {what} |" for name, what in WHAT.items()]
    return "\n".join(["| point | what is persisted |", "|---|---|", *rows])
