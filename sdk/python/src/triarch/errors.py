"""Exceptions of the package.

Every exception of this package is a :class:`TriarchError`. Three outcomes are separate, because they are easily confused:

* the cluster **refused** (:class:`Refused` and its subclasses): nothing was changed;
* the outcome is **unknown** (:class:`Timeout`): the change may have happened, and repeating it under the same request id is safe;
* the task itself **ended without success** (:class:`TaskError` and its subclasses).
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

__all__ = [
    "AlreadyFinished",
    "ArgumentsError",
    "Conflict",
    "Forbidden",
    "GiveUp",
    "InvalidRequest",
    "NoLeader",
    "NotFound",
    "PayloadTooLarge",
    "PositionGone",
    "ProtocolError",
    "QueueFull",
    "RateLimited",
    "Refused",
    "RemoteError",
    "ResultTimeout",
    "Retry",
    "SerializationError",
    "SoftTimeout",
    "StaleToken",
    "StorageFailed",
    "TaskCancelled",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "Timeout",
    "TriarchError",
    "Unauthorized",
    "Unavailable",
    "UnknownWorker",
    "UsageError",
]


_RETRY_AFTER_S_MAX = 10 * 366 * 24 * 3600


class TriarchError(Exception):
    """Base of everything that this package raises."""


class UsageError(TriarchError, ValueError):
    """Invalid arguments. The package sent nothing."""


class ArgumentsError(UsageError, TypeError):
    """The task's function takes other arguments. Nothing was sent; a worker that finds this does not run the function."""


class ProtocolError(TriarchError):
    """Response of a master that this package does not understand. The address or the version of the master may be wrong.

    ``status`` is the HTTP status of the response, if there was one.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class NoLeader(TriarchError, ConnectionError):
    """No majority of the masters could be reached within the deadline. Nothing is known to have happened.

    ``tried`` has the last error of each master.
    """

    def __init__(self, tried: Mapping[str, str]) -> None:
        self.tried = dict(tried)
        errors = "; ".join(f"{master}: {message}" for master, message in self.tried.items())
        super().__init__(f"no leader could be reached; check that a majority of the masters runs, and try again ({errors})")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.tried,)


class Timeout(TriarchError, builtins.TimeoutError):
    """No answer within the deadline: **the outcome is unknown**. The change may have happened, or may still happen.

    Repeating the call under ``request_id`` is always safe, and gives the first call's answer if that took effect.
    """

    def __init__(self, deadline_s: float, request_id: str | None, tried: Mapping[str, str]) -> None:
        self.deadline_s = deadline_s
        self.request_id = request_id
        self.tried = dict(tried)
        errors = "; ".join(f"{master}: {message}" for master, message in self.tried.items())
        again = f"; repeat it under request id {request_id}" if request_id else ""
        super().__init__(f"no answer within {deadline_s:g} s, the outcome is unknown{again} ({errors})")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.deadline_s, self.request_id, self.tried)


class ResultTimeout(TriarchError, builtins.TimeoutError):
    """The task has not finished within the caller's timeout. The task goes on, and the caller can wait again."""


class SerializationError(TriarchError, TypeError):
    """The codec cannot write a value, or the value was written by a codec that is not accepted here."""


class GiveUp(TriarchError):
    """Raised by a task's own code when the task failed and must not be attempted again."""


