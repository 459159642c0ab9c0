"""What every test shares: where the checkout stands, and hypothesis settings that suit two shared cores."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Wall-clock deadlines on single examples fail for reasons of the machine, not of the code. In CI the examples
# are the same in each run, so that a red run can be repeated.
# No phase `explain`: before Python 3.12 it traces each line, and a long life is not shrunk within a test's
# time.
settings.register_profile(
    "local",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the root of the checkout, the folder that holds pyproject.toml."""
    return Path(__file__).resolve().parent.parent


# Tests of these folders share a network of processes, or measure: those of a line go one after the other.
_TOGETHER = {
    "processes": ("tests/e2e/", "tests/interop/"),
    "isolated": ("tests/netns/", "tests/executor/"),
}
# What takes long goes first, so that no worker is left with it when the others are done. Beside `_TOGETHER`.
_LONG = ("tests/bench/", "tests/bot/", "tests/sim/", "tests/node/test_executor")


def _together(nodeid: str) -> str:
    return next((line for line, folders in _TOGETHER.items() if nodeid.startswith(folders)), "")


def _turn(nodeid: str) -> int:
    """When a test is dealt out, from 0 on; those of one number in the order of their files."""
    if _together(nodeid):
        return 0
    return 1 + next((turn for turn, long in enumerate(_LONG) if nodeid.startswith(long)), len(_LONG))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beside other workers alone: by itself, pytest goes through the folders as they stand."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (_turn(item.nodeid), _together(item.nodeid)))


class _ByFile(LoadFileScheduling):
    """Tests of one file on one worker, those of a line of `_TOGETHER` all on one. (Not by `xdist_group`
    marks: xdist 3.8 writes the group to where pytest 9.2 reads no more.)"""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = False  # our own order, not by the number of tests
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return _together(nodeid) or super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """How tests are dealt out to `-n 3`."""
    return _ByFile(config, log)
