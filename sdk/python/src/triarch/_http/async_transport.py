"""HTTP transport for asyncio: the same protocol, policy and list of masters as :mod:`triarch._http.transport`.

It moves bytes by the streams of an event loop. The protocol is :mod:`triarch._http.protocol`. Each event loop has
connections of its own, made at first use.

# Invariants

* Connections belong to one event loop of one process. A forked child makes its own.
* At most ``CONNECTIONS_MAX`` connections per event loop are open, to all masters together. Further requests wait for one, and the
  connection that was idle for longest is closed for a new one to another master.
* A cancelled or timed-out exchange aborts its connection, so no half-read response is left behind.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from typing import Any, cast
from urllib.parse import urlsplit

from .policy import RESPONSE_BYTES_MAX, Request, Response, RetryState, Try
from .protocol import BadStatusLine, ConnectionLost, MalformedResponse, ResponseParser, encode_request
from .transport import IDLE_MAX_S, Transport

__all__ = ["AsyncTransport"]

CONNECTIONS_MAX = 64


class _Unreachable(Exception):
    """The connection attempt failed: the request has certainly not arrived."""


class _Connection(asyncio.Protocol):
    """One keep-alive connection to a master, used for one exchange at a time."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.used_s = 0.0
        self.is_closed = False
        self._transport: asyncio.Transport | None = None
        self._parser: ResponseParser | None = None
        self._answer: asyncio.Future[ResponseParser] | None = None

    async def exchange(self, request: Request, attempt: Try) -> ResponseParser:
        """Sends the request and returns its whole response."""
        loop = asyncio.get_running_loop()
        assert self._transport is not None
        if self.is_closed:
            raise ConnectionLost("closed without an answer")
        self._parser = ResponseParser(self.host, RESPONSE_BYTES_MAX)
        answer: asyncio.Future[ResponseParser] = loop.create_future()
        self._answer = answer
        self._transport.write(encode_request(request.method, request.target, self.host, attempt.headers, request.body))
        try:
            return await answer
        finally:
            self._answer = self._parser = None

    def fail(self, error: BaseException) -> None:
        """Ends the exchange in progress with this error."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def abort(self) -> None:
        """Closes the connection at once."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._answer is None or self._answer.done():
            # Nothing may arrive before a request.
            self.abort()
            return
        try:
            if self._parser.feed(data):
                self._answer.set_result(self._parser)
        except Exception as error:
            self.fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if exc is not None:
            self.fail(exc)
        elif self._parser is not None and self._answer is not None and not self._answer.done():
            try:
                self._parser.feed_eof()
                self._answer.set_result(self._parser)
            except Exception as cut_off:
                self.fail(cut_off)


class _Pool:
    """The connections of one event loop."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._in_use = 0
        self._idle: dict[str, list[_Connection]] = {}

    def take(self, master: str) -> _Connection | None:
        """Returns an idle connection, the one used last, if there is one that is not stale. Otherwise there is room for a new one.

        Each call is followed by one of :meth:`give_back`.
        """
        self._in_use += 1
        idle = self._idle.get(master, [])
        while idle:
            connection = idle.pop()
            if not connection.is_closed and time.monotonic() - connection.used_s <= IDLE_MAX_S:
                return connection
            connection.abort()
        self._close_surplus()
        return None

    def give_back(self, master: str, connection: _Connection | None) -> None:
        """Keeps a connection for the next request, unless it is `None`: then it was closed."""
        self._in_use -= 1
        if connection is None:
            return
        connection.used_s = time.monotonic()
        idle = self._idle.setdefault(master, [])
        idle.append(connection)
        while idle[0].is_closed or connection.used_s - idle[0].used_s > IDLE_MAX_S:
            idle.pop(0).abort()

    def _close_surplus(self) -> None:
        while self._in_use + sum(map(len, self._idle.values())) > CONNECTIONS_MAX:
            min(filter(None, self._idle.values()), key=lambda idle: idle[0].used_s).pop(0).abort()

    def close(self) -> None:
        """Closes the idle connections."""
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()


class AsyncTransport:
    """Sends requests to a cluster from coroutines of any event loop."""

    def __init__(self, transport: Transport) -> None:
        self.masters = transport.masters
        self.policy = transport.policy
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = weakref.WeakKeyDictionary()

    async def call(self, request: Request) -> Response:
        """Sends the request until it is answered. Raises a :class:`~triarch.errors.TriarchError` otherwise."""
        state = RetryState(self.masters, self.policy, request, time.monotonic())
        while True:
            attempt = state.next_try(time.monotonic())
            if attempt.pause_s > 0:
                await asyncio.sleep(attempt.pause_s)
            try:
                answer = await self._exchange(request, attempt)
            except _Unreachable as error:
                state.on_unreachable(str(error))
            except (asyncio.TimeoutError, TimeoutError):
                state.on_no_response(f"no answer within {attempt.timeout_s:.3g} s")
            except (OSError, MalformedResponse) as error:
                state.on_no_response(_message(error))
            else:
                response = state.on_response(answer.status, answer.headers, answer.body())
                if response is not None:
                    return response

    async def json(self, request: Request) -> Any:
        """Sends the request and returns the parsed body of its response."""
        return (await self.call(request)).json()

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None and pool.pid == os.getpid():
            pool.close()
            # The event loop closes the sockets in its next turn.
            await asyncio.sleep(0)

    def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.pid != os.getpid():
            # Connections of the parent stay untouched: closing them here would disturb the parent's event loop.
            pool = self._pools[loop] = _Pool()
        return pool

    async def _exchange(self, request: Request, attempt: Try) -> ResponseParser:
        pool = self._pool()
        async with pool.slots:
            connection = pool.take(attempt.master)
            kept = None
            try:
                is_reused = connection is not None
                if connection is None:
                    connection = await self._connect(attempt)
                try:
                    answer = await _timed_exchange(connection, request, attempt)
                except (ConnectionError, BadStatusLine):
                    if not is_reused:
                        raise
                    # The peer closed a kept connection at that moment. Every request may be repeated, so this costs no try.
                    connection.abort()
                    connection = await self._connect(attempt)
                    answer = await _timed_exchange(connection, request, attempt)
                if answer.keep_alive and not connection.is_closed:
                    kept = connection
                return answer
            finally:
                if kept is None and connection is not None:
                    connection.abort()
                pool.give_back(attempt.master, kept)

    async def _connect(self, attempt: Try) -> _Connection:
        url = urlsplit(attempt.master)
        loop = asyncio.get_running_loop()
        try:
            _, connection = await asyncio.wait_for(
                loop.create_connection(lambda: _Connection(url.netloc), url.hostname or "", url.port or 80),
                min(self.policy.connect_timeout_s, attempt.timeout_s),
            )
        except (OSError, asyncio.TimeoutError) as error:
            raise _Unreachable(_message(error)) from None
        return connection


async def _timed_exchange(connection: _Connection, request: Request, attempt: Try) -> ResponseParser:
    # A timer instead of asyncio.wait_for, which would start a task for each exchange.
    timer = asyncio.get_running_loop().call_later(attempt.timeout_s, connection.fail, TimeoutError())
    try:
        return await connection.exchange(request, attempt)
    finally:
        timer.cancel()


def _message(error: BaseException) -> str:
    return str(error) or type(error).__name__