class Retry(TriarchError):
    """Raised by a task's own code when the attempt failed and the next one is to begin after a time of its choosing.

    ``after`` is that time, in seconds or as a :class:`~datetime.timedelta`, at most ten years. It replaces the back-off of
    the task. The attempt counts as failed, so a task that has used up ``max_attempts`` fails.
    """

    def __init__(self, message: str = "", *, after: float | timedelta) -> None:
        try:
            seconds = after.total_seconds() if isinstance(after, timedelta) else float(after)
        except (TypeError, ValueError, OverflowError):
            seconds = -1.0
        if not 0 <= seconds <= _RETRY_AFTER_S_MAX:
            raise UsageError(f"after is {after!r:.200}; give a time in seconds from 0 to {_RETRY_AFTER_S_MAX:,} (ten years)")
        self.after_s = seconds
        super().__init__(*((message,) if message else ()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt_retry, (type(self), str(self), self.after_s)


def _rebuilt_retry(type: type[Retry], message: str, after_s: float) -> Retry:
    return type(message, after=after_s)


class SoftTimeout(TriarchError):
    """Raised inside a task whose ``soft_timeout`` has passed, while there is time to clean up."""


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


class Refused(TriarchError):
    """The cluster refused a request and changed nothing. ``code`` is stable, ``problem`` is the whole document."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem = dict(problem)
        self.status = int(self.problem.get("status") or 0)
        self.code = str(self.problem.get("code") or "")
        self.detail = str(self.problem.get("detail") or self.problem.get("title") or "refused")
        field = self.problem.get("field")
        self.field: str | None = str(field) if field else None
        at = f", field {self.field}" if self.field else ""
        super().__init__(f"{self.detail} ({self.code}, HTTP {self.status}{at})")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problem,)


class NotFound(Refused, LookupError):
    """The job, task, queue or schedule does not exist, or not any more. Finished jobs are kept for a bounded time."""


class UnknownWorker(NotFound):
    """The worker is not registered, or was lost."""


class Conflict(Refused):
    """Conflict with existing state: a key used with another body, a name in use. ``task`` is the conflicting task."""

    @property
    def task(self) -> str | None:
        """Id of the task that holds the ``unique_key``, if that is the conflict."""
        task = self.problem.get("task")
        return str(task) if task else None


class AlreadyFinished(Conflict):
    """The task or job is terminal."""


class StaleToken(Conflict):
    """The lease is not the task's current one."""


class InvalidRequest(Refused, ValueError):
    """The request breaks a rule. ``field`` names the place, as in ``tasks[3].priority``."""


class PayloadTooLarge(Refused, ValueError):
    """A value or request exceeds its bound. Put large data into a store of its own and pass its location."""


class QueueFull(Refused):
    """The queue has reached its bound of waiting tasks. The request was retried until the deadline."""


class RateLimited(Refused):
    """The master receives too many requests. The request was retried until the deadline."""


class Unauthorized(Refused, PermissionError):
    """The cluster does not know the caller."""


class Forbidden(Refused, PermissionError):
    """The caller may not do this."""


class StorageFailed(Refused):
    """Disks of masters are nearly full, or have failed. ``detail`` says where to free space."""


class PositionGone(Refused):
    """The requested events are not kept any more. ``oldest`` is the first position that is kept."""

    @property
    def oldest(self) -> str | None:
        """Oldest position that is kept."""
        oldest = self.problem.get("oldest")
        return None if oldest is None else str(oldest)


class Unavailable(Refused):
    """The master has no capacity for the request now."""


_BY_CODE: dict[str, type[Refused]] = {
    "not_found": NotFound,
    "unknown_worker": UnknownWorker,
    "conflict": Conflict,
    "node_too_old": Conflict,
    "already_finished": AlreadyFinished,
    "stale_token": StaleToken,
    "invalid_request": InvalidRequest,
    "unsupported_media_type": InvalidRequest,
    "method_not_allowed": InvalidRequest,
    "payload_too_large": PayloadTooLarge,
    "queue_full": QueueFull,
    "rate_limited": RateLimited,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "storage_failed": StorageFailed,
    "position_gone": PositionGone,
    "unavailable": Unavailable,
}


def refusal(problem: Mapping[str, Any]) -> Refused:
    """Returns the exception for a problem document. An unknown code gives a plain :class:`Refused`."""
    return _BY_CODE.get(str(problem.get("code")), Refused)(problem)


# ---------------------------------------------------------------------------------------------------------------------
# Tasks that ended without success


class RemoteError(Exception):
    """Exception of a worker, as text.

    It stands for an exception whose class is not rebuilt here. ``type`` is the name of its class, ``traceback`` the text
    of its traceback in the worker.
    """

    def __init__(self, type: str, message: str, traceback: str | None = None) -> None:
        self.type = type
        self.message = message
        self.traceback = traceback
        super().__init__(type, message, traceback)

    def __str__(self) -> str:
        text = f"{self.type}: {self.message}" if self.message else self.type
        return f"{text}\n\n{self.traceback.rstrip()}" if self.traceback else text


class TaskError(TriarchError):
    """The task ended without success. ``task`` is its id, ``error`` the document of the reason, ``message`` its text."""

    def __init__(self, task: str, message: str, error: Mapping[str, Any] | None = None) -> None:
        self.task = task
        self.error: dict[str, Any] = dict(error or {})
        self.message = str(self.error.get("message") or message)
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task, str(self), self.error)


class TaskFailed(TaskError):
    """The task used up its attempts, or failed in a way that excludes another.

    ``type``, ``message`` and ``traceback`` are those of the last attempt's exception in the worker. ``__cause__`` is that
    exception, rebuilt where this is safe, with its own causes chained to it.
    """

    @property
    def type(self) -> str:
        """Name of the exception's class, or the kind of failure, such as ``timeout`` or ``worker_lost``."""
        return str(self.error.get("type") or "error")

    @property
    def traceback(self) -> str | None:
        """Traceback in the worker, as text."""
        text = self.error.get("traceback")
        return str(text) if text else None


class TaskCancelled(TaskError):
    """The task was cancelled on request, or because a task it depends on ended without success (see ``error``)."""


class TaskExpired(TaskError):
    """The task was not started in time."""
