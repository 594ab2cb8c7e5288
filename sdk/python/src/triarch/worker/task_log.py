"""Log of tasks: one line when one is received, succeeded or failed, bounded in lines per second.

A worker may run thousands of short tasks per second. The tasks beyond the bound are counted, and the next line says how many there
were, so that the log costs no throughput and no disk.
"""

from __future__ import annotations

import json
import logging
import threading
import time

from triarch.text import shortened
from triarch.worker.attempt import Attempt, AttemptOutcome, StopReason

log = logging.getLogger("triarch.worker")

#: Lines of one kind within one second.
LINES_PER_S_MAX = 200
_REASON_BYTES_MAX = 500


class _Lines:
    """Lines of one kind, with their budget."""

    def __init__(self, level: int, what: str) -> None:
        self._level = level
        self._what = what
        self._lock = threading.Lock()
        self._since = 0.0
        self._count = 0

    def write(self, text: str, *args: object) -> None:
        if self.admits():
            log.log(self._level, text, *args)

    def admits(self) -> bool:
        """Returns whether one more line is to be written now."""
        if not log.isEnabledFor(self._level):
            return False
        now = time.monotonic()
        left_out = 0
        with self._lock:
            if now - self._since >= 1.0:
                left_out = max(0, self._count - LINES_PER_S_MAX)
                self._since, self._count = now, 0
            self._count += 1
            over = self._count > LINES_PER_S_MAX
        if left_out:
            log.log(self._level, "%d more tasks %s, too many to log each", left_out, self._what)
        return not over


_received = _Lines(logging.DEBUG, "were received")
_succeeded = _Lines(logging.INFO, "succeeded")
_failed = _Lines(logging.WARNING, "failed")


def received(attempt: Attempt) -> None:
    """Logs a granted lease."""
    _received.write("task %s (%s) received, attempt %d", attempt.task, attempt.kind, attempt.attempt)


def ended(attempt: Attempt, outcome: AttemptOutcome | None, took_s: float) -> None:
    """Logs the end of an attempt. One that was stopped for another reason than its time limit has its line already."""
    if outcome is not None and outcome.ok:
        _succeeded.write("task %s (%s) succeeded in %.3f s", attempt.task, attempt.kind, took_s)
    elif attempt.stop_reason in (None, StopReason.TIMED_OUT) and _failed.admits():
        text = "task %s (%s) failed after %.3f s, attempt %d: %s"
        log.warning(text, attempt.task, attempt.kind, took_s, attempt.attempt, _reason(attempt, outcome))


def _reason(attempt: Attempt, outcome: AttemptOutcome | None) -> str:
    if attempt.stop_reason is StopReason.TIMED_OUT:
        return f"it reached its time limit of {attempt.timeout_ms} ms"
    if outcome is None:
        return "it ended without an outcome"
    error = json.loads(outcome.body)
    kind, message = error.get("type"), error.get("message")
    text = f"{kind}: {message}" if message else str(kind)
    # One line, whatever the message contains.
    text = shortened(text, _REASON_BYTES_MAX).replace("\r", "\\r").replace("\n", "\\n")
    if not outcome.retryable:
        return f"{text} (not retried)"
    return text if outcome.retry_after_ms is None else f"{text} (the next attempt after {outcome.retry_after_ms / 1000:g} s)"
