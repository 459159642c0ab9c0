"""The comparison's own parts: payloads, plans, sums, ratios, settings."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from bench.common import cpu_s, file_system, memory_mib, percentile, sync_ms
from bench.goals import judged
from bench.load import payloads
from bench.load.loop import Plan, Report
from bench.load.run import CLIENTS, Load, Used, _share, measure, summary
from bench.report import NOTHING, comparison
from bench.rivals.cometbft import SAME_MACHINE, TUNED, CometBft, configured
from bench.rivals.etcd import Etcd
from bench.rivals.system import NotHere, Processes
from bench.rounds import SHORT, run_round
from bench.run import lost
from bench.table import print_table, ratios
from ledger.transactions import decode_tx, verified


def test_our_transactions_are_250_signed_bytes_each_its_own() -> None:
    made = payloads.gridpact(20, "bench", 3_500)
    assert {len(raw) for raw in made} == {payloads.PAYLOAD_BYTES}
    opened = [verified(decode_tx(raw, "bench")) for raw in made]
    assert len({tx.id for tx in opened}) == 20
    records = {(tx.tx.sender, getattr(tx.tx.body, "name", "")) for tx in opened}
    assert len(records) == 20, "every one writes a new key, as with the others"


def test_rivals_get_as_many_bytes() -> None:
    for text in payloads.cometbft(5):
        raw = base64.b64decode(text)
        assert len(raw) == payloads.PAYLOAD_BYTES and raw.count(b"=") == 1
    overhead = len(b"\x0a\x18" + b"\x12\xe2\x01")  # the lengths of key and value
    assert {len(raw) - overhead for raw in payloads.etcd(5)} == {payloads.PAYLOAD_BYTES}
    assert len(set(payloads.etcd(50))) == 50


def test_clients_share_a_rate_evenly_and_take_turns() -> None:
    plan = Plan(10.0, 11.0, 12.0, 13.0)
    shares = [_share(plan, Load(1.0, 1.0, rate_per_s=100), number, CLIENTS) for number in range(CLIENTS)]
    assert sum(share.rate_per_s for share in shares) == pytest.approx(100)
    due = sorted(share.start_s + n / share.rate_per_s for share in shares for n in range(50))
    assert [b - a for a, b in pairwise(due)] == pytest.approx([0.01] * (len(due) - 1))


def test_clients_share_what_is_under_way() -> None:
    plan = Plan(0.0, 0.0, 1.0, 2.0)
    shares = [_share(plan, Load(1.0, 0.0, outstanding=17), number, CLIENTS) for number in range(CLIENTS)]
    assert sorted(share.outstanding for share in shares) == [8, 9]


def test_the_sum_of_reports() -> None:
    first = Report(latencies_ms=[1.0] * 98, done=100, cpu_s=0.1, failed=1, errors={"no": 1})
    second = Report(latencies_ms=[50.0, 90.0], done=100, cpu_s=0.1, unanswered=2, errors={"no": 2})
    found = summary(Load(2.0, 0.0, outstanding=8), [first, second], Used(0.6, 90.0))
    assert found["per_s"] == 100.0
    assert (found["p50_ms"], found["p99_ms"], found["max_ms"]) == (1.0, 90.0, 90.0)
    assert (found["server_cpu_us_per_tx"], found["client_cpu_us_per_tx"]) == (3_000, 1_000)
    assert found["client_cpu_share"] == 0.25
    assert (found["server_cores"], found["server_memory_mib_max"]) == (0.3, 90.0)
    assert (found["failed"], found["unanswered"], found["errors"]) == (1, 2, {"no": 3})


def test_nothing_done_is_no_division_by_zero() -> None:
    found = summary(Load(2.0, 0.0, outstanding=8), [Report()], Used(0.6, 90.0))
    assert found["per_s"] == 0 and found["p99_ms"] is None and found["server_cpu_us_per_tx"] is None


def test_percentiles_by_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.5) == 51.0
    assert percentile(values, 0.99) == 100.0
    assert percentile([7.0], 0.99) == 7.0


def test_processor_time_of_a_server_is_read() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.25 <= cpu_s(process.pid) < 5
        process.communicate(b"\n")


MACHINE = {
    "cores": 2,
    "processor": "p",
    "memory_gib": 4,
    "file_system": "ext4",
    "sync_ms": {"p50": 0.1},
    "load_before": 0.1,
}


def _figures(per_s: float, cpu: int, p50: float) -> dict[str, object]:
    one = {"per_s": per_s, "server_cpu_us_per_tx": cpu, "p50_ms": p50, "p99_ms": 2 * p50, "outstanding": 64}
    one |= {
        "server_memory_mib_max": 80.5,
        "client_cpu_us_per_tx": 9,
        "client_cpu_share": 0.1,
        "failed": 0,
        "unanswered": 0,
    }
    return {
        "name": "x",
        "settings": ["s"],
        "signatures": "none",
        "saturation": one,
        "rate_100": one,
        "closed": [one],
    }


def test_ratios_are_ours_by_theirs_and_a_skip_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    figures: dict[str, object] = {
        "gridpact": _figures(3_000.0, 300, 10.0),
        "etcd": _figures(2_000.0, 200, 5.0),
    }
    figures["cometbft"] = {"name": "CometBFT", "skipped": "no Go here"}
    figures["ratios"] = ratios(figures)
    expected = {"throughput": 1.5, "server_cpu_per_tx": 1.5, "p50_at_100": 2.0, "p99_at_100": 2.0}
    assert figures["ratios"] == {"etcd": expected}
    print_table(figures, MACHINE)
    said = capsys.readouterr().out
    assert "CometBFT: skipped: no Go here" in said
    assert "throughput 1.5x" in said
    assert "noisy" not in said
    print_table(figures, MACHINE | {"load_before": 1.2})
    assert "load 1.2 on 2 cores" in capsys.readouterr().out


CONFIG = """# a comment: timeout_commit = "9s"
laddr_other = 1
[rpc]
laddr = "a"
[p2p]
laddr = "b"
recheck = true
"""


def test_settings_are_changed_in_their_section_and_a_wrong_name_is_noticed() -> None:
    text = configured(CONFIG, {"p2p.laddr": '"c"', "recheck": "false"})
    assert text == CONFIG.replace('"b"', '"c"').replace("true", "false")
    with pytest.raises(KeyError, match="rechek"):
        configured(CONFIG, {"rechek": "false"})


def test_every_changed_setting_of_cometbft_is_shown(tmp_path: Path) -> None:
    system = CometBft(tuned=True)
    try:
        system.start(tmp_path)
    except NotHere as reason:
        pytest.skip(str(reason))
    try:
        assert all(f"{name} = {value}" in system.settings for name, value in (SAME_MACHINE | TUNED).items())
        assert len(system.pids()) == 4
        found = measure(Load(1.0, 0.5, rate_per_s=20), system.job(), system.pids)
        assert found["failed"] == found["unanswered"] == 0 and found["per_s"] > 0
        system.kill_one()
        assert len(system.pids()) == len(system.addresses()) == 3
    finally:
        system.stop()
    assert system.pids() == []


def test_etcd_writes_what_it_acknowledges(tmp_path: Path) -> None:
    etcdctl = shutil.which("etcdctl")
    system = Etcd()
    try:
        system.start(tmp_path)
    except NotHere as reason:
        pytest.skip(str(reason))
    try:
        found = measure(Load(1.0, 0.0, rate_per_s=50), system.job(), system.pids)
        assert found["failed"] == found["unanswered"] == 0
        if etcdctl is not None:
            host, port = system.addresses()[0]
            command = [etcdctl, "--endpoints", f"{host}:{port}", "get", "", "--from-key", "--keys-only"]
            env = {**os.environ, "ETCDCTL_API": "3"}
            keys = subprocess.run(command, capture_output=True, text=True, timeout=30, env=env).stdout.split()
            assert len(keys) == 50
    finally:
        system.stop()


def test_a_system_that_is_not_here_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    assert "etcd is not installed" in run_round(Etcd(), SHORT, tmp_path, said.append)["skipped"]
    assert said and not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_server_that_ends_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    processes = Processes()
    processes.start("m1", [sys.executable, "-c", "print('no disk'); raise SystemExit(3)"], tmp_path / "log")
    processes.running["m1"].wait(30)
    with pytest.raises(RuntimeError, match=r"m1 ended with 3:\nno disk"):
        processes.check()
    processes.stop()


def test_the_file_system_and_its_sync_are_told(tmp_path: Path) -> None:
    assert file_system(Path("/proc")) == "proc"
    found = sync_ms(tmp_path)
    assert 0 <= found["p50"] <= found["p99"] < 10_000
    assert not list(tmp_path.iterdir())
    assert memory_mib(os.getpid()) > 5


def test_the_document_shows_the_newest_round_or_says_that_there_is_none(tmp_path: Path) -> None:
    assert comparison(tmp_path) == NOTHING
    figures: dict[str, object] = {"gridpact": _figures(3_000.0, 300, 10.0)}
    figures["etcd"] = {"name": "etcd", "skipped": "not installed"}
    for day, per_s in (("2026-01-01", 1.0), ("2026-01-02", 3_000.0)):
        figures["gridpact"] = _figures(per_s, 300, 10.0)
        figures["ratios"] = ratios(figures)
        saved = {
            "date": day,
            "command": "make bench",
            "machine": MACHINE,
            "figures": figures,
        }
        (tmp_path / f"{day}-compare.json").write_text(json.dumps(saved))
    text = comparison(tmp_path)
    assert "2026-01-02" in text and "2026-01-01" not in text
    assert "| x | 100/s | 64 | 3000.0 | 10.0 | 20.0 | 300 | 9 | 10% | 80.5 | 0 |" in text
    assert "- etcd: skipped: not installed" in text


def test_a_round_that_lost_requests_is_no_success() -> None:
    good = _figures(3_000.0, 300, 10.0)
    assert not lost(good)
    one = dict(good["saturation"])  # type: ignore[call-overload]
    assert lost(good | {"half": one | {"failed": 1}})
    assert lost(good | {"closed": [one | {"unanswered": 2}]})
    assert lost({"name": "etcd", "broke": "m1 ended with 3"})
    assert not lost({"name": "etcd", "skipped": "not installed"})


def test_a_system_that_breaks_does_not_end_the_others_and_leaves_nothing(tmp_path: Path) -> None:
    class Broken(Etcd):
        def start(self, folder: Path) -> None:
            (folder / "data").write_bytes(b"x")
            raise RuntimeError("m1 ended with 3")

    assert run_round(Broken(), SHORT, tmp_path, lambda text: None) == {"broke": "m1 ended with 3"}
    assert not list(tmp_path.iterdir())


def test_goals_are_judged_and_what_was_not_measured_is_left_out() -> None:
    ours = _figures(6_000.0, 300, 15.0) | {"one_dead_share": 0.74}
    figures: dict[str, object] = {"gridpact": ours, "ratios": {"etcd": {"throughput": 1.49}}}
    verdicts = {text.partition(":")[0]: (figure, verdict) for text, figure, verdict in judged(figures)}
    assert verdicts == {
        "writes at saturation, of etcd's": ("1.49", "missed"),
        "signed transactions a second, stretch": ("6000", "met"),
        "p50 at 100/s": ("15", "met"),
        "p99 at 100/s": ("30", "met"),
        "one of four dead leaves at least 0.75 of it": ("0.74", "missed"),
    }
