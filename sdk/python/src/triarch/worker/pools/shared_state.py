"""State of the worker's own process that all tasks of the pools `thread` and `async` share.

What one task changes there may be meant for another one, so it stays. Only what the worker itself cannot do without is restored: a
recursion limit that is lower than at the start, and standard descriptors that were closed. The next socket would get the number of
such a descriptor, and programs that tasks start would find no output.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time

#: Interval of looking at the descriptors, which takes longer than the shortest tasks.
_LOOK_INTERVAL_S = 0.002


class SharedState:
    """See the module. For a process that is the worker's alone."""

    def __init__(self) -> None:
        self._recursion = sys.getrecursionlimit()
        self._looked_at = 0.0
        self._copies: list[tuple[int, int]] = []
        for number in range(3):
            with contextlib.suppress(OSError):
                self._copies.append((number, fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10)))

    def restore(self) -> None:
        """Restores it after a task."""
        if sys.getrecursionlimit() < self._recursion:
            sys.setrecursionlimit(self._recursion)
        now = time.monotonic()
        if now - self._looked_at < _LOOK_INTERVAL_S:
            return
        self._looked_at = now
        for number, copied in self._copies:
            try:
                fcntl.fcntl(number, fcntl.F_GETFD)
            except OSError:
                with contextlib.suppress(OSError):
                    os.dup2(copied, number)
