"""A sandbox of processes that end with the measurement, and the common code of measurements: ports, settings,
figures.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time


@dataclasses.dataclass
class Settings:
    """The work, the same for every system."""

    tasks: int
    round_trips: int
    payload_bytes: int
    workers: int

    def payload(self):
        return "x" * self.payload_bytes


@dataclasses.dataclass
class Figures:
    """Results of a measurement. A figure that a peer does not provide is None."""

    tasks_per_s: float
    round_trips_ms: list

    def summary(self):
        trips = sorted(self.round_trips_ms)
        at = lambda share: round(trips[min(len(trips) - 1, int(len(trips) * share))], 2) if trips else None
        return {"tasks_per_s": round(self.tasks_per_s, 1), "round_trip_p50_ms": at(0.5), "round_trip_p99_ms": at(0.99)}


class Missing(Exception):
    """A program or package that a peer needs is not installed."""


class Sandbox:
    """A folder and processes, all of which are removed at the end."""

    def __init__(self):
        self.processes = []

    def __enter__(self):
        # On SIGTERM the program leaves its sandboxes in order, which ends their processes.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        self.folder = tempfile.mkdtemp(prefix="triarch-bench-")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, *argv, env=None, cwd=None):
        program = shutil.which(argv[0])
        if program is None:
            raise Missing(f"{argv[0]} is not installed")
        log = open(os.path.join(self.folder, f"{os.path.basename(argv[0])}-{len(self.processes)}.log"), "ab")
        full = {**os.environ, **(env or {})}
        process = subprocess.Popen([program, *argv[1:]], stdout=log, stderr=log, env=full, cwd=cwd or self.folder)
        process.log = log.name
        self.processes.append(process)
        return process

    def log_ends(self):
        """Returns the ends of all logs, for messages."""
        parts = []
        for process in self.processes:
            with open(process.log, errors="replace") as log:
                parts.append(f"--- {process.args[0]}\n{log.read()[-2000:]}")
        return "\n".join(parts)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def until(condition, what, seconds=60, between=0.05):
    """Waits until `condition()` is true. An exception of it counts as false."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Exception as error:  # whatever a client raises while its server is not up
            last = error
        time.sleep(between)
    raise TimeoutError(f"{what} did not happen within {seconds} s ({last})")


def listens(port, seconds=60):
    def there():
        with socket.create_connection(("127.0.0.1", port), 1):
            return True

    until(there, f"a listener on port {port}", seconds)


def timed(work, times):
    """Returns the duration of each call in ms."""
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        took.append((time.perf_counter() - begun) * 1e3)
    return took


def start_redis(sandbox):
    """Starts a Redis that syncs each write to disk before it answers."""
    port = free_port()
    sandbox.start(
        "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", sandbox.folder, "--save", "",
        "--appendonly", "yes", "--appendfsync", "always",
    )
    listens(port)
    return port


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def interpreter():
    return sys.executable
