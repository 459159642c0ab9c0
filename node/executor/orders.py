"""Orders that this peer's chain does not hold, because it began from a state: fetched from neighbours by id.

What is said of orders holds for the transactions that ask for updates, too. An order needs nobody's word. A
deployment's id is the hash of what its consumer signed. That the order was executed is said by the
deployment's record, which stands under this id in the state; and a state that was fetched is proved whole
against a certificate (ledger.storage.snapshot). So of an answer two things are checked: that it has this id,
and that its sender signed it. A neighbour that answers with anything else is penalised.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import structlog
import trio

from ledger.errors import Refused
from ledger.transactions import OrderDeployment, UpdateDeployment, decode_tx, verified
from node.executor.limits import ORDER_ASK_S, ORDERS_ASKED_AT_ONCE, ORDERS_BYTES_MAX, ORDERS_WANTED_MAX
from node.limits import FAULT_POINTS
from node.seam import PeerSeam
from node.sync.ranges import answer_order
from p2p.errors import RequestError

log = structlog.get_logger("executor")

METHOD: Final = "order"


def check_order(deployment: bytes, data: bytes, chain_id: str) -> bytes:
    """Foreign bytes, if they are the signed order of this deployment, or the wish for the update of this id.
    Raises Refused."""
    tx = verified(decode_tx(data, chain_id))
    if tx.id != deployment or not isinstance(tx.tx.body, OrderDeployment | UpdateDeployment):
        raise Refused("order.other", "not the order that was asked for")
    return data


class Orders:
    """See the module. `run` once; the others at any time. `fetched` and `lied` count answers."""

    def __init__(self, peer: PeerSeam) -> None:
        self._peer = peer
        self._held: OrderedDict[bytes, bytes] = OrderedDict()  # the one used last stands last
        self._held_bytes = 0
        self._wanted: dict[bytes, None] = {}
        self._news = trio.Event()
        self.fetched = 0
        self.lied = 0

    def metrics(self) -> list[tuple[str, dict[str, str], float, str]]:
        """Rows as PeerSeam.metrics gives them."""
        return [
            ("executor_orders_fetched_total", {}, self.fetched, "counter"),
            ("executor_orders_false_total", {}, self.lied, "counter"),
        ]

    def get(self, deployment: bytes) -> bytes | None:
        """The order's bytes, from the chain or as they were fetched. None: it is not here; it is fetched now,
        and looking again is worth while."""
        stored = self._peer.store.tx(deployment)
        if stored is not None:
            return stored.raw
        found = self._held.get(deployment)
        if found is not None:
            self._held.move_to_end(deployment)
        elif len(self._wanted) < ORDERS_WANTED_MAX:
            self._wanted[deployment] = None
            self._news.set()
        return found

    async def serve(self, peer_id: str, body: bytes) -> bytes:
        """Answers the method "order" with what was fetched, too: so it outlives those that had the block.
        Raises Refused("order.unknown")."""
        found = self._held.get(body)
        return found if found is not None else answer_order(self._peer.store, body)

    async def run(self) -> None:
        """Fetch what is wanted, until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._wanted:
                batch = list(self._wanted)[:ORDERS_ASKED_AT_ONCE]
                async with trio.open_nursery() as nursery:
                    for deployment in batch:
                        nursery.start_soon(self._fetch, deployment)
                for deployment in batch:
                    del self._wanted[deployment]

    async def _fetch(self, deployment: bytes) -> None:
        """Ask one neighbour after the other, each with a time limit, until one has it."""
        network = self._peer.network
        for peer_id in [neighbour.peer_id for neighbour in network.neighbours()]:
            try:
                data = await network.request(peer_id, METHOD, deployment, ORDER_ASK_S)
            except RequestError:
                continue
            try:
                self._keep(deployment, check_order(deployment, data, self._peer.chain_id))
                return
            except Refused as error:
                self.lied += 1
                network.penalise(peer_id, error.rule, FAULT_POINTS)
        log.warning("order_not_found", deployment=deployment.hex()[:16])

    def _keep(self, deployment: bytes, data: bytes) -> None:
        self.fetched += 1
        self._held_bytes += len(data)
        self._held[deployment] = data
        while self._held_bytes > ORDERS_BYTES_MAX:
            self._held_bytes -= len(self._held.popitem(last=False)[1])
