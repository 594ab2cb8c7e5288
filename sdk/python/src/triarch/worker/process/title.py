"""Title of this process in lists of processes, for a fork that does something else than its command line says."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

_PR_SET_NAME = 15
#: Position of the address of the command line in ``/proc/self/stat``, counted from the field after the name.
_ARG_START = 45


def set_title(title: str) -> None:
    """Replaces the name and the command line of this process, as far as the system allows it."""
    text = title.encode()
    with contextlib.suppress(OSError, AttributeError, ValueError, IndexError):
        # The name in parentheses may contain anything.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_START + 1])
        ctypes.CDLL(None).prctl(_PR_SET_NAME, text, 0, 0, 0)
        if 0 < start < end:
            # The last byte stays 0, or the kernel takes what follows it for a part of the text.
            shown = text[: end - start - 1]
            ctypes.memset(start, 0, end - start)
            ctypes.memmove(start, shown, len(shown))
