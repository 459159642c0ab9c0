"""The holder's side of secrets: a term that needs some waits here until the consumer's bot has given them.

The bot tells that it is there (`here`); the node asks it over the same connection (`ask`). Nobody else is
heard: `here` and what is given are signed by the deployment's consumer or bot, and what is given is for this
slot, term and node, or is refused. Values are kept in memory, by the term that was given them, and nowhere
else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
import trio

from ledger.codec import decode_exact, encode
from ledger.errors import Refused
from ledger.records import Deployment, key_deployment
from ledger.state import read
from node.executor.decide import SlotId
from node.executor.limits import SECRETS_ASK_S, SECRETS_WAIT_S
from node.limits import FAULT_POINTS
from node.sealed.copy_wire import KEY_NAME
from node.sealed.secret_wire import (
    ASK,
    GIVEN_BYTES_MAX,
    WORD_BYTES_MAX,
    Ask,
    Given,
    Here,
    Place,
    check_here,
    digest_of,
    open_given,
)
from node.seam import PeerSeam
from p2p.errors import RequestError

log = structlog.get_logger("executor")


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a term was given. `digest` is for receipts; the values are never shown. `keys`: of copies, by
    volume."""

    digest: str = ""
    values: dict[str, bytes] = field(default_factory=dict, repr=False)
    keys: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class _Waiting:
    """A term that waits. `giver`: the peer that has them, as its consumer or bot has signed."""

    place: Place
    giver: str = ""
    told: trio.Event = field(default_factory=trio.Event)


class SecretsDesk:
    """See the module. `given` and `refused` count answers."""

    def __init__(self, peer: PeerSeam) -> None:
        self._peer = peer
        self._waiting: dict[SlotId, _Waiting] = {}
        self.given = 0
        self.refused = 0

    def metrics(self) -> list[tuple[str, dict[str, str], float, str]]:
        """Rows as PeerSeam.metrics gives them."""
        return [
            ("executor_secrets_given_total", {}, self.given, "counter"),
            ("executor_secrets_refused_total", {}, self.refused, "counter"),
        ]

    async def serve_here(self, peer_id: str, body: bytes) -> bytes:
        """Answers the method "secrets/here". Raises Refused: secrets.not_wanted when no such term waits here,
        secrets.sender."""
        here = decode_exact(Here, body, "secrets", WORD_BYTES_MAX)
        waiting = self._waiting.get((here.place.deployment, here.place.slot))
        if waiting is None or waiting.place != here.place:
            raise Refused("secrets.not_wanted", "no such term waits for secrets here")
        check_here(here, self._peer.chain_id, self._senders(here.place.deployment))
        waiting.giver = peer_id
        waiting.told.set()
        return b""

    async def get(
        self, slot_id: SlotId, term: int, names: tuple[str, ...], volumes: tuple[str, ...] = ()
    ) -> Secrets:
        """The secrets of a term that this node holds, and the keys of copies of these volumes, once its
        consumer's bot has given them.

        Raises Refused("secrets.not_given") when that took more than SECRETS_WAIT_S.
        """
        if not names and not volumes:
            return Secrets()
        place = Place(self._peer.chain_id, *slot_id, term, self._peer.node_key.public)
        waiting = self._waiting[slot_id] = _Waiting(place)
        why = "nobody told that they are there"
        try:
            with trio.move_on_after(SECRETS_WAIT_S):
                while True:
                    await waiting.told.wait()
                    waiting.told = trio.Event()
                    try:
                        return await self._ask(waiting.giver, place, names, volumes)
                    except (Refused, RequestError) as error:
                        why = str(error)
                        log.info("secrets_not_given", slot=slot_id[1], term=term, error=why[:200])
        finally:
            if self._waiting.get(slot_id) is waiting:
                del self._waiting[slot_id]
        raise Refused("secrets.not_given", f"not within {SECRETS_WAIT_S:.0f} s: {why}"[:300])

    async def _ask(
        self, giver: str, place: Place, names: tuple[str, ...], volumes: tuple[str, ...]
    ) -> Secrets:
        body = encode(Ask(place.deployment, place.slot, place.term, volumes))
        network = self._peer.network
        if giver == network.peer_id:
            data = await self._peer.answer(ASK, body)
        else:
            data = await network.request(giver, ASK, body, SECRETS_ASK_S)
        try:
            given = decode_exact(Given, data, "secrets", GIVEN_BYTES_MAX)
            wanted = (*names, *(KEY_NAME + volume for volume in volumes))
            values = open_given(given, self._peer.node_key, place, self._senders(place.deployment), wanted)
        except Refused as error:
            self.refused += 1
            network.penalise(giver, error.rule, FAULT_POINTS)
            raise
        self.given += 1
        keys = {volume: values.pop(KEY_NAME + volume) for volume in volumes}
        return Secrets(digest_of(given) if names else "", values, keys)

    def _senders(self, deployment: bytes) -> tuple[bytes, ...]:
        """Whose word counts: the consumer's, and that of the bot which the order names."""
        record = read(self._peer.state, Deployment, key_deployment(deployment))
        return tuple(key for key in (record.consumer, record.bot) if key) if record is not None else ()
