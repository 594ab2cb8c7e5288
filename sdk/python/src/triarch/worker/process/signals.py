"""Signals of the processes of a worker.

Some end a process by default, at once and without a log line. Log rotation, reload scripts, timers and closed terminals send them,
and none of them asks a worker to stop. They are handled rather than ignored, because programs that tasks start would inherit
the latter: a child that ignores SIGTERM cannot be stopped. A handler does not survive ``exec``, and a forked child gets the
defaults back (:class:`DefaultsAfterFork`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_HARMLESS = (
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
)
#: A shell that starts a program in the background lets it ignore these, and some supervisors SIGCHLD.
_INHERITED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD, signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP)


#: `signal.getsignal` without the conversion to an enumeration, which takes most of its time.
_handler_of: Callable[[int], Any] = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)


def ignore_harmless_signals() -> None:
    """Handles the signals that mean no stop by doing nothing, unless they have a handler. For the main thread."""
    for number in _HARMLESS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, do_nothing)


def ignore_terminal_output_stops() -> None:
    """Lets the process write to its terminal from the background, which would stop it. A handler could not prevent that."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)


def reset_ignored_signals() -> None:
    """Gives the signals their defaults that this process was started to ignore, because everything it starts would inherit that.

    SIGHUP stays as it is, for `nohup`. For the main thread.
    """
    for number in _INHERITED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def do_nothing(number: int, _: FrameType | None) -> None:
    """Handler that does nothing."""


class DefaultsAfterFork:
    """Handlers of this process, which forked children do not keep.

    A fork copies handlers. A child would not end by SIGTERM, for instance, and `multiprocessing` ends its children by that. During
    the fork these signals are blocked, because a child loses those that arrive before it has the defaults.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._forking = threading.local()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._block, after_in_parent=self._unblock, after_in_child=self._reset)

    def install(self, number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
        """Installs a handler that children do not keep. For the main thread."""
        signal.signal(number, handler)
        self._handlers[number] = handler

    def adopt(self) -> None:
        """Takes over the handlers that do nothing."""
        for number in signal.valid_signals():
            if signal.getsignal(number) is do_nothing:
                self._handlers[number] = do_nothing

    def restore(self) -> None:
        """Installs the handlers again that other code has replaced. For the main thread."""
        for number, handler in self._handlers.items():
            if _handler_of(number) is not handler:
                signal.signal(number, handler)

    def _block(self) -> None:
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _reset(self) -> None:
        for number, handler in self._handlers.items():
            # A bound method is another object at each access.
            if signal.getsignal(number) == handler:
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                with contextlib.suppress(ValueError):
                    # The thread that has forked is the main thread of the child.
                    signal.signal(number, default)
        self._unblock()
