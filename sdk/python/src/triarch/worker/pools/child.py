"""Main loop of one pool process: runs one task at a time, in its main thread.

Python handles signals in the main thread. A signal stops a task or announces the end of its soft time limit. The signal itself
carries no meaning: that is in a frame on the socket (`stop`), or follows from the clock. An exception is never raised while a frame
is being sent, because the worker could not read the frames after half a one.

The process ends when the worker closes its socket, and by the kernel when the worker dies.

A child that a task forks has a copy of all this. It gives up its copy of the socket, because frames of two processes would be mixed
up, captures nothing, and ends instead of returning from the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any

from triarch import context as contexts
from triarch.context import TaskContext, TaskStopped
from triarch.errors import SoftTimeout
from triarch.worker.attempt import AttemptOutcome
from triarch.worker.capture import Capture, finish_lines
from triarch.worker.execute import PreparedCall, Runner
from triarch.worker.load import load_app
from triarch.worker.pools.framing import FrameDecoder, frame
from triarch.worker.pools.own_loop import run_on, task_on
from triarch.worker.pools.parent_death import die_with_parent
from triarch.worker.pools.process_state import ProcessState
from triarch.worker.process.descriptors import moved_up, set_soft_limit
from triarch.worker.process.forked import end_forked
from triarch.worker.process.signals import DefaultsAfterFork, do_nothing, ignore_harmless_signals, reset_ignored_signals

INTERRUPT = signal.SIGUSR1
#: Minimum interval between two progress frames.
PROGRESS_INTERVAL_S = 0.02


class Child:
    """See the module."""

    def __init__(self, sock: socket.socket, handlers: DefaultsAfterFork) -> None:
        self._sock = sock
        self._handlers = handlers
        self._capture: Capture
        self._task: str | None = None
        self._is_forked = False
        self._state: ProcessState
        self._is_tidy = True
        self._spoiled: str | None = None
        #: Threads that tasks have left behind. Their output belongs to no task.
        self._left_behind: set[int] = set()
        os.register_at_fork(after_in_child=self._after_fork)
        self._frames = FrameDecoder()
        self._inbox: list[tuple[Any, ...]] = []
        self._send_lock = threading.Lock()
        self._token: int | None = None
        #: While above 0 no exception may be raised in the main thread by a signal.
        self._critical = 0
        self._pending: BaseException | None = None
        #: While the main thread reads from the socket, signals are deferred.
        self._reading = False
        self._interrupt_deferred = False
        self._stop_reason: str | None = None
        self._soft_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._async_task: asyncio.Task[Any] | None = None
        self._soft_hit = False
        self._main = threading.get_ident()
        self._progress_sent_at = 0.0
        self._unsent_progress: tuple[float | None, str | None] | None = None

    # --- frames ---

    def serve(self) -> None:
        """Runs tasks until the worker closes its socket."""
        self._handlers.install(INTERRUPT, self._on_signal)
        self._handlers.install(signal.SIGALRM, self._on_signal)
        first = self._receive()
        if first is None:
            return
        _, settings = first
        if settings["soft_files"] is not None:
            # The worker needs many descriptors, and has raised its limit. Programs of tasks may not expect that.
            set_soft_limit(settings["soft_files"])
        self._capture = Capture(self._captured if settings["capture"] else None)
        self._capture.install(private=True)
        if settings["log_level"] is not None:
            logging.basicConfig(level=settings["log_level"], format=settings["log_format"], stream=sys.stderr)
        runner = Runner(load_app(settings["app"], settings["imports"]), settings["accept"])
        self._handlers.adopt()
        self._state = ProcessState(self._handlers)
        self._send("ready")
        while True:
            message = self._receive()
            if message is None:
                return
            if message[0] == "run" and self._spoiled is not None:
                # Another process runs the rest of the batch.
                self._send("back", [message[7]])
            elif message[0] == "run":
                self._run(runner, message)
            elif message[0] == "back":
                # The whole batch had begun by then.
                self._send("back", [])
            # A late `stop` is about a task that has ended.

    def _receive(self) -> tuple[Any, ...] | None:
        while not self._inbox:
            data = self._sock.recv(1 << 18)
            if not data:
                return None
            self._inbox += self._frames.feed(data)
        return self._inbox.pop(0)

    def _after_fork(self) -> None:
        self._is_forked = True
        self._token = self._task = None
        self._sock.close()

    def _send(self, *message: Any) -> None:
        if self._is_forked:
            return
        data = frame(*message)
        is_main = threading.get_ident() == self._main
        if is_main:
            self._critical += 1
        try:
            with self._send_lock:
                self._sock.sendall(data)
        except OSError:
            # The worker is gone, and nobody reads results any more.
            os._exit(0)
        finally:
            if is_main:
                self._critical -= 1
        if is_main and self._critical == 0 and self._token is not None:
            self._return_batch_if_asked()
            if self._pending is not None:
                pending, self._pending = self._pending, None
                raise pending

    # --- one task ---

    def _run(self, runner: Runner, message: tuple[Any, ...]) -> None:
        _, task, job, kind, payload, inputs, attempt, token = message
        self._stop_reason, self._pending, self._soft_hit, self._unsent_progress = None, None, False, None
        self._is_tidy, self._spoiled = False, None
        self._task = task
        prepared = runner.prepare(kind, payload, inputs)
        if isinstance(prepared, AttemptOutcome):
            self._done(token, prepared)
            return

        def report_progress(share: float | None, note: str | None) -> None:
            self._report_progress(token, share, note)

        this = TaskContext(task, job, kind, attempt, token, inputs, report_progress, lambda: self._stop_reason)
        outcome: AttemptOutcome | None
        try:
            # Exceptions of signals are raised within these lines.
            entered = contexts.entered(this)
            has_failed = True
            try:
                value = self._call(prepared, token)
                if self._is_forked:
                    end_forked()
                has_failed = False
            except BaseException as error:
                if self._is_forked:
                    end_forked(error)
                raise
            finally:
                self._over()
                contexts.left(entered)
                # Before the outcome is encoded, which a limit that the task has set could prevent.
                self._tidy_up(thorough=has_failed)
            outcome = runner.succeeded(prepared.function, value)
        except TaskStopped as error:
            # Raised by a signal or by `check()`. Raised by the task itself it is a failure.
            outcome = None if self._is_stopped() else runner.failed(prepared.function, error)
        except asyncio.CancelledError as error:
            if self._is_stopped():
                outcome = None
            elif self._soft_hit:
                outcome = runner.failed(prepared.function, _soft(prepared))
            else:
                outcome = runner.failed(prepared.function, error)
        except (SystemExit, KeyboardInterrupt) as error:
            # A task that calls sys.exit() fails. The process goes on.
            outcome = runner.failed(prepared.function, error)
        except BaseException as error:
            outcome = runner.failed(prepared.function, error)
        # Again, because a signal may have interrupted the first one.
        self._over()
        self._done(token, outcome)

    def _call(self, call: PreparedCall, token: int) -> Any:
        soft = call.function.soft_timeout_s
        if call.function.is_async:
            if self._loop is None or self._loop.is_closed():
                # The task before it may have closed the loop.
                self._loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self._loop)
            self._async_task = task_on(self._loop, call.function.call(*call.args, **call.kwargs))
            self._begin(token, soft)
            try:
                return run_on(self._loop, self._async_task)
            finally:
                self._async_task = None
        self._begin(token, soft)
        return call.function.call(*call.args, **call.kwargs)

    def _begin(self, token: int, soft_s: float | None) -> None:
        self._token = token
        if soft_s is not None:
            self._soft_at = time.monotonic() + soft_s
            signal.setitimer(signal.ITIMER_REAL, soft_s)
        # A `stop` may have arrived before the turn of this task, when signals had no effect.
        self._reading = True
        try:
            self._drain()
        finally:
            self._reading = False
        if self._interrupt_deferred or any(message[0] == "stop" for message in self._inbox):
            self._interrupt_deferred = False
            self._on_signal(INTERRUPT, None)

    def _is_stopped(self) -> bool:
        return self._stop_reason is not None

    def _over(self) -> None:
        self._token = None
        if self._soft_at is not None:
            self._soft_at = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _done(self, token: int, outcome: AttemptOutcome | None) -> None:
        self._tidy_up()
        if self._unsent_progress is not None:
            self._send("progress", token, *self._unsent_progress)
        if outcome is None:
            self._send("done", token, None, b"", False, None, self._spoiled)
        else:
            self._send("done", token, outcome.ok, outcome.body, outcome.retryable, outcome.retry_after_ms, self._spoiled)

    def _tidy_up(self, *, thorough: bool = False) -> None:
        """Restores what the task may have changed, for the next one. Very short tasks of a batch share this."""
        if self._is_tidy:
            return
        task, self._task = self._task, None
        try:
            if thorough or self._state.is_due or not any(message[0] == "run" for message in self._inbox):
                self._spoiled = self._state.restore()
            self._capture.restore()
            if task is not None:
                finish_lines(task)
            self._capture.flush()
            if threading.active_count() > 1:
                self._left_behind = {thread.ident or 0 for thread in threading.enumerate()} - {self._main}
            elif self._left_behind:
                self._left_behind = set()
        except Exception as error:
            # Whatever the task has replaced. Another process does not have it.
            self._spoiled = f"its state ({type(error).__name__})"
        self._is_tidy = True

    # --- signals ---

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        token = self._token
        if token is None:
            # The main loop reads the frame.
            return
        if self._reading:
            self._interrupt_deferred = True
            return
        raised: BaseException | None = None
        self._drain()
        for message in self._inbox:
            if message[0] == "stop" and message[1] == token and self._stop_reason is None:
                self._stop_reason = message[2]
                raised = TaskStopped(message[2])
        # One about a task whose turn has not come stays with it.
        ahead = {message[7] for message in self._inbox if message[0] == "run"}
        self._inbox = [one for one in self._inbox if one[0] != "stop" or one[1] in ahead]
        if not self._critical:
            self._return_batch_if_asked()
        if raised is None and self._soft_at is not None and time.monotonic() >= self._soft_at - 0.001:
            self._soft_at = None
            self._soft_hit = True
            raised = SoftTimeout("the soft time limit is over")
        if raised is None:
            return
        if self._async_task is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._async_task.cancel)
        elif self._critical:
            self._pending = raised
        else:
            raise raised

    def _return_batch_if_asked(self) -> None:
        """Returns the tasks of the batch that have not begun, if the worker reclaims them."""
        if not any(message[0] == "back" for message in self._inbox):
            return
        tokens = [message[7] for message in self._inbox if message[0] == "run"]
        self._inbox = [message for message in self._inbox if message[0] not in ("run", "back")]
        self._send("back", tokens)

    def _drain(self) -> None:
        while True:
            try:
                data = self._sock.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                # The task has closed the socket.
                data = b""
            if not data:
                os._exit(0)
            self._inbox += self._frames.feed(data)

    # --- output and progress ---

    def _captured(self, stream: str, text: str) -> str | None:
        token, task = self._token, self._task
        if token is None or task is None:
            return None
        thread = threading.get_ident()
        if thread != self._main:
            context = contexts.current_or_none()
            if context.token != token if context is not None else thread in self._left_behind:
                return None
        self._send("out", token, stream, text)
        return task

    def _report_progress(self, token: int, share: float | None, note: str | None) -> None:
        if self._token != token:
            return
        now = time.monotonic()
        if now - self._progress_sent_at < PROGRESS_INTERVAL_S:
            self._unsent_progress = (share, note)
            return
        self._progress_sent_at, self._unsent_progress = now, None
        self._send("progress", token, share, note)


def _soft(call: PreparedCall) -> SoftTimeout:
    return SoftTimeout(f"the soft time limit of {call.function.soft_timeout_s} s is over")


def main() -> None:
    """Entry point, with the file descriptor of the socket and the worker's process id as arguments."""
    die_with_parent(int(sys.argv[2]))
    reset_ignored_signals()
    ignore_harmless_signals()
    handlers = DefaultsAfterFork()
    # Not ignored: programs that tasks start would inherit that.
    handlers.install(signal.SIGINT, do_nothing)
    handlers.install(signal.SIGTERM, do_nothing)
    sock = socket.socket(fileno=moved_up(int(sys.argv[1])))
    os.set_inheritable(sock.fileno(), False)
    code = 0
    try:
        Child(sock, handlers).serve()
    except BaseException:
        traceback.print_exc()
        code = 1
    # Without waiting for threads and exit handlers that tasks may have left behind. The socket stays open until the end, because
    # the worker takes its end for that of the process.
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
