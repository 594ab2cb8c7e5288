"""Signals that leave the processes of a worker alone.

By default they end a process at once and without a word. Log rotation, reload scripts, timers and closed terminals send them,
and none of them asks a worker to stop. They are handled rather than ignored, because programs that tasks start would inherit
the latter.
"""

from __future__ import annotations

import signal
from types import FrameType

_HARMLESS = (
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
)


def ignore_harmless_signals() -> None:
    """Handles the signals that mean no stop by doing nothing, unless they have a handler. For the main thread."""
    for number in _HARMLESS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _ignore)
    # Writes to a terminal in the background would stop the process. A handler could not prevent that.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)


def _ignore(number: int, _: FrameType | None) -> None:
    pass
