"""HTTP/1.1 client protocol without I/O: a request encoder and an incremental response parser.

The only HTTP stack of the package. :mod:`triarch._http.transport` moves the bytes by blocking sockets, and
:mod:`triarch._http.async_transport` by an event loop. Neither reads nor writes a header itself.

# Invariants

* Nothing here does I/O, sleeps, or reads a clock.
* Memory is bounded: by ``body_bytes_max`` for the body, by ``LINE_BYTES_MAX`` and ``HEADERS_MAX`` for the head.
* A connection is reused only after a complete response with no bytes left over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ..errors import ProtocolError, UsageError

__all__ = ["BadStatusLine", "ConnectionLost", "MalformedResponse", "ResponseParser", "encode_request"]

LINE_BYTES_MAX = 65_536
HEADERS_MAX = 100
USER_AGENT = "triarch-python/0.1.0"

_QUOTE_BYTES_MAX = 100
_SPACE = " \t\r"
_VERSION_PREFIX = "HTTP/1."
_STATUS = re.compile(r"[1-9][0-9]{2}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class MalformedResponse(Exception):
    """Received bytes are no HTTP/1.1 response, or end in the middle of one."""


class BadStatusLine(MalformedResponse):
    """The first line of the response is no HTTP/1.1 status line."""


class ConnectionLost(ConnectionError):
    """The peer closed the connection before the first byte of a response."""


def encode_request(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Returns the whole request, so that one system call can send it.

    Two writes may each cost a switch of threads.
    """
    fields = {"host": host, "user-agent": USER_AGENT, **headers}
    if body is not None:
        fields.setdefault("content-type", "application/json")
    if body is not None or method != "GET":
        fields["content-length"] = str(len(body or b""))
    lines = [f"{name}: {value}" for name, value in fields.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise UsageError("a header of a request has a line break in it")
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "\r\n"]).encode("latin-1", "replace")
    return head + body if body else head


