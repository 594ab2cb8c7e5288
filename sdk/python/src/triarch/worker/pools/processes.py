"""A pool of processes: what a task does to its process, it does to nobody else.

One thread supervises them all. A process runs one task at a time and tells its result before it begins the next; so a process
that dies takes exactly one attempt along, which is reported as failed with the signal or exit code, and another process takes its
place. While tasks are very short, some are handed to a process together, which saves most of the to and fro; those that it has
not begun are taken back when it dies, or when one turns out to be long.

Processes are started afresh (never forked from a process with threads), each as the leader of a session of
its own, so that what a task has started ends with it. They die with the worker, whatever ends that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from triarch.worker.attempt import Attempt, Outcome, StopReason, failure
from triarch.worker.leases import Leases
from triarch.worker.pools.framing import FrameDecoder, frame

log = logging.getLogger("triarch.worker")

_KNOCK = signal.SIGUSR1
#: A process that takes no frame for so long, while it should be idle, is stuck.
_SEND_PATIENCE_S = 10.0
#: A process may take so long to import the app.
_START_PATIENCE_S = 120.0
#: Pauses before a process that could not even start is started anew.
_RESTART_PAUSE_MIN_S = 0.1
_RESTART_PAUSE_MAX_S = 5.0
#: After so many in a row, without any that could, the worker gives up.
_FAILURES_MAX = 10

#: So many tasks are handed to a process together, as long as they take no longer than this in all by what tasks took lately.
_TOGETHER_MAX = 16
_TOGETHER_S = 0.005
#: A task that runs for so long is not short: what was handed over with it is taken back.
_TAKE_BACK_AFTER_S = 0.02

_COMMAND = """\
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from triarch.worker.pools.child import main
main()
"""


@dataclass(eq=False)
class _Process:
    popen: subprocess.Popen[bytes]
    sock: socket.socket
    started_at: float
    frames: FrameDecoder = field(default_factory=FrameDecoder)
    ready: bool = False
    #: What it was handed and has not told the end of. It runs the first of them.
    attempts: deque[Attempt] = field(default_factory=deque)
    taken_back_from: Attempt | None = None
    ran: int = 0
    kill_at: float | None = None
    retired: bool = False

    @property
    def attempt(self) -> Attempt | None:
        """What it runs."""
        return self.attempts[0] if self.attempts else None

    @property
    def may_take_back(self) -> bool:
        """Whether others were handed over with what it runs, and not asked for yet."""
        return len(self.attempts) > 1 and self.taken_back_from is not self.attempts[0]


class ProcessPool:
    """See the module."""

    def __init__(
        self,
        leases: Leases,
        concurrency: int,
        *,
        app: str,
        accept: list[str] | None,
        stop_grace_s: float,
        tasks_per_child_max: int | None = None,
        log_level: int | None = None,
        log_format: str = "%(message)s",
        capture: bool = True,
        on_ready: Callable[[], None] = lambda: None,
        on_broken: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._leases = leases
        self._concurrency = concurrency
        self._settings = {
            "app": app,
            "accept": accept,
            "log_level": log_level,
            "log_format": log_format,
            "capture": capture,
        }
        # So that the process finds all modules where the worker has found them.
        self._path = [os.getcwd() if entry == "" else str(entry) for entry in sys.path]
        self._stop_grace_s = stop_grace_s
        self._tasks_per_child_max = tasks_per_child_max
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._rung = False
        self._stops: deque[Attempt] = deque()
        self._closing = threading.Event()
        self._restart_pause_s = 0.0
        self._restart_at = 0.0
        self._failures = 0
        self._thread = threading.Thread(target=self._supervise, name="triarch-pool", daemon=True)

    # --- from any thread ---

    def start(self) -> None:
        """Starts the supervisor, which starts the processes."""
        self._thread.start()

    def wake(self) -> None:
        """There is work, perhaps."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):
                self._bell.send(b"!", socket.MSG_DONTWAIT)

    def stop(self, attempt: Attempt) -> None:
        """This attempt must end: its process is told, and killed when that does not help."""
        self._stops.append(attempt)
        self.wake()

    def close(self) -> None:
        """Kills what is left."""
        self._closing.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def pids(self) -> list[int]:
        """The processes there are."""
        return [one.popen.pid for one in self._processes]

    # --- the supervisor's thread: everything below ---

    def _supervise(self) -> None:
        self._selector.register(self._ear, selectors.EVENT_READ, None)
        self._ear.setblocking(False)
        try:
            while not self._closing.is_set():
                try:
                    self._keep_up()
                    self._assign()
                    for key, _ in self._selector.select(self._patience()):
                        if key.data is None:
                            self._hear()
                        else:
                            self._read(key.data)
                    while self._stops:
                        self._tell_to_stop(self._stops.popleft())
                    self._look_at_clock()
                except Exception:
                    # Whatever it is, the pool goes on, or the worker would be deaf.
                    log.exception("the supervisor of the pool met what it did not expect")
                    time.sleep(0.1)
        finally:
            for process in list(self._processes):
                self._kill(process)
                self._bury(process)
            self._selector.close()
            self._bell.close()
            self._ear.close()

    def _hear(self) -> None:
        self._rung = False
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass

    def _keep_up(self) -> None:
        """Starts what is missing."""
        missing = self._concurrency - sum(not one.retired for one in self._processes)
        if missing <= 0 or time.monotonic() < self._restart_at:
            return
        for _ in range(missing):
            try:
                self._start_one()
            except OSError as error:
                log.error("a pool process cannot be started: %s", error)
                self._start_later()
                return

    def _start_later(self) -> None:
        self._restart_pause_s = min(max(self._restart_pause_s * 2, _RESTART_PAUSE_MIN_S), _RESTART_PAUSE_MAX_S)
        self._restart_at = time.monotonic() + self._restart_pause_s

    def _start_one(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            # By its arguments, and not by PYTHONPATH, which would be inherited by what tasks start.
            words = [str(theirs.fileno()), str(os.getpid()), json.dumps(self._path)]
            popen = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, *words],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(_SEND_PATIENCE_S)
        process = _Process(popen, ours, time.monotonic())
        self._processes.append(process)
        self._selector.register(ours, selectors.EVENT_READ, process)
        self._send(process, frame("settings", self._settings))

    def _send(self, process: _Process, data: bytes | bytearray) -> bool:
        try:
            process.sock.sendall(data)
        except OSError as error:
            # It will be seen to have died, and is made to.
            log.debug("pool process %d takes nothing: %s", process.popen.pid, error)
            self._kill(process)
            return False
        return True

    def _assign(self) -> None:
        for process in self._processes:
            if process.attempts or not process.ready or process.retired:
                continue
            together = self._together(process)
            data = bytearray()
            while len(process.attempts) < together:
                attempt = self._leases.next()
                if attempt is None:
                    break
                process.attempts.append(attempt)
                data += frame(
                    "run",
                    attempt.task,
                    attempt.job,
                    attempt.kind,
                    attempt.payload,
                    attempt.inputs,
                    attempt.attempt,
                    attempt.token,
                )
            if not data:
                return
            process.kill_at = None
            self._send(process, data)
            for attempt in process.attempts:
                if attempt.stop_reason is not None:
                    self._tell_to_stop(attempt)

    def _together(self, process: _Process) -> int:
        """How many to hand over: not so many that another process would have nothing to do."""
        if self._tasks_per_child_max is not None:
            return 1
        fair = -(-self._leases.waiting // max(1, len(self._processes)))
        return max(1, min(_TOGETHER_MAX, fair, int(_TOGETHER_S / max(self._leases.pace_s, 1e-5))))

    def _read(self, process: _Process) -> None:
        try:
            data = process.sock.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._died(process)
            return
        try:
            messages = process.frames.feed(data)
        except (ValueError, EOFError, TypeError):
            # A task has written to a descriptor that is not its own.
            log.error("pool process %d does not make sense any more", process.popen.pid)
            self._kill(process)
            return
        for message in messages:
            self._heard(process, message)

    def _heard(self, process: _Process, message: tuple[Any, ...]) -> None:
        what = message[0]
        if what == "ready":
            process.ready = True
            self._restart_pause_s = 0.0
            self._failures = 0
            self._on_ready()
            return
        if what == "back":
            self._taken_back(process, message[1])
            return
        attempt = process.attempt
        if attempt is None or attempt.token != message[1]:
            # Of one that was handed over with others and told to stop before its turn, perhaps.
            attempt = next((one for one in process.attempts if one.token == message[1]), None)
        if attempt is None:
            return
        if what == "done":
            _, _, ok, body, retryable = message
            process.attempts.remove(attempt)
            process.kill_at = None
            process.ran += 1
            if process.attempts:
                # It has begun the next by now.
                self._leases.begins(process.attempts[0])
                self._tell_to_stop(process.attempts[0])
            elif self._tasks_per_child_max is not None and process.ran >= self._tasks_per_child_max:
                self._retire(process)
            else:
                # Before the result is told: the next task need not wait for that.
                self._assign()
            self._leases.end(attempt, None if ok is None else Outcome(ok, body, retryable))
        elif what == "out":
            attempt.write(message[2], message[3])
            self._leases.on_output()
        elif what == "progress":
            _, _, share, note = message
            attempt.progress, attempt.note = share, note

    def _take_back(self, process: _Process) -> None:
        process.taken_back_from = process.attempt
        if self._send(process, frame("back")):
            with contextlib.suppress(OSError):
                process.popen.send_signal(_KNOCK)

    def _taken_back(self, process: _Process, tokens: list[int]) -> None:
        for token in reversed(tokens):
            attempt = next((one for one in process.attempts if one.token == token), None)
            if attempt is not None:
                process.attempts.remove(attempt)
                self._leases.put_back(attempt)

    def _retire(self, process: _Process) -> None:
        process.retired = True
        process.kill_at = time.monotonic() + self._stop_grace_s
        with contextlib.suppress(OSError):
            process.sock.shutdown(socket.SHUT_WR)

    def _died(self, process: _Process) -> None:
        # All it has said was read before the end of its socket, so this is the one task that it had.
        # Not reaped before its group was killed: until then its number cannot be another's.
        until = time.monotonic() + 0.5
        while not _has_ended(process.popen.pid) and time.monotonic() < until:
            time.sleep(0.002)
        only_closed = not _has_ended(process.popen.pid)
        # What it has started goes with it; and so does it, if it has only closed its end.
        self._kill_group(process)
        self._bury(process)
        attempt = process.attempts.popleft() if process.attempts else None
        while process.attempts:
            # It had not begun these.
            self._leases.put_back(process.attempts.pop())
        how, more = _told(process.popen.returncode)
        if only_closed:
            how = "closed its connection to the worker, and was killed for it"
        if attempt is not None:
            if attempt.stop_reason is None:
                log.warning("pool process %d %s while it ran task %s", process.popen.pid, how, attempt.task)
                message = f"the process that ran the task {how}"
                self._leases.end(attempt, failure("process_died", message, **more))
            else:
                self._leases.end(attempt, None)
        elif not process.ready:
            log.error("pool process %d %s before it was ready", process.popen.pid, how)
            self._failures += 1
            self._start_later()
            if self._failures >= _FAILURES_MAX and not any(one.ready for one in self._processes):
                self._on_broken(f"no pool process can be started: the last one {how}; its output says more")
        elif not process.retired:
            log.warning("pool process %d %s while it was idle", process.popen.pid, how)

    def _bury(self, process: _Process) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(process.sock)
        process.sock.close()
        process.popen.wait()
        if process in self._processes:
            self._processes.remove(process)

    def _tell_to_stop(self, attempt: Attempt) -> None:
        process = next((one for one in self._processes if attempt in one.attempts), None)
        if process is None or attempt.stop_reason is None:
            return
        if process.attempt is not attempt:
            # Not its turn yet. When that comes, it is told again by what is in the frame.
            self._send(process, frame("stop", attempt.token, attempt.stop_reason.value))
            return
        if attempt.stop_reason is StopReason.TIMED_OUT:
            self._kill(process)
            return
        if process.kill_at is None:
            process.kill_at = time.monotonic() + self._stop_grace_s
            if self._send(process, frame("stop", attempt.token, attempt.stop_reason.value)):
                with contextlib.suppress(OSError):
                    process.popen.send_signal(_KNOCK)

    def _kill(self, process: _Process) -> None:
        self._kill_group(process)
        process.kill_at = None

    def _kill_group(self, process: _Process) -> None:
        with contextlib.suppress(OSError):
            os.killpg(process.popen.pid, signal.SIGKILL)

    # --- the clock ---

    def _moments(self) -> list[float]:
        moments = []
        for process in self._processes:
            if process.kill_at is not None:
                moments.append(process.kill_at)
            if not process.ready:
                moments.append(process.started_at + _START_PATIENCE_S)
            attempt = process.attempt
            if attempt is not None and attempt.stop_reason is None and attempt.deadline is not None:
                moments.append(attempt.deadline)
            if attempt is not None and process.may_take_back:
                moments.append(attempt.begun_at + _TAKE_BACK_AFTER_S)
        if self._restart_pause_s and len(self._processes) < self._concurrency:
            moments.append(self._restart_at)
        return moments

    def _patience(self) -> float:
        now = time.monotonic()
        return max(0.0, min((moment - now for moment in self._moments()), default=5.0))

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        for process in list(self._processes):
            attempt = process.attempt
            if attempt is not None:
                deadline = attempt.deadline if attempt.stop_reason is None else None
                if deadline is not None and now >= deadline:
                    log.warning("task %s ran into its time limit of %s ms", attempt.task, attempt.timeout_ms)
                    attempt.stop_reason = StopReason.TIMED_OUT
                    self._kill(process)
                    continue
                if process.may_take_back and now >= attempt.begun_at + _TAKE_BACK_AFTER_S:
                    self._take_back(process)
            if process.kill_at is not None and now >= process.kill_at:
                log.warning("pool process %d did not stop when it was told to; killing it", process.popen.pid)
                self._kill(process)
            elif not process.ready and now >= process.started_at + _START_PATIENCE_S:
                log.error("pool process %d was not ready in %g s", process.popen.pid, _START_PATIENCE_S)
                self._kill(process)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def _told(returncode: int | None) -> tuple[str, dict[str, Any]]:
    """How a process ended: in words, and in fields."""
    if returncode is None:
        return "ended", {}
    if returncode >= 0:
        return f"ended with exit code {returncode}", {"exit_code": returncode}
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = " (out of memory, perhaps)" if -returncode == signal.SIGKILL else ""
    return f"was killed by {name}{hint}", {"signal": name}
