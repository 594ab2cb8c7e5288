"""Reloader: restarts a worker when a source file changes. For development only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from triarch.worker.process.signals import ignore_harmless_signals, ignore_terminal_output_stops

POLL_INTERVAL_S = 0.5
#: Maximum number of watched files.
FILES_MAX = 20_000
#: Environment variable with the process id of the reloader.
PARENT = "TRIARCH_WORKER_PARENT"
_SKIPPED = {".git", "__pycache__", "node_modules", ".venv", "venv", "target", "dist", "build", ".mypy_cache", ".tox"}


def run_reloading(arguments: Sequence[str]) -> int:
    """Runs `triarch-worker` with these arguments in a child process, and restarts it after each change."""
    over = threading.Event()
    current: list[subprocess.Popen[bytes]] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        over.set()
        for process in current:
            process.send_signal(signal.SIGTERM)

    ignore_harmless_signals()
    ignore_terminal_output_stops()
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    seen = _stamps(Path.cwd())
    returncode = 0
    while not over.is_set():
        # Outside the terminal's process group: this process receives Ctrl-C and passes it on once.
        process = subprocess.Popen(
            [sys.executable, "-m", "triarch.worker", *arguments],
            start_new_session=True,
            env={**os.environ, PARENT: str(os.getpid())},
        )
        current[:] = [process]
        if over.is_set():
            process.send_signal(signal.SIGTERM)
        while not over.is_set():
            over.wait(POLL_INTERVAL_S)
            now = _stamps(Path.cwd())
            changed = sorted(str(path) for path in now.keys() | seen.keys() if now.get(path) != seen.get(path))
            seen = now
            if changed and not over.is_set():
                print(f"triarch-worker: {changed[0]} has changed, so the worker restarts", file=sys.stderr, flush=True)
                process.send_signal(signal.SIGTERM)
                break
            # A worker that has ended, perhaps because of an error in the code, is restarted at the next change.
        returncode = process.wait()
    return returncode if returncode >= 0 else 128 - returncode


def _stamps(root: Path) -> dict[Path, tuple[int, int]]:
    stamps: dict[Path, tuple[int, int]] = {}
    for directory, directories, files in os.walk(root):
        directories[:] = [name for name in directories if name not in _SKIPPED and not name.startswith(".")]
        for name in files:
            if name.endswith(".py"):
                path = Path(directory, name)
                try:
                    status = path.stat()
                except OSError:
                    continue
                stamps[path] = (status.st_mtime_ns, status.st_size)
        if len(stamps) >= FILES_MAX:
            break
    return stamps
