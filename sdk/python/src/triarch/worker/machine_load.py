"""Load of this machine, as heartbeats report it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class LoadSampler:
    """Samples processor use since the last sample, and memory in use. Without `/proc` a sample is empty."""

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None

    def sample(self) -> dict[str, Any]:
        """Returns `{"cpu", "mem_mb"}`, as far as they are known."""
        load: dict[str, Any] = {}
        try:
            first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            ticks = [int(word) for word in first]
            total, idle = sum(ticks), ticks[3] + ticks[4]
            if self._before is not None and total > self._before[0]:
                share = 1 - (idle - self._before[1]) / (total - self._before[0])
                load["cpu"] = round(min(1.0, max(0.0, share)), 3)
            self._before = (total, idle)
            words = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
            used = int(words["MemTotal"].split()[0]) - int(words["MemAvailable"].split()[0])
            load["mem_mb"] = max(0, used // 1024)
        except (OSError, ValueError, KeyError, IndexError):
            pass
        return load
