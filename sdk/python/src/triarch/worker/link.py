"""A worker's line to the masters: one connection, which follows the leader.

Every call has a deadline, and can be given up from another thread. A call that fails at one master is tried at the next, as often
as its deadline allows; all calls of a worker are safe to repeat. Which master leads is shared by all lines of a worker.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger("triarch.worker")

#: Pauses between two rounds over all masters.
PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 0.5
#: One master is not waited for longer than this beyond what the call asks it to hold its answer.
MASTER_PATIENCE_S = 3.0
#: A connection that was idle for longer is not trusted: whoever was at its other end may be gone without a word.
IDLE_MAX_S = 15.0
CONNECT_PATIENCE_S = 1.0


class Unanswered(Exception):
    """No master answered within the deadline. Nothing is known of what came of it; asking again is safe."""


class Abandoned(Exception):
    """The call was given up by another thread."""


class Refusal(Exception):
    """The cluster answered, with something else than success."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.code = str(problem.get("code") or "")
        super().__init__(f"{problem.get('detail') or problem.get('title') or 'refused'} ({self.code}, HTTP {status})")


class Masters:
    """Where the masters are, and which of them led when it was last heard. Shared by the lines of a worker."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._urls = list(dict.fromkeys(urls))
        if not self._urls:
            raise ValueError("a worker needs at least one master's URL")
        self._leader: str | None = None

    @property
    def leader(self) -> str | None:
        """Who led when it was last heard."""
        return self._leader

    def led_by(self, url: str) -> None:
        """This one has just answered what only a leader answers."""
        if self._leader != url:
            with self._lock:
                self._leader = url
                if url not in self._urls:
                    self._urls.append(url)

    def not_led_by(self, url: str) -> None:
        """This one does not answer, or does not lead."""
        with self._lock:
            if self._leader == url:
                self._leader = None

    def learn(self, urls: Iterable[str]) -> None:
        """These are the masters; those that were named at the beginning stay."""
        with self._lock:
            self._urls = list(dict.fromkeys([*self._urls, *urls]))[:64]

    def round(self) -> list[str]:
        """Whom to ask, in order."""
        with self._lock:
            first = [self._leader] if self._leader is not None else []
            return [*first, *(url for url in self._urls if url not in first)]


class Link:
    """See the module. Used by one thread at a time; `abandon` by any."""

    def __init__(self, masters: Masters, name: str) -> None:
        self._masters = masters
        self._name = name
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._url: str | None = None
        self._used_at = 0.0
        self._abandoned = False
        self._calling = False
        self._closed = False

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        deadline_s: float,
        hold_s: float = 0.0,
        request_id: str | None = None,
        patience_s: float = MASTER_PATIENCE_S,
    ) -> dict[str, Any]:
        """Asks until there is an answer. `hold_s` is how long a master may hold it when all is well.

        One that has not answered `patience_s` after that is passed over.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if request_id is not None:
            headers["triarch-request-id"] = request_id
        with self._lock:
            if self._closed:
                raise Abandoned
            self._abandoned = False
            self._calling = True
        try:
            return self._ask_around(method, path, body, headers, time.monotonic() + deadline_s + hold_s, hold_s + patience_s)
        finally:
            self._calling = False

    def abandon(self) -> None:
        """Has a call that is under way return at once, as `Abandoned`."""
        with self._lock:
            if not self._calling:
                return
            self._abandoned = True
            self._break()

    def close(self) -> None:
        """Ends what is under way, and takes no more calls."""
        with self._lock:
            self._closed = self._abandoned = True
            self._break()

    def _break(self) -> None:
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _ask_around(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], deadline: float, patience_s: float
    ) -> dict[str, Any]:
        pause = PAUSE_MIN_S
        last = "none was tried"
        while True:
            urls = self._masters.round()
            redirects = 5
            while urls:
                url = urls.pop(0)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Unanswered(last)
                try:
                    status, answer, location = self._ask(url, method, path, body, headers, min(left, patience_s))
                except (OSError, http.client.HTTPException) as error:
                    self._drop()
                    if self._abandoned:
                        raise Abandoned from None
                    self._masters.not_led_by(url)
                    last = f"{url}: {error or type(error).__name__}"
                    continue
                if status == 307 and location is not None:
                    target = urlsplit(location)
                    leader = f"{target.scheme}://{target.netloc}"
                    self._masters.not_led_by(url)
                    last = f"{url}: says {leader} leads"
                    redirects -= 1
                    if redirects > 0:
                        urls = [leader, *(one for one in urls if one != leader)]
                    continue
                problem = _parse(answer)
                if 200 <= status < 300:
                    self._masters.led_by(url)
                    return problem
                refusal = Refusal(status, problem)
                if status < 500:
                    raise refusal
                # 503, 504 and 507: asked again, here or elsewhere.
                last = f"{url}: {refusal}"
                self._masters.not_led_by(url)
            if time.monotonic() + pause >= deadline:
                raise Unanswered(last)
            if self._abandoned:
                raise Abandoned
            time.sleep(pause)
            pause = min(pause * 1.5, PAUSE_MAX_S)

    def _ask(
        self, url: str, method: str, path: str, body: bytes | None, headers: dict[str, str], patience: float
    ) -> tuple[int, bytes, str | None]:
        reused = self._connection is not None and self._url == url and time.monotonic() - self._used_at < IDLE_MAX_S
        try:
            return self._ask_once(url, method, path, body, headers, patience)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not reused or self._abandoned:
                raise
            # The other end had closed a connection that was kept: that says nothing of the master.
            self._drop()
            return self._ask_once(url, method, path, body, headers, patience)

    def _ask_once(
        self, url: str, method: str, path: str, body: bytes | None, headers: dict[str, str], patience: float
    ) -> tuple[int, bytes, str | None]:
        connection = self._connect(url, patience)
        sock = connection.sock
        if sock is not None:
            sock.settimeout(patience)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        self._used_at = time.monotonic()
        location = answer.headers.get("Location")
        if answer.will_close:
            self._drop()
        return answer.status, data, location

    def _connect(self, url: str, patience: float) -> http.client.HTTPConnection:
        if self._connection is not None and self._url == url and time.monotonic() - self._used_at < IDLE_MAX_S:
            return self._connection
        self._drop()
        target = urlsplit(url)
        kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
        connection = kind(target.hostname or "", target.port, timeout=min(patience, CONNECT_PATIENCE_S))
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connection, self._url = connection, url
            if self._abandoned:
                self._break()
        return connection

    def _drop(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data) if data else {}
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return {"code": "", "detail": "an answer that is no JSON object; is this a Triarch master?"}
    return answer
