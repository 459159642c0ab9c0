"""kill -9: what was final stays final, and everything goes on."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ledger.keys import Key
from ledger.limits import LEASE_MS
from ledger.transactions import Transfer
from node.client.sdk import ClientError
from tests.e2e.conftest import SITE
from tests.e2e.net import Net, page, until
from tests.e2e.workloads import alive, workloads

# The bounds that are held here; docs/bad-input.md states them.
VOTES_AGAIN_S = 60.0
GOES_ON_S = 60.0
DEAD_AT_ONCE_S = 10.0  # long before the lease ends

VALIDATORS = ("v1", "v2", "v3", "v4")


@dataclass
class Load:
    """Transfers of one micro-credit, one after the other, to peers in turn; `final` are those that a peer
    told us to be final. One that got no answer counts as nothing."""

    net: Net
    through: tuple[str, ...]
    sender: Key
    to: Key = field(default_factory=lambda: Key(os.urandom(32)))
    final: dict[str, int] = field(default_factory=dict)  # id -> height
    unanswered: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._send, args=(name,)) for name in self.through]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(40)
        assert not any(thread.is_alive() for thread in self._threads)

    def _send(self, name: str) -> None:
        while not self._over.is_set():
            client = self.net.api(name)
            try:
                raw = client.sign(self.sender, Transfer(self.to.public, 1))
            except ClientError:
                self._over.wait(0.2)  # it is down: nothing was sent
                continue
            try:
                result = client.submit(raw)
            except ClientError:
                self.unanswered += 1
                continue
            assert result.ok, result
            if result.state == "final":
                self.final[result.id] = result.height

    def until_final(self, more: int, timeout_s: float = 60.0) -> None:
        """Wait for that many further final transactions."""
        wanted = len(self.final) + more
        until(f"{more} more are final", lambda: len(self.final) >= wanted, timeout_s)

    def check(self, *names: str) -> None:
        """Each acknowledged transaction is in each peer's chain, where it was said to be, and counts once."""
        for name in names:
            client = self.net.api(name)
            for id_, height in self.final.items():
                view = client.tx(id_)
                assert view.ok and view.height == height, (name, id_)
            balance = client.account(self.to.public).balance
            assert len(self.final) <= balance <= len(self.final) + self.unanswered, name


def test_a_validator_is_killed_in_the_middle_of_load(small: Callable[..., Net]) -> None:
    net = small(validators=4)
    with Load(net, ("v1", "v2", "v4"), net.key("author")) as load:
        load.until_final(10)
        net.kill("v4")
        load.until_final(10)
        net.start("v4", ready=False)
        began_s = time.monotonic()
        until("v4 is ready again", lambda: net.api("v4").is_ready(), VOTES_AGAIN_S)
        # A block that v4 proposed after its restart: it votes, and the others take it.
        key = net.peer("v4").validator_key
        height = net.api("v4").status().height
        until("v4 proposes", lambda: proposed_since(net, key, height), VOTES_AGAIN_S)
        took_s = time.monotonic() - began_s
        load.until_final(10)
    print(f"v4 proposes again {took_s:.1f} s after its start")
    net.until_equal(*VALIDATORS)
    load.check(*VALIDATORS)
    for name in VALIDATORS:
        assert net.api(name).status().alarms == []


def proposed_since(net: Net, key: str, height: int) -> bool:
    blocks = net.api("v1").call("GET", "/v1/blocks", query={"limit": 50})
    return any(b["proposer"] == key and b["height"] > height for b in json.loads(blocks)["items"])


def test_all_validators_are_killed_at_once(small: Callable[..., Net]) -> None:
    net = small(validators=4)
    with Load(net, ("v1", "v2", "v3"), net.key("author")) as load:
        load.until_final(20)
        net.kill(*VALIDATORS)
        heights = max(load.final.values())
        net.start(*VALIDATORS, ready=False)
        began_s = time.monotonic()
        load.until_final(3, GOES_ON_S)
        print(f"final again {time.monotonic() - began_s:.1f} s after the start")
    height, _ = net.until_equal(*VALIDATORS)
    assert height > heights
    load.check(*VALIDATORS)


# ---------------------------------------------------------------------- workloads


def site(net: Net, folder: Path) -> tuple[str, dict[str, object]]:
    """A site that runs on the network: its id and slot."""
    net.publish(SITE, folder / "built")
    deployment = net.deploy("e2e-site")
    net.approve(deployment)
    return deployment, net.until_running(deployment)


def test_a_killed_3node_leaves_nothing_running_and_claims_anew(
    sandbox: None, small: Callable[..., Net], tmp_path: Path
) -> None:
    net = small(validators=1, nodes=1, bots=1)
    deployment, slot = site(net, tmp_path)
    endpoint = str(slot["endpoints"]["http"])  # type: ignore[index]
    assert "Gridpact end to end" in page(endpoint)
    pids = workloads(net, "node1")
    assert len(pids) >= 2
    net.kill("node1")
    until("its workloads are dead", lambda: not alive(pids), DEAD_AT_ONCE_S)
    net.start("node1")
    again = net.until_running(deployment, term=int(str(slot["term"])))
    assert again["holder"] == slot["holder"]
    assert not alive(pids)
    assert "Gridpact end to end" in page(again["endpoints"]["http"])
    details = [r["receipt"]["detail"] for r in net.show(deployment)["receipts"] if r["status"] == "released"]
    assert details == ["the node was restarted; nothing of this term runs"]
    # Stopped by a person it gives the slot back itself, long before its lease ends.
    net.stop("node1")
    until("its slot is given back", lambda: not net.slot(deployment, at="v1")["holder"], LEASE_MS / 3_000)
    assert net.slot(deployment, at="v1")["status"] == "open"
    assert net.show(deployment, at="v1")["receipts"][-1]["receipt"]["detail"] == "the node stops"


def test_a_bot_with_an_empty_disk_goes_on(sandbox: None, small: Callable[..., Net], tmp_path: Path) -> None:
    net = small(validators=1, nodes=1, bots=1)
    net.publish(SITE, tmp_path / "built")
    deployment = net.deploy("e2e-site")
    until("its memory is on the notary", lambda: watched(net).get(deployment))
    net.kill("bot1")
    shutil.rmtree(net.home("bot1").data_dir)
    net.home("bot1").create()
    for role in ("it-expert", "budget"):  # life goes on while the bot is away
        net.run("approve", deployment, "--as", role, "--key", role, "--yes", home="v1")
    net.start("bot1")
    until("the bot knows its deployment", lambda: deployment in watched(net))
    net.until_running(deployment)
    until("the bot sees that it runs", lambda: watched(net)[deployment] == "active")
    cancelled = net.data("deployment", "cancel", deployment, "--reason", "seen enough", "--yes")
    assert cancelled["deployment"] == deployment
    assert net.show(deployment)["status"] == "cancelled"


def watched(net: Net) -> dict[str, str]:
    """What the bot looks after: status by deployment."""
    try:
        said = json.loads(net.api("bot1").call("GET", "/v1/bot/status", token=True))
    except ClientError:
        return {}
    return {w["deployment"]: w["status"] for w in said["watched"]} if said["vault_version"] else {}
