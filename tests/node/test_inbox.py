"""The engine's inbox: bounded for each validator, fair between them."""

from __future__ import annotations

from node.limits import INBOX_MEMBER_BYTES_MAX, INBOX_MEMBER_MAX
from node.voting.inbox import Inbox


def test_a_flooding_validator_fills_its_own_queue_only() -> None:
    inbox = Inbox()
    taken = sum(inbox.put(0, b"flood") for _ in range(INBOX_MEMBER_MAX + 100))
    assert taken == INBOX_MEMBER_MAX
    assert inbox.put(1, b"vote")
    assert inbox.take() == (0, b"flood")
    assert inbox.take() == (1, b"vote")  # after one of the flood, not after a thousand


def test_bytes_are_bounded_too() -> None:
    inbox = Inbox()
    big = bytes(900 * 1024)
    taken = sum(inbox.put(0, big) for _ in range(20))
    assert taken == INBOX_MEMBER_BYTES_MAX // len(big)
    while inbox.take():
        pass
    assert inbox.put(0, big)


def test_messages_of_one_validator_stay_in_order() -> None:
    inbox = Inbox()
    for n in range(5):
        inbox.put(n % 2, bytes([n]))
    found = [inbox.take() for _ in range(5)]
    assert [m for m in found if m and m[0] == 0] == [(0, b"\0"), (0, b"\2"), (0, b"\4")]
    assert inbox.take() is None
    assert not inbox
