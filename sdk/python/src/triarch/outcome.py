"""Outcome of a task: its result, or the exception for its caller."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from . import serialize
from .errors import TaskCancelled, TaskError, TaskExpired, TaskFailed

__all__ = ["TERMINAL", "Outcome"]

#: States that only an explicit retry changes.
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Outcome:
    """Outcome of a task, with its result or error still encoded."""

    task: str
    state: str
    result: Any = None
    error: Any = None

    @staticmethod
    def of(task: Mapping[str, Any]) -> Outcome | None:
        """Returns the outcome in a task's document, or ``None`` if the task is not terminal."""
        if task["state"] not in TERMINAL:
            return None
        return Outcome(task["id"], task["state"], task.get("result"), task.get("error"))

    @property
    def because_of(self) -> str | None:
        """Id of the task whose end made the cluster cancel this one, if that is the reason."""
        error = self.error if isinstance(self.error, Mapping) else {}
        task = error.get("task")
        return task if self.state == "cancelled" and isinstance(task, str) else None

    def value(self, accept: Collection[str]) -> Any:
        """Returns the result, or raises the exception that says why there is none."""
        if self.state == "succeeded":
            return serialize.decode_result(self.result, accept)
        raise self.exception(accept)

    def exception(self, accept: Collection[str]) -> TaskError:
        """Returns the exception that says why there is no result."""
        error = _error_document(self.error)
        if self.state == "cancelled":
            because = f": {error['message']}" if error.get("message") else ""
            return TaskCancelled(self.task, f"task {self.task} was cancelled{because}", error)
        if self.state == "expired":
            return TaskExpired(self.task, f"task {self.task} was not started in time", error)
        kind, message = error.get("type") or "error", error.get("message") or ""
        text = f"{kind}: {message}" if message else str(kind)
        failed = TaskFailed(self.task, f"task {self.task} failed: {text}", error)
        failed.__cause__ = serialize.decode_error(error, accept)
        return failed


def _error_document(error: Any) -> Mapping[str, Any]:
    """Returns the error as a document. Workers in other languages may report any JSON."""
    if isinstance(error, Mapping):
        return error
    return {} if error is None else {"message": error if isinstance(error, str) else repr(error)}
