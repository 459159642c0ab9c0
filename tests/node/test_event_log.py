"""Events: in order, none twice, none lost between pages and commits; an impossible id gets a gap."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, cast

import pytest
import trio
import trio.testing

from ledger.errors import Refused
from node import event_log as module
from node.event_log import EventLog, format_event_id, parse_event_id
from node.notary import Notary
from node.seam import Gap, NumberedEvent
from tests.node.final_chain import batch_of, extend, new_notary, transfer_tx


def log_of(blocks: int) -> tuple[EventLog, Notary]:
    notary = new_notary()
    found = EventLog(notary.store)
    notary.on_commit.append(lambda done: found.tick())
    for n in range(blocks):
        more(notary, n)
    return found, notary


def more(notary: Notary, n: int) -> None:
    extend(notary, batch_of(transfer_tx(2 * n), transfer_tx(2 * n + 1)))


async def take(found: EventLog, after: str | None, count: int) -> list[NumberedEvent | Gap]:
    taken: list[NumberedEvent | Gap] = []
    with trio.fail_after(60):
        async with aclosing(cast(Any, found.follow(after))) as events:
            async for event in events:
                taken.append(event)
                if len(taken) == count:
                    break
    return taken


def all_ids(notary: Notary) -> list[str]:
    return [format_event_id(number) for number, _ in notary.store.events(0, 10_000)]


async def test_replay_from_any_id_gives_what_follows_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EVENTS_PAGE", 3)
    found, notary = log_of(6)
    ids = all_ids(notary)
    assert len(ids) >= 6
    for start in range(len(ids) - 1):
        events = await take(found, ids[start], len(ids) - start - 1)
        assert [event.id for event in events if isinstance(event, NumberedEvent)] == ids[start + 1 :]


async def test_a_reader_misses_nothing_that_is_committed_while_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EVENTS_PAGE", 2)
    found, notary = log_of(1)
    wanted_blocks, taken = 20, []
    with trio.fail_after(60):
        async with aclosing(cast(Any, found.follow("0.0"))) as events:
            height = 1
            async for event in events:
                taken.append(event.id)
                if height < wanted_blocks:
                    more(notary, height)  # between two pages, or while it would wait
                    height += 1
                if height == wanted_blocks and taken == all_ids(notary):
                    break
    assert taken == all_ids(notary)


async def test_from_now_on_leaves_out_the_past() -> None:
    found, notary = log_of(2)
    before = all_ids(notary)
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.testing.wait_all_tasks_blocked()
            more(notary, 7)

        nursery.start_soon(later)
        events = await take(found, None, 1)
    assert isinstance(events[0], NumberedEvent)
    assert events[0].id not in before


@pytest.mark.parametrize("strange", ["999999999999999.0", "50.3"])
async def test_an_id_that_never_was_gets_a_gap(strange: str) -> None:
    found, notary = log_of(2)
    gap = (await take(found, strange, 1))[0]
    assert gap == Gap(strange, all_ids(notary)[-1])


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "-1.0", "1.9999999", "1.0 ", "x.y", "9" * 16 + ".0"])
def test_bad_ids_are_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"event\.id"):
        parse_event_id(text)


def test_ids_go_there_and_back() -> None:
    for number in (0, 1, (1 << 20) - 1, 1 << 20, 123456789012):
        assert parse_event_id(format_event_id(number)) == number
