"""How many leases a worker may fetch ahead."""

from __future__ import annotations

import time


class Pace:
    """How long attempts took lately, and so how many may be fetched ahead.

    Only as many are fetched as will have begun within `AHEAD_S`: a task never waits long behind others in one worker while
    another worker is idle. One long attempt is enough to stop fetching ahead; it takes several short ones to begin again.
    """

    AHEAD_S = 0.1

    def __init__(self) -> None:
        self.mean_s = 1.0

    def ended(self, seconds: float) -> None:
        """An attempt took so long."""
        if seconds > self.mean_s:
            self.mean_s = seconds
        else:
            self.mean_s += (seconds - self.mean_s) * 0.2

    def ahead(self, slots: int, oldest_begun_at: float | None) -> int:
        """How many may wait, given since when the longest one runs."""
        mean = self.mean_s
        if oldest_begun_at is not None:
            mean = max(mean, (time.monotonic() - oldest_begun_at) / 4)
        return int(slots * self.AHEAD_S / max(mean, 1e-5))
