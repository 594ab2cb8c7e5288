"""Prefetch controller: how many leases a worker may hold ahead of its free slots."""

from __future__ import annotations

import time


class PrefetchController:
    """Prefetch depth from a moving average of attempt durations.

    A worker fetches only leases that will begin within `AHEAD_S`, so that no task waits long in one worker while another worker
    is idle. One long attempt is enough to stop prefetching. Several short attempts are needed to begin again.
    """

    AHEAD_S = 0.1

    def __init__(self) -> None:
        self.mean_s = 1.0

    def record(self, seconds: float) -> None:
        """Adds the duration of an attempt."""
        if seconds > self.mean_s:
            self.mean_s = seconds
        else:
            self.mean_s += (seconds - self.mean_s) * 0.2

    def depth(self, slots: int, oldest_begun_at: float | None) -> int:
        """Returns how many leases may wait, given when the longest running attempt began."""
        mean = self.mean_s
        if oldest_begun_at is not None:
            mean = max(mean, (time.monotonic() - oldest_begun_at) / 4)
        return int(slots * self.AHEAD_S / max(mean, 1e-5))
