"""One attempt: a lease from its grant until its result is settled, and what there is to report of it."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

from triarch.worker.output import Output

#: A task and a token: what names an attempt.
Key = tuple[str, int]


class StopReason(enum.Enum):
    """Why an attempt must end."""

    CANCELLED = "cancelled"  # a user cancelled the task
    LOST = "lost"  # the lease is not this worker's any more; another may be running the task already
    TIMED_OUT = "timeout"  # the attempt reached its time limit
    SHUTTING_DOWN = "shutting_down"  # the worker goes; another will run the task


class Phase(enum.Enum):
    """Where an attempt is."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(slots=True)
class Outcome:
    """How an attempt ended: `body` is JSON, the result or the error."""

    ok: bool
    body: bytes
    retryable: bool = True


def failure(type: str, message: str, *, retryable: bool = True, **more: Any) -> Outcome:
    """An attempt that ended with an error of this type."""
    error = {"type": type, "message": message, **{name: value for name, value in more.items() if value is not None}}
    return Outcome(False, json.dumps(error).encode(), retryable)


@dataclass(slots=True, eq=False)
class Attempt:
    """One lease, from its grant until its result is settled."""

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
        """What names it."""
        return (self.task, self.token)

    @property
    def deadline(self) -> float | None:
        """When its time is up, once it runs."""
        return None if self.timeout_ms is None else self.begun_at + self.timeout_ms / 1000

    def write(self, stream: str, text: str) -> None:
        """Keeps what it wrote, for those who watch."""
        if self.output is None:
            self.output = Output()
        self.output.write(stream, text)

    def confirmation(self) -> str:
        """As a heartbeat tells of it."""
        told = f'{{"task":{json.dumps(self.task)},"token":{self.token}'
        if self.progress is not None:
            told += f',"progress":{self.progress:.6g}'
        if self.note is not None:
            told += f',"note":{json.dumps(self.note)}'
        return told + "}"


def to_report(attempt: Attempt, outcome: Outcome | None, *, stopped: bool = True) -> bytes | None:
    """What there is to report of an outcome, given why the attempt was stopped, if it was."""
    reason = attempt.stop_reason if stopped else None
    if reason in (StopReason.CANCELLED, StopReason.LOST):
        return None
    if reason is StopReason.SHUTTING_DOWN and (outcome is None or not outcome.ok):
        # It failed because it was stopped for the worker's own sake: that is no failure of the task. Its lease goes back
        # when the worker leaves.
        return None
    if outcome is None:
        if reason is StopReason.TIMED_OUT:
            outcome = failure("timeout", f"the attempt ran into its time limit of {attempt.timeout_ms} ms")
        else:
            outcome = failure("stopped", "the attempt ended without an outcome")
    head = f'{{"task":{json.dumps(attempt.task)},"token":{attempt.token},'.encode()
    if outcome.ok:
        return head + b'"status":"succeeded","result":' + outcome.body + b"}"
    retryable = b"true" if outcome.retryable else b"false"
    return head + b'"status":"failed","error":' + outcome.body + b',"retryable":' + retryable + b"}"
