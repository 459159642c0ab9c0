"""The way out listens on addresses that it has just added."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest

from node.executor.doors.outlet import _bind
from node.executor.doors.portal import Target


class _Late:
    """A socket whose address the kernel makes usable after a few tries."""

    def __init__(self, family: socket.AddressFamily, tries: int, number: int = errno.EADDRNOTAVAIL) -> None:
        self.family, self.tries, self.number = family, tries, number

    def bind(self, _: object) -> None:
        self.tries -= 1
        if self.tries >= 0:
            raise OSError(self.number, "not yet")


def _refused(late: _Late) -> bool:
    try:
        _bind(late, Target("fd00::1", 443))  # type: ignore[arg-type]
    except OSError:
        return True
    return False


def test_an_ipv6_address_that_is_not_usable_yet_is_waited_for() -> None:
    """Regression: where its task came late, a workload with egress did not start."""
    assert not _refused(_Late(socket.AF_INET6, 3))


@pytest.mark.parametrize(
    "late",
    [
        lambda: _Late(socket.AF_INET, 1),
        lambda: _Late(socket.AF_INET6, 1, errno.EADDRINUSE),
        lambda: _Late(socket.AF_INET6, 10**9),
    ],
    ids=["IPv4", "in use", "never"],
)
def test_what_no_waiting_helps_is_told(late: Callable[[], _Late], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.executor.doors.outlet.EGRESS_ADDRESS_S", 0.02)
    assert _refused(late())
