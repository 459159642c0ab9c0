"""What must hold of a network after chaos, from the disks of its stopped peers: every height, every write."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from ledger.blocks import Header, decode_header
from ledger.codec import decode
from ledger.errors import Refused
from ledger.proofs.certificate import Certificate, Ed25519Scheme, VoteKind
from ledger.records import Account, key_account, key_offence
from ledger.state import read
from ledger.storage.store import Store
from tests.e2e.chaos_logs import Logs
from tests.e2e.chaos_writers import Acknowledged
from tests.e2e.net import Net

# Errors that a peer may log while others die: each is about somebody else's silence.
FAULTY_LEVELS = ("error", "critical")


@contextmanager
def opened(net: Net, names: Sequence[str]) -> Iterator[dict[str, Store]]:
    """The stores of stopped peers."""
    with ExitStack() as resources:
        stores = {}
        for name in names:
            genesis = net.home(name).read_genesis()
            stores[name] = Store.open(net.home(name).store_dir, genesis.chain_id, genesis.hash, create=False)
            resources.callback(stores[name].close)
        yield stores


def forks(net: Net, stores: Mapping[str, Store]) -> tuple[dict[int, Header], list[str]]:
    """The headers by height, and where peers differ: bytes of a header, the links between them, the
    certificates that each peer holds, the state root at the tip."""
    wrong: list[str] = []
    first = next(iter(stores))
    top = min(store.tip.height for store in stores.values())
    headers: dict[int, Header] = {}
    for height in range(1, top + 1):
        found = {name: store.header(height) for name, store in stores.items()}
        mine = found[first]
        if mine is None or any(header != mine for header in found.values()):
            wrong.append(f"height {height}: { ({n: (h or b'').hex()[:16] for n, h in found.items()}) }")
            continue
        headers[height] = decode_header(mine)
        parent = headers.get(height - 1)
        if parent is not None and headers[height].parent_hash != parent.hash:
            wrong.append(f"height {height} does not stand on height {height - 1}")
    roots = {name: store.root(top) for name, store in stores.items()}
    if len(set(roots.values())) != 1 or None in roots.values():
        wrong.append(
            f"state roots at height {top}: { ({n: (r or b'').hex()[:16] for n, r in roots.items()}) }"
        )
    wrong += [
        f"{name}: {text}" for name, store in stores.items() for text in _bad_certificates(net, store, headers)
    ]
    return headers, wrong


def _bad_certificates(net: Net, store: Store, headers: Mapping[int, Header]) -> Iterator[str]:
    genesis = net.home(net.net.peers[0].name).read_genesis()
    scheme = Ed25519Scheme()
    held = 0
    for height, header in headers.items():
        data = store.certificate(height)
        if data is None:
            continue  # a later certificate covers it
        held += 1
        certificate = decode(Certificate, data)
        statement = certificate.statement
        if statement.kind is not VoteKind.FINAL or (statement.view, statement.block) != (
            header.view,
            header.hash,
        ):
            yield f"the certificate at height {height} is for another block"
            continue
        try:
            scheme.verify(genesis.chain_id, genesis.validator_set, certificate)
        except Refused as error:
            yield f"the certificate at height {height}: {error}"
    if not held:
        yield "no certificate at all"


def lost(stores: Mapping[str, Store], final: Mapping[str, Acknowledged]) -> list[str]:
    """Acknowledged writes that a peer does not hold, holds at another height, or holds as refused."""
    wrong: list[str] = []
    for name, store in stores.items():
        for id_, told in final.items():
            held = store.tx(bytes.fromhex(id_))
            if held is None:
                wrong.append(f"{name} has lost {id_} of height {told.height}")
            elif held.height != told.height or not held.receipt.ok:
                wrong.append(
                    f"{name} has {id_} at height {held.height} ({held.receipt.rule}), told {told.height}"
                )
    return wrong


def counted(stores: Mapping[str, Store], to: bytes, final: int, unanswered: int) -> list[str]:
    """Each write counts once: the balance that they made is what was told, and at most what was not told."""
    wrong: list[str] = []
    for name, store in stores.items():
        account = read(store.state, Account, key_account(to))
        balance = account.balance if account is not None else 0
        if not final <= balance <= final + unanswered:
            wrong.append(
                f"{name}: {final} writes told final, {unanswered} without an answer, {balance} counted"
            )
    return wrong


def suspended(stores: Mapping[str, Store], net: Net) -> list[str]:
    """Honest validators with an offence on the ledger."""
    return [
        f"{name}: {peer.name} is suspended"
        for name, store in stores.items()
        for peer in net.net.peers
        if peer.validator_key and store.state.get(key_offence(bytes.fromhex(peer.validator_key))) is not None
    ]


def errors(logs: Logs) -> list[str]:
    """Whatever a peer logged as an error, an alarm included, and what is no line of a log."""
    said = [
        f"{line.peer}: {line.event} {line.fields.get('rule', '')}"
        for line in logs.lines
        if line.fields.get("level") in FAULTY_LEVELS or line.event == "peer_fault"
    ]
    return [*said, *logs.other]


def busy_ports(net: Net) -> list[str]:
    """Ports of stopped peers on which somebody still listens."""
    found = []
    for peer in net.net.peers:
        for address in (peer.api, f"127.0.0.1:{peer.p2p.split('/')[4]}"):
            host, _, port = address.rpartition(":")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, int(port)))
                except OSError:
                    found.append(f"{peer.name}: {address} is still taken")
    return found
