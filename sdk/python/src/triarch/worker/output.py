"""What an attempt writes, kept until the leader has it and a while longer: a new leader begins with nothing.

What is kept is bounded, whatever an attempt writes; the oldest is dropped first, and missed openly. Writing never waits for the
cluster. A piece is sent again until the leader says that it has it, or that it does not want it. Places count bytes of UTF-8.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

#: So much of one attempt's output is kept.
BYTES_MAX = 256 << 10
#: Pieces are joined up to this size, and cut at it.
PIECE_BYTES_MAX = 8 << 10

STREAMS = ("stdout", "stderr")


@dataclass(slots=True)
class Piece:
    """Text of one stream, and where in the stream it begins."""

    stream: str
    offset: int
    text: bytes

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + len(self.text)


@dataclass(slots=True)
class Sending:
    """Pieces on their way. `gaps` says which of them do not follow on what was sent before."""

    pieces: list[Piece]
    gaps: list[bool]
    upto: dict[str, int]

    @property
    def size(self) -> int:
        """How many bytes of text."""
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
        """Adds to the end of a stream."""
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
        """Whether there is something to send."""
        return not self._unwanted and self._ends != self._sent

    def take(self, bytes_max: int) -> Sending | None:
        """What the leader has not got, up to a bound."""
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
                # All of it, if there was any, has been dropped.
                self._sent = at
                return None
            return Sending(pieces, gaps, at)

    def settle(self, sent: Sending, ends: dict[str, Any] | None) -> None:
        """The leader's word on what was sent; none, when it wants nothing of this attempt."""
        with self._lock:
            if ends is None:
                self._unwanted = True
                return
            has = {stream: int(ends.get(stream) or 0) for stream in STREAMS}
            lacks = any(has[stream] < sent.upto[stream] for stream in STREAMS)
            if lacks and not self._sent_again:
                # Another leader than before, most likely.
                self._sent_again = True
                self._sent = has
            else:
                self._sent = dict(sent.upto)
                self._gap = lacks

    def send_again(self) -> None:
        """There is a new leader, which has nothing yet."""
        with self._lock:
            self._sent = dict.fromkeys(STREAMS, 0)
            self._sent_again = False
            self._gap = False
            self._unwanted = False


def _cut(data: bytes) -> list[bytes]:
    """Cuts a long text into pieces, between characters."""
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
