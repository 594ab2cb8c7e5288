"""Options of tasks. Times are seconds, as numbers or :class:`~datetime.timedelta`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, TypedDict

from .errors import UsageError

__all__ = ["Backoff", "Seconds", "SubmitOptions", "TaskOptions", "encoded", "milliseconds", "words"]

#: A span of time.
Seconds = float | timedelta


def milliseconds(span: Seconds, name: str) -> int:
    """Returns a span in whole milliseconds."""
    try:
        seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < 10**12:
        raise UsageError(f"{name} is {span!r}; give a time in seconds that is not negative")
    # A positive span does not become 0.
    return max(round(seconds * 1000), 1 if seconds > 0 else 0)


def words(given: str | Collection[str], name: str) -> list[str]:
    """Returns several texts. One text alone means itself, not its characters."""
    found = [given] if isinstance(given, str) else list(given)
    for word in found:
        if not isinstance(word, str):
            raise UsageError(f"{name} takes texts, not {word!r:.200}")
    return found


def encoded(document: Any, what: str) -> bytes:
    """Returns a document of options as JSON, or raises UsageError if it has what JSON cannot represent."""
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        at = error.object[max(0, error.start - 20) : error.end + 20]
        raise UsageError(f"{what} is no Unicode text: {at!r}; a file name that is not UTF-8, perhaps") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} cannot be sent: {error}") from None


@dataclass(frozen=True)
class Backoff:
    """Back-off of retries: ``initial * factor ** (n - 1)`` before the n-th retry, at most ``max``, ±``jitter``."""

    initial: Seconds = 1.0
    factor: float = 2.0
    max: Seconds = 60.0
    jitter: float = 0.1

    def to_wire(self) -> dict[str, Any]:
        """Returns the document for the cluster."""
        return {
            "initial_ms": milliseconds(self.initial, "backoff"),
            "factor": float(self.factor),
            "max_ms": milliseconds(self.max, "backoff"),
            "jitter": float(self.jitter),
        }


class SubmitOptions(TypedDict, total=False):
    """Options of one submission, which override those of its task. Described at :class:`TaskOptions`."""

    queue: str
    priority: int
    countdown: Seconds
    eta: datetime | str
    expires: Seconds | datetime | str
    timeout: Seconds
    max_attempts: int
    max_losses: int
    backoff: Backoff | Seconds
    unique_key: str
    on_duplicate: Literal["refuse", "return"]
    concurrency_key: str
    concurrency_limit: int
    tags: str | Sequence[str]
    labels: Mapping[str, str]
    resources: Mapping[str, int]


@dataclass(frozen=True)
class TaskOptions:
    """Options of a task, or of one submission. ``None`` stands for the cluster's default."""

    #: Queue. Default: that of the app, or ``default``.
    queue: str | None = None
    #: Priority from 0 to 9. Higher priorities start first.
    priority: int | None = None
    #: Minimum delay between submission and start.
    countdown: Seconds | None = None
    #: Earliest start, also as text in ISO 8601. A time without a zone is local time.
    eta: datetime | str | None = None
    #: Time after submission at which a task that has not started ends as ``expired``. Or the moment itself, as for ``eta``.
    expires: Seconds | datetime | str | None = None
    #: Time limit of one attempt. An attempt that reaches it is stopped and counts as failed.
    timeout: Seconds | None = None
    #: Maximum attempts that fail or time out. Default: 3.
    max_attempts: int | None = None
    #: Maximum attempts lost to worker failure. Default: 5.
    max_losses: int | None = None
    #: Back-off between a failed attempt and the next. A time span means ``Backoff(initial=…)``.
    backoff: Backoff | Seconds | None = None
    #: Key that at most one unfinished task of the cluster has.
    unique_key: str | None = None
    #: Reaction to a taken ``unique_key``: ``refuse`` (:class:`~triarch.errors.Conflict`), or ``return`` the handle of its task.
    on_duplicate: Literal["refuse", "return"] | None = None
    #: Key of which at most ``concurrency_limit`` tasks run at once.
    concurrency_key: str | None = None
    #: Limit of ``concurrency_key``. Default: 1.
    concurrency_limit: int | None = None
    #: Tags to filter by. One text is one tag.
    tags: str | Sequence[str] | None = None
    #: Labels that the worker must have.
    labels: Mapping[str, str] | None = None
    #: Resources of the worker that the attempt occupies.
    resources: Mapping[str, int] | None = None

    def but(self, changes: Mapping[str, Any]) -> TaskOptions:
        """Returns a copy with changes. Refuses unknown options."""
        if not changes:
            return self
        unknown = sorted(set(changes) - _NAMES)
        if unknown:
            raise UsageError(f"there is no option {unknown[0]!r}; the options are {', '.join(sorted(_NAMES))}")
        return replace(self, **changes)

    @property
    def is_relative(self) -> bool:
        """Whether the document depends on the time of submission."""
        return isinstance(self.expires, (datetime, str))

    def over(self, others: TaskOptions) -> TaskOptions:
        """Returns these options, completed by others."""
        said = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        return replace(others, **said)

    def to_wire(self) -> dict[str, Any]:
        """Returns the fields of a task's document."""
        backoff = self.backoff
        if backoff is not None and not isinstance(backoff, Backoff):
            backoff = Backoff(initial=backoff)
        requires: dict[str, Any] = {}
        for name, value in (("labels", self.labels), ("resources", self.resources)):
            if value is not None and not isinstance(value, Mapping):
                raise UsageError(f"{name} takes a dictionary, such as {{'name': …}}, not {value!r:.200}")
            if value:
                requires[name] = dict(value)
        said: dict[str, Any] = {
            "queue": self.queue,
            "priority": self.priority,
            "delay_ms": _milliseconds(self.countdown, "countdown"),
            "run_at": None if self.eta is None else _instant(moment(self.eta, "eta")),
            "expires_ms": _expires_ms(self.expires),
            "timeout_ms": _milliseconds(self.timeout, "timeout"),
            "max_attempts": self.max_attempts,
            "max_losses": self.max_losses,
            "backoff": None if backoff is None else backoff.to_wire(),
            "unique_key": self.unique_key,
            "on_duplicate": self.on_duplicate,
            "concurrency_key": self.concurrency_key,
            "concurrency_limit": self.concurrency_limit,
            "tags": words(self.tags, "tags") if self.tags else None,
            "requires": requires or None,
        }
        return {name: value for name, value in said.items() if value is not None}


