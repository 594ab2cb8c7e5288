"""The wire, synchronously: HTTP/1.1 over sockets, with connections kept per process and thread.

Safe after a fork: a child makes connections of its own. A connection that the master has closed meanwhile is noticed before
it is used, so a restarted master costs nothing. Which master is asked, how often and for how long is decided by
:mod:`triarch._policy`.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ._policy import ANSWER_BYTES_MAX, Answer, Attempts, Call, Masters, Patience, parse_masters
from .errors import ProtocolError, UsageError

__all__ = ["Stream", "Transport", "after_fork"]

# A connection that was idle for longer is not worth the risk of a peer that is gone without a word.
_IDLE_S = 15.0
_LINE_BYTES_MAX = 65_536
_HEADERS_MAX = 100
_VERSION = "triarch-python/0.1.0"


class _Connection:
    """One kept connection, and when it was used last."""

    __slots__ = ("host", "reader", "sock", "used_s")

    def __init__(self, master: str, timeout_s: float) -> None:
        url = urlsplit(master)
        self.host = url.netloc
        self.sock = socket.create_connection((url.hostname or "", url.port or 80), timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.sock.makefile("rb")
        self.used_s = time.monotonic()

    def stale(self, now_s: float) -> bool:
        """Whether the peer has closed it, or it was idle for too long."""
        if now_s - self.used_s > _IDLE_S:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLERR | select.POLLHUP)
        # Nothing may come before something is asked, so whatever there is to read is the end.
        return bool(poll.poll(0))

    def send(self, call: Call, headers: Mapping[str, str], timeout_s: float) -> None:
        """Sends the whole request with one system call; ``http.client`` takes two, and each may cost a change of threads."""
        told = {"host": self.host, "user-agent": _VERSION, **headers}
        if call.body is not None:
            told.setdefault("content-type", "application/json")
        if call.body is not None or call.method != "GET":
            told["content-length"] = str(len(call.body or b""))
        lines = [f"{name}: {value}" for name, value in told.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise UsageError("a header of a request has a line break in it")
        head = "\r\n".join([f"{call.method} {call.target} HTTP/1.1", *lines, "\r\n"]).encode("latin-1", "replace")
        self.sock.settimeout(timeout_s)
        self.sock.sendall(head + (call.body or b""))

    def receive(self) -> tuple[int, dict[str, str], bytes, bool]:
        """A whole answer, and whether the connection can be used again.

        Reads what masters send, in a third of the time that the general reader of ``http.client`` takes; anything else is
        refused in its words.
        """
        status = 100
        words: list[bytes] = []
        headers: dict[str, str] = {}
        while status == 100:
            line = self._line()
            if not line:
                raise http.client.RemoteDisconnected("closed without an answer")
            words = line.split(None, 2)
            if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
                raise http.client.BadStatusLine(repr(line[:100]))
            status = int(words[1])
            headers = {}
            while (line := self._line()) not in (b"\r\n", b"\n"):
                name, colon, value = line.partition(b":")
                if not colon or len(headers) >= _HEADERS_MAX:
                    raise http.client.HTTPException("the head of the answer is cut off, or not one")
                headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
        keep = headers.get("connection", "").lower() != "close" and words[0] != b"HTTP/1.0"
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return status, headers, self._chunks(), keep
        length = headers.get("content-length")
        if length is None:
            # It ends where the connection does.
            empty = status in (204, 304)
            return status, headers, b"" if empty else self._exactly(ANSWER_BYTES_MAX + 1, whole=False), keep and empty
        if not length.isdigit():
            raise http.client.HTTPException(f"the answer has a length of {length!r}")
        return status, headers, self._exactly(int(length)), keep

    def _line(self) -> bytes:
        line = self.reader.readline(_LINE_BYTES_MAX)
        if len(line) >= _LINE_BYTES_MAX:
            raise http.client.LineTooLong("head of the answer")
        return line

    def _exactly(self, count: int, *, whole: bool = True) -> bytes:
        if count > ANSWER_BYTES_MAX + (not whole):
            raise ProtocolError(f"{self.host}: the answer is longer than {ANSWER_BYTES_MAX} bytes")
        body = self.reader.read(count)
        if whole and len(body) < count:
            raise http.client.IncompleteRead(body[:100], count - len(body))
        if len(body) > ANSWER_BYTES_MAX:
            raise ProtocolError(f"{self.host}: the answer is longer than {ANSWER_BYTES_MAX} bytes")
        return body

    def _chunks(self) -> bytes:
        chunks: list[bytes] = []
        left = ANSWER_BYTES_MAX
        while True:
            size = self._line().split(b";", 1)[0].strip()
            try:
                count = int(size, 16)
            except ValueError:
                raise http.client.HTTPException(f"a chunk of the answer has a size of {size[:20]!r}") from None
            if count <= 0:
                while self._line() not in (b"\r\n", b"\n", b""):
                    pass
                return b"".join(chunks)
            left -= count
            chunks.append(self._exactly(count if left >= 0 else ANSWER_BYTES_MAX + 1))
            self._line()

    def stream(self, call: Call) -> http.client.HTTPResponse:
        """An answer that is read as it comes."""
        response = http.client.HTTPResponse(self.sock, method=call.method)
        response.begin()
        return response

    def close(self) -> None:
        self.reader.close()
        self.sock.close()


class _Unreachable(Exception):
    """It never arrived."""


class _Stopped(Exception):
    """Nobody waits for the answer any more."""


class _Kept(threading.local):
    """The connections of one thread."""

    def __init__(self) -> None:
        self.connections: dict[str, _Connection] = {}


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def after_fork() -> None:
    """In a child: all of them make connections of their own."""
    for transport in list(_transports):
        transport.forget_connections()


class Transport:
    """Makes calls to a cluster. Shared by all threads of a process."""

    def __init__(self, masters: str | Iterable[str], patience: Patience | None = None) -> None:
        self.masters = Masters(parse_masters(masters))
        self.patience = patience or Patience()
        self._kept = _Kept()
        _transports.add(self)

    def call(self, call: Call) -> Answer:
        """Makes the call and gives its answer; raises a :class:`~triarch.errors.TriarchError` otherwise."""
        answer = self.call_unless(call, None)
        assert answer is not None
        return answer

    def call_unless(self, call: Call, stop: int | None) -> Answer | None:
        """As :meth:`call`; but gives ``None`` as soon as there is something to read from the file descriptor ``stop``."""
        attempts = Attempts(self.masters, self.patience, call, time.monotonic())
        while True:
            do = attempts.next(time.monotonic())
            if do.pause_s > 0:
                time.sleep(do.pause_s)
            try:
                status, headers, body = self._exchange(call, do.master, do.headers, do.timeout_s, stop)
            except _Stopped:
                return None
            except _Unreachable as error:
                attempts.unreachable(str(error))
                continue
            except TimeoutError:
                attempts.silent(f"no answer within {do.timeout_s:.3g} s")
                continue
            except (OSError, http.client.HTTPException) as error:
                attempts.silent(_words(error))
                continue
            answer = attempts.answered(status, headers, body)
            if answer is not None:
                return answer

    def json(self, call: Call) -> Any:
        """Makes the call and reads its answer."""
        return self.call(call).json()

    @contextlib.contextmanager
    def stream(self, call: Call, master: str, timeout_s: float) -> Iterator[Stream]:
        """One try at one master, whose answer is read as it comes, on a connection of its own."""
        try:
            connection = self._connect(master)
        except _Unreachable as error:
            raise ConnectionError(str(error)) from None
        try:
            connection.send(call, call.headers, timeout_s)
            yield Stream(connection.stream(call))
        finally:
            connection.close()

    def close(self) -> None:
        """Closes the connections of the calling thread; those of others go with their threads."""
        for connection in self._kept.connections.values():
            connection.close()
        self._kept.connections.clear()

    def forget_connections(self) -> None:
        """In a child after a fork: the parent's connections are the parent's."""
        self._kept = _Kept()
        self.masters.after_fork()

    def _connect(self, master: str) -> _Connection:
        try:
            return _Connection(master, self.patience.connect_timeout_s)
        except OSError as error:
            raise _Unreachable(_words(error)) from None

    def _exchange(
        self, call: Call, master: str, headers: Mapping[str, str], timeout_s: float, stop: int | None
    ) -> tuple[int, dict[str, str], bytes]:
        connections = self._kept.connections
        # Out of the dictionary while it is in use: whatever interrupts this leaves no half-read connection behind.
        connection = connections.pop(master, None)
        reused = connection is not None
        if connection is not None and connection.stale(time.monotonic()):
            connection.close()
            connection, reused = None, False
        if connection is None:
            connection = self._connect(master)
        try:
            try:
                status, told, body, keep = _ask(connection, call, headers, timeout_s, stop)
            except (ConnectionError, http.client.BadStatusLine):
                if not reused:
                    raise
                # Closed by the peer while it was asked. Every call may be repeated, so this costs no try.
                connection.close()
                connection = self._connect(master)
                status, told, body, keep = _ask(connection, call, headers, timeout_s, stop)
        except BaseException:
            connection.close()
            raise
        if keep:
            connection.used_s = time.monotonic()
            connections[master] = connection
        else:
            connection.close()
        return status, told, body


class Stream:
    """An answer that is read as it comes."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    def readline(self, bytes_max: int = 1 << 20) -> bytes:
        """The next line; empty at the end."""
        return self._response.readline(bytes_max)

    def read(self, bytes_max: int) -> bytes:
        """Up to so many bytes; empty at the end."""
        return self._response.read(bytes_max)


def _ask(
    connection: _Connection, call: Call, headers: Mapping[str, str], timeout_s: float, stop: int | None
) -> tuple[int, dict[str, str], bytes, bool]:
    connection.send(call, headers, timeout_s)
    if stop is not None:
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        poll.register(stop, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(timeout_s * 1000)]
        if not ready:
            raise TimeoutError
        if ready == [stop]:
            raise _Stopped
    return connection.receive()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
