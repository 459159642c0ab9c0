"""One network for all tests that leave it whole; small ones for tests that break theirs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.testnet_market import sandbox_fingerprint
from tests.e2e.net import ROOT, Net

SITE = ROOT / "tests" / "e2e" / "site"


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Four validators, three 3nodes, one 3bot."""
    made = Net.up(tmp_path_factory.mktemp("net"), validators=4, nodes=3, bots=1)
    yield made
    made.down()
    check_logs(made)


def check_logs(net: Net) -> None:
    """Whatever was sent to it, no peer met an error that it did not expect."""
    for peer in net.net.peers:
        log = net.home(peer.name).log_file.read_text(errors="replace")
        at = log.find("Traceback")
        assert at < 0, f"{peer.name}: {log[max(0, at - 500) : at + 3_000]}"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[..., Net]]:
    """Makes a network of its own for one test: `small(validators=4, nodes=0, bots=0)`."""
    made: list[Net] = []

    def make(*, validators: int = 1, nodes: int = 0, bots: int = 0) -> Net:
        made.append(Net.up(tmp_path / f"net{len(made)}", validators=validators, nodes=nodes, bots=bots))
        return made[-1]

    yield make
    for one in made:
        one.down()
    for one in made:
        check_logs(one)


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Skips where workloads cannot be isolated, and says why."""
    for program in ("bwrap", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: no workload can run here")
    fingerprint = sandbox_fingerprint()
    if not fingerprint.usable:
        pytest.skip(f"the sandbox driver cannot work here: {fingerprint.reason}")


@dataclass(frozen=True)
class Running:
    """A site that runs on the shared network, for tests that leave it running."""

    deployment: str
    contract: str
    manifest: str


@pytest.fixture(scope="session")
def published(net: Net, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Id of the site's contract on the shared network."""
    return str(net.publish(SITE, tmp_path_factory.mktemp("build") / "site")["id"])


@pytest.fixture(scope="session")
def running(sandbox: None, net: Net, published: str) -> Running:
    """The site, approved and running."""
    deployment = net.deploy("e2e-site")
    net.approve(deployment)
    net.until_running(deployment)
    return Running(deployment, published, net.show(deployment)["manifest_digest"])
