"""Attempt of a task: a lease, from its grant until its result is acknowledged, and the report of its outcome."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

from triarch.text import shortened
from triarch.worker.output import Output

#: Bound of one text in an error that the worker writes itself.
_TEXT_BYTES_MAX = 16_384

#: Identity of an attempt: task and token.
Key = tuple[str, int]


class StopReason(enum.Enum):
    """Reason for stopping an attempt."""

    CANCELLED = "cancelled"  # a user cancelled the task
    LOST = "lost"  # the lease is not this worker's any more; another may be running the task already
    TIMED_OUT = "timeout"  # the attempt reached its time limit
    SHUTTING_DOWN = "shutting_down"  # the worker shuts down; another will run the task


class Phase(enum.Enum):
    """Phase of an attempt."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(slots=True)
class AttemptOutcome:
    """Outcome of an attempt: `body` is JSON, the result or the error. `retry_after_ms` replaces the back-off of the task."""

    ok: bool
    body: bytes
    retryable: bool = True
    retry_after_ms: int | None = None


def failure(type: str, message: str, *, retryable: bool = True, **more: Any) -> AttemptOutcome:
    """Returns the outcome of an attempt that ended with an error of this type."""
    error = {"type": type, "message": message, **{name: value for name, value in more.items() if value is not None}}
    texts = {name: shortened(value, _TEXT_BYTES_MAX) for name, value in error.items() if isinstance(value, str)}
    return AttemptOutcome(False, json.dumps({**error, **texts}, ensure_ascii=False).encode(), retryable)


@dataclass(slots=True, eq=False)
class Attempt:
    """One lease, from its grant until its result is acknowledged."""

    task: str
    job: str
    kind: str
    payload: Any
    inputs: dict[str, Any]
    attempt: int
    token: int
    timeout_ms: int | None
    phase: Phase = Phase.WAITING
    begun_at: float = 0.0
    stop_reason: StopReason | None = None
    disowned: bool = False
    progress: float | None = None
    note: str | None = None
    result: bytes | None = None
    #: The same failure without the delay that it asks for. Masters of earlier versions refuse a result with one.
    result_without_delay: bytes | None = None
    sent: bool = False
    alone: bool = False
    replaced: bool = False
    is_returned: bool = False
    output: Output | None = field(default=None)
    #: Identity of the attempt.
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.task, self.token)

    @staticmethod
    def of(lease: Any) -> Attempt | None:
        """Returns the attempt of a granted lease, or `None` if the document does not describe one."""
        if not isinstance(lease, dict):
            return None
        task, job, kind = lease.get("id"), lease.get("job"), lease.get("kind")
        number, token, timeout_ms = lease.get("attempt"), lease.get("token"), lease.get("timeout_ms")
        inputs = lease.get("inputs")
        if type(task) is not str or type(job) is not str or type(kind) is not str:
            return None
        if type(number) is not int or type(token) is not int or not (timeout_ms is None or type(timeout_ms) is int):
            return None
        if not (inputs is None or isinstance(inputs, dict)):
            return None
        return Attempt(task, job, kind, lease.get("payload"), inputs or {}, number, token, timeout_ms)

    @property
    def deadline(self) -> float | None:
        """Time at which the attempt exceeds its limit, once it runs."""
        return None if self.timeout_ms is None else self.begun_at + self.timeout_ms / 1000

    def write(self, stream: str, text: str) -> None:
        """Buffers output of the attempt."""
        if self.output is None:
            self.output = Output()
        self.output.write(stream, text)

    def confirmation(self, *, plain: bool = False) -> str:
        """Returns the entry of a heartbeat. A `plain` one has no progress."""
        text = f'{{"task":{json.dumps(self.task)},"token":{self.token}'
        if self.progress is not None and not plain:
            text += f',"progress":{self.progress:.6g}'
        if self.note is not None and not plain:
            text += f',"note":{json.dumps(self.note)}'
        return text + "}"


def returned_report(attempt: Attempt) -> bytes:
    """Returns the report that hands a lease back, because the attempt could not begin."""
    return f'{{"task":{json.dumps(attempt.task)},"token":{attempt.token},"status":"returned"}}'.encode()


def to_report(attempt: Attempt, outcome: AttemptOutcome | None, *, stopped: bool = True) -> bytes | None:
    """Returns the report of an outcome, or `None` if it is not reported because of the reason for the stop."""
    reason = attempt.stop_reason if stopped else None
    if reason in (StopReason.CANCELLED, StopReason.LOST):
        return None
    if reason is StopReason.SHUTTING_DOWN and (outcome is None or not outcome.ok):
        # The shutdown made it fail, which is no failure of the task. Deregistering returns its lease.
        return None
    if outcome is None:
        if reason is StopReason.TIMED_OUT:
            outcome = failure("timeout", f"the attempt reached its time limit of {attempt.timeout_ms} ms")
        else:
            outcome = failure("stopped", "the attempt ended without an outcome")
    head = f'{{"task":{json.dumps(attempt.task)},"token":{attempt.token},'.encode()
    if outcome.ok:
        return head + b'"status":"succeeded","result":' + outcome.body + b"}"
    retryable = b"true" if outcome.retryable else b"false"
    delay = b"" if outcome.retry_after_ms is None else b',"retry_after_ms":%d' % outcome.retry_after_ms
    return head + b'"status":"failed","error":' + outcome.body + b',"retryable":' + retryable + delay + b"}"
