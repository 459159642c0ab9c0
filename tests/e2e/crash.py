"""`python -m tests.e2e.crash`: a validator of a real network under load is killed at each point at which it
persists something, and started again.

After each death, from copies of what it left on the disk: both stores open; the chain is a prefix of the
others'; its sign state contradicts neither itself nor any vote that an earlier life sent; no vote that was
sent is missing in it. At the end: one state root on all, and every transaction that anybody was told to be
final.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from bench.common import machine, save
from consensus.messages import Record
from ledger.blocks import decode_header
from ledger.codec import decode, encode
from ledger.epochs import sign_change
from ledger.proofs.certificate import ValidatorSet
from ledger.storage.store import Store
from ledger.transactions import ChangeValidators
from node.client.sdk import ClientError
from node.clock import wall_ms
from node.home import Home, start_ticks
from node.testnet import init_testnet
from node.voting.safety_store import SafetyStore
from tests.e2e.crash_points import FIRST, INIT, LATER, Point
from tests.e2e.net import ROOT, Net, gridpact, until
from tests.e2e.test_kill import Load

VICTIM: Final = "v4"
OTHERS: Final = ("v1", "v2", "v3")
DEATH_S: Final = 60.0
BUDGET_BLOCKS: Final = 40


@dataclass
class Campaign:
    """One network and its victim."""

    net: Net
    folder: Path
    load: Load
    covered: list[str] = field(default_factory=list)
    lives: int = 0
    epoch: int = 0
    is_whole: bool = True  # the victim holds every block: none was dropped
    votes: dict[tuple[int, str, int], str] = field(default_factory=dict)  # that were sent, in all lives
    tips: dict[int, str] = field(default_factory=dict)  # that the victim once had on disk

    @property
    def votes_file(self) -> Path:
        return self.folder / "votes"

    def start(self, point: Point | None) -> subprocess.Popen[bytes]:
        """The victim with a point to die at."""
        peer = self.net.peer(VICTIM)
        process = self._run(point, "start", "--home", peer.home)
        peer.pid, peer.start_ticks = process.pid, start_ticks(process.pid) or 0
        self.lives += 1
        return process

    def _run(self, point: Point | None, *words: str) -> subprocess.Popen[bytes]:
        """A command of the victim's, with a point to die at."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("GRIDPACT_")}
        env |= {"PYTHONPATH": str(ROOT), "CRASH_VOTES": str(self.votes_file)}
        if point is not None:
            env["CRASH_POINT"] = f"{point.name}:{point.times}"
            if point.by == "prune":
                env["CRASH_BUDGET_BLOCKS"] = str(BUDGET_BLOCKS)
                env["GRIDPACT_STORE_SIZE_MIB_MAX"] = "16"
        command = [sys.executable, "-P", str(ROOT / "tests/e2e/crash_peer.py"), *words]
        with self.net.home(VICTIM).log_file.open("ab") as log:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        assert process.stdin is not None
        process.stdin.close()  # nobody types to a peer
        return process

    def die(self, point: Point) -> None:
        """One life, or one command, which ends at the point."""
        if point.by == "init":
            die_in_init(self.folder / f"home{len(self.covered)}", point)
        elif point.by in ("rollback", "reset"):
            self._die_in_command(point)
        else:
            self._die_in_life(point)
        self.check()
        self.covered.append(point.name)

    def _die_in_command(self, point: Point) -> None:
        """A whole life, stopped cleanly; then a command on what it left. What it takes back may be gone."""
        process = self.start(None)
        try:
            until(f"{VICTIM} is up", lambda: self._is_up(process), DEATH_S)
        finally:
            process.terminate()
            process.wait(20)
            self.net.peer(VICTIM).pid = 0
        self.check()
        words = ("--blocks", "2") if point.by == "rollback" else ("--yes",)
        command = self._run(point, point.by, "--home", self.net.peer(VICTIM).home, *words)
        try:
            self._await(command, point)
        finally:
            if command.poll() is None:
                command.kill()
                command.wait()
        left = max(self.tips) - 2 if point.by == "rollback" else 0
        self.tips = {height: root for height, root in self.tips.items() if height <= left}
        self.is_whole |= point.name.startswith("reset.remove")

    def _die_in_life(self, point: Point) -> None:
        process = self.start(point)
        self.is_whole &= point.by != "prune"
        try:
            if point.by in ("stop", "artifact"):
                until(f"{VICTIM} is up", lambda: self._is_up(process), DEATH_S)
            elif point.by == "change":  # or it meets, on its way, the end of an epoch that it died at before
                until(f"{VICTIM} is up", lambda: process.poll() is not None or self._is_up(process), DEATH_S)
            if point.by == "stop":
                process.send_signal(signal.SIGTERM)
            elif point.by == "artifact":
                self._upload()
            elif point.by == "change" and process.poll() is None:
                self._change()
            self._await(process, point)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            self.net.peer(VICTIM).pid = 0

    def _change(self) -> None:
        """The validators that are to stay up change a weight: the epoch ends with the block after."""
        genesis = self.net.home(VICTIM).read_genesis()
        self.epoch += 1
        members = list(genesis.validator_set.members)
        members[0] = replace(members[0], weight=1 + self.epoch % 2)
        data, until_ms = encode(ValidatorSet(self.epoch, tuple(members))), wall_ms() + 3_600_000
        keys = {
            key.public: key for key in (self.net.home(name).validator_key() for name in (*OTHERS, VICTIM))
        }
        signatures = tuple(
            (number, sign_change(keys[member.key], genesis.chain_id, data, until_ms))
            for number, member in enumerate(members)
        )
        client = self.net.api("v1")
        client.submit(client.sign(self.net.key("author"), ChangeValidators(data, until_ms, signatures)))

    def _await(self, process: subprocess.Popen[bytes], point: Point) -> None:
        until(f"{VICTIM} reaches {point.name}", lambda: process.poll() is not None, DEATH_S)
        said = self.net.log(VICTIM, 15)
        assert process.returncode == -signal.SIGKILL, f"{point.name}: ended with {process.returncode}\n{said}"

    def _is_up(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.net.log(VICTIM, 15)
        return self.net.api(VICTIM).is_ready()

    def _upload(self) -> None:
        data = f"life {self.lives}".encode() * 40_000
        file = self.folder / "upload"
        file.write_bytes(data)
        try:
            self.net.api(VICTIM).put_artifact(sha256(data).hexdigest(), file)
        except (ClientError, OSError):
            pass  # it died of it

    # ------------------------------------------------------------------ what is left

    def check(self) -> None:
        """See the module. Works on copies: opening a store writes to it."""
        data = self.net.home(VICTIM).data_dir
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            tip_view = self._check_chain(data / "store", Path(folder) / "store")
            self._check_votes(data / "sign_state", Path(folder) / "sign_state", tip_view)
        self._check_artifacts(data / "artifacts")

    def _check_chain(self, source: Path, copy: Path) -> int:
        if not source.exists():
            return 0
        shutil.copytree(source, copy)
        genesis = self.net.home(VICTIM).read_genesis()
        store = Store.open(copy, genesis.chain_id, genesis.hash)
        try:
            if store.is_empty:
                return 0
            tip = store.tip
            assert tip.height >= max(self.tips, default=0), "a block that was on disk is gone"
            self.tips[tip.height] = tip.root.hex()
            if tip.height:
                block = self._block(tip.height)
                assert block["hash"] == tip.hash.hex(), f"another block at height {tip.height}"
                assert store.block(tip.height) is not None and store.block(tip.height + 1) is None
            return tip.view
        finally:
            store.close()

    def _block(self, height: int) -> dict[str, object]:
        def there() -> dict[str, object] | None:
            try:
                found: dict[str, object] = json.loads(self.net.api("v1").call("GET", f"/v1/blocks/{height}"))
            except ClientError:
                return None
            return found

        found = until(f"v1 has height {height}", there)
        assert found is not None
        return found

    def _check_votes(self, source: Path, copy: Path, tip_view: int) -> None:
        sent = self.sent()
        if not (source / "CURRENT").exists():
            assert not sent, "votes were sent, and there is no sign state"
            return
        shutil.copytree(source, copy)
        key, genesis = self.net.home(VICTIM).validator_key(), self.net.home(VICTIM).read_genesis()
        safety = SafetyStore.open(copy, genesis.chain_id, key.public, create=True)
        try:
            for epoch in range(self.epoch + 1):
                safety.load(epoch, tip_view)  # raises when its records contradict each other
            kept = [decode(Record, data) for _, data in safety.kv.scan(b"v/")]
            known = {(record.epoch, record.kind.name, record.view): record.block.hex() for record in kept}
            for record in kept:
                assert not record.header or decode_header(record.header).hash == record.block
            above = max(tip_view, safety.floor)
            for (epoch, kind, view), block in sent.items():
                if view > above:
                    found = known.get((epoch, kind, view))
                    assert found == block, f"{kind} of epoch {epoch}, view {view} was sent and not kept"
        finally:
            safety.close()

    def sent(self) -> dict[tuple[int, str, int], str]:
        """What all lives sent; two of a kind in a view, or Skip and Final, are a double vote."""
        votes: dict[tuple[int, str, int], str] = {}
        if not self.votes_file.exists():
            return votes
        for line in self.votes_file.read_text().splitlines():
            kind, *rest = line.split()
            if kind == "PROPOSE":
                continue
            epoch, view, block = int(rest[0]), int(rest[1]), rest[2]
            assert votes.setdefault((epoch, kind, view), block) == block, f"two {kind} in view {view}"
        cast = {kind: {(e, v) for e, k, v in votes if k == kind} for kind in ("SKIP", "FINAL")}
        both = cast["SKIP"] & cast["FINAL"]
        assert not both, f"Skip and Final in views {sorted(both)}"
        return votes

    def _check_artifacts(self, folder: Path) -> None:
        for file in folder.glob("*") if folder.exists() else ():
            if len(file.name) == 64:
                assert sha256(file.read_bytes()).hexdigest() == file.name, f"{file.name} is torn"
                assert file.with_name(f"{file.name}.chunks").exists(), f"{file.name} has no list"

    def finish(self) -> None:
        """It comes up once more and is as the others; nothing that anybody was told is lost."""
        process = self.start(None)
        try:
            until(f"{VICTIM} is up", lambda: self._is_up(process), DEATH_S)
            self.load.until_final(10)
            self.load.__exit__()
            self.net.until_equal(*OTHERS, VICTIM)
            self.load.check(*OTHERS, *([VICTIM] if self.is_whole else []))
            self._check_roots()
            assert self.net.api(VICTIM).status().alarms == []
        finally:
            process.terminate()
            process.wait(20)
        self.check()
        self.votes = self.sent()

    def _check_roots(self) -> None:
        """Each state that a death left behind is the one that a later certified header names."""
        tip = self.net.api("v1").status().height
        named: dict[int, str] = {}
        for height in range(max(1, min(self.tips, default=0)), tip + 1):
            block = self._block(height)
            named[int(str(block["state_height"]))] = str(block["state_root"])
        for height, root in self.tips.items():
            assert named.get(height, root) == root, f"another state at height {height}"


def run(folder: Path, points: Sequence[Point], say: bool = False) -> Campaign:
    """Die at each of these points. Raises AssertionError saying what was wrong."""
    net = Net(folder / "net", init_testnet(folder / "net", "crash", validators=4, nodes=0, bots=0))
    try:
        net.start(*OTHERS)
        with Load(net, ("v1", "v2"), net.key("author")) as load:
            campaign = Campaign(net, folder, load)
            for point in points:
                began_s = time.monotonic()
                campaign.die(point)
                if say:
                    print(f"{point.name:<28} {time.monotonic() - began_s:5.1f} s", flush=True)
            campaign.finish()
        return campaign
    finally:
        net.down()


def die_in_init(home: Path, point: Point) -> None:
    """`gridpact init` dies; said again, it makes the home whole, with the keys that were made."""
    words = ("init", "--home", str(home), "--chain-id", "crash-init")
    env = {k: v for k, v in os.environ.items() if not k.startswith("GRIDPACT_")}
    env |= {"PYTHONPATH": str(ROOT), "CRASH_POINT": f"{point.name}:{point.times}"}
    command = [sys.executable, "-P", str(ROOT / "tests/e2e/crash_peer.py"), *words]
    died = subprocess.run(command, env=env, capture_output=True, text=True, input="", timeout=DEATH_S)
    assert died.returncode == -signal.SIGKILL, f"{point.name}: ended with {died.returncode}\n{died.stderr}"
    kept = {file.name: file.read_bytes() for file in (home / "config").glob("*_key")}
    was_whole = Home(home).config_file.exists()  # it died after its last step
    again = gridpact(*words)
    assert again.code == int(was_whole), f"{point.name}: {again.err}"
    for name, data in kept.items():
        assert (home / "config" / name).read_bytes() == data, f"{name} was made anew"
    made = Home(home)
    assert made.node_key() and made.validator_key() and made.token()
    assert made.read_genesis().validators[0].key == made.validator_key().public.hex()
    left = [file.name for file in home.rglob("*") if file.name.endswith(".new")]
    assert not left, left


def figures(campaign: Campaign, points: int, seconds: float) -> dict[str, object]:
    """What is kept of a run."""
    return {
        "points": points,
        "covered": campaign.covered,
        "lives": campaign.lives,
        "epochs": campaign.epoch,
        "votes": len(campaign.votes),
        "double_votes": 0,  # one would have raised
        "final_transactions": len(campaign.load.final),
        "lost_transactions": 0,
        "wall_s": round(seconds),
    }


def main(argv: list[str]) -> int:
    """Exit code: 0 when every point was reached and nothing was wrong; a fault is raised."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.crash", description=__doc__)
    parser.add_argument("--only", default="", help="points whose name holds this text")
    parser.add_argument("--save", action="store_true", help="write the result to bench/results")
    asked = parser.parse_args(argv)
    points = [point for point in (*INIT, *FIRST, *LATER) if asked.only in point.name]
    shape, began_s = machine(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gridpact-crash-") as folder:
        campaign = run(Path(folder), points, say=True)
    print(f"points covered {len(campaign.covered)} of {len(points)}, lives {campaign.lives}")
    print(f"votes sent in all lives {len(campaign.votes)}, double votes 0")
    print(f"final transactions {len(campaign.load.final)}, lost 0")
    seconds = time.monotonic() - began_s
    print(f"wall time {seconds:.0f} s")
    if asked.save:
        command = "python -m tests.e2e.crash" + (f" --only {asked.only}" if asked.only else "")
        print(f"written: {save('crash', command, shape, figures(campaign, len(points), seconds)).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
