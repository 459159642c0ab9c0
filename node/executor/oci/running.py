"""One started container, as the node holds it. Its first process is the workload's own."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

from node.executor.drivers.running import Running
from node.executor.host import cgroups


class RunningContainer(Running):
    """The `Handle` of the oci driver."""

    first_is_own = True
    _was_oom = False

    async def said(self, event: str) -> dict[str, Any]:
        """See `Running.said`. Of an exit, the launcher knows whether it was by the memory limit."""
        message = await super().said(event)
        self._was_oom = bool(message.get("oom"))
        return message

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
