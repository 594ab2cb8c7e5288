"""Thread pool in the worker's own process: cheap, for tasks that wait for the network or for disks.

A thread cannot be stopped from outside. Time limits and cancellation therefore work as follows:

* A soft time limit raises `SoftTimeout` in the thread as soon as it runs Python code again. A call into C that waits for ever is
  not interrupted.
* At the hard limit the attempt is reported as timed out, and its thread is abandoned and replaced. At most as many threads as
  there are slots are replaced. Each further abandoned thread occupies its slot until it ends.
* A cancelled attempt goes on until it checks `current().stop_reason` or `current().check()`. Its result is not reported.
* A coroutine is cancelled, and ends at its limits, where it awaits, as `asyncio` does.

A thread goes on with the next task whatever the task before it has raised. A child that a task forks has a copy of its thread, and
ends instead of returning from the task: it would take the worker's tasks too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from triarch import context as contexts
from triarch.context import TaskContext, TaskStopped
from triarch.errors import SoftTimeout
from triarch.worker.attempt import Attempt, AttemptOutcome, StopReason, failure
from triarch.worker.capture import finish_lines
from triarch.worker.execute import PreparedCall, Runner
from triarch.worker.leases import Leases
from triarch.worker.pools.own_loop import run_on, task_on
from triarch.worker.pools.shared_state import SharedState
from triarch.worker.process.forked import end_forked

log = logging.getLogger("triarch.worker")


@dataclass(eq=False)
class _Slot:
    thread: threading.Thread | None = None
    ident: int = 0
    attempt: Attempt | None = None
    soft_at: float | None = None
    soft_hit: bool = False
    #: While it runs a coroutine.
    loop: asyncio.AbstractEventLoop | None = None
    coroutine: asyncio.Task[Any] | None = None
    #: Its thread ends when its task does.
    abandoned: bool = False


class ThreadPool:
    """See the module."""

    def __init__(self, leases: Leases, concurrency: int, runner: Runner, *, shared: SharedState | None = None) -> None:
        self._leases = leases
        self._shared = shared
        self._concurrency = concurrency
        self._runner = runner
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._clock = threading.Condition(self._lock)
        self._slots: list[_Slot] = []
        self._abandoned = 0
        self._idle = 0
        self._closed = False
        self._started = 0

    def start(self) -> None:
        """Starts the threads."""
        with self._lock:
            for started in range(self._concurrency):
                try:
                    self._start_one()
                except (RuntimeError, MemoryError) as error:
                    if started == 0:
                        raise
                    log.error(
                        "only %d of %d threads can run, because another one cannot be started: %s; the worker takes fewer tasks."
                        " Use a lower --concurrency, or raise the limit (ulimit -u, memory)",
                        started,
                        self._concurrency,
                        error,
                    )
                    self._concurrency = started
                    self._leases.limit_slots(started)
                    break
        threading.Thread(target=self._enforce_deadlines, name="triarch-deadlines", daemon=True).start()

    def wake(self) -> None:
        """Announces that there may be work."""
        with self._lock:
            self._work.notify_all()

    def stop(self, attempt: Attempt) -> None:
        """Cancels a coroutine. A function has to check its `stop_reason` by itself."""
        with self._lock:
            for slot in self._slots:
                if slot.attempt is attempt:
                    _cancel(slot)

    def close(self) -> None:
        """Ends idle threads. A thread that runs a task ends with the task, or with the process."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
            self._clock.notify_all()

    def _start_one(self) -> None:
        slot = _Slot()
        slot.thread = threading.Thread(target=self._serve, args=(slot,), name=f"triarch-{self._started + 1}", daemon=True)
        slot.thread.start()
        self._started += 1
        self._slots.append(slot)

    # --- a slot's thread ---

    def _serve(self, slot: _Slot) -> None:
        slot.ident = threading.get_ident()
        try:
            while True:
                attempt = self._next(slot)
                if attempt is None:
                    return
                try:
                    outcome = self._outcome(slot, attempt)
                except BaseException as error:
                    # Whatever it is, the slot must not be lost for it.
                    log.exception("task %s failed unexpectedly", attempt.task)
                    message = f"the worker could not run the attempt: {type(error).__name__}: {error}"
                    outcome = failure("worker_error", message)
                if not self._over(slot, attempt, outcome):
                    return
        finally:
            _close(slot)

    def _outcome(self, slot: _Slot, attempt: Attempt) -> AttemptOutcome | None:
        prepared = self._runner.prepare(attempt.kind, attempt.payload, attempt.inputs)
        if isinstance(prepared, AttemptOutcome):
            return prepared
        if prepared.function.is_async and (slot.loop is None or slot.loop.is_closed() or slot.loop.is_running()):
            # The task before it may have closed the loop.
            _close(slot)
            slot.loop = asyncio.new_event_loop()
        return self._run(slot, attempt, prepared)

    def _next(self, slot: _Slot) -> Attempt | None:
        with self._lock:
            while not self._closed:
                attempt = self._leases.next()
                if attempt is not None:
                    slot.attempt = attempt
                    if attempt.timeout_ms is not None:
                        self._clock.notify_all()
                    return attempt
                self._work.wait(5.0)
            return None

    def _run(self, slot: _Slot, attempt: Attempt, call: PreparedCall) -> AttemptOutcome | None:
        def make() -> Any:
            contexts.entered(context_of(attempt, self._leases))
            if slot.loop is not None and call.function.is_async:
                coroutine = task_on(slot.loop, call.function.call(*call.args, **call.kwargs))
                with self._lock:
                    slot.coroutine = coroutine
                if attempt.stop_reason is not None:
                    coroutine.cancel()
                return run_on(slot.loop, coroutine)
            return call.function.call(*call.args, **call.kwargs)

        soft_s = call.function.soft_timeout_s
        slot.soft_hit = False
        worker = os.getpid()
        try:
            try:
                if soft_s is not None:
                    with self._lock:
                        slot.soft_at = time.monotonic() + soft_s
                        self._clock.notify_all()
                value = contextvars.copy_context().run(make)
                if os.getpid() != worker:
                    end_forked()
            except BaseException as error:
                if os.getpid() != worker:
                    end_forked(error)
                raise
            finally:
                if self._shared is not None:
                    self._shared.restore()
                # From here on nothing is raised into this thread. A pending exception is raised below.
                self._disarm(slot)
            return self._runner.succeeded(call.function, value)
        except TaskStopped as error:
            return None if attempt.stop_reason is not None else self._runner.failed(call.function, error)
        except asyncio.CancelledError as error:
            if attempt.stop_reason is not None:
                return None
            return self._runner.failed(call.function, soft_limit(soft_s) if slot.soft_hit else error)
        except BaseException as error:
            return self._runner.failed(call.function, error)

    def _disarm(self, slot: _Slot) -> None:
        with self._lock:
            slot.soft_at = slot.coroutine = None
        if slot.ident:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(slot.ident), None)

    def _over(self, slot: _Slot, attempt: Attempt, outcome: AttemptOutcome | None) -> bool:
        """Ends an attempt. Returns whether the thread continues."""
        finish_lines(attempt.task)
        with self._lock:
            slot.attempt = None
            if slot.abandoned:
                self._abandoned -= 1
                if slot in self._slots:
                    self._slots.remove(slot)
                    if len(self._slots) < self._concurrency and not self._closed:
                        # It occupied a slot until now.
                        try:
                            self._start_one()
                        except (RuntimeError, MemoryError) as error:
                            log.error("the worker has one slot less, because no thread can be started: %s", error)
                        else:
                            self._leases.slot_found()
                return False
        self._leases.end(attempt, outcome)
        return True

    # --- the thread of the deadlines ---

    def _enforce_deadlines(self) -> None:
        while True:
            try:
                return self._watch_deadlines()
            except Exception:
                # Limits must be enforced after any error.
                log.exception("the thread that enforces time limits failed unexpectedly, and continues")
                time.sleep(0.5)

    def _watch_deadlines(self) -> None:
        while True:
            timed_out: list[Attempt] = []
            with self._lock:
                if self._closed and not any(slot.attempt for slot in self._slots):
                    return
                now = time.monotonic()
                deadlines = [now + 5.0]
                for slot in list(self._slots):
                    attempt = slot.attempt
                    if attempt is None or slot.abandoned:
                        continue
                    if slot.soft_at is not None:
                        if now >= slot.soft_at:
                            slot.soft_at, slot.soft_hit = None, True
                            if not _cancel(slot):
                                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                                    ctypes.c_ulong(slot.ident), ctypes.py_object(SoftTimeout)
                                )
                        else:
                            deadlines.append(slot.soft_at)
                    deadline = attempt.deadline
                    if deadline is None or attempt.stop_reason is not None:
                        continue
                    if now >= deadline:
                        attempt.stop_reason = StopReason.TIMED_OUT
                        timed_out.append(attempt)
                        self._abandon(slot)
                    else:
                        deadlines.append(deadline)
                if not timed_out:
                    self._clock.wait(max(0.0, min(deadlines) - time.monotonic()))
            for attempt in timed_out:
                log.warning(
                    "task %s exceeded its time limit of %s ms; its thread cannot be stopped and is abandoned",
                    attempt.task,
                    attempt.timeout_ms,
                )
                self._leases.end(attempt, None)

    def _abandon(self, slot: _Slot) -> None:
        _cancel(slot)
        slot.abandoned = True
        self._abandoned += 1
        why = "too many threads are abandoned"
        if self._abandoned <= self._concurrency:
            try:
                self._start_one()
            except (RuntimeError, MemoryError) as error:
                why = f"no thread can be started ({error})"
            else:
                self._slots.remove(slot)
                return
        log.error("%s, so the worker has one slot less until one of them ends", why)
        self._leases.slot_lost()


def _close(slot: _Slot) -> None:
    if slot.loop is not None:
        with contextlib.suppress(Exception):
            slot.loop.close()
        slot.loop = None


def _cancel(slot: _Slot) -> bool:
    """Cancels a coroutine. Returns whether the slot runs one."""
    if slot.coroutine is None or slot.loop is None:
        return False
    slot.loop.call_soon_threadsafe(slot.coroutine.cancel)
    return True


def soft_limit(seconds: float | None) -> SoftTimeout:
    """Returns the error of a coroutine that its soft time limit has ended."""
    return SoftTimeout(f"the soft time limit of {seconds} s is over")


def context_of(attempt: Attempt, leases: Leases) -> TaskContext:
    """Returns the context of an attempt that runs in the worker's own process."""

    def report_progress(share: float | None, note: str | None) -> None:
        attempt.progress, attempt.note = share, note

    def stopped() -> str | None:
        return None if attempt.stop_reason is None else attempt.stop_reason.value

    def write(stream: str, text: str) -> None:
        attempt.write(stream, text)
        leases.on_output()

    return TaskContext(
        attempt.task, attempt.job, attempt.kind, attempt.attempt, attempt.token, attempt.inputs, report_progress, stopped, write
    )
