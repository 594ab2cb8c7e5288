"""What can be said of a task besides its arguments. Times are seconds, as numbers or :class:`~datetime.timedelta`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, TypedDict

from .errors import UsageError

__all__ = ["Backoff", "Seconds", "SubmitOptions", "TaskOptions", "milliseconds"]

#: A span of time.
Seconds = float | timedelta


def milliseconds(span: Seconds, name: str) -> int:
    """A span in whole milliseconds, for the wire."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if not 0 <= seconds < 10**12:
        raise UsageError(f"{name} is {span!r}; it is a span of time in seconds, not negative")
    # Something that is not nothing stays so.
    return max(round(seconds * 1000), 1 if seconds > 0 else 0)


@dataclass(frozen=True)
class Backoff:
    """How long a failed task waits: ``initial * factor ** (n - 1)`` before the n-th retry, at most ``max``, ±``jitter``."""

    initial: Seconds = 1.0
    factor: float = 2.0
    max: Seconds = 60.0
    jitter: float = 0.1

    def to_wire(self) -> dict[str, Any]:
        """As the cluster takes it."""
        return {
            "initial_ms": milliseconds(self.initial, "backoff"),
            "factor": float(self.factor),
            "max_ms": milliseconds(self.max, "backoff"),
            "jitter": float(self.jitter),
        }


class SubmitOptions(TypedDict, total=False):
    """What one submission may say, over what its task says; each is described at :class:`TaskOptions`."""

    queue: str
    priority: int
    countdown: Seconds
    eta: datetime
    expires: Seconds
    timeout: Seconds
    max_attempts: int
    max_losses: int
    backoff: Backoff | Seconds
    unique_key: str
    on_duplicate: Literal["refuse", "return"]
    concurrency_key: str
    concurrency_limit: int
    tags: Sequence[str]
    labels: Mapping[str, str]
    resources: Mapping[str, int]


@dataclass(frozen=True)
class TaskOptions:
    """What is said of a task, by its decorator or at one submission; ``None`` is the cluster's default."""

    #: Where it waits.
    queue: str | None = None
    #: 0–9, higher first.
    priority: int | None = None
    #: Starts no sooner than this after its submission.
    countdown: Seconds | None = None
    #: Starts no sooner than at this moment; without a time zone it is local time.
    eta: datetime | None = None
    #: Ends as ``expired`` when it has not started this long after its submission.
    expires: Seconds | None = None
    #: The limit of one attempt: it is stopped, and counts as failed.
    timeout: Seconds | None = None
    #: Attempts that may fail or time out.
    max_attempts: int | None = None
    #: Attempts that may be lost with their worker.
    max_losses: int | None = None
    #: The wait between a failed attempt and the next; a span stands for its first wait.
    backoff: Backoff | Seconds | None = None
    #: At most one unfinished task of the cluster has this key.
    unique_key: str | None = None
    #: What happens when it is taken: ``refuse`` (:class:`~triarch.errors.Conflict`), or ``return`` the first one's handle.
    on_duplicate: Literal["refuse", "return"] | None = None
    #: Of tasks with the same key at most ``concurrency_limit`` (1) run at once.
    concurrency_key: str | None = None
    #: See ``concurrency_key``.
    concurrency_limit: int | None = None
    #: Free words to filter by.
    tags: Sequence[str] | None = None
    #: Labels that its worker must have.
    labels: Mapping[str, str] | None = None
    #: Resources that its worker must have, taken for the time of the attempt.
    resources: Mapping[str, int] | None = None

    def but(self, changes: Mapping[str, Any]) -> TaskOptions:
        """These, with changes; what is unknown is refused by name."""
        if not changes:
            return self
        unknown = sorted(set(changes) - _NAMES)
        if unknown:
            raise UsageError(f"there is no option {unknown[0]!r}; known are {', '.join(sorted(_NAMES))}")
        return replace(self, **changes)

    def over(self, others: TaskOptions) -> TaskOptions:
        """These, and of others what is not said here."""
        said = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        return replace(others, **said)

    def to_wire(self) -> dict[str, Any]:
        """The fields of a task as the cluster takes them."""
        backoff = self.backoff
        if backoff is not None and not isinstance(backoff, Backoff):
            backoff = Backoff(initial=backoff)
        requires = {name: dict(value) for name, value in (("labels", self.labels), ("resources", self.resources)) if value}
        said: dict[str, Any] = {
            "queue": self.queue,
            "priority": self.priority,
            "delay_ms": _milliseconds(self.countdown, "countdown"),
            "run_at": None if self.eta is None else _instant(self.eta),
            "expires_ms": _milliseconds(self.expires, "expires"),
            "timeout_ms": _milliseconds(self.timeout, "timeout"),
            "max_attempts": self.max_attempts,
            "max_losses": self.max_losses,
            "backoff": None if backoff is None else backoff.to_wire(),
            "unique_key": self.unique_key,
            "on_duplicate": self.on_duplicate,
            "concurrency_key": self.concurrency_key,
            "concurrency_limit": self.concurrency_limit,
            "tags": list(self.tags) if self.tags else None,
            "requires": requires or None,
        }
        return {name: value for name, value in said.items() if value is not None}


_NAMES = {one.name for one in fields(TaskOptions)}


def _milliseconds(span: Seconds | None, name: str) -> int | None:
    return None if span is None else milliseconds(span, name)


def _instant(moment: datetime) -> str:
    text = moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
