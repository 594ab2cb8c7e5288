"""Interface of the pools."""

from __future__ import annotations

from typing import Protocol

from triarch.worker.attempt import Attempt


class Pool(Protocol):
    """Pool of slots: takes attempts from the lease table as slots become free, and ends them there.

    `wake` and `stop` may be called from any thread and return at once.
    """

    def start(self) -> None:
        """Starts the slots."""

    def wake(self) -> None:
        """Announces that there may be work."""

    def stop(self, attempt: Attempt) -> None:
        """Stops an attempt, for its `stop_reason`."""

    def close(self) -> None:
        """Ends everything that runs, and the slots."""
