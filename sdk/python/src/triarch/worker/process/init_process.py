"""Init process: what has process id 1 in a container becomes the parent of every orphan, and has to reap it.

A worker that is started as process 1 runs as a child of such a process, which reaps orphans, passes signals on, and ends with the
worker's exit code. The worker's own children, and those of its tasks, are waited for by the process that has started them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

from triarch.worker.process.title import set_title

#: Signals that are about the init process itself, or that no handler receives.
_OWN = {
    signal.SIGCHLD,
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGTSTP,
    signal.SIGPIPE,
}


def run_under_init() -> None:
    """Returns in a child process that is to be the worker. The calling process does not return."""
    # No signal is lost before there is a child to pass it to.
    passed = set(signal.valid_signals()) - _OWN
    before = signal.pthread_sigmask(signal.SIG_BLOCK, passed)
    child = os.fork()
    if child == 0:
        # A group of its own, so that Ctrl-C of the terminal reaches it once, passed on.
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    set_title("triarch-init")

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.kill(child, number)

    for number in passed:
        # Those of the C library itself cannot be handled.
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            os._exit(1)
        if pid == child and not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
