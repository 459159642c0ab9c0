"""Validators join and leave a running network of processes while people write: 4, then 7, then 4 others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ledger.transactions import Transfer
from node import testnet
from node.home import Home
from tests.e2e.chaos_writers import Writers
from tests.e2e.net import Net, gridpact, until

OLD = ("v1", "v2", "v3", "v4")
NEW = ("v5", "v6", "v7")
ALL = OLD + NEW
GOES_ON_S = 60.0


def join(net: Net, *names: str) -> None:
    """Homes as `gridpact init` makes them for who joins by one peer's address; started."""
    ports = iter(testnet.free_ports(2 * len(names)))
    for name in names:
        home = net.folder / name
        words = ("--moniker", name, "--role", "validator", "--genesis", net.net.genesis)
        said = gridpact("init", *words, "--bootstrap", net.peer("v1").p2p, "-o", "json", home=str(home))
        assert said.code == 0, said.err
        p2p, api = f"/ip4/127.0.0.1/tcp/{next(ports)}", f"127.0.0.1:{next(ports)}"
        config = Home(home).config_file
        text = config.read_text()
        places = ("neighbours_max = 8", "neighbours_max = 1")  # taken by v1: links to validators come on top
        for old, new in (("/ip4/0.0.0.0/tcp/27656", p2p), ("127.0.0.1:27657", api), places):
            assert text.count(old) == 1
            text = text.replace(old, new)
        config.write_text(text)
        made = said.json
        net.net.peers.append(
            testnet.TestnetPeer(
                name=name,
                kind="validator",
                home=str(home),
                peer_id=made["peer_id"],
                node_key=Home(home).node_key().public.hex(),
                validator_key=made["validator"],
                p2p=f"{p2p}/p2p/{made['peer_id']}",
                api=api,
            )
        )
    net.start(*names)


def change(net: Net, file: Path, signers: tuple[str, ...], *words: str) -> None:
    """By the commands, as people do it: one proposes, these sign, one submits."""
    net.run("validators", "propose", "--file", str(file), *words, home=signers[0])
    for name in signers:
        net.run("validators", "sign", str(file), "--yes", home=name)
    done = net.data("validators", "submit", str(file), "--key", "stranger", home=signers[-1])
    assert done["ok"], done


def until_epoch(net: Net, epoch: int, members: tuple[str, ...], *at: str) -> None:
    """These peers have that epoch with this set in force."""

    def there() -> bool:
        found = [net.api(name).validators() for name in at]
        return all(f.epoch == epoch and [v.moniker for v in f.members] == list(members) for f in found)

    until(f"epoch {epoch} on {', '.join(at)}", there, GOES_ON_S)


def votes(net: Net, name: str) -> bool:
    """Has it an engine?"""
    return ("gridpact_consensus_view", "") in net.figures(name)


def until_linked(net: Net, *names: str) -> None:
    """Each of these has a link to each other one."""
    ids = {net.peer(name).peer_id for name in names}

    def linked() -> bool:
        for name in names:
            neighbours = {n.peer_id for n in net.api(name).peers().neighbours}
            if not ids - {net.peer(name).peer_id} <= neighbours:
                return False
        return True

    until(f"links of {', '.join(names)} with each other", linked, GOES_ON_S)


def until_more(net: Net, writers: Writers, what: str, count: int = 10) -> None:
    """So many writes more are told to be final."""
    wanted = len(writers.final) + count
    until(f"writes go on {what}", lambda: len(writers.final) >= wanted, GOES_ON_S)


def test_the_set_goes_from_4_to_7_to_4_under_writes(small: Callable[..., Net], tmp_path: Path) -> None:
    net = small(validators=4)
    join(net, *NEW)
    assert all(net.api(name).status().validators == 4 for name in NEW)
    # v4 leaves and v1 stays; v5 joins: a writer's peer changes from voting to following, and back.
    writers = Writers(net, ("v1", "v4", "v5"), rate=20, count=3, seed=1)
    writers.start()
    try:
        until_more(net, writers, "with 4 validators and 3 followers")

        joins = [word for n in NEW for word in ("--add", f"{net.peer(n).validator_key}:1:{n}")]
        change(net, tmp_path / "to-7.json", ("v1", "v2", "v3"), *joins)
        until_epoch(net, 1, ALL, *ALL)
        until_linked(net, *ALL)
        until_more(net, writers, "with 7 validators")

        net.kill("v2", "v3")  # 5 of 7 are a BFT quorum: each vote of the three is needed from here on
        until_more(net, writers, "with all votes of those that joined")

        leaves = [word for n in ("v2", "v3", "v4") for word in ("--remove", n)]
        change(net, tmp_path / "to-4.json", ("v1", "v4", *NEW), *leaves)
        until_epoch(net, 2, ("v1", *NEW), "v1", "v4", *NEW)
        net.start("v2", "v3")  # their keys had seats when they were killed
        until_epoch(net, 2, ("v1", *NEW), "v2", "v3")
        until_more(net, writers, "with 4 others")
    finally:
        writers.stop()
    assert writers.wrong == []
    assert [name for name in ALL if votes(net, name)] == ["v1", *NEW]

    # Those that left take what is written now, too: they follow on.
    sent = net.api("v2").send(net.key("consumer"), Transfer(writers.to.public, 1))
    assert sent.ok
    net.until_equal(*ALL)
    for name in ALL:
        api = net.api(name)
        lost = [id_ for id_, told in writers.final.items() if api.tx(id_).height != told.height]
        assert lost == [], f"{name}: {lost[:3]} of {len(writers.final)}"
        assert api.status().alarms == [], name
