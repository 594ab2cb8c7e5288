"""What every pool does for a worker."""

from __future__ import annotations

from typing import Protocol

from triarch.worker.attempt import Attempt


class Pool(Protocol):
    """Takes attempts from the worker's leases as slots become free, and ends them there.

    `wake` and `stop` may be called from any thread and return at once.
    """

    def start(self) -> None:
        """Makes the slots."""

    def wake(self) -> None:
        """There is work, perhaps."""

    def stop(self, attempt: Attempt) -> None:
        """This attempt must end, for its `stop_reason`."""

    def close(self) -> None:
        """Ends everything that runs, and gives the slots up."""
