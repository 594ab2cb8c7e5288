"""Event loop in a thread of its own, which goes on whatever the code on it does.

# Invariants

* `loop.stop()`, and `sys.exit()` in anything that runs on the loop, do not end it.
* A loop that was closed, or that fails again and again, is reported to its owner, which begins another one.
* A forked child that has a copy of the loop ends as soon as the code that forked it lets the loop go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from triarch import context as contexts
from triarch.context import TaskContext
from triarch.worker.process.forked import end_forked

log = logging.getLogger("triarch.worker")

#: Failures of the loop itself, and the time for them, after which it is given up.
_FAILURES_MAX = 3
_FAILURES_S = 1.0
#: Interval of log lines about the same loop.
_LOG_INTERVAL_S = 5.0


class LoopThread:
    """See the module. `on_ended` is called by the thread with the reason, if the loop ends before `end`."""

    def __init__(self, number: int, on_ended: Callable[[LoopThread, str], None]) -> None:
        self.loop = asyncio.new_event_loop()
        self._on_ended = on_ended
        self._pid = os.getpid()
        self._is_ending = False
        self._logged_at = 0.0
        # Tasks have a public context only in Python 3.12 and newer.
        self._contexts: weakref.WeakKeyDictionary[asyncio.Task[Any], TaskContext | None] | None = None
        if not hasattr(asyncio.Task, "get_context"):
            self._contexts = weakref.WeakKeyDictionary()
            self.loop.set_task_factory(self._make_task)
        #: Number of times that the loop was asked in vain whether it still turns.
        self.missed = 0
        self._answered = threading.Event()
        self._answered.set()
        self.thread = threading.Thread(target=self._serve, name=f"triarch-loop-{number}", daemon=True)
        if hasattr(os, "register_at_fork"):
            reference: weakref.ref[LoopThread] = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _after_fork(reference))

    def start(self) -> None:
        """Starts the thread."""
        self.thread.start()

    def soon(self, call: Callable[..., Any], *args: Any) -> bool:
        """Calls something in the loop's thread. Returns false if the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            return False
        return True

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Returns a task of the loop, whatever task factory other code has installed. For its own thread."""
        return self._make_task(self.loop, coroutine)

    def end(self) -> None:
        """Ends the loop. For its own thread."""
        self._is_ending = True
        self.loop.stop()

    # --- from the watchdog's thread ---

    def look(self) -> int:
        """Asks the loop whether it turns. Returns how often it was asked in vain since its last answer."""
        if self._answered.is_set():
            self.missed = 0
            self._answered.clear()
            self.soon(self._answered.set)
        else:
            self.missed += 1
        return self.missed

    def forget_missed(self) -> None:
        """Forgets the questions that had no answer, because the watchdog itself did not run in time."""
        self.missed = 0

    def running_task(self) -> tuple[asyncio.Task[Any] | None, TaskContext | None]:
        """Returns the asyncio task that runs now, and the attempt that it belongs to."""
        with contextlib.suppress(Exception):
            task = asyncio.current_task(self.loop)
            if task is not None:
                if self._contexts is not None:
                    return task, self._contexts.get(task)
                return task, contexts.attempt_in(task.get_context())  # type: ignore[attr-defined, unused-ignore]
        return None, None

    def interrupt(self, error: type[BaseException]) -> None:
        """Raises an exception in the thread, as soon as it runs Python code. Waiting inside C is not interrupted."""
        ident = self.thread.ident
        if ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))

    # --- the loop's thread ---

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **more)
        if self._contexts is not None:
            self._contexts[task] = contexts.current_or_none()
        return task

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        failures: list[float] = []
        why = "it was closed"
        while not self.loop.is_closed():
            error: BaseException | None = None
            try:
                self.loop.run_forever()
            except BaseException as raised:
                error = raised
            if os.getpid() != self._pid:
                end_forked(error)
            if self._is_ending:
                break
            if error is not None and not isinstance(error, (SystemExit, KeyboardInterrupt)):
                now = time.monotonic()
                failures = [at for at in failures if now - at < _FAILURES_S] + [now]
                why = f"it failed: {error!r}"
                if len(failures) >= _FAILURES_MAX:
                    break
            self._log_interruption(error)
        if not self._is_ending:
            self._on_ended(self, why)
        # Tasks that refuse to end are left as they are.
        with contextlib.suppress(Exception):
            self.loop.close()

    def _log_interruption(self, error: BaseException | None) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_INTERVAL_S:
            self._logged_at = now
            how = "loop.stop()" if error is None else repr(error)
            log.warning("code of a task interrupted the event loop by %s; the loop goes on with the other tasks", how)


def _after_fork(reference: weakref.ref[LoopThread]) -> None:
    """Keeps the copy of a loop from going on in a forked child, where it would run the worker's other tasks too."""
    thread = reference()
    if thread is None or threading.get_ident() != thread.thread.ident:
        return
    with contextlib.suppress(Exception):
        thread.loop._ready.clear()  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):
        thread.loop.stop()
