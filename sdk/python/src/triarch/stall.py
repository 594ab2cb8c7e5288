"""Stall notice: says once, to a caller that waits, why a task is not running yet.

A task that no worker takes waits without end, and looks like a task that takes long. The cluster knows the difference
(``GET /v1/tasks/{id}/explain``). A caller that has waited for ``NOTICE_AFTER_S`` without progress gets a warning in the log
of ``triarch``, and by the error of its timeout.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from ._http.policy import Request, path
from ._interfaces import ClusterClient
from .errors import TriarchError

__all__ = ["NOTICE_AFTER_S", "StallNotice"]

#: Waiting time without progress after which the reason is asked for.
NOTICE_AFTER_S = 5.0
#: Shorter waits are polls, and their timeouts name no reason.
_SHORT_WAIT_S = 0.5
_EXPLAIN_DEADLINE_S = 2.0
# The same reason is not repeated in the log for other tasks within this time.
_REPEAT_AFTER_S = 60.0
# Many may wait at once for as many tasks. Only some of them ask.
_ASK_INTERVAL_S = 0.2
#: Reasons that are progress.
_PROGRESS = {"running", "finished"}
#: Reasons that another worker would remove.
_NO_WORKER = {"no_worker", "no_worker_for_queue", "no_worker_for_kind"}
#: Kind of functions that clients send. Its module is above this one.
_CALL = "triarch.call"

_log = logging.getLogger("triarch")

_lock = threading.Lock()
_logged: dict[str, float] = {}
_asked_at_s = 0.0


class StallNotice:
    """Notice of one wait. `why` is the reason, once it is known."""

    def __init__(self, app: ClusterClient) -> None:
        self._app = app
        self._begun_s = time.monotonic()
        self._is_given = False
        self.why: str | None = None

    @property
    def due_in_s(self) -> float | None:
        """Time until the notice is due, or ``None`` after that."""
        return None if self._is_given else max(0.0, self._begun_s + NOTICE_AFTER_S - time.monotonic())

    def progressed(self) -> None:
        """Postpones the notice, because a task has ended."""
        self._begun_s = time.monotonic()

    def give(self, task: str) -> None:
        """Asks for the reason, and logs it."""
        self._is_given = True
        if _may_ask():
            self._take(task, self._explain(task))

    async def agive(self, task: str) -> None:
        """As `give`, for asyncio."""
        self._is_given = True
        if _may_ask():
            self._take(task, await self._aexplain(task))

    def in_timeout(self, task: str | None, timeout: float | None) -> str:
        """Returns the end of the text of a timeout's error: the reason, if there is one."""
        if task is not None and (timeout or 0) >= _SHORT_WAIT_S:
            self.why = _reason(self._explain(task)) or self.why
        return self._ending()

    async def ain_timeout(self, task: str | None, timeout: float | None) -> str:
        """As `in_timeout`, for asyncio."""
        if task is not None and (timeout or 0) >= _SHORT_WAIT_S:
            self.why = _reason(await self._aexplain(task)) or self.why
        return self._ending()

    def _ending(self) -> str:
        return f" (not running yet: {self.why})" if self.why else ""

    def _take(self, task: str, answer: Any) -> None:
        self.why = _reason(answer)
        if self.why is None:
            return
        now = time.monotonic()
        with _lock:
            repeated = now - _logged.get(self.why, -_REPEAT_AFTER_S) < _REPEAT_AFTER_S
            if not repeated:
                if len(_logged) > 1000:
                    _logged.clear()
                _logged[self.why] = now
        if not repeated:
            _log.warning("task %s is not running after %g s: %s", task, NOTICE_AFTER_S, self.why)

    def _explain(self, task: str) -> Any:
        try:
            return self._app.transport.json(_request(task))
        except TriarchError:
            return None

    async def _aexplain(self, task: str) -> Any:
        try:
            return await self._app.atransport.json(_request(task))
        except TriarchError:
            return None


def _may_ask() -> bool:
    global _asked_at_s
    now = time.monotonic()
    with _lock:
        if now - _asked_at_s < _ASK_INTERVAL_S:
            return False
        _asked_at_s = now
        return True


def _request(task: str) -> Request:
    return Request.get(path("tasks", task, "explain"), deadline_s=_EXPLAIN_DEADLINE_S)


def _reason(answer: Any) -> str | None:
    if not isinstance(answer, dict):
        return None
    reasons = answer.get("reasons")
    codes = {one.get("code") for one in reasons if isinstance(one, dict)} if isinstance(reasons, list) else set()
    summary = answer.get("summary")
    if not isinstance(summary, str) or codes & _PROGRESS:
        return None
    if not codes & _NO_WORKER:
        return summary
    # The cluster does not know that the task is a function of Python.
    accept = " --accept cloudpickle" if _CALL in summary else ""
    return f"{summary}; functions of Python run in workers that are started by triarch-worker MODULE:APP{accept}"
