"""Output buffer of one attempt. It is kept for a while after the leader has it, because a new leader has none of it.

# Invariants

* The buffer is bounded. The oldest text is dropped first, and the gap is reported.
* Writing never waits for the cluster.
* A piece is sent again until the leader has it or refuses it.
* Offsets count bytes of UTF-8.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

#: Output of one attempt that is kept.
BYTES_MAX = 256 << 10
#: Pieces are joined up to this size, and cut at it.
PIECE_BYTES_MAX = 8 << 10

STREAMS = ("stdout", "stderr")


@dataclass(slots=True)
class Piece:
    """Text of one stream, with its offset in the stream."""

    stream: str
    offset: int
    text: bytes

    @property
    def end(self) -> int:
        """Offset of the next piece."""
        return self.offset + len(self.text)


@dataclass(slots=True)
class OutputBatch:
    """Pieces of one request. `gaps` marks those that do not follow on what was sent before."""

    pieces: list[Piece]
    gaps: list[bool]
    upto: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(piece.text) for piece in self.pieces)


class Output:
    """See the module."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._lock = threading.Lock()
        self._bytes_max = bytes_max
        self._pieces: deque[Piece] = deque()
        self._bytes = 0
        self._ends: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self._sent: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self._sent_again = False
        self._gap = False
        self._unwanted = False

    def write(self, stream: str, text: str) -> None:
        """Appends to a stream."""
        data = text.encode("utf-8", "replace")
        if not data:
            return
        with self._lock:
            last = self._pieces[-1] if self._pieces else None
            if last is not None and last.stream == stream and len(last.text) + len(data) <= PIECE_BYTES_MAX:
                last.text += data
                self._ends[stream] += len(data)
                self._bytes += len(data)
            else:
                for piece in _cut(data):
                    self._pieces.append(Piece(stream, self._ends[stream], piece))
                    self._ends[stream] += len(piece)
                    self._bytes += len(piece)
            while self._bytes > self._bytes_max:
                self._bytes -= len(self._pieces.popleft().text)

    @property
    def has_unsent(self) -> bool:
        """Whether there is unsent output."""
        return not self._unwanted and self._ends != self._sent

    def take(self, bytes_max: int) -> OutputBatch | None:
        """Returns unsent output, up to a bound."""
        with self._lock:
            if self._unwanted:
                return None
            at = dict(self._sent)
            pieces: list[Piece] = []
            gaps: list[bool] = []
            size = 0
            whole = True
            for kept in self._pieces:
                if kept.end <= self._sent[kept.stream]:
                    continue
                if pieces and size + len(kept.text) > bytes_max:
                    whole = False
                    break
                skip = max(0, self._sent[kept.stream] - kept.offset)
                piece = Piece(kept.stream, kept.offset + skip, kept.text[skip:])
                gaps.append(self._gap or piece.offset != at[piece.stream])
                at[piece.stream] = piece.end
                pieces.append(piece)
                size += len(piece.text)
            if whole:
                at = dict(self._ends)
            if not pieces:
                # Everything unsent has been dropped.
                self._sent = at
                return None
            return OutputBatch(pieces, gaps, at)

    def settle(self, sent: OutputBatch, ends: dict[str, Any] | None) -> None:
        """Applies the leader's acknowledgement of a batch. `None` says that the leader refuses output of this attempt."""
        with self._lock:
            if ends is None:
                self._unwanted = True
                return
            has = {stream: int(ends.get(stream) or 0) for stream in STREAMS}
            lacks = any(has[stream] < sent.upto[stream] for stream in STREAMS)
            if lacks and not self._sent_again:
                # Most likely the leader has changed.
                self._sent_again = True
                self._sent = has
            else:
                self._sent = dict(sent.upto)
                self._gap = lacks

    def send_again(self) -> None:
        """Marks everything as unsent, for a new leader."""
        with self._lock:
            self._sent = dict.fromkeys(STREAMS, 0)
            self._sent_again = False
            self._gap = False
            self._unwanted = False


def _cut(data: bytes) -> list[bytes]:
    """Splits a long text into pieces, between characters."""
    pieces = []
    at = 0
    while len(data) - at > PIECE_BYTES_MAX:
        end = at + PIECE_BYTES_MAX
        while data[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(data[at:end])
        at = end
    pieces.append(data[at:])
    return pieces
