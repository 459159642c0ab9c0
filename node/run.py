"""Runs the peer of a home directory until cancelled: opens what it needs, closes it in order."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import structlog
import trio

from ledger.errors import LocalError
from ledger.genesis import Genesis
from ledger.storage.store import Store
from node.allocator import keep_freed_memory
from node.api.bot_seam import BotSeam
from node.clock import wall_ms
from node.config import Settings
from node.files.artifacts import ArtifactStore
from node.files.exchange import Exchange
from node.home import Home, RunInfo, remove_run, start_ticks, write_run
from node.limits import MIB, OPEN_FILES_WANTED
from node.notary import stored_trust
from node.peer import Identity, Peer
from node.sync.pruner import Pruner
from node.voting.safety_store import SafetyStore
from node.wire import GENESIS_PROTOCOL, TOPIC_KINDS, topic
from p2p.host import Host, HostConfig
from p2p.network import Started

if TYPE_CHECKING:
    from node.executor.executor import Executor

log = structlog.get_logger("run")


def set_up_logs(settings: Settings) -> None:
    """Structured lines on stderr; libraries only speak up about errors."""
    level = getattr(logging, settings.log.level.upper())
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=False)
    if settings.log.format == "json":
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)


def raise_open_files() -> int:
    """How many files this process may have open from now on: as many as the host lets it, and it wants.

    The usual first limit, 1,024, is for programs that still use select(2). A slot costs nine, a link two.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft


def open_peer(home: Home, settings: Settings, resources: ExitStack) -> Peer:
    """The peer of a home, not running yet; what it opened is closed by `resources`.

    Raises LocalError or ConfigError with what is wrong and what to do.
    """
    genesis = home.read_genesis()
    node_key = home.node_key()
    validator = home.validator_key() if "validator" in settings.roles else None
    store = Store.open(home.store_dir, genesis.chain_id, genesis.hash)
    resources.callback(store.close)
    safety = None
    if validator is not None:
        safety = open_sign_state(home, store, genesis, validator.public)
        resources.callback(safety.close)
        _tell_mended("sign_state", safety.mended)
    _tell_mended("chain", store.mended)
    seed = bytes.fromhex(home.node_key_file.read_text().strip())
    network = _host(home, settings, genesis, seed)
    identity = Identity(settings.moniker, settings.roles, node_key, validator)
    peer = Peer.assemble(home.root, genesis, identity, store, safety, network)
    peer.snapshots.folder, peer.snapshots.every_blocks = home.data_dir, settings.sync.offer_every_blocks
    peer.state_sync.enabled = settings.sync.state == "auto"
    peer.state_sync.behind_blocks = settings.sync.behind_blocks
    for address in settings.p2p.persistent_peers:
        network.add_peer(address, keep=True)
    return peer


def _tell_mended(store: str, what: str) -> None:
    """A power cut tore the end of a store's log. Nothing that was synced is gone: see
    ledger.storage.store_log."""
    if what:
        structlog.get_logger("store").warning("torn_log_cut", store=store, what=what)


def open_sign_state(home: Home, store: Store, genesis: Genesis, validator: bytes) -> SafetyStore:
    """What this validator key promised. Made once; later it must be there, even when the chain is fetched
    anew: a validator without its memory could vote twice. Raises LocalError saying what to do.

    It is made at the first start with the key: of a new chain, or of a follower whose key gets its seat in
    a later epoch. A key that has had a seat, as far as this peer's chain shows, may have voted. That it was
    made stands beside the key, apart from the data that people move away to start again.
    """
    made = home.validator_key_file.with_name(f"{home.validator_key_file.name}.{validator.hex()[:16]}.signs")
    path = home.data_dir / "sign_state"
    voted = made.exists() or _had_seat(store, genesis, validator)
    if voted and not (path / "CURRENT").exists():
        raise LocalError(
            f"{path}: the sign state of this validator key is gone. Without it the key could vote twice. "
            f"Put it back from where it was moved; or use a new key; or, if all validators of the chain "
            f"stood still since it was lost, remove {made}."
        )
    safety = SafetyStore.open(path, store.chain_id, validator, create=True)
    made.touch(mode=0o600)
    return safety


def _had_seat(store: Store, genesis: Genesis, validator: bytes) -> bool:
    """Was this key a member of any epoch's set in which this peer holds blocks?"""
    if store.is_empty or store.tip.height == 0:
        return False
    trust = stored_trust(genesis, store)
    return any(members.index(validator) is not None for members in trust.sets)


def _host(home: Home, settings: Settings, genesis: Genesis, seed: bytes) -> Host:
    return Host(
        HostConfig(
            seed=seed,
            listen=settings.p2p.listen,
            bootstrap=settings.p2p.bootstrap,
            topics=tuple(topic(genesis.chain_id, kind) for kind in TOPIC_KINDS),
            book_path=home.data_dir / "peers.json",
            neighbours_max=settings.p2p.neighbours_max,
            public=((GENESIS_PROTOCOL, genesis.encode()),),
            serves_relay=settings.p2p.relay == "serve",
            wants_relays=settings.wants_relays,
            mdns=settings.p2p.mdns,
            dht=settings.p2p.dht,
        )
    )


