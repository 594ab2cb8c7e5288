"""Event-loop pool: runs many `async def` tasks at once in one thread, and plain functions in further threads.

Cancellation and time limits work as in `asyncio`: `CancelledError` is raised where a task awaits. A task that suppresses it keeps
its slot until it ends. A task that never awaits blocks all others, but not the worker's heartbeats.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import threading
import time
from typing import Any

from triarch import context as contexts
from triarch.context import TaskStopped
from triarch.worker.attempt import Attempt, AttemptOutcome, StopReason
from triarch.worker.execute import PreparedCall, Runner
from triarch.worker.leases import Leases
from triarch.worker.pools.threads import context_of, soft_limit

log = logging.getLogger("triarch.worker")


class LoopPool:
    """See the module."""

    def __init__(self, leases: Leases, concurrency: int, runner: Runner, *, stop_grace_s: float) -> None:
        self._leases = leases
        self._concurrency = concurrency
        self._runner = runner
        self._stop_grace_s = stop_grace_s
        self._loop = asyncio.new_event_loop()
        self._threads = concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix="triarch")
        self._thread = threading.Thread(target=self._serve, name="triarch-loop", daemon=True)
        # Touched by the loop's thread only.
        self._tasks: dict[Attempt, asyncio.Task[None]] = {}
        self._calls: dict[Attempt, asyncio.Future[Any]] = {}
        self._closed = False

    def start(self) -> None:
        """Starts the loop in a thread of its own."""
        self._thread.start()

    def wake(self) -> None:
        """Announces that there may be work."""
        self._soon(self._fill)

    def stop(self, attempt: Attempt) -> None:
        """Cancels the attempt's coroutine."""
        self._soon(self._cancel, attempt)

    def close(self) -> None:
        """Cancels all tasks and ends the loop."""
        self._soon(self._end)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._stop_grace_s + 5.0)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _soon(self, call: Any, *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *args)

    # --- the loop's thread ---

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _fill(self) -> None:
        while not self._closed and len(self._tasks) < self._concurrency:
            attempt = self._leases.next()
            if attempt is None:
                return
            self._tasks[attempt] = self._loop.create_task(self._run(attempt))

    def _cancel(self, attempt: Attempt) -> None:
        call = self._calls.get(attempt)
        if call is not None:
            call.cancel()

    def _end(self) -> None:
        self._closed = True
        for task in list(self._tasks.values()):
            task.cancel()
        if self._tasks:
            gone = asyncio.gather(*self._tasks.values(), return_exceptions=True)
            gone.add_done_callback(lambda _: self._loop.stop())
            self._loop.call_later(self._stop_grace_s, self._loop.stop)
        else:
            self._loop.stop()

    async def _run(self, attempt: Attempt) -> None:
        outcome: AttemptOutcome | None = None
        try:
            prepared = self._runner.prepare(attempt.kind, attempt.payload, attempt.inputs)
            outcome = prepared if isinstance(prepared, AttemptOutcome) else await self._outcome(attempt, prepared)
        finally:
            self._calls.pop(attempt, None)
            self._tasks.pop(attempt, None)
            self._leases.end(attempt, outcome)
            self._fill()

    async def _outcome(self, attempt: Attempt, call: PreparedCall) -> AttemptOutcome | None:
        context = contextvars.copy_context()
        context.run(contexts.entered, context_of(attempt, self._leases))
        function = call.function
        future: asyncio.Future[Any]
        if function.is_async:
            # Created within the context, so that the task and everything it starts know their attempt.
            future = context.run(asyncio.ensure_future, function.call(*call.args, **call.kwargs))
        else:
            future = self._loop.run_in_executor(self._threads, lambda: context.run(function.call, *call.args, **call.kwargs))
        self._calls[attempt] = future
        if attempt.stop_reason is not None:
            future.cancel()
        soft_at = None if function.soft_timeout_s is None else time.monotonic() + function.soft_timeout_s
        soft_hit = False
        while not future.done():
            now = time.monotonic()
            deadline = attempt.deadline if attempt.stop_reason is None else None
            if deadline is not None and now >= deadline:
                log.warning("task %s exceeded its time limit of %s ms", attempt.task, attempt.timeout_ms)
                attempt.stop_reason = StopReason.TIMED_OUT
                future.cancel()
            elif soft_at is not None and now >= soft_at:
                soft_at, soft_hit = None, True
                if function.is_async:
                    future.cancel()
            moments = [one - now for one in (deadline, soft_at) if one is not None]
            if attempt.stop_reason is StopReason.TIMED_OUT:
                await self._end_timed_out(attempt, future)
                break
            await asyncio.wait([future], timeout=max(0.0, min(moments)) if moments else None)
        return self._outcome_of(attempt, call, future, soft_hit)

    async def _end_timed_out(self, attempt: Attempt, future: asyncio.Future[Any]) -> None:
        """Reports an attempt at its time limit, after the grace period. Its slot is free when its coroutine has ended."""
        await asyncio.wait([future], timeout=self._stop_grace_s)
        if not future.done():
            log.error("task %s suppresses its cancellation, and keeps its slot until it ends", attempt.task)
            self._leases.end(attempt, None)
            self._leases.slot_lost()
            try:
                await asyncio.wait([future])
            finally:
                self._leases.slot_found()

    def _outcome_of(
        self, attempt: Attempt, call: PreparedCall, future: asyncio.Future[Any], soft_hit: bool
    ) -> AttemptOutcome | None:
        if not future.done():
            return None
        if future.cancelled():
            if soft_hit and attempt.stop_reason is None:
                return self._runner.failed(call.function, soft_limit(call.function.soft_timeout_s))
            if attempt.stop_reason is None:
                return self._runner.failed(call.function, asyncio.CancelledError("the task cancelled itself"))
            return None
        error = future.exception()
        if error is None:
            return self._runner.succeeded(call.function, future.result())
        if isinstance(error, TaskStopped) and attempt.stop_reason is not None:
            return None
        return self._runner.failed(call.function, error)
