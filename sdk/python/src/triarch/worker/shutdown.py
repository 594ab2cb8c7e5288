"""Shutdown request of a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Shutdown:
    """Shutdown request: orderly, or immediate."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.is_asked = False
        self.is_now = False
        self.listeners: list[Callable[[], None]] = []

    def ask(self, *, now: bool = False) -> None:
        """Requests the shutdown. For any thread, but not for a signal handler."""
        with self._condition:
            self.is_asked = True
            self.is_now = self.is_now or now
            self._condition.notify_all()
            listeners = list(self.listeners)
        for listener in listeners:
            listener()

    def wait(self, seconds: float) -> bool:
        """Waits for the request. Returns whether it came in time."""
        with self._condition:
            return self._condition.wait_for(lambda: self.is_asked, seconds)
