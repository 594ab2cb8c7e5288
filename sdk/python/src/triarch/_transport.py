"""The wire, synchronously: ``http.client``, with connections kept per process and thread.

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
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from ._policy import ANSWER_BYTES_MAX, Answer, Attempts, Call, Masters, Patience, parse_masters
from .errors import ProtocolError

__all__ = ["Stream", "Transport", "after_fork"]

# A connection that was idle for longer is not worth the risk of a peer that is gone without a word.
_IDLE_S = 15.0
_VERSION = "triarch-python/0.1.0"


class _Connection(http.client.HTTPConnection):
    """One kept connection, and when it was used last."""

    used_s = 0.0

    def stale(self, now_s: float) -> bool:
        """Whether the peer has closed it, or it was idle for too long."""
        if self.sock is None:
            return False
        if now_s - self.used_s > _IDLE_S:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLERR | select.POLLHUP)
        # Nothing may come before something is asked, so whatever there is to read is the end.
        return bool(poll.poll(0))


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
            _send(connection, call, call.headers, timeout_s)
            yield Stream(connection, connection.getresponse())
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
        url = urlsplit(master)
        connection = _Connection(url.hostname or "", url.port, timeout=self.patience.connect_timeout_s)
        try:
            connection.connect()
        except OSError as error:
            raise _Unreachable(_words(error)) from None
        return connection

    def _exchange(
        self, call: Call, master: str, headers: Any, timeout_s: float, stop: int | None
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
                response = _ask(connection, call, headers, timeout_s, stop)
            except (ConnectionError, http.client.BadStatusLine):
                if not reused:
                    raise
                # Closed by the peer while it was asked. Every call may be repeated, so this costs no try.
                connection.close()
                connection = self._connect(master)
                response = _ask(connection, call, headers, timeout_s, stop)
            body = response.read(ANSWER_BYTES_MAX + 1)
            if len(body) > ANSWER_BYTES_MAX:
                raise ProtocolError(f"{master}: the answer is longer than {ANSWER_BYTES_MAX} bytes")
            told = {name.lower(): value for name, value in response.headers.items()}
            keep = not response.will_close and response.isclosed()
        except BaseException:
            connection.close()
            raise
        if keep:
            connection.used_s = time.monotonic()
            connections[master] = connection
        else:
            connection.close()
        return response.status, told, body


class Stream:
    """An answer that is read as it comes."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
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
    connection: http.client.HTTPConnection, call: Call, headers: Any, timeout_s: float, stop: int | None
) -> http.client.HTTPResponse:
    _send(connection, call, headers, timeout_s)
    if stop is not None:
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        poll.register(stop, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(timeout_s * 1000)]
        if not ready:
            raise TimeoutError
        if ready == [stop]:
            raise _Stopped
    return connection.getresponse()


def _send(connection: http.client.HTTPConnection, call: Call, headers: Any, timeout_s: float) -> None:
    sock = connection.sock
    assert isinstance(sock, socket.socket)
    sock.settimeout(timeout_s)
    told = {"user-agent": _VERSION, **headers}
    if call.body is not None and "content-type" not in told:
        told["content-type"] = "application/json"
    connection.request(call.method, call.target, call.body, told)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
