"""The inside of one process of a process pool: runs one task at a time, in its main thread.

The main thread, because signals are handled there: that is how a task is stopped or told that its soft time is over. A signal is
only a knock; what it means stands in a frame on the socket (`stop`), or follows from the clock. An exception is never raised
in the middle of a frame that is being sent, for the other end would not understand what follows.

It ends when the worker closes its end, and by the kernel's hand when the worker dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
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
from triarch.worker.attempt import Outcome
from triarch.worker.capture import Capture
from triarch.worker.execute import Call, Runner
from triarch.worker.load import load_app
from triarch.worker.pools.framing import FrameDecoder, frame
from triarch.worker.pools.parent_death import die_with_parent

KNOCK = signal.SIGUSR1
#: Progress is told no more often than this.
PROGRESS_EVERY_S = 0.02


class Child:
    """See the module."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = FrameDecoder()
        self._inbox: list[tuple[Any, ...]] = []
        self._send_lock = threading.Lock()
        self._token: int | None = None
        #: While above 0 the main thread must not be interrupted by an exception of ours.
        self._critical = 0
        self._pending: BaseException | None = None
        #: While the main thread reads, whoever knocks has to wait.
        self._reading = False
        self._knocked = False
        self._stop_reason: str | None = None
        self._soft_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._async_task: asyncio.Task[Any] | None = None
        self._soft_hit = False
        self._main = threading.get_ident()
        self._told_at = 0.0
        self._untold: tuple[float | None, str | None] | None = None

    # --- the conversation ---

    def serve(self) -> None:
        """Runs tasks until the worker closes its end."""
        signal.signal(KNOCK, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_signal)
        first = self._receive()
        if first is None:
            return
        _, settings = first
        if settings["capture"]:
            Capture(self._captured).install()
        if settings["log_level"] is not None:
            logging.basicConfig(level=settings["log_level"], format=settings["log_format"], stream=sys.stderr)
        runner = Runner(load_app(settings["app"]), settings["accept"])
        self._send("ready")
        while True:
            message = self._receive()
            if message is None:
                return
            if message[0] == "run":
                self._run(runner, message)
            elif message[0] == "back":
                # It came when there was nothing to give back any more.
                self._send("back", [])
            # A `stop` that came too late is about a task that has ended.

    def _receive(self) -> tuple[Any, ...] | None:
        while not self._inbox:
            data = self._sock.recv(1 << 18)
            if not data:
                return None
            self._inbox += self._frames.feed(data)
        return self._inbox.pop(0)

    def _send(self, *message: Any) -> None:
        data = frame(*message)
        is_main = threading.get_ident() == self._main
        if is_main:
            self._critical += 1
        try:
            with self._send_lock:
                self._sock.sendall(data)
        except OSError:
            # The worker is gone, and so is everybody who would care.
            os._exit(0)
        finally:
            if is_main:
                self._critical -= 1
        if is_main and self._critical == 0 and self._token is not None:
            self._give_back_if_asked()
            if self._pending is not None:
                pending, self._pending = self._pending, None
                raise pending

    # --- one task ---

    def _run(self, runner: Runner, message: tuple[Any, ...]) -> None:
        _, task, job, kind, payload, inputs, attempt, token = message
        self._stop_reason, self._pending, self._soft_hit, self._untold = None, None, False, None
        prepared = runner.prepare(kind, payload, inputs)
        if isinstance(prepared, Outcome):
            self._done(token, prepared)
            return
        this = TaskContext(task, job, kind, attempt, token, inputs, self._tell, lambda: self._stop_reason)
        outcome: Outcome | None
        try:
            # Whatever is raised by a knock is raised within these lines.
            entered = contexts.entered(this)
            try:
                value = self._call(prepared, token)
            finally:
                self._over()
                contexts.left(entered)
            outcome = runner.succeeded(prepared.function, value)
        except TaskStopped as error:
            # Raised by us, or by code that asked `check()`; any other is a failure of the task's own.
            outcome = None if self._is_stopped() else runner.failed(prepared.function, error)
        except asyncio.CancelledError as error:
            if self._is_stopped():
                outcome = None
            elif self._soft_hit:
                outcome = runner.failed(prepared.function, _soft(prepared))
            else:
                outcome = runner.failed(prepared.function, error)
        except (SystemExit, KeyboardInterrupt) as error:
            # A task that calls sys.exit() fails; it does not take the process along.
            outcome = runner.failed(prepared.function, error)
        except BaseException as error:
            outcome = runner.failed(prepared.function, error)
        # Once more, for a knock may have come in the midst of it.
        self._over()
        self._done(token, outcome)

    def _call(self, call: Call, token: int) -> Any:
        soft = call.function.soft_timeout_s
        if call.function.is_async:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self._loop)
            self._async_task = self._loop.create_task(call.function.call(*call.args, **call.kwargs))
            self._begin(token, soft)
            try:
                return self._loop.run_until_complete(self._async_task)
            finally:
                self._async_task = None
        self._begin(token, soft)
        return call.function.call(*call.args, **call.kwargs)

    def _begin(self, token: int, soft_s: float | None) -> None:
        self._token = token
        if soft_s is not None:
            self._soft_at = time.monotonic() + soft_s
            signal.setitimer(signal.ITIMER_REAL, soft_s)
        # A `stop` may have come before its turn, when there was nobody to hear a knock.
        self._reading = True
        try:
            self._drain()
        finally:
            self._reading = False
        if self._knocked or any(message[0] == "stop" for message in self._inbox):
            self._knocked = False
            self._on_signal(KNOCK, None)

    def _is_stopped(self) -> bool:
        return self._stop_reason is not None

    def _over(self) -> None:
        self._token = None
        if self._soft_at is not None:
            self._soft_at = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _done(self, token: int, outcome: Outcome | None) -> None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        if self._untold is not None:
            self._send("progress", token, *self._untold)
        if outcome is None:
            self._send("done", token, None, b"", False)
        else:
            self._send("done", token, outcome.ok, outcome.body, outcome.retryable)

    # --- knocks ---

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        token = self._token
        if token is None:
            # The main loop reads for itself.
            return
        if self._reading:
            self._knocked = True
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
            self._give_back_if_asked()
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

    def _give_back_if_asked(self) -> None:
        """Tasks that were handed over and have not begun go to others."""
        if not any(message[0] == "back" for message in self._inbox):
            return
        tokens = [message[7] for message in self._inbox if message[0] == "run"]
        self._inbox = [message for message in self._inbox if message[0] not in ("run", "back")]
        self._send("back", tokens)

    def _drain(self) -> None:
        while select.select([self._sock], [], [], 0)[0]:
            try:
                data = self._sock.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not data:
                os._exit(0)
            self._inbox += self._frames.feed(data)

    # --- what a task tells ---

    def _captured(self, stream: str, text: str) -> bool:
        token = self._token
        if token is None or not text:
            return False
        self._send("out", token, stream, text)
        return True

    def _tell(self, share: float | None, note: str | None) -> None:
        token = self._token
        if token is None:
            return
        now = time.monotonic()
        if now - self._told_at < PROGRESS_EVERY_S:
            self._untold = (share, note)
            return
        self._told_at, self._untold = now, None
        self._send("progress", token, share, note)


def _soft(call: Call) -> SoftTimeout:
    return SoftTimeout(f"the soft time limit of {call.function.soft_timeout_s} s is over")


def main() -> None:
    """Run by the worker, with the number of the socket and the worker's process id."""
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    code = 0
    try:
        Child(sock).serve()
    except BaseException:
        traceback.print_exc()
        code = 1
    # Not by way of threads and exit handlers that tasks may have left behind; and with the socket still open, for its end is
    # taken for that of the process.
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
