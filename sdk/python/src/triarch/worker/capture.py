"""Has what tasks print and log go to those who watch them, and to the worker's own streams as before.

What is captured is what goes through `sys.stdout` and `sys.stderr`, and so `print`, `logging`, `warnings` and tracebacks. What C
code and other programs write to the file descriptors goes to the worker's own output alone.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

#: Writes (stream, text) of whatever attempt the caller runs in; tells whether it runs in one.
Sink = Callable[[str, str], bool]


class Tee(io.TextIOBase):
    """A text stream that passes everything on, and shows it to a sink."""

    def __init__(self, stream: str, original: TextIO, sink: Sink) -> None:
        super().__init__()
        self._stream = stream
        self._original = original
        self._sink = sink

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream behind."""
        return self._original.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the stream behind."""
        return self._original.errors

    def write(self, text: str) -> int:
        """Shows the text, and passes it on."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._sink(self._stream, text)
        return self._original.write(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """As `write`, for each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Of the stream behind."""
        self._original.flush()

    def isatty(self) -> bool:
        """Of the stream behind."""
        return self._original.isatty()

    def fileno(self) -> int:
        """Of the stream behind: what is written there is not captured."""
        return self._original.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    def __getattr__(self, name: str) -> Any:
        # Such as `buffer` and `reconfigure`: what is written there is not captured.
        return getattr(self._original, name)


class Capture:
    """Puts tees in the places of `sys.stdout` and `sys.stderr`, and takes them away again."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._before: tuple[TextIO, TextIO] | None = None
        self._tees: tuple[TextIO, TextIO] | None = None

    def install(self) -> None:
        """Puts them in."""
        self._before = (sys.stdout, sys.stderr)
        out: Any = Tee("stdout", sys.stdout, self._sink)
        err: Any = Tee("stderr", sys.stderr, self._sink)
        self._tees = (out, err)
        sys.stdout, sys.stderr = self._tees

    def remove(self) -> None:
        """Takes them away."""
        if self._before is None or self._tees is None:
            return
        # Only what is still there: somebody may have put streams of their own on top.
        if sys.stdout is self._tees[0]:
            sys.stdout = self._before[0]
        if sys.stderr is self._tees[1]:
            sys.stderr = self._before[1]
        self._before = None
