"""Puts a fresh local network into business: farms, nodes and offers, each signed by the key it needs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from ledger.consent import sign_consent
from ledger.keys import Key
from ledger.limits import OFFER_VALID_MS_MAX
from ledger.transactions import Body, RegisterFarm, RegisterNode
from node.client.sdk import Client, TxRefused
from node.config import load_settings
from node.errors import ConfigError
from node.executor.drivers.base import Fingerprint
from node.home import Home
from node.offer import make_offer
from node.testnet import FARMS, Say, Testnet, TestnetPeer, client_of, key_of


def open_market(net: Testnet, timeout_s: float, say: Say) -> None:
    """Register what is not registered yet, post an offer for each node. Raises ClientError, ConfigError."""
    nodes = [peer for peer in net.peers if peer.kind == "node"]
    if not nodes:
        return
    client = client_of(net.peers[0], timeout_s)
    fingerprint = sandbox_fingerprint()
    if not fingerprint.runtimes:
        say(f"no offers are posted: this machine cannot isolate workloads: {fingerprint.reason}")
        return
    known_farms = {farm.name for farm in client.farms()}
    known_nodes = {node.key: node for node in client.nodes()}
    wanted = {peer.farm for peer in nodes}
    farms = [(name, country) for name, country in FARMS if name in wanted and name not in known_farms]
    _send(client, [(key_of(net, f"farmer-{n}"), RegisterFarm(n, c)) for n, c in farms])
    fresh = [peer for peer in nodes if peer.node_key not in known_nodes]
    _send(client, [_register(net, peer) for peer in fresh])
    offers = [p for p in nodes if p.node_key not in known_nodes or not known_nodes[p.node_key].offering]
    now_ms = time.time_ns() // 1_000_000
    _send(client, [_offer(peer, fingerprint, now_ms) for peer in offers])
    say(f"{len(nodes)} nodes of {len(wanted)} farms offer capacity")


def sandbox_fingerprint() -> Fingerprint:
    """What a node's drivers enforce on this machine, found by trying: the sandbox, the others beside it."""
    from node.executor.drivers.embedded import drivers  # imports trio

    with tempfile.TemporaryDirectory(prefix="gridpact-trial-") as folder:
        return drivers(Path(folder)).fingerprint()


def _register(net: Testnet, peer: TestnetPeer) -> tuple[Key, Body]:
    farmer, node = key_of(net, f"farmer-{peer.farm}"), Home(Path(peer.home)).node_key()
    consent = sign_consent(node, net.chain_id, peer.farm, farmer.public, peer.country)
    return farmer, RegisterNode(peer.farm, node.public, peer.country, consent)


def _offer(peer: TestnetPeer, fingerprint: Fingerprint, now_ms: int) -> tuple[Key, Body]:
    home = Home(Path(peer.home))
    settings = load_settings(home.config_file, {})
    offer = make_offer(settings.node, fingerprint, peer.p2p, now_ms)
    if offer.valid_until_ms - now_ms > OFFER_VALID_MS_MAX:
        raise ConfigError("an offer is valid for longer than the ledger allows")
    return home.node_key(), offer


def _send(client: Client, wishes: list[tuple[Key, Body]]) -> None:
    """Send all, then wait for each: one round for the ledger instead of one for each."""
    sent = []
    for key, body in wishes:
        raw = client.sign(key, body)
        client.submit(raw, "accepted")
        sent.append(raw)
    for raw in sent:
        result = client.submit(raw, "final")
        if not result.ok:
            raise TxRefused(result)
