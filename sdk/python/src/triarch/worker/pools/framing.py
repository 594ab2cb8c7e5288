"""Framing between the worker and its pool processes: length-prefixed, marshalled plain data over a socket pair.

Marshal, because both ends are the same Python interpreter, and it is the fastest serializer between two of them.
"""

from __future__ import annotations

import marshal
import struct
from typing import Any

_HEAD = struct.Struct("<I")


def frame(*message: Any) -> bytes:
    """Encodes a message of plain data."""
    data = marshal.dumps(message)
    return _HEAD.pack(len(data)) + data


class FrameDecoder:
    """Incremental decoder of frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[tuple[Any, ...]]:
        """Takes received bytes. Returns the messages that are complete."""
        self._bytes += data
        messages = []
        at = 0
        size = len(self._bytes)
        while size - at >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._bytes, at)
            end = at + _HEAD.size + length
            if end > size:
                break
            messages.append(marshal.loads(self._bytes[at + _HEAD.size : end]))
            at = end
        if at:
            del self._bytes[:at]
        return messages
