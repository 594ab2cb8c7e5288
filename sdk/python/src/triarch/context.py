"""What a task's code can learn of its own attempt, and tell about it: `triarch.current()`."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class TaskStopped(BaseException):
    """Raised in a task that must end: it was cancelled, its lease was lost, or its worker goes.

    No `Exception`, so that `except Exception` does not keep a task alive; `finally` and `with` do their work. What a task
    returns after this is not reported. `reason` is `cancelled`, `lost` or `shutting_down`.
    """

    def __init__(self, reason: str = "cancelled") -> None:
        self.reason = reason
        super().__init__(f"the task must end: {reason}")


class NotInATask(RuntimeError):
    """`triarch.current()` was called outside of a task."""

    def __init__(self) -> None:
        super().__init__("triarch.current() is for the code of tasks, while a worker runs them")


#: A note on progress is cut at so many characters.
NOTE_MAX = 900


@dataclass(frozen=True, eq=False)
class TaskContext:
    """One attempt, as its own code sees it."""

    #: The task's id.
    id: str
    #: Its job's id.
    job: str
    #: The name under which the function is registered.
    name: str
    #: Counted from 1 over all attempts of the task.
    attempt: int
    #: The fencing token: greater than that of every earlier attempt of this task, under whatever leader. Hand it to the stores
    #: that the task writes to; one that refuses lower tokens than it has seen is safe from attempts that should be dead.
    token: int
    #: Results of the tasks that this one came after, by their keys, as they travelled.
    inputs: dict[str, Any]
    _tell: Callable[[float | None, str | None], None] = field(repr=False)
    _stopped: Callable[[], str | None] = field(repr=False)
    _write: Callable[[str, str], None] = field(default=lambda stream, text: None, repr=False)

    def progress(self, share: float | None = None, note: str | None = None) -> None:
        """Tells how far it is, from 0 to 1, and what it is doing. Shown with the worker's next heartbeat."""
        if share is not None:
            share = float(share)
            share = None if share != share else min(1.0, max(0.0, share))
        self._tell(share, None if note is None else str(note)[:NOTE_MAX])

    @property
    def stop_reason(self) -> str | None:
        """Why this attempt must end (`cancelled`, `lost`, `timeout`, `shutting_down`), or None while it may go on.

        A thread cannot be stopped from outside: tasks in a thread pool that run for long look at this now and then.
        """
        return self._stopped()

    def check(self) -> None:
        """Raises `TaskStopped` when this attempt must end."""
        reason = self._stopped()
        if reason is not None:
            raise TaskStopped(reason)


_current: contextvars.ContextVar[TaskContext] = contextvars.ContextVar("triarch_task")


def current() -> TaskContext:
    """The attempt that this code runs in."""
    try:
        return _current.get()
    except LookupError:
        raise NotInATask from None


def current_or_none() -> TaskContext | None:
    """The attempt that this code runs in, if it runs in one."""
    return _current.get(None)


def entered(context: TaskContext) -> contextvars.Token[TaskContext]:
    """Makes this the current attempt."""
    return _current.set(context)


def left(token: contextvars.Token[TaskContext]) -> None:
    """Undoes `entered`."""
    _current.reset(token)