async def run_peer(home: Home, settings: Settings) -> None:
    """Until cancelled. Raises LocalError or ConfigError when the peer cannot start."""
    set_up_logs(settings)
    log.debug("open_files", most=raise_open_files(), keeps_memory=keep_freed_memory())
    with ExitStack() as resources:
        peer = open_peer(home, settings, resources)
        resources.callback(remove_run, home)
        async with _carried(peer) as addresses, trio.open_nursery() as nursery:
            _start_pruner(nursery, peer, settings)
            api = await _start_api(nursery, peer, home, settings)
            write_run(
                home,
                RunInfo(
                    pid=os.getpid(),
                    start_ticks=start_ticks(os.getpid()) or 0,
                    moniker=settings.moniker,
                    peer_id=peer.network.peer_id,
                    api=api,
                    p2p=tuple(addresses),
                    started_ms=wall_ms(),
                ),
            )
            log.info("peer_up", moniker=settings.moniker, peer=peer.network.peer_id, api=api, p2p=addresses)
            gc.enable()
            gc.freeze()  # what was imported and built so far stays: no collection needs to walk it again


@asynccontextmanager
async def _carried(peer: Peer) -> AsyncIterator[Sequence[str]]:
    """The peer runs as long as what sits on it, and ends after it: a 3node that is stopped gives its slots
    back, and has last copies kept, over the network. Gives the listen addresses."""
    async with trio.open_nursery() as nursery:
        life = trio.CancelScope(shield=True)

        async def run(*, task_status: Started) -> None:
            with life:
                await peer.run(task_status=task_status)

        addresses = await nursery.start(run)
        try:
            yield addresses
        finally:
            life.cancel()


def _start_pruner(nursery: trio.Nursery, peer: Peer, settings: Settings) -> None:
    """Where the history has a budget."""
    if settings.store.size_mib_max:
        pruner = Pruner(peer.store, settings.store.size_mib_max * MIB, peer.next_block)
        pruner.keep_from, pruner.store_use = peer.snapshots.keep_from, peer.state_sync.store_use
        peer.sources.append(pruner.metrics)
        nursery.start_soon(pruner.run)


async def _start_api(nursery: trio.Nursery, peer: Peer, home: Home, settings: Settings) -> str:
    """Start what sits on the peer: artifacts, executor, 3bot, API. Returns the API's host:port."""
    artifacts = ArtifactStore(home.artifacts_dir, settings.files.size_mib_max * MIB)
    exchange = Exchange(peer.network, artifacts, settings.files.rates)
    peer.handlers.methods.update(exchange.methods())
    peer.sources.append(exchange.metrics)
    executor = None
    if "node" in settings.roles:
        executor = _start_executor(nursery, peer, home, settings, exchange)
    # In a thread: votes need not wait for it. It is a fifth of a start's time.
    await trio.to_thread.run_sync(import_module, "node.api.app")
    from node.api.app import serve_api

    serve = partial(
        serve_api,
        peer,
        listen=settings.api.listen,
        token=home.token(),
        artifacts=artifacts,
        bot=_start_bot(nursery, peer, home, settings) if "bot" in settings.roles else None,
        exchange=exchange,
        slots=executor.status if executor is not None else None,
        hosts=settings.api.hosts,
    )
    address: str = await nursery.start(serve)
    return address


def _start_executor(
    nursery: trio.Nursery, peer: Peer, home: Home, settings: Settings, exchange: Exchange
) -> Executor:
    """The 3node: claims and runs what it has proved to be approved. Loaded by those alone that are one: it is
    a twentieth of a start's time."""
    from node.executor.drivers.embedded import drivers
    from node.executor.executor import Executor
    from node.executor.quarantine import Quarantine
    from node.executor.volumes.marks import leave_marks
    from node.executor.volumes.rooms import rooms_of
    from node.executor.volumes.volumes import VolumeShelf

    driver = drivers(home.data_dir)
    quarantine = Quarantine(home.quarantine_file)
    rooms = rooms_of(settings.node, home.data_dir, peer.node_key.public)
    leave_marks(rooms, home.data_dir, peer.node_key.public)
    volumes = VolumeShelf(rooms)
    executor = Executor(peer, settings.node, driver, exchange, quarantine=quarantine, volumes=volumes)
    peer.handlers.methods.update(executor.methods())
    peer.sources.append(executor.metrics)
    nursery.start_soon(executor.run)
    return executor


def _start_bot(nursery: trio.Nursery, peer: Peer, home: Home, settings: Settings) -> BotSeam:
    """The 3bot of the configured account. `bot` stands above `node`, so it is loaded by name."""
    key = home.account_key(settings.bot.account)
    agent = import_module("bot.agent").Agent(peer, key, home.data_dir / "bot_secrets")
    peer.handlers.methods.update(agent.methods())
    nursery.start_soon(agent.run)
    seam: BotSeam = agent
    return seam
