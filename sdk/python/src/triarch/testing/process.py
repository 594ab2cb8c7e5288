"""Child process of a local cluster: can be started, paused and killed, and never outlives its owner."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Time between SIGTERM and SIGKILL.
STOP_TIMEOUT_S = 10.0


class OrphanReaper:
    """Kills the started processes when their owner dies, also by `kill -9`. See `_orphan_reaper`."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("_orphan_reaper.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()

    def started(self, pid: int) -> None:
        """Registers a started process, which leads a session of its own."""
        self._send(f"+{pid}")

    def ended(self, pid: int) -> None:
        """Removes an ended process."""
        self._send(f"-{pid}")

    def directory(self, path: Path) -> None:
        """Registers a directory to be removed."""
        self._send(f"d {path}")

    def close(self) -> None:
        """Kills the remaining processes, and waits for their end."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(OSError):
                pipe.close()
            self._process.wait()

    def _send(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            raise RuntimeError("the cluster was stopped already")
        with self._lock:
            pipe.write(line + "\n")
            pipe.flush()


class Process:
    """Restartable process with a fixed command, which logs to one file."""

    def __init__(
        self,
        reaper: OrphanReaper,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        self._reaper = reaper
        self.name = name
        self.command = list(command)
        self.log = log
        self._env = dict(env or {})
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    def __repr__(self) -> str:
        state = "paused" if self._paused else "running" if self.is_running() else "stopped"
        return f"<{type(self).__name__} {self.name} {state} pid={self.pid}>"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self.is_running() else None

    @property
    def returncode(self) -> int | None:
        """Exit status, as in `subprocess`."""
        return None if self._process is None else self._process.poll()

    @property
    def is_paused(self) -> bool:
        """Whether the process is paused."""
        return self._paused

    def is_running(self) -> bool:
        """Returns whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process, unless it runs."""
        if self.is_running():
            return
        self._forget()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._env},
                cwd=self._cwd,
                start_new_session=True,
            )
        self._process = process
        self._reaper.started(process.pid)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """Terminates the process, kills it after the timeout, and returns its exit status."""
        if self._process is None:
            return None
        self.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill9()
        self._forget()
        return self._process.returncode

    def terminate(self) -> None:
        """Sends SIGTERM without waiting for the end."""
        self.send_signal(signal.SIGTERM)
        if self._paused:
            self.resume()

    def kill9(self) -> None:
        """Kills the process and its children with SIGKILL, as a crash would."""
        if self._process is None:
            return
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._paused = False
        self._forget()

    def pause(self) -> None:
        """Pauses the process (SIGSTOP), like a machine that hangs. Returns once every thread has stopped."""
        self.send_signal(signal.SIGSTOP)
        self._paused = True
        if self._process is not None and self.is_running():
            # The kernel reports a stop to the parent when the last thread has stopped. An end is left for `wait`.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Resumes the process after `pause`."""
        self.send_signal(signal.SIGCONT)
        self._paused = False

    def send_signal(self, number: int) -> None:
        """Sends a signal, if the process runs."""
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Waits for the end of the process. Returns its exit status."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        returncode = self._process.wait(timeout)
        self._forget()
        return returncode

    def log_tail(self, lines: int = 20) -> str:
        """Returns the last lines of the log."""
        try:
            text = self.log.read_bytes()[-16_384:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def last_words(self, lines: int = 20) -> str:
        """The old name of ``log_tail``."""
        return self.log_tail(lines)

    def _forget(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self._reaper.ended(self._process.pid)


def wait_until(condition: Callable[[], object], timeout: float, what: str, every: float = 0.02) -> None:
    """Polls a condition until it holds. Raises `TimeoutError` with `what` after the timeout."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(every)
