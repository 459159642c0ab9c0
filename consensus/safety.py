"""Sign state: what this validator promised, kept before it is sent (persist-before-send).

The shell stores `Record`s and certificates and gives them back at start; `restore` checks that
they do not contradict each other and hands them to the core.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from consensus.errors import SafetyError
from consensus.messages import Record
from ledger.blocks import Header, decode_header, header_hash
from ledger.errors import Refused
from ledger.proofs.certificate import Certificate, VoteKind


@dataclass(slots=True)
class SafetyState:
    """Own votes by view, the headers they name, and certificates above the committed tip."""

    notar: dict[int, bytes] = field(default_factory=dict)
    final: dict[int, bytes] = field(default_factory=dict)
    skip: set[int] = field(default_factory=set)
    headers: dict[bytes, Header] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)


def restore(
    records: Iterable[Record], certificates: Iterable[Certificate], epoch: int, tip_view: int
) -> SafetyState:
    """State of `epoch` above `tip_view`: each epoch's votes bind in that epoch alone, as their views overlap
    where one follows on another [12]. Raises SafetyError when the records contradict each other."""
    kept = (c for c in certificates if c.statement.epoch == epoch and c.statement.view > tip_view)
    state = SafetyState(certificates=list(kept))
    for record in records:
        if record.epoch != epoch or record.view <= tip_view:
            continue
        if record.kind is VoteKind.SKIP:
            state.skip.add(record.view)
            continue
        votes = state.notar if record.kind is VoteKind.NOTAR else state.final
        if votes.setdefault(record.view, record.block) != record.block:
            raise SafetyError(f"two {record.kind.name} votes of our own in view {record.view}")
        if record.header:
            if header_hash(record.header) != record.block:
                raise SafetyError(f"the stored header of view {record.view} is not the one voted for")
            try:
                state.headers[record.block] = decode_header(record.header)
            except Refused as error:
                raise SafetyError(f"the stored header of view {record.view} is damaged: {error}") from None
    both = state.skip & state.final.keys()
    if both:
        raise SafetyError(f"Skip and Final of our own in view {min(both)}")
    return state
