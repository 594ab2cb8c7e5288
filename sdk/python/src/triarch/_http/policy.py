"""Retry policy, list of masters, and the state machine of one request's tries. No I/O and no clock of its own.

Only this module decides which master is asked next, after which pause, and when to give up. The drivers
:mod:`triarch._http.transport` (sockets) and :mod:`triarch._http.async_transport` (asyncio) ask :class:`RetryState` for
the next try, make it, and report the result. Workers use the same policy through :mod:`triarch.worker.connection`.

# Invariants

* A change carries the same request id in every try, so that a repeated try never takes effect twice.
* The first try goes to the master that answered last, and asks for a redirect instead of forwarding. Every further try may
  be forwarded.
* A request that is not safe to repeat ends with its first unknown outcome.
* Silence is never reported as a failure: :class:`~triarch.errors.Timeout` carries the request id for a safe repetition.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .._values import json_reader
from ..errors import NoLeader, ProtocolError, Refused, Timeout, TriarchError, UsageError, refusal
from ..options import encoded

__all__ = [
    "MasterList",
    "Patience",
    "Request",
    "Response",
    "RetryPolicy",
    "RetryState",
    "Try",
    "new_request_id",
    "parse_masters",
    "path",
]

# The pause after a round over all masters without success. It doubles up to the maximum.
_ROUND_PAUSE_MIN_S = 0.02
_ROUND_PAUSE_MAX_S = 0.5
# A longer Retry-After is cut, because the request has a deadline of its own.
_RETRY_AFTER_MAX_S = 10.0
# Two masters that each take the other for the leader must not keep a request busy.
_REDIRECTS_MAX = 4
_QUOTE_CHARS_MAX = 200
# Discovered masters that are kept in addition to the configured ones.
_DISCOVERED_MAX = 16

RESPONSE_BYTES_MAX = 256 << 20


def parse_masters(masters: str | Iterable[str]) -> list[str]:
    """Parses ``"http://a:7101,b:7102"``, or several such texts. Default scheme: ``http``.

    Returns the base URLs in one normal form, without duplicates, in the order given.
    """
    texts = [masters] if isinstance(masters, str) else list(masters)
    found: list[str] = []
    for part in (part.strip() for text in texts for part in text.split(",")):
        if part and (base := _base_url(part)) not in found:
            found.append(base)
    if not found:
        raise UsageError("no master is named; name at least one, such as http://127.0.0.1:7101")
    return found


def _base_url(text: str) -> str:
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme != "http":
        raise UsageError(f"{text}: masters use http, not {url.scheme}; write http://HOST:PORT")
    try:
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UsageError(f"{text} is not a master's URL: {error}; write http://HOST:PORT") from None
    if not host:
        raise UsageError(f"{text}: the host is missing; write http://HOST:PORT")
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port or 80}"


def path(*segments: str) -> str:
    """Returns the path of a route under ``/v1``, with every segment escaped."""
    for segment in segments:
        if segment in ("", ".", ".."):
            raise refusal({"code": "not_found", "status": 404, "detail": f'"{segment}" is not an id'})
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def new_request_id() -> str:
    """Returns a new idempotency key for one change."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class RetryPolicy:
    """Deadlines and timeouts of a client's requests, in seconds. The old name of this class is ``Patience``."""

    #: Deadline of one request, over all its tries.
    deadline_s: float = 30.0
    #: Deadline while no master even accepts a connection, so that a wrong address is reported soon.
    unreachable_deadline_s: float = 5.0
    #: Timeout of one connection attempt.
    connect_timeout_s: float = 1.0
    #: Timeout of the first try, in addition to the time that the cluster may hold the response. It doubles after each silent try.
    answer_timeout_s: float = 3.0


#: The old name of ``RetryPolicy``.
Patience = RetryPolicy


@dataclass(frozen=True)
class Request:
    """One logical request, over all its tries. ``target`` is the path with its query."""

    method: str
    target: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Idempotency key of one change, the same in every try.
    request_id: str | None = None
    #: Time for which the cluster was asked to hold its response (long poll).
    hold_s: float = 0.0
    #: Overrides the policy's deadline. ``hold_s`` comes on top of either.
    deadline_s: float | None = None
    #: Overrides the policy's timeout of the first try. ``hold_s`` comes on top of either.
    answer_timeout_s: float | None = None
    #: Whether tries go on until the deadline although no master accepts a connection.
    retry_unreachable: bool = False
    #: Whether silence leaves it unknown if the request took effect.
    mutates: bool = True
    #: Whether the first try with an unknown outcome ends the request, because a repetition may change something more.
    once: bool = False

    @staticmethod
    def get(target: str, query: Mapping[str, Any] | None = None, *, hold_s: float = 0.0, **more: Any) -> Request:
        """Returns a read. Parameters that are ``None`` are left out."""
        asked = {name: _query_text(value) for name, value in (query or {}).items() if value is not None}
        target = f"{target}?{urlencode(asked)}" if asked else target
        return Request("GET", target, hold_s=hold_s, retry_unreachable=hold_s > 0, mutates=False, **more)

    @staticmethod
    def change(method: str, target: str, body: Any = None, *, request_id: str | None = None, **more: Any) -> Request:
        """Returns a change. Default request id: a new one. ``body`` is JSON, as bytes or as a value."""
        if body is not None and not isinstance(body, bytes):
            body = encoded(body, "a value of the request")
        return Request(method, target, body, request_id=request_id or new_request_id(), **more)


