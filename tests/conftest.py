"""What every test shares: where the checkout stands, and hypothesis settings that suit two shared cores."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Wall-clock deadlines on single examples fail for reasons of the machine, not of the code. In CI the examples
# are the same in each run, so that a red run can be repeated.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the root of the checkout, the folder that holds pyproject.toml."""
    return Path(__file__).resolve().parent.parent


# Folders whose tests start real processes or measure: they share networks, and go one after the other.
_SERIAL = ("tests/e2e/", "tests/executor/", "tests/interop/", "tests/netns/")


class _ByFile(LoadFileScheduling):
    """Tests of one file on one worker, those of `_SERIAL` folders all on one. (Not by `xdist_group` marks:
    xdist 3.8 writes the group to where pytest 9.2 reads no more.)"""

    def _split_scope(self, nodeid: str) -> str:
        return "serial" if nodeid.startswith(_SERIAL) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """How tests are dealt out to `-n 2`."""
    return _ByFile(config, log)
