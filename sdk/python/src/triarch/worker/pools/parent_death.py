"""Parent-death signal: ends a process when its parent ends, also when the parent is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Makes the calling process end with its parent. On Linux the kernel sends the signal. Elsewhere a thread polls."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent, number), name="triarch-parent", daemon=True).start()
    # The parent may have died before the signal was set, and then none is sent.
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), number)
