"""Event-loop pool: runs many `async def` tasks at once in one thread, and plain functions in further threads.

Cancellation and time limits work as in `asyncio`: `CancelledError` is raised where a task awaits. A task that suppresses it keeps
its slot until it ends.

A task that never awaits blocks the others on its loop, but not the worker's heartbeats. A watchdog notices this. New tasks then run
on another loop. The limits of the blocking task are enforced by an exception in the thread, which reaches Python code only. The
tasks that it blocks go on when it ends.

Attempts are driven by callbacks and timers instead of by asyncio tasks of the pool: a task that cancels all tasks of the loop
cancels none of the pool's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from triarch import context as contexts
from triarch.context import TaskStopped
from triarch.worker.attempt import Attempt, AttemptOutcome, StopReason, failure
from triarch.worker.capture import finish_lines
from triarch.worker.execute import PreparedCall, Runner
from triarch.worker.leases import Leases
from triarch.worker.pools.loop_thread import LoopThread
from triarch.worker.pools.shared_state import SharedState
from triarch.worker.pools.threads import context_of, soft_limit
from triarch.worker.process.forked import end_forked

log = logging.getLogger("triarch.worker")

#: Interval of the watchdog, and the number of its questions without an answer after which a loop counts as blocked.
_WATCH_INTERVAL_S = 0.1
_MISSED_MAX = 8
#: A watchdog that woke later than this says nothing about the loop: the whole process did not run.
_LATE_S = 0.3
#: Time for which fewer slots are offered after a thread could not be started.
_SHORT_S = 5.0
#: Loops at once. Each further one that is blocked has to go on first.
_LOOPS_MAX = 64


class _Run:
    """One attempt on a loop."""

    def __init__(self, attempt: Attempt, call: PreparedCall, on: LoopThread) -> None:
        self.attempt = attempt
        self.call = call
        self.on = on
        self.future: asyncio.Future[Any] | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self.soft_hit = False
        #: The attempt was reported although its code has not ended.
        self.is_reported = False
        self.lost_slot = False
        #: State of the call in a thread. One that is given up does not begin any more.
        self.is_given_up = False
        self.has_begun = False
        self.has_ended = False
        self.interrupted_at: float | None = None


class LoopPool:
    """See the module."""

    def __init__(
        self, leases: Leases, concurrency: int, runner: Runner, *, stop_grace_s: float, shared: SharedState | None = None
    ) -> None:
        self._leases = leases
        self._shared = shared
        self._concurrency = concurrency
        self._runner = runner
        self._stop_grace_s = stop_grace_s
        self._lock = threading.Lock()
        self._loops: list[LoopThread] = []
        self._started = 0
        self._runs: dict[Attempt, _Run] = {}
        self._abandoned = 0
        self._short_until = 0.0
        # Twice as many threads as slots, because an abandoned thread must not occupy one.
        self._threads = concurrent.futures.ThreadPoolExecutor(2 * concurrency, thread_name_prefix="triarch")
        self._closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="triarch-watchdog", daemon=True)
        self._current = self._new_loop()

    def start(self) -> None:
        """Starts the loop in a thread of its own."""
        self._current.start()
        self._watchdog.start()

    def wake(self) -> None:
        """Announces that there may be work."""
        current = self._current
        current.soon(self._fill, current)

    def stop(self, attempt: Attempt) -> None:
        """Cancels the attempt's coroutine."""
        run = self._runs.get(attempt)
        if run is not None:
            run.on.soon(_cancel, run)

    def close(self) -> None:
        """Cancels all tasks and ends the loops."""
        self._closed.set()
        for one in list(self._loops):
            one.soon(self._end, one)
        until = time.monotonic() + self._stop_grace_s + 5.0
        for one in list(self._loops):
            if one.thread.is_alive() and one.thread is not threading.current_thread():
                # A blocked one does not end. It ends with the process.
                blocked = one.missed > _MISSED_MAX
                one.thread.join(0.1 if blocked else max(0.0, until - time.monotonic()))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _new_loop(self) -> LoopThread:
        self._started += 1
        loop = LoopThread(self._started, self._on_loop_ended)
        self._loops.append(loop)
        return loop

    # --- a loop's thread ---

    def _fill(self, on: LoopThread) -> None:
        while not self._closed.is_set() and on is self._current:
            with self._lock:
                if len(self._runs) >= self._concurrency:
                    return
            attempt = self._leases.next()
            if attempt is None:
                return
            try:
                self._begin(attempt, on)
            except BaseException as error:
                # Whatever it is, the slot must not be lost for it.
                log.exception("task %s failed unexpectedly", attempt.task)
                message = f"the worker could not run the attempt: {type(error).__name__}: {error}"
                self._forget(attempt)
                self._leases.end(attempt, failure("worker_error", message))

    def _begin(self, attempt: Attempt, on: LoopThread) -> None:
        prepared = self._runner.prepare(attempt.kind, attempt.payload, attempt.inputs)
        if isinstance(prepared, AttemptOutcome):
            self._leases.end(attempt, prepared)
            return
        run = _Run(attempt, prepared, on)
        context = contextvars.copy_context()
        context.run(contexts.entered, context_of(attempt, self._leases))
        function = prepared.function
        if function.is_async:
            coroutine = function.call(*prepared.args, **prepared.kwargs)
            # Created within the context, so that the task and everything it starts know their attempt.
            run.future = task = context.run(on.create_task, _guarded(coroutine))
            # Out of `asyncio.all_tasks()`, by which a task may cancel all others.
            with contextlib.suppress(Exception):
                asyncio.tasks._unregister_task(task)
        else:
            call = _in_thread(run, context, self)
            try:
                run.future = on.loop.run_in_executor(self._threads, call)
            except (RuntimeError, MemoryError) as error:
                # The call may have been queued nevertheless.
                run.is_given_up = True
                log.error("no thread can be started for task %s: %s", attempt.task, error)
                self._leases.return_lease(attempt)
                self._leases.limit_slots(max(1, len(self._runs)))
                self._short_until = time.monotonic() + _SHORT_S
                return
        with self._lock:
            self._runs[attempt] = run
        run.future.add_done_callback(lambda future: self._on_done(run, future))
        if attempt.timeout_ms is not None:
            run.timers.append(on.loop.call_later(attempt.timeout_ms / 1000, self._on_deadline, run))
        if function.soft_timeout_s is not None:
            run.timers.append(on.loop.call_later(function.soft_timeout_s, self._on_soft_limit, run))
        if attempt.stop_reason is not None:
            run.future.cancel()

    def _on_done(self, run: _Run, future: asyncio.Future[Any]) -> None:
        if self._shared is not None:
            self._shared.restore()
        for timer in run.timers:
            timer.cancel()
        outcome = self._outcome_of(run, future)
        finish_lines(run.attempt.task)
        self._forget(run.attempt)
        if run.lost_slot:
            run.lost_slot = False
            self._leases.slot_found()
        if not run.is_reported:
            if not run.call.function.is_async:
                self._leave_thread(run)
            self._leases.end(run.attempt, outcome)
        if run.on is self._current:
            self._fill(run.on)
        else:
            self.wake()

    def _forget(self, attempt: Attempt) -> None:
        with self._lock:
            self._runs.pop(attempt, None)

    def _outcome_of(self, run: _Run, future: asyncio.Future[Any]) -> AttemptOutcome | None:
        attempt, function = run.attempt, run.call.function
        if future.cancelled():
            if attempt.stop_reason is not None:
                return None
            if run.soft_hit:
                return self._runner.failed(function, soft_limit(function.soft_timeout_s))
            return self._runner.failed(function, asyncio.CancelledError("the task cancelled itself"))
        error, value = (raised, None) if (raised := future.exception()) is not None else future.result()
        if error is None:
            return self._runner.succeeded(function, value)
        if isinstance(error, (TaskStopped, asyncio.CancelledError)) and attempt.stop_reason is not None:
            return None
        return self._runner.failed(function, error)

    def _on_soft_limit(self, run: _Run) -> None:
        run.soft_hit = True
        if run.call.function.is_async and run.future is not None:
            run.future.cancel()

    def _on_deadline(self, run: _Run) -> None:
        if run.attempt.stop_reason is not None or run.future is None:
            return
        run.attempt.stop_reason = StopReason.TIMED_OUT
        run.future.cancel()
        run.timers.append(run.on.loop.call_later(self._stop_grace_s, self._report_timed_out, run))

    def _report_timed_out(self, run: _Run) -> None:
        """Reports an attempt at its time limit whose code goes on after the grace period. Its slot is free when the code ends."""
        if run.is_reported or run.attempt not in self._runs:
            return
        log.error("task %s suppresses its cancellation, and keeps its slot until it ends", run.attempt.task)
        run.is_reported = run.lost_slot = True
        self._leases.end(run.attempt, None)
        self._leases.slot_lost()

    def _end(self, on: LoopThread) -> None:
        runs = [run for run in list(self._runs.values()) if run.on is on and run.future is not None]
        for run in runs:
            assert run.future is not None
            run.future.cancel()
        if runs:
            gone = asyncio.gather(*(run.future for run in runs if run.future is not None), return_exceptions=True)
            gone.add_done_callback(lambda _: on.end())
            on.loop.call_later(self._stop_grace_s, on.end)
        else:
            on.end()

    # --- threads of plain functions ---

    def _leave_thread(self, run: _Run) -> None:
        """Counts the thread of an attempt that has ended, if it goes on. No thread can be stopped."""
        with self._lock:
            if not run.has_begun:
                run.is_given_up = True
                return
            if run.has_ended:
                return
            run.is_reported = True
            self._abandoned += 1
            run.lost_slot = self._abandoned > self._concurrency
        if run.lost_slot:
            log.error("too many threads are abandoned, so the worker has one slot less until one of them ends")
            self._leases.slot_lost()

    def on_thread_begun(self, run: _Run) -> bool:
        """Called by the thread of a plain function. Returns whether it may run it."""
        with self._lock:
            run.has_begun = not run.is_given_up
            return run.has_begun

    def on_thread_ended(self, run: _Run) -> None:
        """Called by the thread of a plain function, before its result is known."""
        with self._lock:
            run.has_ended = True
            if not run.is_reported:
                return
            self._abandoned -= 1
            lost_slot, run.lost_slot = run.lost_slot, False
        if lost_slot:
            self._leases.slot_found()

    # --- the end of a loop ---

    def _on_loop_ended(self, ended: LoopThread, why: str) -> None:
        """Begins another loop. The attempts on the one that has ended have failed. Called by its thread."""
        with self._lock:
            if ended in self._loops:
                self._loops.remove(ended)
            lost = [run for run in self._runs.values() if run.on is ended]
            for run in lost:
                del self._runs[run.attempt]
        log.error("code of a task ended the event loop (%s); %d tasks on it fail, and another loop begins", why, len(lost))
        if ended is self._current and not self._closed.is_set():
            self._replace_current()
        for run in lost:
            if not run.is_reported:
                message = f"the event loop that ran the attempt was ended by a task of this worker: {why}"
                self._leases.end(run.attempt, failure("event_loop_ended", message))
            if run.lost_slot:
                self._leases.slot_found()
        self.wake()

    def _replace_current(self) -> None:
        self._current = self._new_loop()
        self._current.start()
        self.wake()

    # --- the watchdog's thread ---

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._closed.wait(_WATCH_INTERVAL_S):
            now = time.monotonic()
            late = now - before > _WATCH_INTERVAL_S + _LATE_S
            before = now
            try:
                if self._short_until and now >= self._short_until:
                    self._short_until = 0.0
                    self._leases.limit_slots(self._concurrency)
                for one in list(self._loops):
                    self._look_at(one, late=late)
            except Exception:
                # Limits must be enforced after any error.
                log.exception("the watchdog of the event loop failed unexpectedly, and continues")

    def _look_at(self, one: LoopThread, *, late: bool) -> None:
        runs = [run for run in list(self._runs.values()) if run.on is one]
        if late or not runs:
            one.forget_missed()
            if not runs and one is not self._current:
                with self._lock:
                    if one in self._loops:
                        self._loops.remove(one)
                one.soon(one.end)
            return
        missed = one.look()
        if missed < _MISSED_MAX:
            return
        running, context = one.running_task()
        blocker = next(
            (run for run in runs if run.future is running or (context and run.attempt.key == (context.id, context.token))), None
        )
        if missed == _MISSED_MAX:
            self._on_blocked(one, blocker, len(runs))
        self._enforce_limits(one, runs, blocker)

    def _on_blocked(self, one: LoopThread, blocker: _Run | None, runs: int) -> None:
        who = "code" if blocker is None else f"task {blocker.attempt.task} ({blocker.attempt.kind})"
        log.warning(
            "%s blocks an event loop of this worker, because it computes or waits without `await`; %d other tasks on the loop wait"
            " for it, and new ones run on another loop. Use `await asyncio.to_thread(…)`, a plain function, or another pool",
            who,
            runs - (blocker is not None),
        )
        if one is self._current and len(self._loops) < _LOOPS_MAX:
            self._replace_current()

    def _enforce_limits(self, one: LoopThread, runs: list[_Run], blocker: _Run | None) -> None:
        """Enforces the limits that the timers of a blocked loop cannot."""
        now = time.monotonic()
        for run in runs:
            attempt = run.attempt
            if attempt.stop_reason is None and attempt.deadline is not None and now >= attempt.deadline:
                attempt.stop_reason = StopReason.TIMED_OUT
                run.on.soon(_cancel, run)
            if attempt.stop_reason is None or run.is_reported:
                continue
            if run.interrupted_at is None:
                run.interrupted_at = now
                if run is blocker:
                    one.interrupt(TaskStopped)
            elif now >= run.interrupted_at + self._stop_grace_s:
                # It occupies no slot any more, because it may never go on.
                run.is_reported = True
                with self._lock:
                    self._runs.pop(attempt, None)
                self._leases.end(attempt, None)
                self.wake()


