"""Network namespaces as machines: sites with a bridge each, long lines between them, NAT boxes. Needs root.

Names begin with `gpn` and the pid of who made them; `Lab` clears away what a killed run left. Nothing leaves
the namespaces: no site has a way out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.netns.wan import inside

_OURS = re.compile(r"^gpn(\d+)-")
_NAT = """
add table ip nat
add chain ip nat out { type nat hook postrouting priority 100; }
add rule ip nat out oifname eth0 masquerade
add table ip wall
add chain ip wall forward { type filter hook forward priority 0; policy drop; }
add rule ip wall forward iifname lan0 accept
add rule ip wall forward ct state established,related accept
"""


def why_not() -> str:
    """Why namespaces cannot be used here; "" when they can."""
    if os.geteuid():
        return "network namespaces need root"
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: iproute2, nftables)"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is not there"
    name = f"gpn{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"namespaces cannot be made here: {tried.stderr.strip()}"
    made = subprocess.run(
        ["ip", "-n", name, "link", "add", "try0", "type", "veth", "peer", "name", "try1"],
        capture_output=True,
        text=True,
    )
    subprocess.run(["ip", "netns", "del", name], check=True)
    return f"no veth here: {made.stderr.strip()}" if made.returncode else ""


def run(*words: str) -> str:
    """A command's output. Fails with what it said."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass(slots=True)
class Machine:
    """One namespace with one address."""

    name: str
    namespace: str
    address: str
    site: str

    def inside(self) -> AbstractContextManager[None]:
        """This thread stands there for a while: sockets and processes belong to this machine."""
        return inside(self.namespace)

    def wall(self, *rules: str) -> None:
        """Packets to drop silently, as nft's matches by "in" or "out"; none: all pass again."""
        text = "add table inet cut; delete table inet cut"
        if rules:
            text += "; add table inet cut"
            for way, hook in (("in", "input"), ("out", "output")):
                hooked = "{ type filter hook " + hook + " priority 0; policy accept; }"
                text += f"; add chain inet cut {way} {hooked}"
            for rule in rules:
                way, _, match = rule.partition(" ")
                text += f"; add rule inet cut {way} {match} drop"
        run("ip", "netns", "exec", self.namespace, "nft", text)