def _query_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@dataclass(frozen=True)
class Response:
    """A successful response. ``headers`` have names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    master: str

    def json(self) -> Any:
        """Returns the body, parsed as JSON by :mod:`triarch._values.json_reader`."""
        try:
            return json_reader.loads(self.body)
        except ValueError as error:
            raise ProtocolError(f"{self.master} returned a body that is not JSON: {error}: {_quoted(self.body)}") from None

    def document(self) -> dict[str, Any]:
        """Returns the body, parsed as a JSON object."""
        document = self.json()
        if not isinstance(document, dict):
            raise ProtocolError(
                f"{self.master} returned a body that is no JSON object; is this a Triarch master?: {_quoted(self.body)}"
            )
        return document

    @property
    def index(self) -> int | None:
        """The log index at which the cluster answered."""
        text = self.headers.get("triarch-index")
        return int(text) if text and text.isdigit() else None


class MasterList:
    """The known masters in a fixed order, and the one that answered last. Shared by threads.

    The master that answered last is the leader, because every other one redirects.
    """

    def __init__(self, configured: Iterable[str]) -> None:
        self._known = list(configured)
        self._configured = len(self._known)
        self._start = self._known[0]
        self._answered = False
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Replaces the lock in a forked child, because another thread may have held it during the fork."""
        self._lock = threading.Lock()

    def all(self) -> list[str]:
        """Returns all known masters."""
        with self._lock:
            return list(self._known)

    def count(self) -> int:
        """Returns the number of known masters."""
        return len(self._known)

    def first(self) -> str:
        """Returns the master that a request tries first."""
        return self._start

    def leader(self) -> str | None:
        """Returns the master that answered last, or ``None`` if it has failed since."""
        with self._lock:
            return self._start if self._answered else None

    def after(self, master: str) -> str:
        """Returns the master to try after ``master`` has failed."""
        with self._lock:
            return self._after(master)

    def _after(self, master: str) -> str:
        if master not in self._known:
            return self._known[0]
        return self._known[(self._known.index(master) + 1) % len(self._known)]

    def record_success(self, master: str) -> None:
        """Makes ``master`` the first choice of all requests from now on."""
        if self._start == master and self._answered:
            return
        with self._lock:
            self._start = master
            self._answered = True

    def record_failure(self, master: str) -> None:
        """Moves the first choice to the next master, unless another one has become it."""
        with self._lock:
            if self._start == master:
                self._start = self._after(master)
                self._answered = False

    def discover(self, found: Iterable[str]) -> None:
        """Replaces the masters discovered before. The configured ones stay."""
        with self._lock:
            known = self._known[: self._configured]
            for master in list(found)[:_DISCOVERED_MAX]:
                if master not in known:
                    known.append(master)
            self._known = known


@dataclass(frozen=True)
class Try:
    """The next try: after a pause, send the request to this master."""

    master: str
    headers: Mapping[str, str]
    pause_s: float
    timeout_s: float


