"""Rule 7: with no finalization for a while, tell what is held; answer with what the other lacks, bounded."""

from __future__ import annotations

from collections.abc import Mapping

from consensus.limits import CERTIFICATES_PER_ANSWER_MAX, STATUS_VIEWS_MAX, VOTES_PER_ANSWER_MAX
from consensus.messages import Certified, Message, Status, Vote
from consensus.votes import ViewState
from ledger.proofs.certificate import Certificate, VoteKind


def _bitmap(views: Mapping[int, ViewState], base: int, kind: VoteKind) -> bytes:
    bits = bytearray()
    for view, state in views.items():
        offset = view - base - 1
        if 0 <= offset < STATUS_VIEWS_MAX and state.certificate(kind) is not None:
            if offset // 8 >= len(bits):
                bits.extend(bytes(offset // 8 + 1 - len(bits)))
            bits[offset // 8] |= 1 << (offset % 8)
    return bytes(bits)


def _has(bitmap: bytes, offset: int) -> bool:
    return 0 <= offset < len(bitmap) * 8 and bool(bitmap[offset // 8] >> (offset % 8) & 1)


def status(
    epoch: int, views: Mapping[int, ViewState], final: Certificate | None, base: int, frontier: int
) -> Status:
    """Our have-map above `base`, the view of our last Final certificate, or of our tip without one."""
    notars, skips = _bitmap(views, base, VoteKind.NOTAR), _bitmap(views, base, VoteKind.SKIP)
    return Status(epoch, final, base, frontier, notars, skips)


def answer(
    views: Mapping[int, ViewState], final: Certificate | None, asked: Status, own_votes: list[Vote]
) -> list[Message]:
    """What the sender of `asked` lacks and we hold: our Final if newer, certificates above its Final
    in view order, then our own votes (given oldest first). Bounded; the rest goes next time.

    Votes from its frontier on go first: they clear the view in which it is stuck. Older ones follow,
    the newest first; were they in the way, a long run of open views would never end.
    """
    messages: list[Message] = []
    base = asked.base
    ours = final.statement.view if final else 0
    if final is not None and ours > base:
        messages.append(Certified(final))
    for view in sorted(v for v in views if v > max(base, ours)):
        for kind, held in ((VoteKind.NOTAR, asked.notars), (VoteKind.SKIP, asked.skips)):
            certificate = views[view].certificate(kind)
            if certificate is not None and not _has(held, view - base - 1):
                messages.append(Certified(certificate))
        if len(messages) >= CERTIFICATES_PER_ANSWER_MAX:
            break
    useful = [v for v in own_votes if not _certified(asked, base, v)]
    ahead = [v for v in useful if v.statement.view >= asked.frontier]
    behind = [v for v in reversed(useful) if v.statement.view < asked.frontier]
    return [*messages, *(ahead + behind)[:VOTES_PER_ANSWER_MAX]]


def _certified(asked: Status, base: int, vote: Vote) -> bool:
    """Does the other hold a certificate of what this vote says?"""
    if vote.statement.kind is VoteKind.FINAL:
        return False
    held = asked.notars if vote.statement.kind is VoteKind.NOTAR else asked.skips
    return _has(held, vote.statement.view - base - 1)
