"""The wire, for asyncio: the twin of :mod:`triarch._transport` on aiohttp, by the same decisions.

A session belongs to one event loop and one process; each loop gets its own, made at first use. Without aiohttp the calls are made
by threads, which is slower and works as well.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from ._policy import ANSWER_BYTES_MAX, Answer, Attempts, Call
from ._transport import Transport
from .errors import ProtocolError

if TYPE_CHECKING:
    import aiohttp

__all__ = ["AsyncTransport", "available"]

_CONNECTIONS_MAX = 64
_IDLE_S = 15.0


def available() -> bool:
    """Whether aiohttp is installed (``pip install "triarch[async]"``)."""
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        return False
    return True


class AsyncTransport:
    """Makes calls to a cluster from coroutines, of whatever loop."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.masters = transport.masters
        self.patience = transport.patience
        self._available = available()
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, aiohttp.ClientSession]] = (
            weakref.WeakKeyDictionary()
        )

    async def call(self, call: Call) -> Answer:
        """Makes the call and gives its answer; raises a :class:`~triarch.errors.TriarchError` otherwise."""
        if not self._available:
            return await asyncio.to_thread(self._transport.call, call)
        import aiohttp
        import yarl

        session = self._session()
        attempts = Attempts(self.masters, self.patience, call, time.monotonic())
        while True:
            do = attempts.next(time.monotonic())
            if do.pause_s > 0:
                await asyncio.sleep(do.pause_s)
            headers = dict(do.headers)
            if call.body is not None:
                headers.setdefault("content-type", "application/json")
            try:
                async with session.request(
                    call.method,
                    yarl.URL(do.master + call.target, encoded=True),
                    data=call.body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=do.timeout_s, sock_connect=self.patience.connect_timeout_s),
                ) as response:
                    if (response.content_length or 0) > ANSWER_BYTES_MAX:
                        raise ProtocolError(f"{do.master}: the answer is longer than {ANSWER_BYTES_MAX} bytes")
                    body = await response.read()
                    status = response.status
                    told = {name.lower(): value for name, value in response.headers.items()}
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                attempts.unreachable(str(error) or type(error).__name__)
                continue
            except (asyncio.TimeoutError, TimeoutError):
                attempts.silent(f"no answer within {do.timeout_s:.3g} s")
                continue
            except (aiohttp.ClientError, OSError) as error:
                attempts.silent(str(error) or type(error).__name__)
                continue
            answer = attempts.answered(status, told, body)
            if answer is not None:
                return answer

    async def json(self, call: Call) -> Any:
        """Makes the call and reads its answer."""
        return (await self.call(call)).json()

    async def close(self) -> None:
        """Closes the session of the running loop."""
        found = self._sessions.pop(asyncio.get_running_loop(), None)
        if found is not None and found[0] == os.getpid():
            await found[1].close()

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp

        loop = asyncio.get_running_loop()
        found = self._sessions.get(loop)
        if found is not None and found[0] == os.getpid() and not found[1].closed:
            return found[1]
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX, keepalive_timeout=_IDLE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        self._sessions[loop] = (os.getpid(), session)
        return session
