"""Messages of validators that wait for the engine: a bounded queue for each, emptied in turns.

A validator that floods fills its own queue only; what does not fit is dropped and counted (rule 10).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from node.limits import INBOX_MEMBER_BYTES_MAX, INBOX_MEMBER_MAX


@dataclass(slots=True)
class _Queue:
    messages: deque[bytes] = field(default_factory=deque)
    size_bytes: int = 0


@dataclass(slots=True)
class Inbox:
    """See the module. Members are indexes of the validator set, so there are few."""

    _queues: OrderedDict[int, _Queue] = field(default_factory=OrderedDict)  # not empty ones, in turn

    def put(self, member: int, message: bytes) -> bool:
        """Queue a message. False: dropped, its sender has too much waiting."""
        queue = self._queues.get(member)
        if queue is None:
            queue = self._queues[member] = _Queue()
        elif (
            len(queue.messages) >= INBOX_MEMBER_MAX
            or queue.size_bytes + len(message) > INBOX_MEMBER_BYTES_MAX
        ):
            return False
        queue.messages.append(message)
        queue.size_bytes += len(message)
        return True

    def take(self) -> tuple[int, bytes] | None:
        """The next message with its sender; None: empty. Each sender's come in order."""
        if not self._queues:
            return None
        member, queue = self._queues.popitem(last=False)
        message = queue.messages.popleft()
        queue.size_bytes -= len(message)
        if queue.messages:
            self._queues[member] = queue
        return member, message

    def __bool__(self) -> bool:
        return bool(self._queues)
