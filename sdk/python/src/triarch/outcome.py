"""How a task ended, and what that means for whoever waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from . import serialize
from .errors import TaskCancelled, TaskError, TaskExpired, TaskFailed

__all__ = ["TERMINAL", "Outcome"]

#: The states that nothing but a retry by hand changes.
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Outcome:
    """A task's end, as it travelled."""

    task: str
    state: str
    result: Any = None
    error: Any = None

    @staticmethod
    def of(task: Mapping[str, Any]) -> Outcome | None:
        """That of a task as it is shown; ``None`` if it is not terminal."""
        if task["state"] not in TERMINAL:
            return None
        return Outcome(task["id"], task["state"], task.get("result"), task.get("error"))

    def value(self, accept: Collection[str]) -> Any:
        """The result, or the exception that tells why there is none."""
        if self.state == "succeeded":
            return serialize.decode_result(self.result, accept)
        raise self.exception(accept)

    def exception(self, accept: Collection[str]) -> TaskError:
        """Why there is no result."""
        error = self.error if isinstance(self.error, Mapping) else {}
        if self.state == "cancelled":
            because = f": {error['message']}" if error.get("message") else ""
            return TaskCancelled(self.task, f"task {self.task} was cancelled{because}", error)
        if self.state == "expired":
            return TaskExpired(self.task, f"task {self.task} was not started in time", error)
        kind, message = error.get("type") or "error", error.get("message") or ""
        told = f"{kind}: {message}" if message else str(kind)
        failed = TaskFailed(self.task, f"task {self.task} failed: {told}", error)
        failed.__cause__ = serialize.decode_error(error, accept)
        return failed
