"""Task context: access of running task code to its own attempt, by `triarch.current()`."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .text import shortened


class TaskStopped(BaseException):
    """Raised in a task that must end: it was cancelled, its lease was lost, or its worker shuts down.

    Not an `Exception`, so that `except Exception` does not keep a task alive. `finally` and `with` work as usual. A result
    that the task returns after this is not reported. `reason` is `cancelled`, `lost` or `shutting_down`.
    """

    def __init__(self, reason: str = "cancelled") -> None:
        self.reason = reason
        super().__init__(f"the task must end: {reason}")


class NotInATask(RuntimeError):
    """`triarch.current()` was called outside of a task."""

    def __init__(self) -> None:
        super().__init__("triarch.current() works only in the code of a task, while a worker runs it")


#: Bound of the cluster on a progress note.
NOTE_BYTES_MAX = 1000


@dataclass(frozen=True, eq=False)
class TaskContext:
    """The attempt that runs the calling code."""

    #: The task's id.
    id: str
    #: Its job's id.
    job: str
    #: The name of the task.
    name: str
    #: Number of the attempt, from 1.
    attempt: int
    #: Fencing token: greater than that of every earlier attempt of this task, under any leader. A store that refuses
    #: tokens lower than it has seen is safe from writes of attempts that should be dead.
    token: int
    #: Encoded results of the tasks that this one depends on, by their keys.
    inputs: dict[str, Any]
    _report: Callable[[float | None, str | None], None] = field(repr=False)
    _stopped: Callable[[], str | None] = field(repr=False)
    _write: Callable[[str, str], None] = field(default=lambda stream, text: None, repr=False)

    def progress(self, share: float | None = None, note: str | None = None) -> None:
        """Reports progress, from 0 to 1, and a note on the current activity. Visible with the worker's next heartbeat.

        A note of more than 1,000 bytes is shortened.
        """
        if share is not None:
            share = float(min(1, max(0, share))) if share == share else None
        self._report(share, None if note is None else shortened(str(note), NOTE_BYTES_MAX))

    @property
    def stop_reason(self) -> str | None:
        """Reason why this attempt must end (`cancelled`, `lost`, `timeout`, `shutting_down`), or `None`.

        A thread cannot be stopped from outside, so long tasks in a thread pool have to check this regularly.
        """
        return self._stopped()

    def check(self) -> None:
        """Raises `TaskStopped` if this attempt must end."""
        reason = self._stopped()
        if reason is not None:
            raise TaskStopped(reason)


_current: contextvars.ContextVar[TaskContext] = contextvars.ContextVar("triarch_task")


def current() -> TaskContext:
    """Returns the attempt that this code runs in."""
    try:
        return _current.get()
    except LookupError:
        raise NotInATask from None


def current_or_none() -> TaskContext | None:
    """Returns the attempt that this code runs in, or `None`."""
    return _current.get(None)


def attempt_in(context: contextvars.Context) -> TaskContext | None:
    """Returns the attempt of another context, which may be in use by another thread."""
    return context.get(_current)


def entered(context: TaskContext) -> contextvars.Token[TaskContext]:
    """Sets the current attempt."""
    return _current.set(context)


def left(token: contextvars.Token[TaskContext]) -> None:
    """Undoes `entered`."""
    _current.reset(token)
