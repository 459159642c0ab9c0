"""CometBFT's built-in kvstore on four validators, with its defaults or tuned as its documentation advises.

The program is built by `go install` from a released version (scripts/bench_setup.sh), never in a run.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

from bench.rivals.system import (
    NotHere,
    Processes,
    System,
    answers,
    clean_env,
    free_ports,
    output_of,
    until,
)

VALIDATORS: Final = 4
# Not tuning: without these four peers of one address do not connect.
SAME_MACHINE: Final = {"addr_book_strict": "false", "allow_duplicate_ip": "true"}
# "Running in production" of its documentation names these for the fastest consensus in one's own network.
TUNED: Final = {
    "timeout_commit": '"0s"',
    "skip_timeout_commit": "true",
    "peer_gossip_sleep_duration": '"10ms"',
    "recheck": "false",
    "flush_throttle_timeout": '"10ms"',
    "max_packet_msg_payload_size": "10240",
    "send_rate": "20000000",
    "recv_rate": "20000000",
}


def program() -> Path:
    """Where scripts/bench_setup.sh puts it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gridpact-bench" / "bin" / "cometbft"


class CometBft(System):
    """See the module. Clients submit to all validators and hear of blocks from one."""

    protocol = "cometbft"
    signatures = "none on transactions: kvstore checks none"

    def __init__(self, *, tuned: bool) -> None:
        super().__init__()
        self.name = f"CometBFT kvstore, 4 validators, {'tuned' if tuned else 'defaults'}"
        self._tuned = tuned
        self.kills_one = tuned  # once is enough: its time-outs are the defaults in both
        self._processes = Processes()
        self._rpc: dict[str, int] = {}

    def start(self, folder: Path) -> None:
        """See System."""
        binary = program()
        if not binary.is_file():
            raise NotHere(f"no CometBFT at {_short(binary)} (scripts/bench_setup.sh builds it; needs Go)")
        changed = SAME_MACHINE | (TUNED if self._tuned else {})
        self.settings = [f"CometBFT {output_of([str(binary), 'version']).strip()}, --proxy_app=kvstore"]
        self.settings += [f"{name} = {value}" for name, value in changed.items()]
        made = subprocess.run(
            [str(binary), "testnet", "--v", str(VALIDATORS), "--o", str(folder)],
            stdin=subprocess.PIPE,
            capture_output=True,
            text=True,
            env=clean_env(),
        )
        if made.returncode:
            raise RuntimeError(f"cometbft testnet: {made.stderr[-1_000:]}")
        names = [f"node{n}" for n in range(VALIDATORS)]
        ports = free_ports(2 * VALIDATORS)
        self._rpc = dict(zip(names, ports[:VALIDATORS], strict=True))
        p2p = dict(zip(names, ports[VALIDATORS:], strict=True))
        show_id = [str(binary), "show-node-id", "--home"]
        ids = {name: output_of([*show_id, str(folder / name)]).strip() for name in names}
        peers = ",".join(f"{ids[name]}@127.0.0.1:{p2p[name]}" for name in names)
        for name in names:
            file = folder / name / "config" / "config.toml"
            listen = {
                "rpc.laddr": f'"tcp://127.0.0.1:{self._rpc[name]}"',
                "p2p.laddr": f'"tcp://127.0.0.1:{p2p[name]}"',
                "persistent_peers": f'"{peers}"',
            }
            file.write_text(configured(file.read_text(), changed | listen))
            command = [str(binary), "start", "--home", str(folder / name), "--proxy_app", "kvstore"]
            self._processes.start(name, command, folder / f"{name}.log", clean_env())
        until(self._all_began, self._processes.check, "CometBFT at height 2")

    def _all_began(self) -> bool:
        return all(answers(port, "status", _has_begun) for port in self._rpc.values())

    def pids(self) -> list[int]:
        """See System."""
        return [process.pid for process in self._processes.running.values()]

    def addresses(self) -> tuple[tuple[str, int], ...]:
        """See System."""
        return tuple(("127.0.0.1", self._rpc[name]) for name in self._processes.running)

    def kill_one(self) -> None:
        """See System."""
        self._processes.kill(next(reversed(self._processes.running)))

    def stop(self) -> None:
        """See System."""
        self._processes.stop()


def _has_begun(status: Any) -> bool:
    return int(status["result"]["sync_info"]["latest_block_height"]) >= 2


def configured(text: str, changes: dict[str, str]) -> str:
    """config.toml with these values. A name may say its section: rpc.laddr. Raises KeyError for none such."""
    lines = text.splitlines()
    missing = set(changes)
    section = ""
    for place, line in enumerate(lines):
        if found := re.fullmatch(r"\[([a-z0-9_]+)\]", line.strip()):
            section = found[1]
        elif found := re.match(r"([a-z0-9_]+) = ", line):
            for name in (found[1], f"{section}.{found[1]}"):
                if name in changes:
                    lines[place] = f"{found[1]} = {changes[name]}"
                    missing.discard(name)
    if missing:
        raise KeyError(", ".join(sorted(missing)))
    return "\n".join(lines) + "\n"


def _short(path: Path) -> str:
    home = str(Path.home())
    return str(path).replace(home, "~", 1)
