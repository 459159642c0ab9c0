"""Logs for the consumer alone: who asks with its signature gets the newest bytes, sealed to its key.

Nothing of a log is shown in any other way: not in receipts, which are public, and not by this node's own API.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

from ledger.errors import Refused
from ledger.records import Deployment, key_deployment
from ledger.state import read
from node.executor.decide import SlotId
from node.executor.limits import LAST_EXITS_MAX, LOGS_EVERY_S, TENURES_MAX
from node.limits import LOG_ASK_BLOCKS_MAX, LOG_TAIL_BYTES_MAX
from node.sealed.log_wire import NONCE_BYTES, Tail, is_signed, make_answer, read_question
from node.seam import PeerSeam

_REMEMBERED: Final = 2 * TENURES_MAX  # slots whose last answer's time is known


class LogDesk:
    """Answers the method "logs". `held` gives the newest bytes of a slot that this node holds, else None;
    `keep` puts those of a term that is over aside."""

    def __init__(self, peer: PeerSeam, held: Callable[[SlotId, int], Tail | None]) -> None:
        self._peer = peer
        self._held = held
        self._kept: OrderedDict[SlotId, Tail] = OrderedDict()
        self._answered_s: OrderedDict[SlotId, float] = OrderedDict()

    def keep(self, slot_id: SlotId, tail: Tail) -> None:
        """Of the last LAST_EXITS_MAX terms that ended here."""
        self._kept[slot_id] = tail
        self._kept.move_to_end(slot_id)
        while len(self._kept) > LAST_EXITS_MAX:
            self._kept.popitem(last=False)

    async def serve(self, peer_id: str, body: bytes) -> bytes:
        """Raises Refused: logs.malformed, logs.not_here, logs.stale, logs.not_yours, logs.too_often,
        logs.unknown. All who are not the deployment's consumer hear the same."""
        await trio.lowlevel.checkpoint()
        signed = read_question(body)
        question, peer = signed.question, self._peer
        if (question.chain_id, question.node) != (peer.chain_id, peer.node_key.public):
            raise Refused("logs.not_here", "for another chain or node")
        if len(question.nonce) != NONCE_BYTES or not 0 <= question.last_bytes <= LOG_TAIL_BYTES_MAX:
            raise Refused("logs.malformed", f"a nonce, and 0 to {LOG_TAIL_BYTES_MAX} bytes wanted")
        if abs(peer.height - question.height) > LOG_ASK_BLOCKS_MAX:
            raise Refused("logs.stale", f"asked at height {question.height}, now is {peer.height}")
        record = read(peer.state, Deployment, key_deployment(question.deployment))
        if record is None or record.consumer != question.account or not is_signed(signed):
            raise Refused("logs.not_yours", "only the deployment's consumer reads its logs")
        slot_id = (question.deployment, question.slot)
        tail = self._tail(slot_id, question.last_bytes)
        if tail is None:
            raise Refused("logs.unknown", "this node holds no log of that slot (any more)")
        self._hold_back(slot_id)
        return make_answer(peer.node_key, question, tail)

    def _tail(self, slot_id: SlotId, last_bytes: int) -> Tail | None:
        held = self._held(slot_id, last_bytes)
        if held is not None:
            return held
        kept = self._kept.get(slot_id)
        if kept is None:
            return None
        return Tail(kept.term, False, kept.data[max(0, len(kept.data) - last_bytes) :])

    def _hold_back(self, slot_id: SlotId) -> None:
        """One answer in LOGS_EVERY_S for a slot, also for a question that somebody sends again."""
        now_s = trio.current_time()
        last_s = self._answered_s.get(slot_id)
        if last_s is not None and now_s < last_s + LOGS_EVERY_S:
            raise Refused("logs.too_often", f"one answer in {LOGS_EVERY_S:g} s")
        self._answered_s[slot_id] = now_s
        self._answered_s.move_to_end(slot_id)
        while len(self._answered_s) > _REMEMBERED:
            self._answered_s.popitem(last=False)
