"""One started container, as the node holds it. Its first process is the workload's own."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

from node.executor import cgroups, procs
from node.executor.drivers.base import Liveness
from node.executor.drivers.running import Running


class RunningContainer(Running):
    """The `Handle` of the oci driver."""

    _was_oom = False

    async def said(self, event: str) -> dict[str, Any]:
        """See `Running.said`. Of an exit, the launcher knows whether it was by the memory limit."""
        message = await super().said(event)
        self._was_oom = bool(message.get("oom"))
        return message

    def look(self) -> Liveness:
        """Return what /proc says about the container now. Blocks for a few milliseconds."""
        doors = ((self.spec.ports, self.portal), (self.spec.egress, self.outlet))
        served = all(not asked or (d is not None and not procs.is_ending(d.pid)) for asked, d in doors)
        baseline = self.baseline
        if self.exit is not None or baseline is None:
            return Liveness(False, 0, served, self.exit.reason if self.exit else "not started")
        if procs.start_ticks(baseline.init_pid) != baseline.init_start_ticks or self._is_over():
            return Liveness(False, 0, served, "process 1 has ended")
        inside = procs.members(baseline.namespace)
        return Liveness(True, len(inside), served, "running" if served else "a door has ended")

    def signal_all(self) -> None:
        """Send SIGTERM to process 1, whose task it is to tell the others, as container engines do."""
        if self.init_fd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.init_fd, signal.SIGTERM)

    def groups(self) -> tuple[Path, ...]:
        """See `Running.groups`: the engine's own, below the task's, in all hierarchies."""
        if self.baseline is None:
            raise ProcessLookupError(f"task {self.task_id} is not running")
        return cgroups.procs_files_of(self.baseline.init_pid)

    def _oom(self) -> bool:
        return self._was_oom or super()._oom()

    def _is_over(self) -> bool:
        return self.baseline is not None and procs.is_ending(self.baseline.init_pid)
