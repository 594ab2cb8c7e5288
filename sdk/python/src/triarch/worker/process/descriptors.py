"""File descriptors of a worker and of its pool processes: the standard ones, private copies of them, and the limit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from typing import Any, TextIO

#: Private descriptors begin here, out of the way of code that closes the first ones, and of `select`.
_PRIVATE_MIN = 200
#: The limit is raised to this at most. A few programs look at each descriptor up to the limit.
_LIMIT_MAX = 1 << 20


def open_standard_descriptors() -> None:
    """Opens 0, 1 and 2 on `/dev/null` where the worker was started without them.

    Otherwise the next file or socket would get that number, and whatever prints would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            found = os.open(os.devnull, os.O_RDWR)
            if found != number:
                os.dup2(found, number)
                os.close(found)
            os.set_inheritable(number, True)


def moved_up(number: int) -> int:
    """Returns a copy of a descriptor with a high number, and closes it. Returns the same one if there is none."""
    try:
        copied = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_MIN)
    except (OSError, ValueError):
        return number
    os.close(number)
    return copied


def private_copy(stream: Any) -> TextIO | None:
    """Returns a stream that writes to a private copy of another one's descriptor, or the stream itself if it has none."""
    if stream is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    try:
        number = fcntl.fcntl(stream.fileno(), fcntl.F_DUPFD_CLOEXEC, _PRIVATE_MIN)
    except (OSError, ValueError, AttributeError):
        return stream  # type: ignore[no-any-return]
    unbuffered = getattr(stream, "line_buffering", False) or getattr(stream, "write_through", False)
    by_lines = bool(unbuffered) or os.isatty(number)
    return open(
        number,
        "w",
        buffering=1 if by_lines else -1,
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        newline="\n",
    )


class StandardDescriptors:
    """Copies of 0, 1 and 2, from which they are restored after a task has closed or replaced them."""

    def __init__(self) -> None:
        self._copies: list[tuple[int, int, tuple[int, int]]] = []
        for number in range(3):
            with contextlib.suppress(OSError):
                copied = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_MIN)
                self._copies.append((number, copied, _identity(copied)))

    def restore(self) -> bool:
        """Restores them. Returns whether one had been replaced."""
        replaced = False
        for number, copied, identity in self._copies:
            try:
                if _identity(number) == identity:
                    continue
            except OSError:
                pass
            replaced = True
            with contextlib.suppress(OSError):
                os.dup2(copied, number)
        return replaced


def _identity(number: int) -> tuple[int, int]:
    status = os.fstat(number)
    return status.st_dev, status.st_ino


def raise_limit() -> tuple[int, int]:
    """Raises the soft limit of open files to the hard limit. Returns the soft limit of before, and the one of now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, _LIMIT_MAX)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft, soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return soft, soft
    return soft, most


def set_soft_limit(soft: int) -> None:
    """Sets the soft limit of open files, as far as that is allowed."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
