"""Real peers (`gridpact start`, a process each) on the machines of a lab, joined as people join."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from ledger.genesis import Genesis, GenesisValidator
from ledger.keys import Key
from ledger.text.quantities import CREDIT
from ledger.transactions import Transfer
from node.api import models as m
from node.cli.main import main
from node.client.sdk import Client, ClientError
from node.config import P2P, Settings, template
from node.home import Home, create_key, write_atomic, write_secret
from p2p.ids import peer_id_of
from tests.e2e.net import ROOT, until
from tests.netns.lab import Lab, Machine

API = "127.0.0.1:27657"  # each machine has its own loopback
PORT = 27_656
STOP_S = 60.0


@dataclass(slots=True)
class Member:
    """One peer and the machine that it runs on."""

    name: str
    machine: Machine
    home: Home
    peer_id: str
    process: subprocess.Popen[bytes] | None = None
    words: tuple[str, ...] = ()  # more for `gridpact start`

    @property
    def address(self) -> str:
        """Where it is dialled from elsewhere."""
        return f"/ip4/{self.machine.address}/tcp/{PORT}/p2p/{self.peer_id}"


@dataclass(slots=True)
class Grid:
    """All peers by name. `down` ends them, by pid."""

    lab: Lab
    folder: Path
    members: dict[str, Member] = field(default_factory=dict)
    money: Key = field(default_factory=lambda: Key(secrets.token_bytes(32)))
    genesis: Genesis | None = None

    # ------------------------------------------------------------------ making

    def found(self, validators: dict[str, Machine]) -> None:
        """Homes of a new chain's validators, who know each other's addresses."""
        voters = []
        for name, machine in validators.items():
            home = Home(self.folder / name)
            home.create()
            node_key = create_key(home.node_key_file)
            key = create_key(home.validator_key_file)
            write_secret(home.token_file, secrets.token_urlsafe(32) + "\n")
            voters.append(GenesisValidator(key=key.public.hex(), weight=1, moniker=name))
            self.members[name] = Member(name, machine, home, peer_id_of(node_key.public))
        self.genesis = Genesis(
            chain_id="netns",
            time_ms=time.time_ns() // 1_000_000,
            validators=tuple(voters),
            accounts={self.money.public.hex(): 1_000_000 * CREDIT},
        )
        for name in validators:
            others = tuple(self.members[other].address for other in validators if other != name)
            settings = Settings(moniker=name, roles=("validator",), p2p=P2P(persistent_peers=others))
            home = self.members[name].home
            write_atomic(home.genesis_file, msgspec.json.format(self.genesis.encode()), 0o644)
            write_atomic(home.config_file, template(settings).encode())

    def command(
        self, at: str | Machine, *words: str, code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """`gridpact WORDS` run on a machine; with a member's name, in its home."""
        member = self.members[at] if isinstance(at, str) else None
        machine = at if isinstance(at, Machine) else self.members[at].machine
        more = ["--home", str(member.home.root)] if member is not None else []
        with machine.inside():
            done = subprocess.run(
                [sys.executable, "-m", "node.cli.main", *words, *more],
                capture_output=True,
                text=True,
                env=_environment(),
                timeout=90,
            )
        if code is not None:
            assert done.returncode == code, f"gridpact {' '.join(words)}: {done.returncode}\n{done.stderr}"
        return done

    def join(self, name: str, machine: Machine, via: str, *words: str, genesis_hash: str = "") -> Member:
        """`gridpact init --join`: one address, and the hash if given."""
        home = Home(self.folder / name)
        more = ("--genesis-hash", genesis_hash) if genesis_hash else ()
        command = ["init", "--home", str(home.root), "--moniker", name, "--join", via, *more, *words]
        with machine.inside():
            assert main(command) == 0  # the command, without a process of its own
        found = Member(name, machine, home, peer_id_of(home.node_key().public))
        self.members[name] = found
        return found

    # ------------------------------------------------------------------ living

    def start(self, *names: str, ready: bool = True, timeout_s: float = 90.0) -> None:
        """Start peers; `ready` waits until they are caught up."""
        for name in names:
            member = self.members[name]
            command = [sys.executable, "-P", "-m", "node.cli.main", "start", *member.words]
            command += ["--home", str(member.home.root)]
            with member.home.log_file.open("ab") as log, member.machine.inside():
                member.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment()
                )
        if ready:
            self.until_ready(*names, timeout_s=timeout_s)

    def until_ready(self, *names: str, timeout_s: float = 90.0) -> float:
        """Until each says that it is caught up. Returns the seconds that it took."""
        begun = time.monotonic()
        for name in names:
            try:
                until(f"{name} is ready", lambda name=name: self._is_ready(name), timeout_s)  # type: ignore[misc]
            except AssertionError as late:
                raise AssertionError(f"{late}; its last words:\n{self.log(name)[-2000:]}") from None
        return time.monotonic() - begun

    def _is_ready(self, name: str) -> bool:
        process = self.members[name].process
        assert process is not None and process.poll() is None, f"{name} ended:\n{self.log(name)[-3000:]}"
        return bool(self.ask(name, lambda client: client.is_ready()))

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a peer's process."""
        process = self.members[name].process
        assert process is not None
        process.send_signal(number)

    def stop(self, *names: str, kill: bool = False) -> None:
        """End peers; what does not end in time is killed, and that is a failure."""
        late = []
        running = [(name, p) for name in names if (p := self.members[name].process) is not None]
        for _, process in running:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        for name, process in running:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                late.append(name)
                process.kill()
                process.wait(STOP_S)
            assert process.stdin is not None
            process.stdin.close()
            self.members[name].process = None
        assert not late, f"did not stop within {STOP_S:.0f} s: {late}"

    def down(self) -> None:
        """End all."""
        self.stop(*self.members)

    # ------------------------------------------------------------------ looking

    def ask(self, name: str, question: Callable[[Client], object], timeout_s: float = 30.0) -> object:
        """What a peer's API answers; None when it does not."""
        member = self.members[name]
        with member.machine.inside():
            try:
                return question(Client(API, token_file=member.home.token_file, timeout_s=timeout_s))
            except ClientError:
                return None

    def status(self, name: str) -> m.Status:
        """Of a peer that answers."""
        found = until(f"{name} answers", lambda: self.ask(name, lambda client: client.status()))
        assert isinstance(found, m.Status)
        return found

    def peers(self, name: str) -> m.Peers:
        """Its neighbours and bans."""
        found = until(f"{name} answers", lambda: self.ask(name, lambda client: client.peers()))
        assert isinstance(found, m.Peers)
        return found

    def neighbours(self, name: str) -> dict[str, m.Neighbour]:
        """Neighbours by name; strangers by their peer id."""
        names = {member.peer_id: member.name for member in self.members.values()}
        return {names.get(n.peer_id, n.peer_id): n for n in self.peers(name).neighbours}

    def figures(self, name: str) -> dict[tuple[str, str], float]:
        """/metrics: value by name and by the one label's value ("" without)."""
        text = until(f"{name} answers", lambda: self.ask(name, lambda client: client.call("GET", "/metrics")))
        assert isinstance(text, bytes)
        found = {}
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                found[sample.name.removeprefix("gridpact_"), next(iter(sample.labels.values()), "")] = (
                    sample.value
                )
        return found

    def events(self, name: str, kind: str) -> float:
        """One counter of the network layer."""
        return self.figures(name).get(("p2p_events_total", kind), 0.0)

    def transfer(self, at: str, timeout_s: float = 60.0) -> float:
        """Move one micro-credit by a peer's API. Returns the seconds until it was final there."""
        member = self.members[at]
        with member.machine.inside():
            client = Client(API, timeout_s=timeout_s)
            raw = client.sign(self.money, Transfer(self.money.public, 1))
            begun = time.monotonic()
            result = client.submit(raw)
            spent = time.monotonic() - begun
        assert result.state == "final", result
        return spent

    def is_final_anywhere(self, at: str, timeout_s: float) -> bool:
        """Does a transfer sent to this peer become final within that time?"""
        member = self.members[at]
        with member.machine.inside():
            client = Client(API, timeout_s=timeout_s)
            try:
                raw = client.sign(self.money, Transfer(self.money.public, 1))
                return client.submit(raw).state == "final"
            except ClientError:
                return False

    def until_equal(self, *names: str, timeout_s: float = 60.0) -> float:
        """Until all hold a block that the first has now, with the same hash. Returns the seconds."""
        wanted = self.status(names[0]).height
        begun = time.monotonic()
        for name in names:
            until(
                f"{name} holds block {wanted}",
                lambda name=name: self.status(name).height >= wanted,  # type: ignore[misc]
                timeout_s,
            )
        spent = time.monotonic() - begun
        hashes = {
            name: self.ask(name, lambda client: client.get(f"/v1/blocks/{wanted}", m.BlockDetail).hash)
            for name in names
        }
        assert len(set(hashes.values())) == 1, hashes
        return spent

    def log(self, name: str) -> str:
        """All that a peer has said."""
        return self.members[name].home.log_file.read_text(errors="replace")


def _environment() -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GRIDPACT_")}
    return clean | {"PYTHONPATH": str(ROOT)}
