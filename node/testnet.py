"""A local network of real peers, each its own process and home, for developers, the demo and tests.

    DIR/testnet.json   what runs where        DIR/genesis.json   DIR/keys/NAME   account keys by name
    DIR/NAME/          the home of a peer: v1 … validators, node1 … 3nodes, bot1 … 3bots

Ports are chosen once, so that peers find each other again after a restart.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from ledger.genesis import Genesis, GenesisValidator
from ledger.keys import Key
from ledger.text.quantities import CREDIT
from node.client.sdk import Client
from node.config import P2P, Api, Bot, Node, Settings, template
from node.errors import ConfigError
from node.home import (
    Home,
    create_key,
    is_running,
    key_path,
    load_key,
    read_run,
    start_ticks,
    write_atomic,
    write_secret,
)
from p2p.ids import peer_id_of

# Below Linux' default range for outgoing connections, so that none takes a peer's port while it is down.
PORTS: Final = range(20_000, 32_000)
PEERS_MAX: Final = 64
STOP_GRACE_S: Final = 30.0  # longer than a 3node tries to have last copies of its volumes kept (20 s)
_POLL_S: Final = 0.05

# Account -> credits. Nobody pays to sign; a stakeholder needs no credits.
ACCOUNTS: Final = {
    "consumer": 1_000,
    "author": 100,
    "farmer-alpha": 10,
    "farmer-beta": 10,
    "it-expert": 0,
    "legal": 0,
    "budget": 0,
    "stranger": 0,
}
FARMS: Final = (("alpha", "BE"), ("beta", "CH"))

Kind = Literal["validator", "node", "bot"]
Say = Callable[[str], None]


class TestnetPeer(msgspec.Struct, kw_only=True):
    """One peer. `pid` 0: not started. Keys in hex."""

    name: str
    kind: Kind
    home: str
    peer_id: str
    node_key: str
    validator_key: str = ""
    p2p: str
    api: str
    farm: str = ""
    country: str = ""
    pid: int = 0
    start_ticks: int = 0


class Testnet(msgspec.Struct, kw_only=True):
    """The whole network, as kept in testnet.json."""

    chain_id: str
    folder: str
    genesis: str
    keys: str
    peers: list[TestnetPeer]

    def peer(self, name: str) -> TestnetPeer:
        """A peer by name. Raises ConfigError."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        names = ", ".join(peer.name for peer in self.peers)
        raise ConfigError(f"no peer {name!r} in this network; there are {names}")

    def key_file(self, name: str) -> Path:
        """The file of a named account key."""
        return key_path(Path(self.keys), name)


def testnet_file(folder: Path) -> Path:
    """Where a network's description stands."""
    return folder / "testnet.json"


def read_testnet(folder: Path) -> Testnet:
    """The network in a folder. Raises ConfigError."""
    file = testnet_file(folder)
    try:
        return msgspec.json.decode(file.read_bytes(), type=Testnet)
    except OSError as error:
        raise ConfigError(f"{file}: no test network here: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{file}: {error}") from error


def save_testnet(net: Testnet) -> None:
    """Write the description, whole or not at all."""
    write_atomic(testnet_file(Path(net.folder)), msgspec.json.format(msgspec.json.encode(net)) + b"\n")


def is_up(peer: TestnetPeer) -> bool:
    """True while the peer's process runs."""
    return peer.pid > 0 and is_running(peer.pid, peer.start_ticks)


