"""Orphans: processes that tasks have started and whose parents have ended.

The worker of a process pool is a *subreaper*: the kernel makes it the parent of the orphans among its descendants. It runs no code
of tasks, and each pool process leads a session of its own. A child of another session than the worker's is therefore an orphan,
unless it is a pool process or older than the pool. Ended orphans are reaped, because they would stay as zombies. Those that still
run when the worker ends are killed, as everything that tasks have started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
#: Interval of looking for orphans.
REAP_INTERVAL_S = 1.0
#: Zombies of one pass.
_ZOMBIES_MAX = 1000


class OrphanReaper:
    """Reaps the orphans of this process. `own` returns the process ids of its own children."""

    def __init__(self, own: Callable[[], set[int]]) -> None:
        self._own = own
        self._before: set[int] = set()
        self._session = os.getsid(0)
        self._is_subreaper = False
        self._reaped_at = 0.0
        if sys.platform == "linux" and hasattr(os, "waitid"):
            with contextlib.suppress(OSError, AttributeError):
                libc = ctypes.CDLL(None, use_errno=True)
                self._is_subreaper = libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
            self._before = _children()

    def reap(self) -> None:
        """Reaps orphans that have ended, at intervals."""
        now = time.monotonic()
        if not self._is_subreaper or now - self._reaped_at < REAP_INTERVAL_S:
            return
        self._reaped_at = now
        for _ in range(_ZOMBIES_MAX):
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if self._is_owned(ended.si_pid):
                # Its owner waits for it. Others behind it come later: the kernel shows the first one only.
                self._reap_behind()
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(ended.si_pid, os.WNOHANG)

    def _reap_behind(self) -> None:
        for pid in self._orphans():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _orphans(self) -> list[int]:
        return [pid for pid in _children() if not self._is_owned(pid)]

    def _is_owned(self, pid: int) -> bool:
        """Returns whether code of this process has started the child, and waits for it."""
        if pid in self._before or pid in self._own():
            return True
        try:
            return os.getsid(pid) == self._session
        except OSError:
            return False

    def close(self) -> None:
        """Kills the orphans that are left."""
        if not self._is_subreaper:
            return
        for pid in self._orphans():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    """Returns the process ids of the children of this process, as far as the kernel lists them."""
    found: set[int] = set()
    try:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                found.update(int(word) for word in Path(thread, "children").read_text().split())
    except OSError:
        pass
    return found