_NAMES = {one.name for one in fields(TaskOptions)}


def _milliseconds(span: Seconds | None, name: str) -> int | None:
    return None if span is None else milliseconds(span, name)


def moment(given: datetime | str, name: str) -> datetime:
    """Returns a moment, which may be text in ISO 8601."""
    if isinstance(given, str):
        try:
            # Python 3.10 reads no "Z".
            return datetime.fromisoformat(given[:-1] + "+00:00" if given.endswith(("Z", "z")) else given)
        except ValueError:
            pass
    elif isinstance(given, datetime):
        return given
    raise UsageError(f'{name} is {given!r:.200}; give a datetime, or text such as "2030-01-31T12:00:00+01:00"')


def _expires_ms(given: Seconds | datetime | str | None) -> int | None:
    if not isinstance(given, (datetime, str)):
        return _milliseconds(given, "expires")
    left = moment(given, "expires").astimezone(timezone.utc) - datetime.now(timezone.utc)
    # A moment that has passed leaves the shortest time there is: the task ends as expired.
    return max(1, round(left.total_seconds() * 1000))


def _instant(moment: datetime) -> str:
    try:
        moment = moment.astimezone(timezone.utc)
    except OverflowError:
        raise UsageError(f"eta is {moment.isoformat()}, which is outside of the years 1 to 9999 in UTC") from None
    text = moment.isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
