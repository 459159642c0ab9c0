"""Our own: four validators with the defaults of `gridpact init`, each its own process, durable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.load.worker import Job
from bench.rivals.system import START_S, System
from ledger.limits import EXPIRY_BLOCKS_MAX
from node.errors import ConfigError
from node.testnet import Testnet, client_of, init_testnet, is_up, start_peer, stop_peers, wait_ready
from node.version import VERSION

VALIDATORS = 4
MARGIN_BLOCKS = 500  # transactions are made a little before they are sent, and peers may lag


class Gridpact(System):
    """See the module. Clients submit to all validators; the one asked answers when it is final."""

    name = "Gridpact, 4 validators"
    protocol = "gridpact"
    signatures = "Ed25519 on each transaction, checked by all 4"

    def __init__(self) -> None:
        super().__init__()
        self._net: Testnet | None = None

    def start(self, folder: Path) -> None:
        """See System."""
        self.settings = [f"gridpact {VERSION}", "all defaults (synced before each vote and block)"]
        net = self._net = init_testnet(folder / "net", "bench", validators=VALIDATORS, nodes=0, bots=0)
        for peer in net.peers:
            start_peer(net, peer)
        try:
            wait_ready(net, [peer.name for peer in net.peers], START_S, lambda text: None)
        except ConfigError as error:
            raise RuntimeError(str(error)) from error

    def _running(self) -> Testnet:
        assert self._net is not None, "started"
        return self._net

    def pids(self) -> list[int]:
        """See System."""
        return [peer.pid for peer in self._running().peers if is_up(peer)]

    def addresses(self) -> tuple[tuple[str, int], ...]:
        """See System."""
        alive = [peer.api.rpartition(":") for peer in self._running().peers if is_up(peer)]
        return tuple((host, int(port)) for host, _, port in alive)

    def job(self) -> Job:
        """See System."""
        net = self._running()
        alive = next(peer for peer in net.peers if is_up(peer))
        height = client_of(alive).status().height
        expires = height + EXPIRY_BLOCKS_MAX - MARGIN_BLOCKS
        return replace(super().job(), chain_id=net.chain_id, expires=expires)

    def kill_one(self) -> None:
        """See System."""
        net = self._running()
        stop_peers(net, [net.peers[-1].name], kill=True)

    def stop(self) -> None:
        """See System."""
        if self._net is not None:
            stop_peers(self._net, [peer.name for peer in self._net.peers])
