"""Capture of what tasks print and log, in addition to the worker's own streams.

Text written to `sys.stdout` and `sys.stderr` is captured, and so are `print`, `logging`, `warnings` and tracebacks. C code
and other programs write to the file descriptors. Such output goes to the worker's own output alone.

# Invariants

* Writing never fails a task: the worker's own streams may be closed, full, or a pipe without a reader.
* On the worker's own streams each line of a task carries the task's id.
* A forked child captures nothing, because its copy of the worker's state is nobody's. Its text goes to the worker's own streams.
* No thread writes to them during a fork. The lock inside a stream would stay locked in the child, which would wait for it for ever.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from triarch.text import well_formed
from triarch.worker.process.descriptors import private_copy

#: Takes (stream, text) for the attempt that the caller runs in. Returns its task's id, or `None` outside of tasks.
Sink = Callable[[str, str], str | None]

#: Longer text is handled in parts.
_PART_CHARS = 64 << 10
#: A line without an end that is longer is written before its end.
_LINE_CHARS_MAX = 8 << 10
#: Tasks with an unfinished line. More are written as they are.
_LINES_MAX = 10_000

#: Errors of writing to a stream that is closed, full, without a reader, or in use by the same thread.
_FAILURES = (OSError, ValueError, AttributeError, RuntimeError)
#: A pipe that nobody empties blocks its writer. A fork does not wait for it without end.
_FORK_WAIT_S = 5.0

_is_forked = False
_write_lock = threading.RLock()
_forking = threading.local()


def _before_fork() -> None:
    _forking.lock = _write_lock if _write_lock.acquire(timeout=_FORK_WAIT_S) else None


def _after_fork_in_parent() -> None:
    lock, _forking.lock = _forking.lock, None
    if lock is not None:
        lock.release()


def _after_fork() -> None:
    global _is_forked, _write_lock
    _is_forked = True
    _write_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)


class Tee(io.TextIOBase):
    """Text stream that copies everything to a sink."""

    def __init__(self, stream: str, original: TextIO | None, sink: Sink) -> None:
        super().__init__()
        self._stream = stream
        self._original = original
        self._sink = sink
        # Of tasks whose last line has no end yet.
        self._lines: dict[str, str] = {}
        self._has_unflushed = False
        self._binary: _BinaryTee | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the original stream."""
        return getattr(self._original, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """As the original stream."""
        return getattr(self._original, "errors", None)

    @property
    def buffer(self) -> _BinaryTee:
        """The stream of bytes below. It is captured as text, with U+FFFD for what is not UTF-8."""
        if self._binary is None:
            self._binary = _BinaryTee(self, getattr(self._original, "buffer", None))
        return self._binary

    def write(self, text: str) -> int:
        """Writes to the sink and to the original stream."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        size = str.__len__(text)
        if size <= _PART_CHARS:
            self._write(well_formed(text))
        else:
            for begin in range(0, size, _PART_CHARS):
                self._write(well_formed(str.__getitem__(text, slice(begin, begin + _PART_CHARS))))
        return size

    def _write(self, text: str) -> None:
        task = None if _is_forked or not text else self._sink(self._stream, text)
        if task is None:
            self._write_original(text)
        else:
            self._write_lines(task, text)

    def _write_lines(self, task: str, text: str) -> None:
        """Writes complete lines with the task's id, each in one piece, and keeps the rest."""
        text = self._lines.pop(task, "") + text
        end = text.rfind("\n") + 1
        if len(text) - end > _LINE_CHARS_MAX or len(self._lines) >= _LINES_MAX:
            text, end = f"{text}\n", len(text) + 1
        if end < len(text):
            self._lines[task] = text[end:]
        if end:
            self._write_original("".join([f"[{task}] {line}\n" for line in text[: end - 1].split("\n")]))

    def finish(self, task: str) -> None:
        """Ends the last line of a task that has ended."""
        if task in self._lines:
            self._write_lines(task, "\n")

    def _write_original(self, text: str) -> None:
        # Closed, full, or without a reader: that costs the text here, and nothing else.
        self._has_unflushed = True
        with contextlib.suppress(*_FAILURES), _write_lock:
            if self._original is not None:
                self._original.write(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """As `write`, for each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As the original stream."""
        if not self._has_unflushed:
            return
        self._has_unflushed = False
        with contextlib.suppress(*_FAILURES), _write_lock:
            if self._original is not None:
                self._original.flush()

    def close(self) -> None:
        """Does nothing, because other tasks write here too."""

    @property
    def closed(self) -> bool:
        """Returns false."""
        return False

    def isatty(self) -> bool:
        """As the original stream."""
        with contextlib.suppress(*_FAILURES):
            return self._original is not None and self._original.isatty()
        return False

    def fileno(self) -> int:
        """As the original stream. Text written there is not captured."""
        if self._original is None:
            raise io.UnsupportedOperation("fileno: the worker was started without this stream")
        return 1 if self._stream == "stdout" else 2

    def writable(self) -> bool:
        """Returns true."""
        return True

    def detach(self) -> Any:
        """Is refused, because other tasks write here too."""
        raise io.UnsupportedOperation("detach: this stream is shared by all tasks of the worker")

    def reconfigure(self, **_: Any) -> None:
        """Does nothing, because other tasks write here too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def finish_lines(task: str) -> None:
    """Ends the last lines of a task that has ended."""
    for stream in (sys.stdout, sys.stderr):
        if type(stream) is Tee and stream._lines:
            stream.finish(task)


class _BinaryTee(io.RawIOBase):
    """Stream of bytes below a tee."""

    def __init__(self, tee: Tee, original: Any) -> None:
        super().__init__()
        self._tee = tee
        self._original = original
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: Any) -> int:
        """Writes to the sink, as text, and to the original stream."""
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), _PART_CHARS):
            text = self._decoder.decode(bytes(view[begin : begin + _PART_CHARS]))
            if text and not _is_forked:
                self._tee._sink(self._tee._stream, text)
        with contextlib.suppress(*_FAILURES), _write_lock:
            if self._original is not None:
                self._tee.flush()
                self._original.write(view)
                self._tee._has_unflushed = True
        return len(view)

    def flush(self) -> None:
        """As the original stream."""
        self._tee.flush()

    def writable(self) -> bool:
        """Returns true."""
        return True

    def fileno(self) -> int:
        """As the tee."""
        return self._tee.fileno()

    def close(self) -> None:
        """Does nothing, because other tasks write here too."""

    @property
    def closed(self) -> bool:
        """Returns false."""
        return False


def _pass_on(stream: str, text: str) -> str | None:
    """Takes nothing."""
    return None


class Capture:
    """Replaces `sys.stdout` and `sys.stderr` by tees, and restores them."""

    def __init__(self, sink: Sink | None) -> None:
        """Without a sink nothing is captured, and the invariants hold nevertheless."""
        self._sink = sink or _pass_on
        self._before: tuple[TextIO, TextIO] | None = None
        self._tees: tuple[Tee, Tee] | None = None

    def install(self, *, private: bool = False) -> None:
        """Installs the tees. With `private` they write to copies of the descriptors, which closing 1 and 2 does not reach."""
        self._before = (sys.stdout, sys.stderr)
        originals = [private_copy(one) if private else one for one in self._before]
        self._tees = (Tee("stdout", originals[0], self._sink), Tee("stderr", originals[1], self._sink))
        self.restore()

    def restore(self) -> None:
        """Puts the tees back where code has replaced them."""
        if self._tees is not None:
            out: Any = self._tees[0]
            err: Any = self._tees[1]
            if sys.stdout is not out or sys.stderr is not err:
                sys.stdout, sys.stderr = out, err

    def flush(self) -> None:
        """Flushes both streams."""
        if self._tees is not None:
            for tee in self._tees:
                tee.flush()

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
