"""Blocking HTTP transport: requests over sockets, with keep-alive connections per process and thread.

It moves bytes only. The protocol is :mod:`triarch._http.protocol`. :mod:`triarch._http.policy` decides which master is
asked, how often and for how long. Clients and workers share this transport.

# Invariants

* A connection belongs to one thread of one process. A forked child makes its own.
* A connection that the master has closed is detected before it is used, so a restarted master costs no try.
* An interrupted exchange closes its connection, so no half-read response is left behind.
* Nothing needs ``select.poll``, which eventlet removes, nor a file descriptor below 1,024.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from .policy import RESPONSE_BYTES_MAX, MasterList, Request, Response, RetryPolicy, RetryState, Try, parse_masters
from .protocol import BadStatusLine, MalformedResponse, ResponseParser, encode_request

__all__ = ["Cancellation", "RequestCancelled", "Stream", "Transport", "after_fork", "fetch"]

# A connection that was idle for longer may have lost its peer without notice.
IDLE_MAX_S = 15.0
_RECEIVE_BYTES = 65_536


class RequestCancelled(Exception):
    """Another thread cancelled the request. It is unknown whether the request took effect."""


class Cancellation:
    """Cancellation handle of requests: ends the one in progress from another thread.

    The handle stays cancelled until ``reset``. A request with a cancelled handle ends at once. Cancelling shuts the socket
    down, which wakes the thread that reads from it. This works for every kind of socket and costs an exchange no further system
    call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._socket: socket.socket | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether ``cancel`` was called since the last ``reset``."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ends the request in progress, and every later one until ``reset``."""
        with self._lock:
            self._cancelled.set()
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Allows requests again."""
        self._cancelled.clear()

    def check(self) -> None:
        """Raises :class:`RequestCancelled` if the handle is cancelled."""
        if self._cancelled.is_set():
            raise RequestCancelled

    def pause(self, seconds: float) -> None:
        """Sleeps. Raises :class:`RequestCancelled` as soon as the handle is cancelled."""
        if self._cancelled.wait(seconds):
            raise RequestCancelled

    def attach(self, sock: socket.socket) -> None:
        """Makes ``cancel`` shut this socket down."""
        with self._lock:
            self.check()
            self._socket = sock

    def detach(self) -> None:
        """Undoes ``attach``."""
        with self._lock:
            self._socket = None


class _Unreachable(Exception):
    """The connection attempt failed: the request has certainly not arrived."""


class _Connection:
    """One keep-alive connection to a master."""

    __slots__ = ("host", "sock", "used_s")

    def __init__(self, master: str, timeout_s: float) -> None:
        url = urlsplit(master)
        self.host = url.netloc
        self.sock = socket.create_connection((url.hostname or "", url.port or 80), timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.used_s = time.monotonic()

    def is_stale(self) -> bool:
        """Returns whether the peer has closed the connection, or it was idle for too long."""
        if time.monotonic() - self.used_s > IDLE_MAX_S:
            return True
        self.sock.settimeout(0)
        try:
            # Nothing may arrive before a request, so whatever can be read is the end.
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def send(self, request: Request, attempt: Try) -> None:
        """Sends the whole request."""
        data = encode_request(request.method, request.target, self.host, attempt.headers, request.body)
        self.sock.settimeout(attempt.timeout_s)
        self.sock.sendall(data)

    def receive(self, body_bytes_max: int | None = RESPONSE_BYTES_MAX) -> ResponseParser:
        """Receives a whole response."""
        parser = ResponseParser(self.host, body_bytes_max)
        receive = self.sock.recv
        while not parser.complete:
            if data := receive(_RECEIVE_BYTES):
                parser.feed(data)
            else:
                parser.feed_eof()
        return parser

    def close(self) -> None:
        self.sock.close()


class _Connections(threading.local):
    """The keep-alive connections of one thread, by master."""

    def __init__(self) -> None:
        self.idle: dict[str, _Connection] = {}


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def after_fork() -> None:
    """Makes every transport of a forked child open connections of its own."""
    for transport in list(_transports):
        transport.forget_connections()


class Transport:
    """Sends requests to a cluster. Shared by all threads of a process."""

    def __init__(self, masters: str | Iterable[str], policy: RetryPolicy | None = None) -> None:
        self.masters = MasterList(parse_masters(masters))
        self.policy = policy or RetryPolicy()
        self._connections = _Connections()
        _transports.add(self)

    def call(self, request: Request, cancellation: Cancellation | None = None) -> Response:
        """Sends the request until it is answered.

        Raises a :class:`~triarch.errors.TriarchError` if it is refused or the deadline has passed, and
        :class:`RequestCancelled` when ``cancellation`` ends it.
        """
        state = RetryState(self.masters, self.policy, request, time.monotonic())
        while True:
            attempt = state.next_try(time.monotonic())
            if cancellation is not None:
                cancellation.check()
            if attempt.pause_s > 0:
                if cancellation is None:
                    time.sleep(attempt.pause_s)
                else:
                    cancellation.pause(attempt.pause_s)
            try:
                answer = self._exchange(request, attempt, cancellation)
            except _Unreachable as error:
                state.on_unreachable(str(error))
            except TimeoutError:
                state.on_no_response(f"no answer within {attempt.timeout_s:.3g} s")
            except (OSError, MalformedResponse) as error:
                if cancellation is not None:
                    cancellation.check()
                state.on_no_response(_message(error))
            else:
                response = state.on_response(answer.status, answer.headers, answer.body())
                if response is not None:
                    return response

    def json(self, request: Request) -> Any:
        """Sends the request and returns the parsed body of its response."""
        return self.call(request).json()

    @contextlib.contextmanager
    def stream(self, request: Request, master: str, timeout_s: float) -> Iterator[Stream]:
        """Makes one try at one master, and yields its response while it arrives, on a connection of its own."""
        try:
            connection = self._connect(master, timeout_s)
        except _Unreachable as error:
            raise ConnectionError(str(error)) from None
        try:
            connection.send(request, Try(master, request.headers, 0.0, timeout_s))
            yield Stream(connection)
        finally:
            connection.close()

    def close(self) -> None:
        """Closes the connections of the calling thread. Those of other threads end with their threads."""
        for connection in self._connections.idle.values():
            connection.close()
        self._connections.idle.clear()

    def forget_connections(self) -> None:
        """Drops the connections of the parent in a forked child."""
        self._connections = _Connections()
        self.masters.after_fork()

    def _connect(self, master: str, timeout_s: float) -> _Connection:
        try:
            return _Connection(master, min(self.policy.connect_timeout_s, timeout_s))
        except OSError as error:
            raise _Unreachable(_message(error)) from None

    def _exchange(self, request: Request, attempt: Try, cancellation: Cancellation | None) -> ResponseParser:
        idle = self._connections.idle
        # Out of the dictionary while it is in use: whatever interrupts this leaves no half-read connection behind.
        connection = idle.pop(attempt.master, None)
        if connection is not None and connection.is_stale():
            connection.close()
            connection = None
        is_reused = connection is not None
        if connection is None:
            connection = self._connect(attempt.master, attempt.timeout_s)
        try:
            try:
                answer = _round_trip(connection, request, attempt, cancellation)
            except (ConnectionError, BadStatusLine):
                if not is_reused or (cancellation is not None and cancellation.is_cancelled):
                    raise
                # The peer closed a kept connection at that moment. Every request may be repeated, so this costs no try.
                connection.close()
                connection = self._connect(attempt.master, attempt.timeout_s)
                answer = _round_trip(connection, request, attempt, cancellation)
        except BaseException:
            connection.close()
            raise
        if answer.keep_alive and not (cancellation is not None and cancellation.is_cancelled):
            connection.used_s = time.monotonic()
            idle[attempt.master] = connection
        else:
            connection.close()
        return answer


class Stream:
    """A response that is read while it arrives."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._parser = ResponseParser(connection.host, None)
        self._buffer = bytearray()
        while not self._parser.status:
            self._receive()
        self.status = self._parser.status
        self.headers = self._parser.headers

    def readline(self, bytes_max: int = 1 << 20) -> bytes:
        """Returns the next line, at most ``bytes_max`` bytes of it. The line is empty at the end."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0 and len(self._buffer) < bytes_max:
            searched = len(self._buffer)
            if not self._receive():
                break
        return self._take(min(end + 1 if end >= 0 else bytes_max, bytes_max))

    def read(self, bytes_max: int) -> bytes:
        """Returns the next ``bytes_max`` bytes, fewer at the end."""
        while len(self._buffer) < bytes_max and self._receive():
            pass
        return self._take(bytes_max)

    def _receive(self) -> bool:
        """Receives more of the response. Returns whether the response continues."""
        if self._parser.complete:
            return False
        if data := self._connection.sock.recv(_RECEIVE_BYTES):
            self._parser.feed(data)
        else:
            self._parser.feed_eof()
        self._buffer += self._parser.take_body()
        return True

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def fetch(master: str, request: Request, timeout_s: float) -> Response:
    """Makes one try at one master, on a connection of its own.

    Returns whatever the master answers. Raises :class:`OSError` or :class:`~triarch._http.protocol.MalformedResponse` otherwise.
    """
    connection = _Connection(master, timeout_s)
    try:
        answer = _round_trip(connection, request, Try(master, request.headers, 0.0, timeout_s), None)
    finally:
        connection.close()
    return Response(answer.status, answer.headers, answer.body(), master)


def _round_trip(connection: _Connection, request: Request, attempt: Try, cancellation: Cancellation | None) -> ResponseParser:
    if cancellation is None:
        connection.send(request, attempt)
        return connection.receive()
    cancellation.attach(connection.sock)
    try:
        connection.send(request, attempt)
        return connection.receive()
    finally:
        cancellation.detach()


def _message(error: BaseException) -> str:
    return str(error) or type(error).__name__
