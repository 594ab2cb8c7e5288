"""Attempt of a task: a lease, from its grant until its result is acknowledged, and the report of its outcome."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

from triarch.worker.output import Output

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
    """Outcome of an attempt: `body` is JSON, the result or the error."""

    ok: bool
    body: bytes
    retryable: bool = True


def failure(type: str, message: str, *, retryable: bool = True, **more: Any) -> AttemptOutcome:
    """Returns the outcome of an attempt that ended with an error of this type."""
    error = {"type": type, "message": message, **{name: value for name, value in more.items() if value is not None}}
    return AttemptOutcome(False, json.dumps(error).encode(), retryable)


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
    sent: bool = False
    alone: bool = False
    replaced: bool = False
    output: Output | None = field(default=None)

    @property
    def key(self) -> Key:
        """Identity of the attempt."""
        return (self.task, self.token)

    @property
    def deadline(self) -> float | None:
        """Time at which the attempt exceeds its limit, once it runs."""
        return None if self.timeout_ms is None else self.begun_at + self.timeout_ms / 1000

    def write(self, stream: str, text: str) -> None:
        """Buffers output of the attempt."""
        if self.output is None:
            self.output = Output()
        self.output.write(stream, text)

    def confirmation(self) -> str:
        """Returns the entry of a heartbeat."""
        text = f'{{"task":{json.dumps(self.task)},"token":{self.token}'
        if self.progress is not None:
            text += f',"progress":{self.progress:.6g}'
        if self.note is not None:
            text += f',"note":{json.dumps(self.note)}'
        return text + "}"


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
    return head + b'"status":"failed","error":' + outcome.body + b',"retryable":' + retryable + b"}"