def init_testnet(folder: Path, chain_id: str, *, validators: int, nodes: int, bots: int) -> Testnet:
    """Write all homes, keys and the genesis; nothing is started. Raises ConfigError."""
    if not (validators >= 1 and nodes >= 0 and bots >= 0 and validators + nodes + bots <= PEERS_MAX):
        raise ConfigError(f"at least one validator, and at most {PEERS_MAX} peers in all")
    folder = folder.absolute()
    if testnet_file(folder).exists():
        raise ConfigError(f"{testnet_file(folder)}: there is a network already")
    if shutil.disk_usage(_existing(folder)).free < 256 * 1024 * 1024:
        raise ConfigError(f"{folder}: less than 256 MiB of free disk")
    keys = folder / "keys"
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    accounts = {
        create_key(key_path(keys, name)).public.hex(): amount * CREDIT for name, amount in ACCOUNTS.items()
    }
    ports = iter(free_ports(2 * (validators + nodes + bots)))
    peers = [_make_peer(folder, "validator", f"v{i + 1}", ports) for i in range(validators)]
    peers += [_make_peer(folder, "node", f"node{i + 1}", ports, FARMS[i // 2 % 2]) for i in range(nodes)]
    peers += [_make_peer(folder, "bot", f"bot{i + 1}", ports) for i in range(bots)]
    voters = tuple(
        GenesisValidator(key=p.validator_key, weight=1, moniker=p.name)
        for p in peers
        if p.kind == "validator"
    )
    genesis = Genesis(
        chain_id=chain_id, time_ms=time.time_ns() // 1_000_000, validators=voters, accounts=accounts
    )
    genesis_bytes = msgspec.json.format(genesis.encode(), indent=2) + b"\n"
    write_atomic(folder / "genesis.json", genesis_bytes, 0o644)
    for peer in peers:
        home = Home(Path(peer.home))
        write_atomic(home.genesis_file, genesis_bytes, 0o644)
        write_atomic(home.config_file, template(_settings(peer, peers)).encode())
        home.read_genesis()
        if peer.kind == "bot":
            write_secret(key_path(home.keys_dir, "consumer"), key_path(keys, "consumer").read_text())
    net = Testnet(
        chain_id=chain_id,
        folder=str(folder),
        genesis=str(folder / "genesis.json"),
        keys=str(keys),
        peers=peers,
    )
    save_testnet(net)
    return net


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _make_peer(
    folder: Path, kind: Kind, name: str, ports: Iterable[int], farm: tuple[str, str] = ("", "")
) -> TestnetPeer:
    home = Home(folder / name)
    home.create()
    node_key = create_key(home.node_key_file)
    validator_key = create_key(home.validator_key_file).public.hex() if kind == "validator" else ""
    write_secret(home.token_file, secrets.token_urlsafe(32) + "\n")
    peer_id = peer_id_of(node_key.public)
    numbers = iter(ports)
    return TestnetPeer(
        name=name,
        kind=kind,
        home=str(home.root),
        peer_id=peer_id,
        node_key=node_key.public.hex(),
        validator_key=validator_key,
        p2p=f"/ip4/127.0.0.1/tcp/{next(numbers)}/p2p/{peer_id}",
        api=f"127.0.0.1:{next(numbers)}",
        farm=farm[0],
        country=farm[1],
    )


def _settings(peer: TestnetPeer, peers: list[TestnetPeer]) -> Settings:
    """Validators know each other, nodes two validators, a bot one: the rest is found through them."""
    others = tuple(p.p2p for p in peers if p.kind == "validator" and p.name != peer.name)
    is_validator = peer.kind == "validator"
    return Settings(
        moniker=peer.name,
        roles=(peer.kind,),
        p2p=P2P(
            listen=(peer.p2p.partition("/p2p/")[0],),
            bootstrap=() if is_validator else others[: 2 if peer.kind == "node" else 1],
            persistent_peers=others if is_validator else (),
        ),
        api=Api(listen=peer.api),
        node=Node(farm=peer.farm, country=peer.country, cpu="4", memory="2GiB", ssd="10GiB", hdd="20GiB"),
        bot=Bot(account="consumer" if peer.kind == "bot" else ""),
    )


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that nobody listens on now. Raises ConfigError when there are too few."""
    found: list[int] = []
    first = random.SystemRandom().randrange(len(PORTS))
    for step in range(len(PORTS)):
        if len(found) == count:
            break
        port = PORTS[(first + step) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    if len(found) < count:
        raise ConfigError(f"only {len(found)} free ports from {PORTS[0]} to {PORTS[-1]}, {count} wanted")
    return found


def start_peer(net: Testnet, peer: TestnetPeer) -> None:
    """Start a peer's process, unless it runs; it lives on when we end. Its output goes to data/peer.log."""
    if is_up(peer):
        return
    home = Home(Path(peer.home))
    root = Path(__file__).resolve().parent.parent
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRIDPACT_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-P", "-m", "node.cli.main", "start", "--home", peer.home]
    log = os.open(home.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    silence, speaker = os.pipe()
    os.close(speaker)  # nobody types to a peer
    try:
        # No Popen object: the peer outlives this program, and nothing here waits for it.
        actions = [
            (os.POSIX_SPAWN_DUP2, source, target) for source, target in ((silence, 0), (log, 1), (log, 2))
        ]
        pid = os.posix_spawn(command[0], command, env, file_actions=actions, setsid=True)
    finally:
        os.close(log)
        os.close(silence)
    _children.add(pid)
    peer.pid = pid
    peer.start_ticks = start_ticks(pid) or 0
    save_testnet(net)


_children: Final[set[int]] = set()  # so that they are reaped when they end before us


def wait_ready(net: Testnet, names: Iterable[str], timeout_s: float, say: Say) -> None:
    """Until each named peer is up and caught up with a quorum. Raises ConfigError with the log's end."""
    deadline = time.monotonic() + timeout_s
    waiting = [net.peer(name) for name in names]
    while waiting:
        for peer in list(waiting):
            if Client(peer.api, timeout_s=2.0).is_ready():
                say(f"{peer.name} is ready: {peer.api}")
                waiting.remove(peer)
            elif not is_up(peer):
                raise ConfigError(f"{peer.name} ended while starting. Its last words:\n{log_tail(peer, 15)}")
        if waiting and time.monotonic() > deadline:
            names_left = ", ".join(p.name for p in waiting)
            raise ConfigError(
                f"{names_left}: not ready within {timeout_s:.0f} s. {waiting[0].name}'s last words:\n"
                f"{log_tail(waiting[0], 15)}"
            )
        _reap()
        if waiting:
            time.sleep(_POLL_S)


def log_tail(peer: TestnetPeer, lines: int) -> str:
    """The last lines of a peer's log."""
    file = Home(Path(peer.home)).log_file
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 64 * 1024))
            text = stream.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:])


