"""How busy this machine is, as heartbeats tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Machine:
    """Looks at the processors since the last look, and at memory. Tells nothing where there is no `/proc`."""

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None

    def look(self) -> dict[str, Any]:
        """`{"cpu", "mem_mb"}`, as far as it is known."""
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
