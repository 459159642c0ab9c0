"""Run by test_reach.py in a network namespace of its own: servers that a workload wants to reach, and cannot.

Not a test module. The same program tries from a plain process there first, and must reach every one: or
nothing would be proved.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from node.executor.drivers.base import PortSpec, TaskSpec
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.oci.driver import OciDriver
from tests.executor.conftest import BUSYBOX, Bench

AIMS = {
    "the node's API": ("127.0.0.1", 27657),
    "the node's API on IPv6": ("::1", 27657),
    "the node's libp2p port": ("10.20.0.1", 27656),
    "a neighbour's port": ("10.20.0.2", 8080),
    "a cloud's metadata": ("169.254.169.254", 80),
    "a router": ("192.168.1.1", 80),
    "a service in the host's container network": ("172.17.0.1", 80),
}
HEARD: list[str] = []


def serve(name: str, address: str, port: int) -> None:
    """Count who comes, and say a word."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)

    def run() -> None:
        while True:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                HEARD.append(name)
                sock.sendall(b"reached\n")

    threading.Thread(target=run, daemon=True).start()


def script() -> str:
    """Each aim asked for its word, by TCP."""
    asked = [f"nc -w 2 {host} {port} </dev/null" for host, port in AIMS.values()]
    return "; ".join(asked) + "; true"


async def plainly(text: str) -> str:
    """What a shell outside of any sandbox says."""
    command = [str(BUSYBOX), "sh", "-c", text]
    with trio.fail_after(60):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    return done.stdout.decode()


async def main(folder: Path, runtime: str) -> None:
    await trio.run_process(["ip", "link", "set", "lo", "up"])
    for name, (host, port) in AIMS.items():
        if host not in ("127.0.0.1", "::1"):
            await trio.run_process(["ip", "addr", "add", f"{host}/32", "dev", "lo"])
        serve(name, host, port)
    outside = await plainly(script())
    assert outside.count("reached") == len(AIMS), outside
    assert set(HEARD) == set(AIMS)
    HEARD.clear()

    await trio.Path(folder).mkdir(mode=0o755)
    driver = {"sandbox": SandboxDriver, "oci": OciDriver}[runtime](folder / "run")
    bench = Bench(driver, folder)  # type: ignore[arg-type]

    def shell(text: str, **options: object) -> TaskSpec:
        return replace(bench.shell(text, **options), runtime=runtime)

    inside = await bench.output(shell(script() + "; echo tried"))
    assert "tried" in inside and "reached" not in inside, inside
    # A port of its own opens a way in, and none out.
    served = await bench.output(shell(script() + "; echo tried", ports=(PortSpec("http", 8080),)))
    assert "tried" in served and "reached" not in served, served
    # Nor does it reach a task beside it, whose port the host does reach.
    listen = "nc -ll -p 8080 -e /bin/busybox echo reached"
    async with bench.running(shell(listen, ports=(PortSpec("http", 8080),))) as neighbour:
        host, port = neighbour.ports["http"]
        ask = f"nc -w 2 {host} {port} </dev/null; nc -w 2 127.0.0.1 8080 </dev/null; echo tried"
        with trio.fail_after(60):
            while "reached" not in await plainly(ask):
                await trio.sleep(0.05)
        text = await bench.output(shell(ask))
        assert "tried" in text and "reached" not in text, text
    assert HEARD == []
    print("all as it should be")


trio.run(main, Path(sys.argv[1]), sys.argv[2])
