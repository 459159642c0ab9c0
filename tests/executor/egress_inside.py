"""Run by test_egress.py in a network namespace of its own: a sandbox, with servers that it may reach and not.

Not a test module. It makes a second namespace, which stands for the wide world, and a line between the two:
addresses of the node's own host are no part of the world.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from node.executor.doors.egress import find_ways
from node.executor.doors.outlet import is_own
from node.executor.drivers.base import EgressSpec
from node.executor.drivers.process import python_argv
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.errors import EgressRefused, StartFailed
from tests.executor.conftest import Bench

ALLOWED, OTHER, OWN = "9.9.9.9", "9.9.9.10", "9.9.9.1"
SIX, OWN_SIX = "2606:4700::1111", "2606:4700::1"
LINE_S = 20.0


def serve(address: str, port: int, word: bytes) -> None:
    """Say a word to each who connects, and say it back when spoken to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)

    def run() -> None:
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(word + b"\n")

    threading.Thread(target=run, daemon=True).start()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=LINE_S)


def address(device: str, *addresses: str) -> None:
    """Bring the device up with these addresses."""
    ip("link", "set", device, "up")
    for one in addresses:
        if ":" in one:
            ip("-6", "addr", "add", f"{one}/64", "dev", device, "nodad")
        else:
            ip("addr", "add", f"{one}/24", "dev", device)


def world() -> None:
    """The other end, in a namespace of its own: servers, until stdin ends."""
    print("here", flush=True)
    sys.stdin.readline()
    address("far", ALLOWED, OTHER, SIX)
    serve(ALLOWED, 443, b"allowed")
    serve(ALLOWED, 444, b"another port")
    serve(OTHER, 443, b"another address")
    serve(SIX, 443, b"allowed by six")
    print("ready", flush=True)
    sys.stdin.read()


def main(folder: Path) -> None:
    command = ["unshare", "--net", sys.executable, "-B", __file__, "world"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as far:
        assert far.stdin is not None and far.stdout is not None
        assert far.stdout.readline() == "here\n"
        ip("link", "set", "lo", "up")
        ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(far.pid))
        address("near", OWN, OWN_SIX)
        far.stdin.write("go\n")
        far.stdin.flush()
        assert far.stdout.readline() == "ready\n"
        try:
            trio.run(look, folder)
        finally:
            far.stdin.close()


async def look(folder: Path) -> None:
    serve("127.0.0.1", 27657, b"the node's own API")
    serve(OWN, 443, b"a service of the host")
    serve(OWN_SIX, 443, b"a service of the host")
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
    six = bench.shell(f"nc -w 2 {SIX} 443 </dev/null 2>&1; nc -w 2 {ALLOWED} 443 </dev/null 2>&1")
    text = await bench.output(replace(six, egress=(EgressSpec(SIX, 443),)))
    assert "allowed by six" in text and "allowed\n" not in text, text
    assert "allowed" not in await bench.output(six)
    # What runs beside it, or after it, has nothing of its way out.
    async with bench.running(replace(bench.shell("sleep 60"), egress=(EgressSpec(ALLOWED, 443),))) as handle:
        beside = await bench.output(bench.shell(script))
        assert "=allowed" not in beside, beside
    await own_addresses_stay_shut(bench)
    for door, words in (("outlet", ("9.9.9.20", "443")), ("portal", ())):
        argv = python_argv(f"node.executor.doors.{door}", str(os.getpid()), "-1", *words)
        done = await trio.run_process(argv, capture_stdout=True, stdin=b"")
        assert b"no network of its own" in done.stdout, done.stdout
    assert not is_own("9.9.9.20")  # nothing that is meant for inside is done to the host
    # Its relay ends with it.
    assert handle.outlet is not None and handle.outlet.process.returncode is not None
    print("all as it should be")


async def own_addresses_stay_shut(bench: Bench) -> None:
    """What listens on the host trusts who is on it, and no rule of a firewall stands between: whichever of
    its addresses a contract names, and one that becomes its own later."""
    for own in (OWN, OWN_SIX):
        assert (await find_refused(f"[{own}]:443" if ":" in own else f"{own}:443")).startswith("egress")
        assert "own" in await find_refused("node.example:443", own)
        try:
            await bench.output(replace(bench.shell("true"), egress=(EgressSpec(own, 443),)))
        except StartFailed as error:
            assert own in str(error), error
        else:
            raise AssertionError(f"{own} was opened")
    ask = f"while :; do nc -w 2 {OTHER} 443 </dev/null 2>&1; echo asked; sleep 0.1; done"
    async with bench.running(replace(bench.shell(ask), egress=(EgressSpec(OTHER, 443),))) as handle:
        await bench.until_logged(handle, "another address")
        address("near", OTHER)
        serve(OTHER, 443, b"a service of the host")
        seen = len(bench.driver.logs(handle, 1 << 20))
        with trio.fail_after(LINE_S):
            while bench.driver.logs(handle, 1 << 20)[seen:].count(b"asked") < 3:
                await trio.sleep(0.05)
        assert b"of the host" not in bench.driver.logs(handle, 1 << 20)


async def find_refused(target: str, resolved: str = "") -> str:
    async def resolver(_: str) -> list[str]:
        return [resolved]

    try:
        await find_ways((target,), resolver)
    except EgressRefused as error:
        return str(error)
    return ""


if sys.argv[1] == "world":
    world()
else:
    main(Path(sys.argv[1]))
