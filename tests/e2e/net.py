"""A real network as its user has it: `gridpact` commands, the API, /metrics, signals. No peer is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from ledger.keys import Key
from node.client.sdk import Client, ClientError
from node.home import Home, load_key
from node.testnet import (
    Testnet,
    TestnetPeer,
    client_of,
    init_testnet,
    is_up,
    key_of,
    log_tail,
    read_testnet,
    start_peer,
    stop_peers,
    wait_ready,
)
from node.testnet_market import open_market

ROOT = Path(__file__).resolve().parent.parent.parent
STAKEHOLDERS = ("it-expert", "legal", "budget")
READY_S = 90.0
T = TypeVar("T")


def until(what: str, holds: Callable[[], T], timeout_s: float = 60.0) -> T:
    """The first true value of `holds`; fails with `what` after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.05)
    return value


@dataclass(frozen=True, slots=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, decoded."""
        return json.loads(self.out)


def gridpact(
    *words: str, home: str = "", extra: dict[str, str] | None = None, timeout_s: float = 120
) -> Said:
    """Run one command as a process of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GRIDPACT_")} | {"PYTHONPATH": str(ROOT)}
    env |= {"GRIDPACT_HOME": home} if home else {}
    command = [sys.executable, "-m", "node.cli.main", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, input="", env=env | (extra or {}), timeout=timeout_s
    )
    return Said(done.returncode, done.stdout, done.stderr)


@dataclass(slots=True)
class Net:
    """A running network. Names of peers as in node.testnet: v1 …, node1 …, bot1 …"""

    folder: Path
    net: Testnet

    @classmethod
    def up(cls, folder: Path, *, validators: int, nodes: int, bots: int) -> Net:
        """Homes, processes, ready, capacity on offer."""
        made = cls(folder, init_testnet(folder, "e2e", validators=validators, nodes=nodes, bots=bots))
        for peer in made.net.peers:
            if peer.kind == "node":
                made.give_hard_disk(peer.name)
        try:
            made.start(*(peer.name for peer in made.net.peers))
            open_market(made.net, READY_S, lambda text: None)
        except BaseException:
            made.down()
            raise
        return made

    def down(self) -> None:
        """Stop all, by pid; what does not end in time is killed."""
        stop_peers(self.net, [peer.name for peer in self.net.peers])

    def hard_disk(self, name: str) -> Path:
        """The folder that a 3node has for volumes on its hard disk."""
        return self.folder / "disks" / name

    def give_hard_disk(self, name: str) -> None:
        """Make it, and name it in the settings of a 3node that is down."""
        self.hard_disk(name).mkdir(parents=True)
        config = self.home(name).config_file
        old = config.read_text()
        assert 'hdd_folder = ""' in old
        config.write_text(old.replace('hdd_folder = ""', f'hdd_folder = "{self.hard_disk(name)}"'))

    # ------------------------------------------------------------------ peers

    def peer(self, name: str) -> TestnetPeer:
        """A peer's entry."""
        return self.net.peer(name)

    def home(self, name: str) -> Home:
        """A peer's home."""
        return Home(Path(self.peer(name).home))

    def api(self, name: str = "v1") -> Client:
        """A client of a peer."""
        return client_of(self.peer(name))

    def key(self, name: str) -> Key:
        """An account's key."""
        return key_of(self.net, name)

    def node_key(self, name: str) -> Key:
        """A peer's node key."""
        return load_key(self.home(name).node_key_file)

    def name_of(self, node_key: str) -> str:
        """The name of a node key."""
        return next(peer.name for peer in self.net.peers if peer.node_key == node_key)

    def is_up(self, name: str) -> bool:
        """Does its process run?"""
        return is_up(self.peer(name))

    def kill(self, *names: str) -> None:
        """SIGKILL: nothing is told to anybody."""
        assert stop_peers(self.net, names, kill=True) == list(names)

    def stop(self, *names: str) -> None:
        """SIGTERM; nobody may need more than that."""
        assert stop_peers(self.net, names) == []

    def start(self, *names: str, ready: bool = True) -> None:
        """Start peers, and wait until they are ready."""
        for name in names:
            start_peer(self.net, self.peer(name))
        if ready:
            wait_ready(self.net, names, READY_S, lambda text: None)

    def log(self, name: str, lines: int = 400) -> str:
        """The end of a peer's log."""
        return log_tail(self.peer(name), lines)

    def reread(self) -> None:
        """What a `gridpact testnet` command changed."""
        self.net = read_testnet(self.folder)

    # ------------------------------------------------------------------ looking

    def figures(self, name: str = "v1") -> dict[tuple[str, str], float]:
        """/metrics of a peer: value by name and by its one label's value ("" without)."""
        text = self.api(name).call("GET", "/metrics").decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name, next(iter(sample.labels.values()), "")] = sample.value
        return found

    def figure(self, name: str, metric: str, label: str = "") -> float:
        """One figure; 0 when it is not there yet."""
        return self.figures(name).get((f"gridpact_{metric}", label), 0.0)

    def roots(self, *names: str) -> dict[str, tuple[int, str]]:
        """Height and state root of each peer, as it says."""
        found = {name: self.api(name).status() for name in names}
        return {name: (status.height, status.state_root) for name, status in found.items()}

    def until_equal(self, *names: str, timeout_s: float = 60.0) -> tuple[int, str]:
        """One height and one root on all these peers. They are asked one by one, so it may take tries."""

        def equal() -> tuple[int, str] | None:
            try:
                seen = set(self.roots(*names).values())
            except ClientError:
                return None
            return seen.pop() if len(seen) == 1 else None

        found = until(f"one state root on {', '.join(names)}", equal, timeout_s)
        assert found is not None
        return found

    # ------------------------------------------------------------------ commands

    def run(self, *words: str, home: str = "bot1", fails: int = 0) -> Said:
        """A command at a peer's home with the network's keys. Fails unless it ends with `fails`."""
        said = gridpact(*words, home=self.peer(home).home, extra={"GRIDPACT_KEYS": self.net.keys})
        assert said.code == fails, f"gridpact {' '.join(words)}: exit {said.code}\n{said.out}{said.err}"
        return said

    def data(self, *words: str, home: str = "bot1") -> Any:
        """What a command prints as JSON."""
        return self.run(*words, "-o", "json", home=home).json

    def show(self, deployment: str, at: str = "bot1") -> dict[str, Any]:
        """A deployment as a peer's API shows it."""
        shown: dict[str, Any] = json.loads(self.api(at).call("GET", f"/v1/deployments/{deployment}"))
        return shown

    def slot(self, deployment: str, name: str = "web/0", at: str = "bot1") -> dict[str, Any]:
        """One of its slots."""
        return next(slot for slot in self.show(deployment, at)["slots"] if slot["name"] == name)

    # ------------------------------------------------------------------ from contract to running

    def publish(self, source: Path, out: Path, home: str = "v1") -> dict[str, Any]:
        """Build and publish a contract as the author."""
        self.run("contract", "build", str(source), "--out", str(out), home=home)
        done: dict[str, Any] = self.data(
            "contract", "publish", str(source), "--built", str(out), "--key", "author", home=home
        )
        return done

    def deploy(self, contract: str, *more: str) -> str:
        """Order by the 3bot; the deployment's id."""
        roles = [word for name in STAKEHOLDERS for word in ("--role", f"{name}={name}")]
        done = self.data("deploy", contract, "--budget", "1", *roles, *more, "--yes")
        return str(done["deployment"])

    def decide(self, verb: str, deployment: str, role: str, *more: str) -> None:
        """A stakeholder's signature."""
        self.run(verb, deployment, "--as", role, "--key", role, "--yes", *more)

    def approve(self, deployment: str) -> None:
        """Two of three, with budget."""
        for role in ("it-expert", "budget"):
            self.decide("approve", deployment, role)

    def until_running(
        self, deployment: str, term: int = 0, at: str = "bot1", timeout_s: float = 90
    ) -> dict[str, Any]:
        """Its slot web/0, running under a term above `term`."""

        def running() -> dict[str, Any] | None:
            slot = self.slot(deployment, at=at)
            return slot if slot["status"] == "running" and slot["term"] > term else None

        found = until(f"a term above {term} runs", running, timeout_s)
        assert found is not None
        return found


def page(endpoint: str) -> str:
    """The page that a replica serves."""
    with urllib.request.urlopen(f"http://{endpoint}/index.html", timeout=5) as answer:
        return str(answer.read().decode())
