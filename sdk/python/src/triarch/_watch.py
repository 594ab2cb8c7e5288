"""Who waits for which tasks: one thread and one connection of the process, however many there are.

The thread asks the cluster for the ends of all tasks that anybody here waits for (``POST /v1/tasks/wait``), is answered as soon
as some have ended, tells whoever waits, and asks for the rest. A task that comes to be waited for meanwhile breaks off the
question, which is asked again with it; the cluster remembers nothing of it. The more tasks, the longer the pauses in which ends
gather, up to a twentieth of a second.

The thread begins with the first wait, and sleeps while there is nothing to wait for. In a child after a fork all begins anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from itertools import islice

from ._policy import Call
from ._transport import Transport
from .errors import NoLeader, RateLimited, StorageFailed, Timeout, TriarchError, Unavailable, refusal
from .outcome import Outcome

__all__ = ["Told", "Watcher"]

#: What a waiter is told: how the task ended, or why that cannot be known.
Told = Outcome | TriarchError

# So many tasks are asked for at once; more take turns.
_ASKED_MAX = 5_000
_HOLD_S = 20.0
# While there are more than can be asked for at once.
_HOLD_OF_TURNS_S = 0.1
_PAUSE_A_TASK_S = 10e-6
_PAUSE_MAX_S = 0.05
_AFTER_FAILURE_S = 0.5
# What comes to be waited for within this time, or longer where many are, is asked for together.
_GATHER_S = 0.001

_log = logging.getLogger("triarch")

_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()


class _Waiter:
    __slots__ = ("patient", "then")

    def __init__(self, then: Callable[[Told], None], patient: bool) -> None:
        self.then = then
        self.patient = patient


class Watcher:
    """Waits for tasks. Shared by all threads of a process."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._wake: tuple[int, int] | None = None
        self._begin()
        _watchers.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._waiting: dict[str, list[_Waiter]] = {}
        self._thread: threading.Thread | None = None
        self._asking = False
        self._woken = False

    def after_fork(self) -> None:
        """In a child: whoever waits, waits in the parent."""
        wake, self._wake = self._wake, None
        for end in wake or ():
            with contextlib.suppress(OSError):
                os.close(end)
        self._begin()

    def __del__(self) -> None:
        for end in self._wake or ():
            with contextlib.suppress(OSError):
                os.close(end)

    def add(self, tasks: Iterable[tuple[str, Callable[[Told], None]]], *, patient: bool = False) -> None:
        """Has each be told how its task ended, from the watcher's thread.

        While the cluster cannot be reached, those that are ``patient`` wait on, and others are told so.
        """
        with self._lock:
            for task, then in tasks:
                self._waiting.setdefault(task, []).append(_Waiter(then, patient))
            if self._thread is None:
                if self._wake is None:
                    self._wake = os.pipe()
                    for end in self._wake:
                        os.set_blocking(end, False)
                self._thread = threading.Thread(target=_run, args=(weakref.ref(self),), name="triarch-watch", daemon=True)
                self._thread.start()
            if self._asking and not self._woken:
                assert self._wake is not None
                self._woken = True
                os.write(self._wake[1], b".")
            self._news.notify()

    def discard(self, task: str, then: Callable[[Told], None]) -> None:
        """Whoever waited gave up."""
        with self._lock:
            left = [waiter for waiter in self._waiting.get(task, ()) if waiter.then is not then]
            if left:
                self._waiting[task] = left
            else:
                self._waiting.pop(task, None)

    def __len__(self) -> int:
        return len(self._waiting)

    # The thread ------------------------------------------------------------------------------------------------------

    def _next(self, idle_s: float) -> tuple[list[str], bool]:
        """What to ask for now, and whether there is more than that; nothing when there was nothing for so long."""
        with self._lock:
            if not self._waiting and not self._news.wait_for(lambda: self._waiting, idle_s):
                return [], False
            tasks = list(islice(self._waiting, _ASKED_MAX))
            more = len(self._waiting) > len(tasks)
            if more:
                # The others come first the next time.
                for task in tasks:
                    self._waiting[task] = self._waiting.pop(task)
            self._asking = True
            return tasks, more

    def _round(self, tasks: list[str], more: bool) -> None:
        hold_s = _HOLD_OF_TURNS_S if more else _HOLD_S
        body = json.dumps({"tasks": tasks}, separators=(",", ":")).encode()
        target = f"/v1/tasks/wait?wait_ms={round(hold_s * 1000)}"
        call = Call("POST", target, body, hold_s=hold_s, patient=True, changes=False)
        assert self._wake is not None
        try:
            answer = self._transport.call_unless(call, self._wake[0])
        except TriarchError as error:
            # What is refused for now, or not answered, may come later. What is refused for good does not.
            final = not isinstance(error, (NoLeader, Timeout, RateLimited, StorageFailed, Unavailable))
            _log.warning("%d tasks are waited for in vain: %s", len(tasks), error)
            self._fail(tasks, error, patient_too=final)
            time.sleep(_AFTER_FAILURE_S)
            return
        finally:
            self._asked()
        if answer is None:
            time.sleep(max(_GATHER_S, _pause_s(len(tasks))))
            return
        document = answer.json()
        told: list[tuple[list[_Waiter], Told]] = []
        with self._lock:
            for task in document["ended"]:
                outcome = Outcome(task["id"], task["state"], task.get("result"), task.get("error"))
                told.append((self._waiting.pop(outcome.task, []), outcome))
            for id in document["missing"]:
                gone = refusal({"code": "not_found", "status": 404, "detail": f"there is no task {id} (any more)"})
                told.append((self._waiting.pop(id, []), gone))
            left = len(self._waiting)
        for waiters, what in told:
            _tell(waiters, what)
        if left:
            time.sleep(_pause_s(left))

    def _asked(self) -> None:
        with self._lock:
            self._asking = False
            if self._woken:
                self._woken = False
                assert self._wake is not None
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake[0], 64)

    def _fail(self, tasks: list[str], error: TriarchError, *, patient_too: bool) -> None:
        failed: list[_Waiter] = []
        with self._lock:
            for task in tasks:
                waiters = self._waiting.pop(task, [])
                left = [] if patient_too else [waiter for waiter in waiters if waiter.patient]
                failed += [waiter for waiter in waiters if waiter not in left]
                if left:
                    self._waiting[task] = left
        _tell(failed, error)


def _pause_s(tasks: int) -> float:
    """The more there are, the more a question costs, and the more ends come in the same time."""
    return min(tasks * _PAUSE_A_TASK_S, _PAUSE_MAX_S)


def _tell(waiters: Iterable[_Waiter], what: Told) -> None:
    for waiter in waiters:
        try:
            waiter.then(what)
        except Exception:
            _log.exception("whoever waited for a task raised")


def _run(reference: weakref.ref[Watcher]) -> None:
    while True:
        watcher = reference()
        if watcher is None:
            return
        try:
            tasks, more = watcher._next(10.0)
            if tasks:
                watcher._round(tasks, more)
        except Exception:
            _log.exception("waiting for tasks went wrong; it goes on")
            time.sleep(1.0)
        del watcher


def after_fork() -> None:
    """In a child: all of them begin anew."""
    for watcher in list(_watchers):
        watcher.after_fork()