class ResponseParser:
    """Incremental parser of one response.

    ``feed`` takes bytes as they arrive, ``feed_eof`` the end of the connection. ``body_bytes_max`` bounds the body. ``None``
    is for streams, whose reader takes the body piece by piece with ``take_body``.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_buffer",
        "_max",
        "_peer",
        "_remaining",
        "_step",
        "complete",
        "headers",
        "keep_alive",
        "status",
    )

    def __init__(self, peer: str, body_bytes_max: int | None) -> None:
        self._peer = peer
        self._max = body_bytes_max
        self._buffer = bytearray()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._remaining = 0
        # A plain function, for a bound method would make a reference cycle.
        self._step: Callable[[ResponseParser], bool] = ResponseParser._read_head
        #: The status code, 0 until the head is complete.
        self.status = 0
        #: Header values by name in lower case.
        self.headers: dict[str, str] = {}
        #: Whether the whole response has arrived.
        self.complete = False
        #: Whether the connection can carry another request after this response.
        self.keep_alive = False

    def feed(self, data: bytes) -> bool:
        """Takes received bytes. Returns whether the response is complete.

        Raises :class:`MalformedResponse`, or :class:`~triarch.errors.ProtocolError` when a bound is exceeded.
        """
        self._buffer += data
        while not self.complete and self._step(self):
            pass
        if self.complete and self._buffer:
            # Unrequested bytes would be taken for the next response.
            self.keep_alive = False
        return self.complete

    def feed_eof(self) -> None:
        """Takes the end of the connection, which ends a response without a length and cuts off any other."""
        if self.complete:
            return
        if self._step in (ResponseParser._read_until_close, ResponseParser._read_trailer):
            self.complete, self.keep_alive = True, False
        elif self.status:
            raise MalformedResponse(f"the response was cut off after {self._body_bytes} bytes of its body")
        elif self._buffer:
            raise BadStatusLine(f"the connection was closed after {bytes(self._buffer[:_QUOTE_BYTES_MAX])!r}")
        else:
            raise ConnectionLost("closed without an answer")

    def body(self) -> bytes:
        """Returns the whole body."""
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def take_body(self) -> bytes:
        """Returns the part of the body that arrived since the last call."""
        taken, self._body = b"".join(self._body), []
        return taken

    # Steps: each returns whether it made progress, and so whether the next one may run. --------------------------------

    def _read_head(self) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        after = end + 4
        bare = buffer.find(b"\n\n", 0, end if end >= 0 else len(buffer))
        if bare >= 0:
            end, after = bare, bare + 2
        if end < 0:
            self._check_partial_head()
            return False
        lines = buffer[:end].decode("latin-1").split("\n")
        del buffer[:after]
        status, http_1_0 = self._parse_status_line(lines[0])
        if len(lines) - 1 > HEADERS_MAX:
            raise MalformedResponse(f"the head of the response has more than {HEADERS_MAX} headers")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or len(line) >= LINE_BYTES_MAX:
                raise MalformedResponse(f"the head of the response has the line {line[:_QUOTE_BYTES_MAX]!r}")
            headers[name.strip(_SPACE).lower()] = value.strip(_SPACE)
        if 100 <= status < 200:
            # Interim: the final response follows.
            return True
        self.status, self.headers = status, headers
        self.keep_alive = not http_1_0 and headers.get("connection", "").lower() != "close"
        self._begin_body()
        return True

    def _check_partial_head(self) -> None:
        """Refuses a peer that speaks something else before its whole greeting has arrived."""
        buffer = self._buffer
        if not _VERSION_PREFIX.startswith(buffer[: len(_VERSION_PREFIX)].decode("latin-1")):
            raise BadStatusLine(f"the response begins with {bytes(buffer[:_QUOTE_BYTES_MAX])!r}")
        if len(buffer) - buffer.rfind(b"\n") > LINE_BYTES_MAX:
            raise MalformedResponse(f"a line of the head of the response is longer than {LINE_BYTES_MAX} bytes")
        if buffer.count(b"\n") > HEADERS_MAX + 1:
            raise MalformedResponse(f"the head of the response has more than {HEADERS_MAX} headers")

    def _parse_status_line(self, line: str) -> tuple[int, bool]:
        version, _, rest = line.partition(" ")
        status = rest.strip(_SPACE).partition(" ")[0]
        if not version.startswith(_VERSION_PREFIX) or not _STATUS.fullmatch(status):
            raise BadStatusLine(f"the response begins with {line[:_QUOTE_BYTES_MAX]!r}")
        return int(status), version == "HTTP/1.0"

    def _begin_body(self) -> None:
        headers = self.headers
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._step = ResponseParser._read_chunk_size
            return
        length = headers.get("content-length")
        if length is None:
            if self.status in (204, 304):
                self.complete = True
            else:
                # It ends where the connection does.
                self.keep_alive = False
                self._step = ResponseParser._read_until_close
            return
        if not _LENGTH.fullmatch(length):
            raise MalformedResponse(f"the response has a length of {length[:_QUOTE_BYTES_MAX]!r}")
        self._remaining = int(length)
        self._check_size(self._remaining)
        self.complete = self._remaining == 0
        self._step = ResponseParser._read_counted

    def _read_counted(self) -> bool:
        if not self._take_counted():
            return False
        self.complete = True
        return True

    def _read_until_close(self) -> bool:
        self._check_size(len(self._buffer))
        self._remaining = len(self._buffer)
        self._take_counted()
        return False

    def _read_chunk_size(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        size = line.split(b";", 1)[0].strip()
        if not _CHUNK_SIZE.fullmatch(size):
            raise MalformedResponse(f"a chunk of the response has a size of {size[:20]!r}")
        self._remaining = int(size, 16)
        if self._remaining == 0:
            self._step = ResponseParser._read_trailer
        else:
            self._check_size(self._remaining)
            self._step = ResponseParser._read_chunk
        return True

    def _read_chunk(self) -> bool:
        if not self._take_counted():
            return False
        self._step = ResponseParser._read_chunk_end
        return True

    def _read_chunk_end(self) -> bool:
        if self._take_line() is None:
            return False
        self._step = ResponseParser._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        self.complete = not line.strip()
        return True

    def _take_counted(self) -> bool:
        """Moves up to ``_remaining`` bytes to the body. Returns whether that were all of them."""
        buffer, remaining = self._buffer, self._remaining
        if buffer:
            piece = bytes(buffer[:remaining])
            del buffer[:remaining]
            self._body.append(piece)
            self._body_bytes += len(piece)
            self._remaining = remaining - len(piece)
        return self._remaining == 0

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if max(end, len(self._buffer) if end < 0 else 0) >= LINE_BYTES_MAX:
            raise MalformedResponse(f"a line of the response is longer than {LINE_BYTES_MAX} bytes")
        if end < 0:
            return None
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def _check_size(self, more_bytes: int) -> None:
        if self._max is not None and self._body_bytes + more_bytes > self._max:
            raise ProtocolError(f"{self._peer}: the answer is longer than {self._max} bytes")
