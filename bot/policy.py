"""What the 3bot does next. `decide` is pure and total: same view and memory, same actions, no exception.

It acts by rules on the state, not on events, so a bot that slept misses nothing:
[B1] An order under way is sent once by each process, and given up when its height has passed.
[B2] Each deployment that names this bot is watched from its order to its settlement, at most
     WATCHED_MAX: those that its own account ordered first, then the oldest.
[B3] What a deployment does is told when it changes; a warning is told when it begins to hold.
[B4] A wish to cancel is asked for until the deployment has ended, at most CANCEL_TRIES_MAX times; while the
     consent that its delete policy asks for is missing, it waits, and the bot tells of it.
[B5] A slot that lost its node is opened again by the ledger. The bot tells of it, and warns when no node
     on the market fits, with what keeps them from it.
[B6] An update is sent as an order is (B1). The bot tells how it goes on, and warns when it is held, or ended
     without success.
Acting on an action's own outcome gives no second one: what was told or asked stands in the memory.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from bot.limits import (
    CANCEL_EXPIRY_BLOCKS,
    CANCEL_TRIES_MAX,
    DOING_CHARS_MAX,
    ENDED_KEPT_MAX,
    WARNINGS_MAX,
    WATCHED_MAX,
)
from bot.memory import Intent, Memory, Watch
from bot.outlook import doing, warnings
from bot.view import Own, View, is_settled


class Order(msgspec.Struct, frozen=True):
    """Send an order."""

    intent: Intent


class Cancel(msgspec.Struct, frozen=True):
    """Ask the ledger to cancel, by a transaction that expires after CANCEL_EXPIRY_BLOCKS."""

    deployment: bytes
    reason: str


class Note(msgspec.Struct, frozen=True):
    """A deployment does something else now."""

    deployment: bytes
    status: str
    doing: str


class Warn(msgspec.Struct, frozen=True):
    """Something that the consumer should know or do. `kind` is stable, `reason` is for people."""

    deployment: bytes
    kind: str
    reason: str


class Remember(msgspec.Struct, frozen=True):
    """The memory from now on; always the last action."""

    memory: Memory


Action = Order | Cancel | Note | Warn | Remember


def decide(view: View, memory: Memory) -> tuple[Action, ...]:
    """The actions to take now, in order; none when nothing changed. Pure; never raises."""
    actions: list[Action] = []
    intents = _intents(view, memory, actions)
    watches = [_watch(view, own, memory, actions) for own in _chosen(view, memory)]
    seen = {own.record.id for own in view.own}
    unseen = [watch for watch in memory.watches if watch.deployment not in seen]  # not committed here yet
    after = Memory(tuple(intents), (*watches, *unseen))
    if after != memory:
        actions.append(Remember(after))
    return tuple(actions)


def _intents(view: View, memory: Memory, actions: list[Action]) -> list[Intent]:
    """[B1]"""
    final = {own.record.id for own in view.own}
    final |= {own.update.tx for own in view.own if own.update is not None}
    left = []
    for intent in memory.intents:
        if intent.id in final:
            continue
        if view.height >= intent.expires:
            reason = f"the order of {intent.name} did not become final up to height {intent.expires}"
            actions.append(Warn(intent.id, "order_expired", reason))
            continue
        if not intent.sent:
            actions.append(Order(intent))
        left.append(replace(intent, sent=True))
    return left


def _chosen(view: View, memory: Memory) -> list[Own]:
    """[B2] What is watched, in the order of the memory. What was settled before we knew it is not."""
    known = {watch.deployment for watch in memory.watches}
    live = [own for own in view.own if not is_settled(own.record)]
    live.sort(key=lambda own: (own.record.consumer != view.account, own.record.ordered_ms, own.record.id))
    settled = [own for own in view.own if is_settled(own.record) and own.record.id in known]
    settled.sort(key=lambda own: (own.record.ended_ms, own.record.id))
    chosen = {own.record.id: own for own in (*settled[-ENDED_KEPT_MAX:], *live[:WATCHED_MAX])}
    return sorted(chosen.values(), key=lambda own: (own.record.ordered_ms, own.record.id))


def _watch(view: View, own: Own, memory: Memory, actions: list[Action]) -> Watch:
    """[B3] [B4] [B5]"""
    record = own.record
    name = own.manifest.name
    watch = replace(memory.watch(record.id) or Watch(record.id, name, "", "", 0), name=name)
    now_doing = doing(view, own)[:DOING_CHARS_MAX]
    if (watch.status, watch.doing) != (record.status, now_doing):
        actions.append(Note(record.id, record.status, now_doing))
        watch = replace(watch, status=record.status, doing=now_doing, since_ms=view.time_ms)
    found = warnings(view, own)
    if watch.cancel is not None and not own.ended:
        consent = own.judge("delete", view.time_ms)
        if record.approved_ms and not consent.satisfied:
            missing = "; ".join(consent.reasons)[:DOING_CHARS_MAX]
            found["cancel_waits"] = f"a cancel waits for consent: {missing}"
        elif view.height > watch.asked_until and watch.tries < CANCEL_TRIES_MAX:
            actions.append(Cancel(record.id, watch.cancel))
            until = view.height + CANCEL_EXPIRY_BLOCKS
            watch = replace(watch, asked_until=until, tries=watch.tries + 1)
        elif view.height > watch.asked_until:
            found["cancel_stuck"] = f"it was asked {watch.tries} times to stop, and is still {record.status}"
    kinds = sorted(found)[:WARNINGS_MAX]
    actions += [Warn(record.id, kind, found[kind]) for kind in kinds if kind not in watch.warned]
    return replace(watch, warned=tuple(kinds))
