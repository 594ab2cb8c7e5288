"""Framing between the worker and its pool processes: length-prefixed, marshalled plain data over a socket pair.

Marshal, because both ends are the same Python interpreter, and it is the fastest serializer between two of them.
"""

from __future__ import annotations

import marshal
import struct
from typing import Any

_HEAD = struct.Struct("<I")
#: Bound of a frame from a pool process: a result or error, or a piece of output. Far above each of them.
CHILD_FRAME_BYTES_MAX = 32 << 20


def frame(*message: Any) -> bytes:
    """Encodes a message of plain data."""
    data = marshal.dumps(message)
    return _HEAD.pack(len(data)) + data


class FrameDecoder:
    """Incremental decoder of frames."""

    def __init__(self, frame_bytes_max: int | None = None) -> None:
        self._bytes = bytearray()
        self._frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes) -> list[tuple[Any, ...]]:
        """Takes received bytes. Returns the messages that are complete.

        Raises ValueError, EOFError or TypeError for bytes that are no frames, which a task may have written to the socket.
        """
        self._bytes += data
        messages = []
        at = 0
        size = len(self._bytes)
        while size - at >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._bytes, at)
            if self._frame_bytes_max is not None and length > self._frame_bytes_max:
                raise ValueError(f"a frame of {length} bytes")
            end = at + _HEAD.size + length
            if end > size:
                break
            message = marshal.loads(self._bytes[at + _HEAD.size : end])
            if type(message) is not tuple or not message or type(message[0]) is not str:
                raise ValueError("a frame that is no message")
            messages.append(message)
            at = end
        if at:
            del self._bytes[:at]
        return messages
