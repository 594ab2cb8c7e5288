"""Asks a worker to go."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Shutdown:
    """Asks a worker to go: once for in order, twice for now."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.is_asked = False
        self.is_now = False
        self.listeners: list[Callable[[], None]] = []

    def ask(self, *, now: bool = False) -> None:
        """Called from any thread; from a signal handler by way of a thread."""
        with self._condition:
            self.is_asked = True
            self.is_now = self.is_now or now
            self._condition.notify_all()
            listeners = list(self.listeners)
        for listener in listeners:
            listener()

    def wait(self, seconds: float) -> bool:
        """Waits until it is asked, no longer than this."""
        with self._condition:
            return self._condition.wait_for(lambda: self.is_asked, seconds)