@dataclass(slots=True)
class Lab:
    """Sites by name, numbered from 1: site N has the network 10.N.0.0/16. A context manager."""

    sites: tuple[str, ...]
    machines: dict[str, Machine] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"gpn{os.getpid()}-")
    _made: list[str] = field(default_factory=list)
    _wan: subprocess.Popen[str] | None = None
    _blocked: frozenset[str] = frozenset()

    def __enter__(self) -> Lab:
        clear_left_over()
        try:
            for number, site in enumerate(self.sites, 1):
                router = self._namespace(f"site-{site}")
                run("ip", "-n", router, "link", "add", "br0", "type", "bridge")
                run("ip", "-n", router, "addr", "add", f"10.{number}.0.1/16", "dev", "br0")
                run("ip", "-n", router, "link", "set", "br0", "up")
            words = [
                f"{site}={self.prefix}site-{site}=10.{number}.0.0/16"
                for number, site in enumerate(self.sites, 1)
            ]
            self._wan = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("wan.py")), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._answer()
            for site in self.sites:
                router = f"{self.prefix}site-{site}"
                run("ip", "-n", router, "link", "set", "wan0", "up")
                run("ip", "-n", router, "route", "add", "10.0.0.0/8", "dev", "wan0")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._wan is not None:
            assert self._wan.stdin is not None
            assert self._wan.stdout is not None
            self._wan.stdin.close()
            self._wan.stdout.close()
            self._wan.wait(10)
        for name in self._made:
            remove(name)
        self._made.clear()

    def _namespace(self, name: str) -> str:
        full = self.prefix + name
        run("ip", "netns", "add", full)
        self._made.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        run("ip", "netns", "exec", full, "sh", "-c", forward)
        return full

    def machine(self, name: str, site: str, host: str) -> Machine:
        """A new machine at a site; `host` is the end of its address, such as "0.11"."""
        namespace = self._namespace(name)
        number = self.sites.index(site) + 1
        made = Machine(name, namespace, f"10.{number}.{host}", site)
        self._plug(namespace, f"{self.prefix}site-{site}", f"v-{name}")
        self.give_address(made, made.address)
        self.machines[name] = made
        return made

    def _plug(self, namespace: str, router: str, port: str) -> None:
        peer = ("peer", "name", port[:15], "netns", router)
        run("ip", "-n", namespace, "link", "add", "eth0", "type", "veth", *peer)
        run("ip", "-n", router, "link", "set", port[:15], "master", "br0", "up")

    def give_address(self, machine: Machine, address: str) -> None:
        """The machine stands at that address from now on, and nowhere else."""
        number = self.sites.index(machine.site) + 1
        run("ip", "-n", machine.namespace, "addr", "flush", "dev", "eth0")
        run("ip", "-n", machine.namespace, "addr", "add", f"{address}/16", "dev", "eth0")
        run("ip", "-n", machine.namespace, "link", "set", "eth0", "up")
        run("ip", "-n", machine.namespace, "route", "add", "default", "via", f"10.{number}.0.1")
        machine.address = address

    def behind_nat(self, name: str, site: str, host: str) -> Machine:
        """A machine at 192.168.7.2 behind a box that masquerades and lets nothing in by itself."""
        box = self.machine(f"{name}-nat", site, host)
        namespace = self._namespace(name)
        peer = ("peer", "name", "lan0", "netns", box.namespace)
        run("ip", "-n", namespace, "link", "add", "eth0", "type", "veth", *peer)
        run("ip", "-n", namespace, "addr", "add", "192.168.7.2/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "-n", box.namespace, "addr", "add", "192.168.7.1/24", "dev", "lan0")
        run("ip", "-n", box.namespace, "link", "set", "lan0", "up")
        run("ip", "-n", namespace, "route", "add", "default", "via", "192.168.7.1")
        run("ip", "netns", "exec", box.namespace, "nft", _NAT)
        self.machines[name] = Machine(name, namespace, "192.168.7.2", site)
        return self.machines[name]

    # ------------------------------------------------------------------ the lines

    def lines(self, rtt_ms: dict[tuple[str, str], float], loss: float = 0.0) -> dict[str, int]:
        """Sets the round trip between sites, and the share of packets lost each way. Returns figures."""
        ways = {f"{a}>{b}": ms / 2 for (one, two), ms in rtt_ms.items() for a, b in ((one, two), (two, one))}
        return self._order({"delay_ms": ways, "loss": dict.fromkeys(ways, loss)})

    def cut(self, *ways: str) -> dict[str, int]:
        """Exactly these directions ("a>b") are cut from now on; none: all are whole."""
        self._blocked = frozenset(ways)
        return self._order({})

    def cut_off(self, site: str) -> dict[str, int]:
        """Cuts one site off from all others."""
        others = [other for other in self.sites if other != site]
        return self.cut(*(f"{site}>{o}" for o in others), *(f"{o}>{site}" for o in others))

    def _order(self, order: dict[str, object]) -> dict[str, int]:
        assert self._wan is not None
        assert self._wan.stdin is not None
        self._wan.stdin.write(json.dumps(order | {"blocked": sorted(self._blocked)}) + "\n")
        self._wan.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._wan is not None
        assert self._wan.stdout is not None
        line = self._wan.stdout.readline()
        assert line, "the lines between the sites have ended"
        found: dict[str, int] = json.loads(line)
        return found


def clear_left_over() -> list[str]:
    """Removes the namespaces of runs that have ended without doing so. Returns their names."""
    gone = []
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        found = _OURS.match(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            remove(name)
            gone.append(name)
    return gone


def remove(namespace: str) -> None:
    """Ends every process that stands in a namespace of ours, by its pid, and removes it."""
    assert _OURS.match(namespace), namespace
    _kill(run("ip", "netns", "pids", namespace).split())
    run("ip", "netns", "del", namespace)


def _kill(pids: Iterable[str]) -> None:
    for pid in pids:
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself
