"""State of a pool process that a task may leave changed, restored before the next task."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time

from triarch.worker.process.descriptors import StandardDescriptors
from triarch.worker.process.signals import DefaultsAfterFork

_LIMITS = [
    getattr(resource, name)
    for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_STACK")
    if hasattr(resource, name)
]
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: Time after which the state is looked at again although the next task waits already.
_LOOK_INTERVAL_S = 0.002
#: Free descriptors that the next task finds at least, or a quarter of the limit if that is less.
_FREE_FILES_MIN = 64


class ProcessState:
    """Limits, timers, handlers, directory, umask and standard descriptors, as they were when it was made."""

    def __init__(self, handlers: DefaultsAfterFork) -> None:
        self._handlers = handlers
        self._limits = {which: resource.getrlimit(which) for which in _LIMITS}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._recursion = sys.getrecursionlimit()
        self._descriptors = StandardDescriptors()
        self._directory = os.getcwd()
        self._looked_at = 0.0
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        soft = self._limits[resource.RLIMIT_NOFILE][0]
        self._file_max = 1 << 30 if soft == resource.RLIM_INFINITY else soft - min(_FREE_FILES_MIN, soft // 4)

    @property
    def is_due(self) -> bool:
        """Whether the state was not restored for a while. It takes longer than the shortest tasks."""
        return time.monotonic() - self._looked_at >= _LOOK_INTERVAL_S

    def restore(self) -> str | None:
        """Restores the state. Returns what cannot be restored, so that another process has to take this one's place."""
        self._looked_at = time.monotonic()
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        os.umask(self._umask)
        self._handlers.restore()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._descriptors.restore()
        try:
            if os.getcwd() != self._directory:
                os.chdir(self._directory)
        except OSError:
            return "the working directory"
        for which, before in self._limits.items():
            if resource.getrlimit(which) != before:
                try:
                    resource.setrlimit(which, before)
                except (OSError, ValueError):
                    return "a resource limit"
        return None if self._has_files() else "the number of its open files"

    def _has_files(self) -> bool:
        """Returns whether enough descriptors are free. A new one gets the lowest free number."""
        try:
            number = os.dup(0)
        except OSError:
            return False
        os.close(number)
        return number < self._file_max
