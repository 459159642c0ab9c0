"""What the 3bot remembers: orders under way and the deployments that it looks after.

All else is read from the ledger again and again. The memory is kept encrypted on the notary
(`bot.vault`); a bot with an empty disk goes on from it.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace


class _Part(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of what is remembered."""


class Intent(_Part, frozen=True):
    """An order that is to become final. `payload`: its exact transaction, so that sending it once more,
    by whichever bot of the owner, never orders twice. `sent`: by this process."""

    id: bytes
    name: str
    expires: int
    payload: bytes
    sent: bool = False


class Watch(_Part, frozen=True):
    """A deployment with what was last told about it.

    `warned`: kinds of warnings that stand. `cancel`: the reason for which the consumer wants it stopped;
    `asked_until`: no need to ask the ledger again up to this height.
    """

    deployment: bytes
    name: str
    status: str
    doing: str
    since_ms: int
    warned: tuple[str, ...] = ()
    cancel: str | None = None
    asked_until: int = 0
    tries: int = 0


class Memory(_Part, frozen=True):
    """All of it, in order: intents as they were made, watches by time of the order."""

    intents: tuple[Intent, ...] = ()
    watches: tuple[Watch, ...] = ()

    def watch(self, deployment: bytes) -> Watch | None:
        """The watch of a deployment."""
        return next((w for w in self.watches if w.deployment == deployment), None)

    def with_intent(self, intent: Intent) -> Memory:
        """With one more order under way."""
        return replace(self, intents=(*self.intents, intent))

    def without_intent(self, intent: bytes) -> Memory:
        """Without an order: refused, or final."""
        return replace(self, intents=tuple(i for i in self.intents if i.id != intent))

    def with_watch(self, watch: Watch) -> Memory:
        """With this watch in the place of the former one of its deployment, or as the last."""
        if self.watch(watch.deployment) is None:
            return replace(self, watches=(*self.watches, watch))
        watches = tuple(watch if w.deployment == watch.deployment else w for w in self.watches)
        return replace(self, watches=watches)


def at_rest(memory: Memory) -> Memory:
    """What is worth keeping: without the traces of one process, so that another asks again."""
    return Memory(
        tuple(replace(intent, sent=False) for intent in memory.intents),
        tuple(replace(watch, asked_until=0, tries=0) for watch in memory.watches),
    )


def merged(mine: Memory, kept: Memory) -> Memory:
    """Two memories of one owner. What both have is taken from `mine`, but a wish to cancel is never lost, and
    of two who tell the same who told it first is right: else each would write over the other for ever."""
    out = mine
    for intent in kept.intents:
        if all(intent.id != known.id for known in mine.intents):
            out = out.with_intent(intent)
    for watch in kept.watches:
        known = mine.watch(watch.deployment)
        if known is None:
            out = out.with_watch(watch)
            continue
        if known.cancel is None:
            known = replace(known, cancel=watch.cancel)
        if (known.status, known.doing) == (watch.status, watch.doing):
            known = replace(known, since_ms=min(known.since_ms, watch.since_ms))
        out = out.with_watch(known)
    return out
