"""One process of a local cluster: started, watched, paused, killed; it never outlives its owner."""

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

#: How long a process may take to end after SIGTERM before it is killed.
STOP_PATIENCE_S = 10.0


class Guard:
    """Kills what was started when its owner dies, also by `kill -9`. See `_guard`."""

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
        """A process was started, as the leader of a session of its own."""
        self._tell(f"+{pid}")

    def ended(self, pid: int) -> None:
        """It has ended."""
        self._tell(f"-{pid}")

    def directory(self, path: Path) -> None:
        """A directory is to be removed at the end."""
        self._tell(f"d {path}")

    def close(self) -> None:
        """Ends what is left, and waits until it has."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(OSError):
                pipe.close()
            self._process.wait()

    def _tell(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            raise RuntimeError("the cluster was stopped already")
        with self._lock:
            pipe.write(line + "\n")
            pipe.flush()


class Process:
    """A program that is started again and again with the same command, and logs to one file."""

    def __init__(
        self,
        guard: Guard,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        self._guard = guard
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
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self.is_running() else None

    @property
    def returncode(self) -> int | None:
        """How it ended, as `subprocess` tells it."""
        return None if self._process is None else self._process.poll()

    @property
    def is_paused(self) -> bool:
        """Whether `pause` was called, and not yet `resume`."""
        return self._paused

    def is_running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it, unless it runs."""
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
        self._guard.started(process.pid)

    def stop(self, patience_s: float = STOP_PATIENCE_S) -> int | None:
        """Asks it to end, kills it when it does not, and returns how it ended."""
        if self._process is None:
            return None
        self.terminate()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill9()
        self._forget()
        return self._process.returncode

    def terminate(self) -> None:
        """Asks it to end (SIGTERM), and does not wait."""
        self.send_signal(signal.SIGTERM)
        if self._paused:
            self.resume()

    def kill9(self) -> None:
        """Kills it and what it started, as a crash or the kernel would."""
        if self._process is None:
            return
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._paused = False
        self._forget()

    def pause(self) -> None:
        """Stops the clock for it (SIGSTOP): it is there and does nothing, like a machine that hangs."""
        self.send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Lets it go on after `pause`."""
        self.send_signal(signal.SIGCONT)
        self._paused = False

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it runs."""
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Waits until it has ended."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        returncode = self._process.wait(timeout)
        self._forget()
        return returncode

    def last_words(self, lines: int = 20) -> str:
        """The end of its log."""
        try:
            text = self.log.read_bytes()[-16_384:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _forget(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self._guard.ended(self._process.pid)


def wait_until(condition: Callable[[], object], timeout: float, what: str, every: float = 0.02) -> None:
    """Asks for a condition again and again until it holds; past the time, fails and says what was waited for."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(every)