class RetryState:
    """State machine of one request's tries.

    The driver asks for a try with :meth:`next_try`, makes it, and reports its end with one of the other methods. It goes on
    until :meth:`on_response` returns a response or a method raises.
    """

    def __init__(self, masters: MasterList, policy: RetryPolicy, request: Request, now_s: float) -> None:
        self._masters = masters
        self._policy = policy
        self._request = request
        self._begun_s = now_s
        deadline_s = policy.deadline_s if request.deadline_s is None else request.deadline_s
        self._deadline_s = deadline_s + request.hold_s
        self._master = masters.first()
        timeout_s = request.answer_timeout_s
        self._answer_timeout_s = policy.answer_timeout_s if timeout_s is None else timeout_s
        self._redirects = 0
        self._failures_this_round = 0
        self._round_pause_s = _ROUND_PAUSE_MIN_S
        self._pause_s = 0.0
        self._tried: dict[str, str] = {}
        self._reached = False
        self._unknown = False
        self._refused: Refused | None = None

    def next_try(self, now_s: float) -> Try:
        """Returns the next try. Raises when the deadline has passed."""
        passed_s = now_s - self._begun_s
        left_s = self._deadline_s - passed_s
        unreachable = self._tried and not self._reached and not self._request.retry_unreachable
        if left_s <= 0 or (unreachable and passed_s >= self._policy.unreachable_deadline_s):
            raise self._error()
        pause_s = min(self._pause_s, left_s)
        self._pause_s = 0.0
        headers = dict(self._request.headers)
        if self._request.request_id is not None:
            headers["triarch-request-id"] = self._request.request_id
        if not self._tried:
            headers["triarch-forward"] = "never"
        answer_timeout_s = left_s if self._request.once else self._answer_timeout_s + self._request.hold_s
        timeout_s = max(0.001, min(left_s - pause_s, answer_timeout_s))
        return Try(self._master, headers, pause_s, timeout_s)

    def on_response(self, status: int, headers: Mapping[str, str], body: bytes) -> Response | None:
        """Handles a complete response. Returns a success, raises a final refusal, and returns ``None`` when a try is left."""
        if 200 <= status < 300:
            self._masters.record_success(self._master)
            return Response(status, headers, body, self._master)
        if status in (307, 308):
            self._on_redirect(headers.get("location", ""))
            return None
        problem = _problem(status, body)
        message = _message(status, problem, body)
        if status in (429, 503) or (status == 507 and "retry-after" in headers):
            self._on_unavailable(message, problem, headers)
        elif status in (502, 504):
            self.on_no_response(message)
        elif status == 507:
            # The disk of this master failed, and it is stopping.
            self.on_no_response(message)
        elif problem is not None:
            self._masters.record_success(self._master)
            raise refusal(problem)
        else:
            raise ProtocolError(f"{self._master}: {message}", status=status)
        return None

    def on_unreachable(self, message: str) -> None:
        """Handles a failed connection attempt: the request has certainly not arrived."""
        self._masters.record_failure(self._master)
        self._tried[self._master] = message
        self._refused = None
        self._try_next(self._masters.after(self._master))

    def on_no_response(self, message: str) -> None:
        """Handles a request that was sent and got no response: it is unknown whether it took effect."""
        self._masters.record_failure(self._master)
        self._tried[self._master] = message
        self._reached = True
        self._unknown = True
        self._refused = None
        if self._request.once:
            raise self._error()
        self._answer_timeout_s *= 2
        self._try_next(self._masters.after(self._master))

    def _on_redirect(self, location: str) -> None:
        try:
            to = _base_url(location)
        except UsageError:
            raise ProtocolError(f"{self._master} redirects to {location!r}") from None
        self._redirects += 1
        if self._redirects <= _REDIRECTS_MAX:
            self._master = to
        else:
            self._on_unavailable(f"too many redirects, the last one to {to}", None, {})

    def _on_unavailable(self, message: str, problem: Mapping[str, Any] | None, headers: Mapping[str, str]) -> None:
        self._tried[self._master] = message
        self._reached = True
        self._refused = None if problem is None else refusal(problem)
        pause_s = _retry_after_s(problem, headers)
        if problem is not None and problem.get("status") == 429:
            # The limit is the cluster's: no other master would accept the request.
            self._failures_this_round = self._masters.count()
            self._try_next(self._master, pause_s)
        else:
            self._masters.record_failure(self._master)
            self._try_next(self._masters.after(self._master), pause_s)

    def _try_next(self, master: str, pause_s: float = 0.0) -> None:
        self._master = master
        self._redirects = 0
        self._failures_this_round += 1
        if self._failures_this_round >= self._masters.count():
            # The round is over. Before its end no try waits, because the trouble may be one master's alone.
            jittered_s = self._round_pause_s * random.uniform(0.5, 1.0)
            self._pause_s = max(pause_s, jittered_s)
            self._round_pause_s = min(self._round_pause_s * 2, _ROUND_PAUSE_MAX_S)
            self._failures_this_round = 0

    def _error(self) -> TriarchError:
        if self._unknown and self._request.mutates:
            # A repetition is safe only for a request that is not sent once.
            request_id = None if self._request.once else self._request.request_id
            return Timeout(self._deadline_s, request_id, self._tried)
        if self._refused is not None and self._refused.code != "no_leader":
            return self._refused
        if self._unknown:
            return Timeout(self._deadline_s, None, self._tried)
        return NoLeader(self._tried)


def _problem(status: int, body: bytes) -> Mapping[str, Any] | None:
    try:
        problem = json_reader.loads(body)
    except ValueError:
        return None
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        return None
    return {**problem, "status": status}


def _message(status: int, problem: Mapping[str, Any] | None, body: bytes) -> str:
    if problem is None:
        return f"HTTP {status}: {_quoted(body)}"
    return f"{problem.get('detail') or problem.get('title') or ''} ({problem['code']}, HTTP {status})"


def _retry_after_s(problem: Mapping[str, Any] | None, headers: Mapping[str, str]) -> float:
    """Returns the pause that the cluster asks for.

    ``retry_after_ms`` of the problem wins over ``Retry-After``, which counts whole seconds. For a missing leader only
    milliseconds count, because an election takes far less than a second.
    """
    if problem is not None and isinstance(problem.get("retry_after_ms"), (int, float)):
        return min(float(problem["retry_after_ms"]) / 1000, _RETRY_AFTER_MAX_S)
    if problem is not None and problem.get("code") == "no_leader":
        return 0.0
    text = headers.get("retry-after", "")
    return min(float(text), _RETRY_AFTER_MAX_S) if text.isdigit() else 0.0


def _quoted(body: bytes) -> str:
    text = body[: _QUOTE_CHARS_MAX * 4].decode("utf-8", "replace")
    return text if len(text) <= _QUOTE_CHARS_MAX else text[:_QUOTE_CHARS_MAX] + "…"
