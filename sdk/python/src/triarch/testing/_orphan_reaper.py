"""Orphan reaper of a local cluster: kills its processes when the owner ends, also when the owner is killed.

It runs as a process of its own, with a pipe as its standard input. The lines are `+PID` for a started process, `-PID` for an ended
one, and `d PATH` for a directory to remove. At the end of the pipe, every process that is left is killed with its group, and the
directories are removed. It imports nothing of the package, so that it starts quickly.
"""

import contextlib
import os
import shutil
import signal
import sys


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    pids: set[int] = set()
    directories: list[str] = []
    for line in sys.stdin:
        word = line.rstrip("\n")
        if word.startswith("+"):
            pids.add(int(word[1:]))
        elif word.startswith("-"):
            pids.discard(int(word[1:]))
        elif word.startswith("d "):
            directories.append(word[2:])
    for pid in pids:
        # Each process leads a session of its own, and its children are in its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