def stop_peers(net: Testnet, names: Iterable[str], *, kill: bool = False) -> list[str]:
    """Stop peers: SIGTERM, and SIGKILL after a grace; SIGKILL at once if `kill`. Returns who was killed.

    Only a process that is still the one we started is ever signalled.
    """
    running = [peer for peer in map(net.peer, names) if is_up(peer)]
    for peer in running:
        _signal(peer, signal.SIGKILL if kill else signal.SIGTERM)
    killed = [peer.name for peer in running] if kill else []
    if not kill and not _wait_gone(running, STOP_GRACE_S):
        for peer in running:
            if is_up(peer):
                killed.append(peer.name)
                _signal(peer, signal.SIGKILL)
    if not _wait_gone(running, STOP_GRACE_S):
        raise ConfigError(f"{', '.join(p.name for p in running if is_up(p))}: still there after SIGKILL")
    for peer in running:
        peer.pid = peer.start_ticks = 0
    save_testnet(net)
    return killed


def _signal(peer: TestnetPeer, number: signal.Signals) -> None:
    try:
        handle = os.pidfd_open(peer.pid)
    except ProcessLookupError:
        return
    try:
        # Checked after the handle is held: from here on it can be no other process.
        if is_up(peer):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _wait_gone(peers: list[TestnetPeer], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(is_up(peer) for peer in peers):
        _reap()
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _reap() -> None:
    for pid in list(_children):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _children.discard(pid)


def client_of(peer: TestnetPeer, timeout_s: float = 30.0) -> Client:
    """A client of a peer, with its token. Follows a peer that listens elsewhere than planned."""
    home = Home(Path(peer.home))
    info = read_run(home)
    return Client(peer.api if info is None else info.api, token_file=home.token_file, timeout_s=timeout_s)


def key_of(net: Testnet, name: str) -> Key:
    """A named account key."""
    return load_key(net.key_file(name))
