"""Completion watcher: one thread and one long poll of a process, which wait for all tasks of its callers.

The thread asks the cluster for the ends of all those tasks (``POST /v1/tasks/wait``). The cluster answers as soon as some have
ended. The thread calls back, and asks for the rest. A newly awaited task cancels the long poll, which is sent again with that
task. The cluster keeps no state of the poll. With more tasks the pauses in which ends accumulate are longer, up to 50 ms.

The thread starts with the first wait, and sleeps while there is nothing to wait for. A forked child starts a thread of its own.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from .._http.policy import Request
from .._http.transport import Cancellation, RequestCancelled, Transport
from ..errors import NoLeader, ProtocolError, RateLimited, StorageFailed, Timeout, TriarchError, Unavailable, refusal
from ..outcome import Outcome

__all__ = ["CompletionWatcher", "WaitResult", "after_fork"]

#: How a wait ends: with the task's outcome, or with the error that makes it unknowable.
WaitResult = Outcome | TriarchError

# Tasks of one long poll. More tasks take turns.
_TASKS_PER_POLL_MAX = 5_000
_HOLD_S = 20.0
# While there are more tasks than one long poll takes.
_HOLD_OF_TURNS_S = 0.1
_PAUSE_PER_TASK_S = 10e-6
_PAUSE_MAX_S = 0.05
_PAUSE_AFTER_FAILURE_S = 0.5
# Tasks that are added within this time, or longer where there are many, are asked for together.
_GATHER_S = 0.001
_IDLE_S = 10.0

_log = logging.getLogger("triarch")

_watchers: weakref.WeakSet[CompletionWatcher] = weakref.WeakSet()


class _Waiter:
    __slots__ = ("callback", "retry_unreachable")

    def __init__(self, callback: Callable[[WaitResult], None], retry_unreachable: bool) -> None:
        self.callback = callback
        self.retry_unreachable = retry_unreachable


class CompletionWatcher:
    """Calls back when tasks end. Shared by all threads of a process."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reset()
        _watchers.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._added = threading.Condition(self._lock)
        self._waiting: dict[str, list[_Waiter]] = {}
        self._thread: threading.Thread | None = None
        self._polling = False
        self._cancellation = Cancellation()

    def after_fork(self) -> None:
        """Forgets the waiters in a forked child: they wait in the parent."""
        self._reset()

    def add(self, tasks: Iterable[tuple[str, Callable[[WaitResult], None]]], *, retry_unreachable: bool = False) -> None:
        """Registers callbacks for the ends of tasks. They are called by the watcher's thread.

        While the cluster cannot be reached, waits with ``retry_unreachable`` go on. Other waits end with the error.
        """
        with self._lock:
            for task, callback in tasks:
                self._waiting.setdefault(task, []).append(_Waiter(callback, retry_unreachable))
            if self._thread is None:
                self._thread = threading.Thread(target=_run, args=(weakref.ref(self),), name="triarch-watch", daemon=True)
                self._thread.start()
            if self._polling and not self._cancellation.is_cancelled:
                self._cancellation.cancel()
            self._added.notify()

    def discard(self, task: str, callback: Callable[[WaitResult], None]) -> None:
        """Removes a callback."""
        with self._lock:
            # By equality: each access to a method gives another object.
            left = [waiter for waiter in self._waiting.get(task, ()) if waiter.callback != callback]
            if left:
                self._waiting[task] = left
            else:
                self._waiting.pop(task, None)

    def __len__(self) -> int:
        return len(self._waiting)

    # The thread ------------------------------------------------------------------------------------------------------

    def _next(self, idle_s: float) -> tuple[list[str], bool]:
        """Returns the tasks to ask for, and whether there are more. Returns none when nothing was added for ``idle_s``."""
        with self._lock:
            if not self._waiting and not self._added.wait_for(lambda: self._waiting, idle_s):
                return [], False
            tasks = list(islice(self._waiting, _TASKS_PER_POLL_MAX))
            more = len(self._waiting) > len(tasks)
            if more:
                # The others come first the next time.
                for task in tasks:
                    self._waiting[task] = self._waiting.pop(task)
            self._polling = True
            return tasks, more

    def _poll(self, tasks: list[str], more: bool) -> None:
        hold_s = _HOLD_OF_TURNS_S if more else _HOLD_S
        body = json.dumps({"tasks": tasks}, separators=(",", ":")).encode()
        target = f"/v1/tasks/wait?wait_ms={round(hold_s * 1000)}"
        request = Request("POST", target, body, hold_s=hold_s, retry_unreachable=True, mutates=False)
        document: Any = None
        try:
            document = _document(self._transport.call(request, self._cancellation).json())
        except RequestCancelled:
            pass
        except TriarchError as error:
            # A temporary refusal, silence, and an answer that cannot be read may pass. A final refusal does not.
            passes = (NoLeader, Timeout, RateLimited, StorageFailed, Unavailable)
            final = not isinstance(error, passes) and not (isinstance(error, ProtocolError) and error.status is None)
            _log.warning("waiting for %d tasks failed: %s", len(tasks), error)
            self._fail(tasks, error, final=final)
            time.sleep(_PAUSE_AFTER_FAILURE_S)
            return
        finally:
            with self._lock:
                self._polling = False
                self._cancellation.reset()
        if document is None:
            time.sleep(max(_GATHER_S, _pause_s(len(tasks))))
            return
        ended, left = self._take_ended(document)
        del document
        while ended:
            # Only the queue holds the waiters: the callers decide how long their futures live, and the results in them.
            _call_back(*ended.popleft())
        if left:
            time.sleep(_pause_s(left))

    def _take_ended(self, document: dict[str, Any]) -> tuple[deque[tuple[list[_Waiter], WaitResult]], int]:
        """Removes the waiters of tasks that have ended. Returns them with what to tell them, and how many tasks are left."""
        ended: deque[tuple[list[_Waiter], WaitResult]] = deque()
        with self._lock:
            for task in document["ended"]:
                outcome = Outcome(task["id"], task["state"], task.get("result"), task.get("error"))
                ended.append((self._waiting.pop(outcome.task, []), outcome))
            for id in document["missing"]:
                gone = refusal(
                    {
                        "code": "not_found",
                        "status": 404,
                        "detail": f"there is no task {id}, or no longer; finished tasks are kept for a limited time",
                    }
                )
                ended.append((self._waiting.pop(id, []), gone))
            return ended, len(self._waiting)

    def _fail(self, tasks: list[str], error: TriarchError, *, final: bool) -> None:
        failed: list[_Waiter] = []
        with self._lock:
            for task in tasks:
                waiters = self._waiting.pop(task, [])
                left = [] if final else [waiter for waiter in waiters if waiter.retry_unreachable]
                failed += [waiter for waiter in waiters if waiter not in left]
                if left:
                    self._waiting[task] = left
        _call_back(failed, error)


