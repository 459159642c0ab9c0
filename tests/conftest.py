"""What every test shares: where the checkout stands, and hypothesis settings that suit two shared cores."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Wall-clock deadlines on single examples fail for reasons of the machine, not of the code. In CI the examples
# are the same in each run, so that a red run can be repeated.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the root of the checkout, the folder that holds pyproject.toml."""
    return Path(__file__).resolve().parent.parent


# Folders whose tests start real processes, measure or own the machine: one after the other, on one worker.
_SERIAL = ("e2e", "netns", "executor", "interop")


def pytest_itemcollected(item: pytest.Item) -> None:
    """With xdist: tests of one file stay together, those of `_SERIAL` folders run on one worker."""
    folder = item.path.relative_to(item.config.rootpath).parts[1]
    item.add_marker(pytest.mark.xdist_group("serial" if folder in _SERIAL else item.path.stem))
