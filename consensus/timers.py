"""Rule 8: skip timeouts grow by alpha per view since the last proved finalization, capped."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.limits import SILENT_GRACE_MS, SILENT_GRACE_SHARE


@dataclass(frozen=True, slots=True)
class Timing:
    """Consensus parameters of time, from the genesis file. All in ms, alpha in percent."""

    view_timeout_ms: int = 1_000
    alpha_percent: int = 120
    timeout_max_ms: int = 60_000
    idle_ms: int = 1_000
    standstill_ms: int = 2_500

    def timeout_ms(self, view: int, final_view: int) -> int:
        """T0 * alpha^(view - final_view - 1), at most timeout_max_ms. In integers: same everywhere."""
        timeout = self.view_timeout_ms
        for _ in range(max(0, view - final_view - 1)):
            timeout = timeout * self.alpha_percent // 100
            if timeout >= self.timeout_max_ms:
                return self.timeout_max_ms
        return timeout

    def silent_ms(self, timeout_ms: int) -> int:
        """[14] What a view of this timeout waits for a leader that is silent."""
        return min(SILENT_GRACE_MS, timeout_ms // SILENT_GRACE_SHARE)

    def idle_left_ms(self, since_entry_ms: int, since_parent_ms: int) -> int:
        """[13] How much longer a leader with nothing to propose waits: idle_ms after its parent's block time,
        and at most that after its entry. A view that others had to skip was wait enough."""
        return self.idle_ms - max(since_entry_ms, since_parent_ms)