def _document(answer: Any) -> dict[str, Any]:
    """Refuses an answer that is none to a wait."""
    if isinstance(answer, dict) and all(isinstance(answer.get(name), list) for name in ("ended", "missing")):
        return answer
    raise ProtocolError(f"this is not the answer to a wait for tasks: {str(answer)[:200]}; is this a Triarch master?")


def _pause_s(tasks: int) -> float:
    """Returns a pause that grows with the cost of a poll and with the rate of ends."""
    return min(tasks * _PAUSE_PER_TASK_S, _PAUSE_MAX_S)


def _call_back(waiters: list[_Waiter], result: WaitResult) -> None:
    """Calls the waiters back, and drops each one after its call."""
    waiters.reverse()
    while waiters:
        try:
            waiters.pop().callback(result)
        except Exception:
            _log.exception("a callback for the end of a task raised")


def _run(reference: weakref.ref[CompletionWatcher]) -> None:
    while True:
        watcher = reference()
        if watcher is None:
            return
        try:
            tasks, more = watcher._next(_IDLE_S)
            if tasks:
                watcher._poll(tasks, more)
        except Exception:
            _log.exception("waiting for tasks failed unexpectedly, and is repeated")
            time.sleep(1.0)
        del watcher


def after_fork() -> None:
    """Resets every watcher of a forked child."""
    for watcher in list(_watchers):
        watcher.after_fork()
