"""Process pool: isolates tasks from each other and from the worker.

One supervisor thread serves all processes. A process runs one task at a time and reports its result before it begins the next.
A process that dies therefore loses exactly one attempt, which is reported as failed with the signal or exit code, and is
replaced. Very short tasks are assigned in batches, which saves most of the communication. Tasks of a batch that have not begun are
reclaimed when their process dies, or when the running one turns out to be long.

Processes are started afresh, never forked from a process with threads. Each leads a session of its own, so that everything a
task has started ends with it. They end with the worker, also when the worker is killed.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from triarch.worker.attempt import Attempt, AttemptOutcome, StopReason, failure
from triarch.worker.leases import Leases
from triarch.worker.pools.framing import CHILD_FRAME_BYTES_MAX, FrameDecoder, frame
from triarch.worker.pools.orphans import REAP_INTERVAL_S, OrphanReaper

log = logging.getLogger("triarch.worker")

_INTERRUPT = signal.SIGUSR1
#: Timeout of sending a frame. An idle process that takes none for so long is stuck.
_SEND_TIMEOUT_S = 10.0
#: Timeout of importing the app.
_START_TIMEOUT_S = 120.0
#: Interval of looking for ended processes on systems that do not announce them.
_POLL_INTERVAL_S = 0.2
#: Time for which tasks wait for a process that cannot be started, before they are handed back.
_RETURN_AFTER_S = 2.0
#: Reads after the end of a process, each of up to 256 KiB. Its socket holds less.
_REST_READS_MAX = 16
#: Pauses before a process that failed to start is replaced.
_RESTART_PAUSE_MIN_S = 0.1
_RESTART_PAUSE_MAX_S = 5.0
#: Consecutive failures to start, without a running process, after which the worker gives up.
_FAILURES_MAX = 10

#: Tasks of a batch, and their expected total duration by the moving average.
_BATCH_TASKS_MAX = 16
_BATCH_DURATION_S = 0.005
#: Running time after which the rest of a batch is reclaimed.
_RECLAIM_AFTER_S = 0.02

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
    frames: FrameDecoder = field(default_factory=lambda: FrameDecoder(CHILD_FRAME_BYTES_MAX))
    ready: bool = False
    #: Assigned attempts that have not ended. The first of them runs.
    attempts: deque[Attempt] = field(default_factory=deque)
    reclaimed_from: Attempt | None = None
    ran: int = 0
    #: Bytes received.
    received: int = 0
    kill_at: float | None = None
    retired: bool = False
    #: Readable when the process has ended, even if another process still has its end of the socket. Not on every system.
    pidfd: int | None = None
    #: Why the supervisor has killed it, in the words of the error.
    killed_because: str | None = None

    @property
    def attempt(self) -> Attempt | None:
        """The running attempt."""
        return self.attempts[0] if self.attempts else None

    @property
    def may_reclaim(self) -> bool:
        """Whether a batch is left that was not reclaimed yet."""
        return len(self.attempts) > 1 and self.reclaimed_from is not self.attempts[0]


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
        imports: Sequence[str] = (),
        soft_files: int | None = None,
        owns_process: bool = False,
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
            "imports": list(imports),
            "soft_files": soft_files,
        }
        # The process imports modules from the same directories as the worker.
        self._path = [os.getcwd() if entry == "" else str(entry) for entry in sys.path]
        self._stop_grace_s = stop_grace_s
        self._tasks_per_child_max = tasks_per_child_max
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._wake_sender, self._wake_receiver = socket.socketpair()
        self._wake_pending = False
        self._stops: deque[Attempt] = deque()
        self._closing = threading.Event()
        self._restart_pause_s = 0.0
        self._restart_at = 0.0
        self._failures = 0
        self._short_since: float | None = None
        # Elsewhere the other children belong to the program that the worker is a part of.
        self._orphans = OrphanReaper(lambda: {one.popen.pid for one in self._processes}) if owns_process else None
        self._thread = threading.Thread(target=self._supervise, name="triarch-pool", daemon=True)

    # --- from any thread ---

    def start(self) -> None:
        """Starts the supervisor, which starts the processes."""
        self._thread.start()

    def wake(self) -> None:
        """Announces that there may be work."""
        if not self._wake_pending:
            self._wake_pending = True
            with contextlib.suppress(OSError):
                self._wake_sender.send(b"!", socket.MSG_DONTWAIT)

    def stop(self, attempt: Attempt) -> None:
        """Stops an attempt: interrupts its process, and kills it after the grace period."""
        self._stops.append(attempt)
        self.wake()

    def close(self) -> None:
        """Kills all processes."""
        self._closing.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def pids(self) -> list[int]:
        """Process ids of the pool."""
        return [one.popen.pid for one in self._processes]

    # --- the supervisor's thread: everything below ---

    def _supervise(self) -> None:
        self._selector.register(self._wake_receiver, selectors.EVENT_READ, None)
        self._wake_receiver.setblocking(False)
        try:
            while not self._closing.is_set():
                try:
                    self._start_missing()
                    self._assign()
                    for key, _ in self._selector.select(self._select_timeout_s()):
                        if key.data is None:
                            self._drain_wakeups()
                        elif key.data not in self._processes:
                            # Its end was handled earlier in this round.
                            continue
                        elif key.fd == key.data.pidfd:
                            self._read_rest(key.data)
                        else:
                            self._read(key.data)
                    while self._stops:
                        self._request_stop(self._stops.popleft())
                    self._enforce_deadlines()
                    if self._orphans is not None:
                        self._orphans.reap()
                except Exception:
                    # The supervisor must continue after any error. Otherwise the worker would run no more tasks.
                    log.exception("the supervisor of the process pool failed unexpectedly, and continues")
                    time.sleep(0.1)
        finally:
            for process in list(self._processes):
                self._kill(process)
                self._reap(process)
            if self._orphans is not None:
                self._orphans.close()
            self._selector.close()
            self._wake_sender.close()
            self._wake_receiver.close()

    def _drain_wakeups(self) -> None:
        self._wake_pending = False
        with contextlib.suppress(BlockingIOError):
            while self._wake_receiver.recv(4096):
                pass

    def _start_missing(self) -> None:
        """Starts missing processes."""
        missing = self._concurrency - sum(not one.retired for one in self._processes)
        if missing <= 0 or time.monotonic() < self._restart_at:
            return
        for started in range(missing):
            try:
                self._start_one()
            except (OSError, MemoryError) as error:
                self._start_later()
                self._fall_short(missing - started, error)
                return
        if self._short_since is not None:
            self._short_since = None
            log.info("all %d pool processes run again", self._concurrency)
            self._leases.limit_slots(self._concurrency)

    def _fall_short(self, missing: int, error: BaseException) -> None:
        """Offers fewer slots while processes cannot be started for want of means, and hands back the tasks that wait for them."""
        now = time.monotonic()
        usable = self._concurrency - missing
        if self._short_since is None:
            self._short_since = now
            log.error(
                "only %d of %d pool processes can run, because another one cannot be started: %s; the worker takes fewer tasks, and"
                " tries again. Use a lower --concurrency, or raise the limit (ulimit -n, ulimit -u, memory)",
                usable,
                self._concurrency,
                error,
            )
        self._leases.limit_slots(usable)
        if now - self._short_since >= _RETURN_AFTER_S:
            self._leases.return_waiting(usable)

    def _start_later(self) -> None:
        self._restart_pause_s = min(max(self._restart_pause_s * 2, _RESTART_PAUSE_MIN_S), _RESTART_PAUSE_MAX_S)
        self._restart_at = time.monotonic() + self._restart_pause_s

    def _start_one(self) -> None:
        ours, theirs = socket.socketpair()
        pidfd: int | None = None
        try:
            # As an argument instead of PYTHONPATH, which programs started by tasks would inherit.
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
        with contextlib.suppress(OSError, AttributeError):
            pidfd = os.pidfd_open(popen.pid)
        ours.settimeout(_SEND_TIMEOUT_S)
        process = _Process(popen, ours, time.monotonic(), pidfd=pidfd)
        self._processes.append(process)
        self._selector.register(ours, selectors.EVENT_READ, process)
        if pidfd is not None:
            self._selector.register(pidfd, selectors.EVENT_READ, process)
        self._send(process, frame("settings", self._settings))

    def _send(self, process: _Process, data: bytes | bytearray) -> bool:
        try:
            process.sock.sendall(data)
        except OSError as error:
            # Killed, so that the supervisor sees its end.
            log.debug("pool process %d takes no frames and is killed: %s", process.popen.pid, error)
            process.killed_because = "took no messages of the worker, and was killed for it"
            self._kill(process)
            return False
        return True

    def _assign(self) -> None:
        for process in self._processes:
            if process.attempts or not process.ready or process.retired:
                continue
            batch_size = self._batch_size(process)
            data = bytearray()
            while len(process.attempts) < batch_size:
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
                    self._request_stop(attempt)

    def _batch_size(self, process: _Process) -> int:
        """Returns how many tasks to assign, so that no other process is left without work."""
        if self._tasks_per_child_max is not None:
            return 1
        fair = -(-self._leases.waiting // max(1, len(self._processes)))
        return max(1, min(_BATCH_TASKS_MAX, fair, int(_BATCH_DURATION_S / max(self._leases.mean_duration_s, 1e-5))))

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
        process.received += len(data)
        try:
            messages = process.frames.feed(data)
        except (ValueError, EOFError, TypeError):
            # A task has written to a file descriptor that is not its own.
            log.error("pool process %d sent a malformed frame and is killed", process.popen.pid)
            process.killed_because = "wrote to its connection to the worker, and was killed for it"
            self._kill(process)
            return
        for message in messages:
            self._handle_message(process, message)

    def _read_rest(self, process: _Process) -> None:
        """Reads what a process has sent before its end. Children of it may have the socket open, and write into it for ever."""
        # Python waits for data otherwise, up to the timeout of the socket.
        process.sock.settimeout(0)
        for _ in range(_REST_READS_MAX):
            before = process.received
            self._read(process)
            if process not in self._processes:
                return
            if process.received == before:
                break
        self._died(process)

    def _handle_message(self, process: _Process, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == "ready":
            process.ready = True
            self._restart_pause_s = 0.0
            self._failures = 0
            self._on_ready()
            return
        if kind == "back":
            self._on_reclaimed(process, message[1])
            return
        attempt = process.attempt
        if attempt is None or attempt.token != message[1]:
            # Perhaps of a batch, and stopped before its turn.
            attempt = next((one for one in process.attempts if one.token == message[1]), None)
        if attempt is None:
            return
        if kind == "done":
            _, _, ok, body, retryable, retry_after_ms, spoiled = message
            process.attempts.remove(attempt)
            process.kill_at = None
            process.ran += 1
            if spoiled is not None:
                text = "pool process %d is replaced, because task %s has changed %s for good"
                log.warning(text, process.popen.pid, attempt.task, spoiled)
                # It returns the rest of its batch.
                self._retire(process)
            elif process.attempts:
                # The process has begun the next one.
                self._leases.begins(process.attempts[0])
                self._request_stop(process.attempts[0])
            elif self._tasks_per_child_max is not None and process.ran >= self._tasks_per_child_max:
                self._retire(process)
            else:
                # Before the result is recorded, so that the next task need not wait for that.
                self._assign()
            self._leases.end(attempt, None if ok is None else AttemptOutcome(ok, body, retryable, retry_after_ms))
        elif kind == "out":
            attempt.write(message[2], message[3])
            self._leases.on_output()
        elif kind == "progress":
            _, _, share, note = message
            attempt.progress, attempt.note = share, note

    def _reclaim(self, process: _Process) -> None:
        process.reclaimed_from = process.attempt
        if self._send(process, frame("back")):
            with contextlib.suppress(OSError):
                process.popen.send_signal(_INTERRUPT)

    def _on_reclaimed(self, process: _Process, tokens: list[int]) -> None:
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
        # Every frame was read before the end of the socket, so the first attempt is the one that ran.
        # The process is reaped after its group was killed: until then its process id cannot be reused.
        until = time.monotonic() + 0.5
        while not _has_ended(process.popen.pid) and time.monotonic() < until:
            time.sleep(0.002)
        only_closed = not _has_ended(process.popen.pid)
        # Kills everything the task has started, and the process itself if it has only closed its socket.
        self._kill_group(process)
        self._reap(process)
        attempt = process.attempts.popleft() if process.attempts else None
        while process.attempts:
            # These had not begun.
            self._leases.put_back(process.attempts.pop())
        how, more = _describe_exit(process.popen.returncode)
        if process.killed_because is not None:
            how, more = process.killed_because, {}
        elif only_closed:
            how, more = "closed its connection to the worker, and was killed for it", {}
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
                self._on_broken(f"no pool process can be started, because the last one {how}; see its output")
        elif not process.retired:
            log.warning("pool process %d %s while it was idle", process.popen.pid, how)

    def _reap(self, process: _Process) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(process.sock)
        if process.pidfd is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = None
        process.sock.close()
        process.popen.wait()
        if process in self._processes:
            self._processes.remove(process)

    def _request_stop(self, attempt: Attempt) -> None:
        process = next((one for one in self._processes if attempt in one.attempts), None)
        if process is None or attempt.stop_reason is None:
            return
        if process.attempt is not attempt:
            # Its turn has not come. When it does, the process reads the reason from the frame.
            self._send(process, frame("stop", attempt.token, attempt.stop_reason.value))
            return
        if attempt.stop_reason is StopReason.TIMED_OUT:
            self._kill(process)
            return
        if process.kill_at is None:
            process.kill_at = time.monotonic() + self._stop_grace_s
            if self._send(process, frame("stop", attempt.token, attempt.stop_reason.value)):
                with contextlib.suppress(OSError):
                    process.popen.send_signal(_INTERRUPT)

    def _kill(self, process: _Process) -> None:
        self._kill_group(process)
        process.kill_at = None

    def _kill_group(self, process: _Process) -> None:
        with contextlib.suppress(OSError):
            os.killpg(process.popen.pid, signal.SIGKILL)

    # --- deadlines ---

    def _deadlines(self) -> list[float]:
        deadlines = []
        for process in self._processes:
            if process.kill_at is not None:
                deadlines.append(process.kill_at)
            if not process.ready:
                deadlines.append(process.started_at + _START_TIMEOUT_S)
            attempt = process.attempt
            if attempt is not None and attempt.stop_reason is None and attempt.deadline is not None:
                deadlines.append(attempt.deadline)
            if attempt is not None and process.may_reclaim:
                deadlines.append(attempt.begun_at + _RECLAIM_AFTER_S)
        if self._restart_pause_s and len(self._processes) < self._concurrency:
            deadlines.append(self._restart_at)
        return deadlines

    def _select_timeout_s(self) -> float:
        now = time.monotonic()
        idle_s = 5.0
        if self._orphans is not None:
            idle_s = REAP_INTERVAL_S
        if any(one.pidfd is None for one in self._processes):
            idle_s = _POLL_INTERVAL_S
        return max(0.0, min([idle_s, *(deadline - now for deadline in self._deadlines())]))

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for process in list(self._processes):
            if process.pidfd is None and _has_ended(process.popen.pid):
                self._read_rest(process)
                continue
            attempt = process.attempt
            if attempt is not None:
                deadline = attempt.deadline if attempt.stop_reason is None else None
                if deadline is not None and now >= deadline:
                    log.warning("task %s exceeded its time limit of %s ms", attempt.task, attempt.timeout_ms)
                    attempt.stop_reason = StopReason.TIMED_OUT
                    self._kill(process)
                    continue
                if process.may_reclaim and now >= attempt.begun_at + _RECLAIM_AFTER_S:
                    self._reclaim(process)
            if process.kill_at is not None and now >= process.kill_at:
                log.warning("pool process %d did not stop within its grace period and is killed", process.popen.pid)
                self._kill(process)
            elif not process.ready and now >= process.started_at + _START_TIMEOUT_S:
                log.error("pool process %d was not ready within %g s and is killed", process.popen.pid, _START_TIMEOUT_S)
                self._kill(process)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def _describe_exit(returncode: int | None) -> tuple[str, dict[str, Any]]:
    """Returns how a process ended: as text, and as fields of the error."""
    if returncode is None:
        return "ended", {}
    if returncode >= 0:
        return f"ended with exit code {returncode}", {"exit_code": returncode}
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        # Python names the first and the last real-time signal only.
        first = getattr(signal, "SIGRTMIN", None)
        offset = -returncode - int(first) if first is not None else 0
        name = f"SIGRTMIN+{offset}" if offset > 0 else f"signal {-returncode}"
    hint = " (out of memory, perhaps)" if -returncode == signal.SIGKILL else ""
    return f"was killed by {name}{hint}", {"signal": name}
