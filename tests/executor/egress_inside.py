"""Run by test_egress.py in a network namespace of its own: a sandbox, with servers that it may reach and not.

Not a test module: it brings its own loopback up and gives it addresses of the wide world.
"""

from __future__ import annotations

import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from node.executor.drivers.base import EgressSpec
from node.executor.drivers.sandbox import SandboxDriver
from tests.executor.conftest import Bench

ALLOWED, OTHER = "9.9.9.9", "9.9.9.10"


def serve(address: str, port: int, word: bytes) -> None:
    """Say a word to each who connects, and say it back when spoken to."""
    listener = socket.create_server((address, port))

    def run() -> None:
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(word + b"\n")

    threading.Thread(target=run, daemon=True).start()


async def main(folder: Path) -> None:
    for words in (
        ["link", "set", "lo", "up"],
        ["addr", "add", f"{ALLOWED}/32", "dev", "lo"],
        ["addr", "add", f"{OTHER}/32", "dev", "lo"],
    ):
        await trio.run_process(["ip", *words])
    serve(ALLOWED, 443, b"allowed")
    serve(ALLOWED, 444, b"another port")
    serve(OTHER, 443, b"another address")
    serve("127.0.0.1", 27657, b"the node's own API")
    await trio.Path(folder).mkdir(mode=0o755)
    bench = Bench(SandboxDriver(folder / "run"), folder)
    ask = "for t in {targets}; do set -- $(echo $t | tr : ' '); "
    ask += 'echo "$t=$(nc -w 2 $1 $2 </dev/null 2>&1)"; done'
    targets = f"{ALLOWED}:443 {ALLOWED}:444 {OTHER}:443 127.0.0.1:27657 169.254.169.254:80 8.8.8.8:53"
    script = ask.replace("{targets}", targets) + "; cat /proc/net/route; ls /sys/class/net 2>/dev/null; true"
    spec = replace(bench.shell(script), egress=(EgressSpec(ALLOWED, 443),))
    text = await bench.output(spec)
    assert f"{ALLOWED}:443=allowed" in text, text
    for word in ("another", "API"):
        assert word not in text, text
    without = await bench.output(bench.shell(script))
    for word in ("=allowed", "another", "API"):
        assert word not in without, without
    # What runs beside it, or after it, has nothing of its way out.
    async with bench.running(replace(bench.shell("sleep 60"), egress=(EgressSpec(ALLOWED, 443),))) as handle:
        beside = await bench.output(bench.shell(script))
        assert "=allowed" not in beside, beside
    # Its relay ends with it.
    assert handle.outlet is not None and handle.outlet.process.returncode is not None
    print("all as it should be")


trio.run(main, Path(sys.argv[1]))
