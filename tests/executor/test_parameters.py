"""What a consumer writes into a contract's parameters, down to the real workload: a value, no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.contracts.types import Contract, ResourcesTemplate
from ledger.errors import Refused
from node.executor.task import task_spec
from tests.ledger.contract_samples import contract, expanded, workload
from tests.node.executor_fixture import artifact_of

from .conftest import BUSYBOX, Bench

INJECTIONS = (
    "; touch /tmp/injected; echo",
    "$(touch /tmp/injected)",
    "`touch /tmp/injected`",
    "' ; touch /tmp/injected ; '",
    '" && touch /tmp/injected && "',
    "x LD_PRELOAD=/tmp/evil.so",
    "../../etc/passwd",
    "${title} $TITLE ${= 1 + 1}",
    "a  b\u00a0c|d>/tmp/injected",
)
SHOW = 'for word in "$@"; do echo "[$word]"; done; echo "{$TITLE}"; env | cut -d= -f1 | sort; ls /tmp'


def template(*arguments: str) -> Contract:
    """A shell whose script is the author's; the parameter comes as arguments and as a variable."""
    shell = artifact_of(BUSYBOX.read_bytes(), "/bin/busybox")
    command = ("/bin/busybox", "sh", "-c", SHOW, "show", *arguments)
    need = ResourcesTemplate(cpu_millis=1_000, memory_bytes=64 << 20, disk_bytes=1 << 20, pids=32)
    return contract(
        workloads=(workload(artifacts=(shell,), command=command, resources=need, ports=(), health=None),)
    )


async def shown(bench: Bench, value: str, source: Path) -> list[str]:
    manifest = expanded(template("title=${title}", "end"), {"title": value})
    web = manifest.workloads[0]
    spec = task_spec(bytes(32), "web/0", 1, web, "127.0.0.1", lambda _: source)
    return (await bench.output(spec)).splitlines()


@pytest.mark.parametrize("value", INJECTIONS)
async def test_a_value_reaches_the_workload_as_it_is(bench: Bench, tmp_path: Path, value: str) -> None:
    source = tmp_path / "busybox"
    source.write_bytes(BUSYBOX.read_bytes())
    plain = await shown(bench, "plain", source)
    lines = await shown(bench, value, source)
    assert lines[:3] == [f"[title={value}]", "[end]", f"{{site: {value}}}"]
    assert lines[3:] == plain[3:], "no variable more, no file more"


@pytest.mark.parametrize("value", ["-rf", "--help"])
def test_a_value_is_no_option(value: str) -> None:
    expanded(template("${title}"), {"title": value.strip("-")})
    with pytest.raises(Refused, match=r"manifest\.option_injection"):
        expanded(template("${title}"), {"title": value})


def test_the_authors_script_takes_no_parameter() -> None:
    shell = artifact_of(BUSYBOX.read_bytes(), "/bin/busybox")
    made = workload(artifacts=(shell,), command=("/bin/busybox", "sh", "-c", "echo ${title}"))
    with pytest.raises(Refused, match=r"contract\.shell_parameter"):
        expanded(contract(workloads=(made,)), {"title": "x"})
