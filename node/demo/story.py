"""The seven steps of the demo. Whatever does not go as promised raises DemoFailed."""

from __future__ import annotations

import json
import random
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.audit.audit import verify as verify_audit
from node.client.amounts import credits_text
from node.demo.stage import DemoFailed, Stage
from node.home import read_genesis

STAKEHOLDERS = ("it-expert", "legal", "budget")
FLIPS = 100  # bytes of the audit file that are changed, one at a time


@dataclass(slots=True)
class Story:
    """What the steps learn from each other."""

    stage: Stage
    net: Path
    site: str = ""
    mining: str = ""
    peers: dict[str, dict[str, Any]] = field(default_factory=dict)

    # ------------------------------------------------------------------ 1 and 2

    def start_network(self) -> None:
        """Four validators, three 3nodes, one 3bot: eight processes, eight LevelDBs."""
        rows = self.stage.data("testnet", "up", "--v", "4", "--nodes", "3", "--bots", "1")
        self.peers = {row["name"]: row for row in rows}
        if any(row["state"] != "ready" for row in rows):
            raise DemoFailed(f"not all peers are ready: {rows}")
        for kind, text in (("validator", "validators"), ("node", "3nodes"), ("bot", "3bot")):
            members = [row for row in rows if row["kind"] == kind]
            places = sorted({f"{row['farm']} ({row['country']})" for row in members if row["farm"]})
            self.stage.found(f"{len(members)} {text}" + (f", farms {', '.join(places)}" if places else ""))
        self.stage.note(f"first blocks are final; height {max(row['height'] for row in rows)}")

    def publish(self) -> None:
        """The author builds artifacts and signs the contracts."""
        author = str(self.net / "v1")
        for name in ("site", "mining"):
            source, out = f"examples/{name}", str(self.stage.folder / f"{name}-build")
            artifacts = self.stage.data("contract", "build", source, "--out", out)
            for artifact in artifacts:
                self.stage.note(
                    f"{artifact['path']}  {artifact['size_bytes']:,} B  sha256 {artifact['sha256'][:16]}…"
                )
            done = self.stage.data(
                "contract", "publish", source, "--built", out, "--key", "author", "--home", author
            )
            self.stage.found(f"{name} {done['version']}: signed contract {done['id'][:16]}… is final")

    # ------------------------------------------------------------------ 3 and 4

    def order(self) -> None:
        """The consumer tells the 3bot what they need."""
        roles = [word for name in STAKEHOLDERS for word in ("--role", f"{name}={name}")]
        site = ["deploy", "site", "--param", "country=BE", "--param", "second_country=CH"]
        site += ["--param", "replicas=2", "--budget", "5", *roles]
        plan = self.stage.run(*site, "--plan-only")
        for line in plan.stdout.strip().splitlines():
            self.stage.note(line)
        self.site = self.stage.data(*site, "--yes")["deployment"]
        self.stage.found(f"site is ordered: deployment {self.site[:16]}…, 5 credits in escrow")
        mining = ["deploy", "mining", "--param", "top=25", "--budget", "1", *roles, "--yes"]
        self.mining = self.stage.data(*mining)["deployment"]
        self.stage.found(f"mining is ordered: deployment {self.mining[:16]}…, 1 credit in escrow")

    def approve(self) -> None:
        """Nothing runs before the approval quorum; a stranger's approval is refused."""
        shown = self.show(self.site)
        if shown["status"] != "awaiting_approval" or any(slot["holder"] for slot in shown["slots"]):
            raise DemoFailed(f"something runs without approval: {shown['status']}")
        self.stage.found(f"nothing runs: {shown['status']}, {len(shown['slots'])} slots, none held")
        for reason in shown["policies"]["deploy"]["reasons"]:
            self.stage.note(reason)
        self.sign("approve", self.site, "it-expert", "it-expert")
        shown = self.show(self.site)
        if shown["status"] != "awaiting_approval":
            raise DemoFailed("one of three was enough")
        self.stage.found("one of three is not enough: still awaiting approval")
        words = ("approve", self.site[:12], "--as", "legal", "--key", "stranger", "--yes")
        refusal = self.stage.run(*words, fails=4)
        self.stage.refused(refusal.stderr.strip().splitlines()[-1])
        self.sign("approve", self.site, "budget", "budget")
        self.stage.until(
            "site is approved", lambda: self.show(self.site)["status"] != "awaiting_approval", 20
        )
        for role in ("legal", "budget"):
            self.sign("approve", self.mining, role, role)

    def sign(self, verb: str, deployment: str, role: str, key: str, *more: str) -> None:
        """One stakeholder's signature."""
        self.stage.run(verb, deployment[:12], "--as", role, "--key", key, "--yes", *more)

    # ------------------------------------------------------------------ 5

    def run_workloads(self) -> None:
        """3nodes verify, claim, fetch, run isolated, re-check and report."""
        self.stage.until("both replicas of site run", lambda: self.running(self.site) == 2, 60)
        self.stage.until("the mining job has ended well", lambda: self.ended(self.mining), 60)
        shown = self.show(self.site)
        for slot in shown["slots"]:
            self.stage.note(
                f"{slot['name']}: term {slot['term']} on {self.name_of(slot['holder'])} "
                f"({slot['farm']}, {slot['country']}), {', '.join(slot['endpoints'].values())}"
            )
        if len({slot["farm"] for slot in shown["slots"]}) != 2:
            raise DemoFailed("the replicas share a farm")
        receipt = next(r["receipt"] for r in shown["receipts"] if r["status"] == "running")
        self.stage.found(
            f"signed receipt: {len(receipt['artifacts'])} artifacts and "
            f"{len(receipt['approvals'])} approvals verified by the node itself, driver {receipt['driver']}"
        )
        self.stage.note(", ".join(k for k, v in receipt["isolation"].items() if v == "enforced"))
        self.stage.until("the bytes were re-checked while running", self.rechecked, 60)

    def rechecked(self) -> bool:
        """Has a receipt of the site told of a re-check?"""
        return any(r["receipt"]["checks"] > 0 for r in self.show(self.site)["receipts"])

    # ------------------------------------------------------------------ 6

    def break_things(self) -> None:
        """The page and the result; then a 3node and a validator are killed, and come back."""
        self.fetch_page()
        self.show_result()
        victim = next(s for s in self.show(self.site)["slots"] if s["farm"] == "alpha")
        node = self.name_of(victim["holder"])
        self.stage.run("testnet", "stop", node, "--kill")
        self.stage.run("testnet", "stop", "v4", "--kill")
        self.stage.run("tx", "transfer", "author", "0.1", "--key", "consumer", "--yes")
        self.stage.found("commits go on with three of four validators")
        what = f"{victim['name']} is claimed again elsewhere with a higher term, and runs"
        self.stage.until(what, lambda: self.moved(victim), 90)
        now = next(s for s in self.show(self.site)["slots"] if s["name"] == victim["name"])
        self.stage.note(
            f"term {victim['term']} on {node} → term {now['term']} on {self.name_of(now['holder'])}; "
            "the lease had to run out first, so that no two nodes ever run one slot"
        )
        self.fetch_page()
        self.stage.run("testnet", "start", node, "v4")
        self.stage.until("all eight peers hold the same state root", self.same_root, 40)

    def fetch_page(self) -> None:
        """HTTP GET at each replica."""
        for slot in self.show(self.site)["slots"]:
            for endpoint in slot["endpoints"].values():
                with urllib.request.urlopen(f"http://{endpoint}/index.html", timeout=5) as answer:
                    page = answer.read().decode()
                title = page.partition("<title>")[2].partition("</title>")[0]
                self.stage.found(
                    f"GET http://{endpoint}/index.html → {answer.status}, {len(page)} B, “{title}”"
                )

    def show_result(self) -> None:
        """The job's result files: fetched by digest, opened by the consumer alone, and checked."""
        out = self.stage.folder / "results"
        words = ("deployment", "results", self.mining[:12], "--out", str(out))
        refusal = self.stage.run(*words, "--key", "stranger", fails=2)
        self.stage.refused(refusal.stderr.strip().splitlines()[-1])
        for file in self.stage.data(*words, "--key", "consumer"):
            self.stage.found(
                f"{file['path']}: {file['size_bytes']:,} B, opened with the consumer's key and checked"
            )
        lines = (out / "words.tsv").read_text().splitlines()
        self.stage.note("most frequent words: " + ", ".join(line.replace("\t", " ") for line in lines[:6]))

    def moved(self, victim: dict[str, Any]) -> bool:
        """Does another holder run the slot under a higher term?"""
        now = next(s for s in self.show(self.site)["slots"] if s["name"] == victim["name"])
        is_elsewhere = now["holder"] != victim["holder"] and now["term"] > victim["term"]
        return bool(is_elsewhere and now["status"] == "running")

    def same_root(self) -> bool:
        """One state root at one height on all peers. Blocks come once a second: it may take a few tries."""
        rows = self.stage.data("testnet", "status", shown=False)
        roots = {(row["height"], row["state_root"]) for row in rows}
        if len(roots) != 1 or any(row["state"] != "ready" for row in rows):
            return False
        height, root = roots.pop()
        self.stage.note(f"height {height}: {root[:16]}… on {len(rows)} peers")
        return True

    # ------------------------------------------------------------------ 7

    def settle(self, *, keep: bool) -> None:
        """Sign-off, settlement, and the audit file."""
        self.sign("approve", self.site, "it-expert", "it-expert", "--signoff")
        self.sign("approve", self.mining, "it-expert", "it-expert", "--signoff")
        if not keep:
            words = ("deployment", "cancel", self.site[:12], "--reason", "the demo is over", "--yes")
            self.stage.run(*words)
        for name, deployment in (("site", self.site), ("mining", self.mining)):
            shown = self.show(deployment)
            if not shown["timings"]["signed_off_ms"]:
                raise DemoFailed(f"{name} is not signed off")
            paid = sum(bill["amount"] for bill in shown["bills"])
            text = f"{name} is signed off, {shown['status']}: {credits_text(paid)} credits paid by "
            self.stage.found(
                f"{text}{len(shown['bills'])} bills, {credits_text(shown['escrow'])} left in escrow"
            )
            if not keep and shown["escrow"] != 0:
                raise DemoFailed(f"{name}: {shown['escrow']} micro-credits are left in escrow")
        file = self.stage.folder / "site.audit"
        genesis = str(self.net / "genesis.json")
        self.stage.run("audit", "export", self.site[:12], "--file", str(file))
        report = self.stage.run("audit", "verify", str(file), "--genesis", genesis)
        self.stage.found(report.stderr.strip().splitlines()[-1])
        self.flip(file, genesis)

    def flip(self, file: Path, genesis: str) -> None:
        """One changed byte is enough to fail: shown with the command, then at many more places."""
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        bad = file.with_name("changed.audit")
        bad.write_bytes(data)
        refusal = self.stage.run("audit", "verify", str(bad), "--genesis", genesis, fails=4)
        self.stage.refused(refusal.stderr.strip().splitlines()[-1])
        trusted = read_genesis(Path(genesis))
        original = file.read_bytes()
        places = random.Random(1).sample(range(len(original)), FLIPS)
        for place in places:
            changed = bytearray(original)
            changed[place] ^= 0x40
            if verify_audit(bytes(changed), trusted).ok:
                raise DemoFailed(f"byte {place} of the audit file was changed, and verify did not see it")
        self.stage.found(f"{FLIPS} more single-byte changes of {len(original):,} B, all refused")

    # ------------------------------------------------------------------ the end

    def summary(self) -> None:
        """What ran where, approvals, receipts, timings."""
        rows, times = [], []
        for name, deployment in (("site", self.site), ("mining", self.mining)):
            shown = self.show(deployment)
            holders: dict[tuple[str, int], str] = {
                (r["slot"], r["term"]): r["node"] for r in shown["receipts"]
            }
            for (slot, term), node in sorted(holders.items()):
                count = sum((r["slot"], r["term"]) == (slot, term) for r in shown["receipts"])
                rows.append((f"{name} {slot}", str(term), self.name_of(node), str(count)))
            t = shown["timings"]
            signed = sum(a["decision"] == "granted" for a in shown["approvals"])
            spans = [(t[b] - t[a]) / 1000 if t[a] and t[b] else None for a, b in _SPANS]
            times.append((name, str(signed), *(f"{s:.1f} s" if s is not None else "–" for s in spans)))
        self.stage.table("What ran where", ("slot", "term", "3node", "signed receipts"), rows)
        columns = ("deployment", "approvals", "order → approved", "approved → claimed", "claimed → running")
        self.stage.table("How long it took (block times)", columns, times)

    # ------------------------------------------------------------------ looking

    def show(self, deployment: str) -> dict[str, Any]:
        """The deployment as the bot's peer sees it."""
        found: dict[str, Any] = self.stage.data("deployment", "show", deployment, shown=False)
        return found

    def running(self, deployment: str) -> int:
        """How many of its slots run."""
        return sum(slot["status"] == "running" for slot in self.show(deployment)["slots"])

    def ended(self, deployment: str) -> bool:
        """Have all its slots succeeded?"""
        shown = self.show(deployment)
        if shown["status"] == "failed":
            raise DemoFailed(json.dumps(shown["slots"], indent=1))
        return all(slot["status"] == "succeeded" for slot in shown["slots"])

    def name_of(self, node_key: str) -> str:
        """The testnet's name of a node key."""
        net = json.loads((self.net / "testnet.json").read_text())
        return next((p["name"] for p in net["peers"] if p["node_key"] == node_key), node_key[:10])


_SPANS = (("ordered_ms", "approved_ms"), ("approved_ms", "claimed_ms"), ("claimed_ms", "running_ms"))
