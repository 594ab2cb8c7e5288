"""Capture of what tasks print and log, in addition to the worker's own streams.

Text written to `sys.stdout` and `sys.stderr` is captured, and so are `print`, `logging`, `warnings` and tracebacks. C code
and other programs write to the file descriptors. Such output goes to the worker's own output alone.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

#: Takes (stream, text) for the attempt that the caller runs in. Returns whether it runs in one.
Sink = Callable[[str, str], bool]


class Tee(io.TextIOBase):
    """Text stream that copies everything to a sink."""

    def __init__(self, stream: str, original: TextIO, sink: Sink) -> None:
        super().__init__()
        self._stream = stream
        self._original = original
        self._sink = sink

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the original stream."""
        return self._original.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """As the original stream."""
        return self._original.errors

    def write(self, text: str) -> int:
        """Writes to the sink and to the original stream."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._sink(self._stream, text)
        return self._original.write(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """As `write`, for each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As the original stream."""
        self._original.flush()

    def isatty(self) -> bool:
        """As the original stream."""
        return self._original.isatty()

    def fileno(self) -> int:
        """As the original stream. Text written there is not captured."""
        return self._original.fileno()

    def writable(self) -> bool:
        """Returns true."""
        return True

    def __getattr__(self, name: str) -> Any:
        # Such as `buffer` and `reconfigure`: text written there is not captured.
        return getattr(self._original, name)


class Capture:
    """Replaces `sys.stdout` and `sys.stderr` by tees, and restores them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._before: tuple[TextIO, TextIO] | None = None
        self._tees: tuple[TextIO, TextIO] | None = None

    def install(self) -> None:
        """Installs the tees."""
        self._before = (sys.stdout, sys.stderr)
        out: Any = Tee("stdout", sys.stdout, self._sink)
        err: Any = Tee("stderr", sys.stderr, self._sink)
        self._tees = (out, err)
        sys.stdout, sys.stderr = self._tees

    def remove(self) -> None:
        """Restores the streams."""
        if self._before is None or self._tees is None:
            return
        # Only where the tee is still installed: other code may have replaced it.
        if sys.stdout is self._tees[0]:
            sys.stdout = self._before[0]
        if sys.stderr is self._tees[1]:
            sys.stderr = self._before[1]
        self._before = None
