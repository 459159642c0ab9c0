"""`gridpact testnet`: a local network of real peers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from node.cli.context import EXIT_ERROR, EXIT_UNREACHABLE, Failure, current
from node.cli.output import clean, emit, say
from node.client.sdk import ClientError
from node.home import Home
from node.testnet import (
    Testnet,
    client_of,
    init_testnet,
    is_up,
    log_tail,
    read_testnet,
    start_peer,
    stop_peers,
    testnet_file,
    wait_ready,
)

Folder = Annotated[
    Path, Parameter(name=["--dir", "--o"], env_var="GRIDPACT_TESTNET", help="The network's directory.")
]
Names = tuple[str, ...]
_HERE = Path("testnet")


def init(
    *, v: int = 4, nodes: int = 3, bots: int = 1, folder: Folder = _HERE, chain_id: str = "gridpact-local"
) -> int:
    """Write homes, keys and genesis of a local network.

    Args:
        v: Validators.
        nodes: 3nodes, in two farms and two countries.
        bots: 3bots; each orders for the account "consumer".
        chain_id: Name of the chain.
    """
    net = init_testnet(folder, chain_id, validators=v, nodes=nodes, bots=bots)
    say(f"made {net.folder} with {len(net.peers)} peers; account keys are in {net.keys}")
    return _show(net)


def up(
    *, v: int = 4, nodes: int = 3, bots: int = 1, folder: Folder = _HERE, chain_id: str = "gridpact-local"
) -> int:
    """Start a local network and wait until it is ready.

    A directory that holds a network already is started as it is.

    Args:
        v: Validators.
        nodes: 3nodes, in two farms and two countries.
        bots: 3bots; each orders for the account "consumer".
        chain_id: Name of the chain.
    """
    from node.testnet_market import open_market

    started_s = time.monotonic()
    if testnet_file(folder).exists():
        net = read_testnet(folder)
    else:
        net = init_testnet(folder, chain_id, validators=v, nodes=nodes, bots=bots)
    for peer in net.peers:
        start_peer(net, peer)
    say(f"{len(net.peers)} peers of chain {net.chain_id} start in {net.folder}")
    wait_ready(net, [peer.name for peer in net.peers], current.timeout_s, say)
    open_market(net, current.timeout_s, say)
    say(f"up after {time.monotonic() - started_s:.1f} s; explorer: http://{net.peers[0].api}/")
    return _show(net)


def start(*names: str, folder: Folder = _HERE) -> int:
    """Start peers of the network that are down.

    Args:
        names: Which; all when none is named.
    """
    net = read_testnet(folder)
    wanted = list(names) or [peer.name for peer in net.peers]
    for name in wanted:
        start_peer(net, net.peer(name))
    wait_ready(net, wanted, current.timeout_s, say)
    return _show(net)


def stop(*names: str, kill: bool = False, folder: Folder = _HERE) -> int:
    """Stop some peers of the network.

    Args:
        names: Which.
        kill: SIGKILL at once, as a power cut would.
    """
    net = read_testnet(folder)
    killed = stop_peers(net, names, kill=kill)
    say(f"stopped {', '.join(names) or 'nothing'}" + (f" (killed {', '.join(killed)})" if killed else ""))
    return 0


def down(*, folder: Folder = _HERE) -> int:
    """Stop the whole network."""
    net = read_testnet(folder)
    killed = stop_peers(net, [peer.name for peer in net.peers])
    say("all peers are down" + (f"; {', '.join(killed)} had to be killed" if killed else ""))
    return 0


def status(*, folder: Folder = _HERE) -> int:
    """Show its peers."""
    return _show(read_testnet(folder))


def _show(net: Testnet) -> int:
    shown = []
    for peer in net.peers:
        row: dict[str, str | int] = {
            "name": peer.name,
            "kind": peer.kind,
            "farm": peer.farm,
            "country": peer.country,
            "pid": peer.pid,
            "state": "down",
            "height": 0,
            "state_root": "",
            "neighbours": 0,
            "api": peer.api,
            "home": peer.home,
        }
        if is_up(peer):
            try:
                found = client_of(peer, 5.0).status()
                row |= {
                    "height": found.height,
                    "state_root": found.state_root,
                    "neighbours": found.neighbours,
                }
                row["state"] = "ready" if found.ready else f"up: {found.not_ready}"
            except ClientError as error:
                row["state"] = f"up, but silent: {error}"
        shown.append(row)
    columns = ("name", "kind", "farm", "state", "height", "neighbours", "pid", "api")
    emit(shown, columns, [[row[column] for column in columns] for row in shown])
    return 0


def logs(
    name: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    lines: int = 50,
    folder: Folder = _HERE,
) -> int:
    """Show a peer's log.

    Args:
        name: Which peer.
        follow: Go on as it grows, until Ctrl-C or the peer ends.
        lines: How many of the last lines.
    """
    net = read_testnet(folder)
    peer = net.peer(name)
    for line in log_tail(peer, lines).splitlines():
        print(clean(line))
    if not follow:
        return 0
    with Home(Path(peer.home)).log_file.open("r", errors="replace") as stream:
        stream.seek(0, 2)
        while True:
            line = stream.readline()
            if line:
                print(clean(line.rstrip("\n")), flush=True)
            elif not is_up(peer):
                raise Failure(EXIT_ERROR if peer.pid else EXIT_UNREACHABLE, f"{name} is not running")
            else:
                time.sleep(0.2)