def _cancel(run: _Run) -> None:
    if run.future is not None:
        run.future.cancel()


async def _guarded(coroutine: Coroutine[Any, Any, Any]) -> tuple[BaseException | None, Any]:
    """Returns the exception of a coroutine, or its value. Some exceptions would end the loop."""
    worker = os.getpid()
    try:
        value = await coroutine
    except asyncio.CancelledError as error:
        if os.getpid() != worker:
            end_forked(error)
        raise
    except BaseException as error:
        if os.getpid() != worker:
            end_forked(error)
        return error, None
    if os.getpid() != worker:
        end_forked()
    return None, value


def _in_thread(run: _Run, context: contextvars.Context, pool: LoopPool) -> Callable[[], tuple[BaseException | None, Any]]:
    """Returns the call of a plain function, for a thread. Some exceptions cannot be carried by a future."""

    def call() -> tuple[BaseException | None, Any]:
        if not pool.on_thread_begun(run):
            return None, None
        worker = os.getpid()
        error: BaseException | None = None
        value: Any = None
        try:
            value = context.run(run.call.function.call, *run.call.args, **run.call.kwargs)
        except BaseException as raised:
            error = raised
        if os.getpid() != worker:
            end_forked(error)
        pool.on_thread_ended(run)
        try:
            return error, value
        finally:
            # The traceback of the exception has this frame. Only the garbage collector would free both otherwise, much later.
            del error, value

    return call
