"""The drivers of one node as one: each task goes to the driver of its runtime. See `base` for the seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from node.executor.drivers.base import (
    Attestation,
    Driver,
    Exit,
    Fingerprint,
    Handle,
    Isolation,
    Liveness,
    Prepared,
    ResultFile,
    TaskSpec,
    Usage,
)
from node.executor.errors import DriverUnavailable


@dataclass(frozen=True)
class _Prepared:
    driver: Driver
    inner: Prepared

    @property
    def spec(self) -> TaskSpec:
        return self.inner.spec

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True)
class _Handle:
    driver: Driver
    inner: Handle

    @property
    def task_id(self) -> str:
        return self.inner.task_id

    @property
    def ports(self) -> Mapping[str, tuple[str, int]]:
        return self.inner.ports


class Several:
    """A driver per runtime, the embedded one first. Objects go back to the driver that made them."""

    def __init__(self, drivers: Sequence[Driver]) -> None:
        self._first = drivers[0]
        self._drivers = {driver.name: driver for driver in drivers}

    @property
    def name(self) -> str:
        """The first one's; a task's own driver has the name of its runtime."""
        return self._first.name

    @property
    def isolation(self) -> Isolation:
        """The first one's."""
        return self._first.isolation

    def fingerprint(self) -> Fingerprint:
        """The first one's, with the others' beside it. See `Driver.fingerprint`."""
        first, *others = (driver.fingerprint() for driver in self._drivers.values())
        return replace(first, beside=tuple(others))

    async def prepare(self, spec: TaskSpec) -> _Prepared:
        """See `Driver.prepare`. Raises DriverUnavailable when no driver runs the task's runtime."""
        driver = self._drivers.get(spec.runtime)
        if driver is None:
            raise DriverUnavailable(f"this node has no driver for {spec.runtime}")
        return _Prepared(driver, await driver.prepare(spec))

    async def start(self, prepared: Prepared, kill_at_ms: int | None = None) -> _Handle:
        """See `Driver.start`."""
        if not isinstance(prepared, _Prepared):
            raise TypeError(f"made by another driver: {type(prepared).__name__}")
        return _Handle(prepared.driver, await prepared.driver.start(prepared.inner, kill_at_ms))

    def keep(self, handle: Handle, kill_at_ms: int) -> None:
        """See `Driver.keep`."""
        _own(handle).driver.keep(_own(handle).inner, kill_at_ms)

    async def wait(self, handle: Handle) -> Exit:
        """See `Driver.wait`."""
        return await _own(handle).driver.wait(_own(handle).inner)

    async def probe(self, handle: Handle) -> Liveness:
        """See `Driver.probe`."""
        return await _own(handle).driver.probe(_own(handle).inner)

    def logs(self, handle: Handle, last_bytes: int) -> bytes:
        """See `Driver.logs`."""
        return _own(handle).driver.logs(_own(handle).inner, last_bytes)

    async def usage(self, handle: Handle) -> Usage:
        """See `Driver.usage`."""
        return await _own(handle).driver.usage(_own(handle).inner)

    async def collect(self, handle: Handle) -> tuple[ResultFile, ...]:
        """See `Driver.collect`."""
        return await _own(handle).driver.collect(_own(handle).inner)

    async def copy_volumes(self, handle: Handle, into: Mapping[str, Path]) -> float:
        """See `Driver.copy_volumes`."""
        return await _own(handle).driver.copy_volumes(_own(handle).inner, into)

    async def check(self, handle: Handle, command: tuple[str, ...], timeout_s: float) -> int | None:
        """See `Driver.check`."""
        return await _own(handle).driver.check(_own(handle).inner, command, timeout_s)

    async def stop(self, handle: Handle, grace_s: float) -> Exit:
        """See `Driver.stop`."""
        return await _own(handle).driver.stop(_own(handle).inner, grace_s)

    async def recover(self) -> list[str]:
        """See `Driver.recover`: what any of them left over."""
        return [task_id for driver in self._drivers.values() for task_id in await driver.recover()]

    async def attest(self, handle: Handle) -> Attestation:
        """See `Driver.attest`."""
        return await _own(handle).driver.attest(_own(handle).inner)

    async def attest_ended(self, handle: Handle) -> Attestation:
        """See `Driver.attest_ended`."""
        return await _own(handle).driver.attest_ended(_own(handle).inner)


def _own(handle: Handle) -> _Handle:
    if not isinstance(handle, _Handle):
        raise TypeError(f"made by another driver: {type(handle).__name__}")
    return handle
