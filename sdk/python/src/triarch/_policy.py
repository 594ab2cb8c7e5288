"""How one logical call finds its answer: as many tries as it takes, inside one deadline, under one request id.

Pure decisions, no sockets, no clocks of its own: :mod:`triarch._transport` and :mod:`triarch._aio` ask what to try next and
tell what came of it. What holds:

* A change carries a request id that is the same in every try, so asking again never makes it happen twice.
* The master that answered last is asked first, and asked to redirect rather than forward; once something has gone wrong, any
  master may forward.
* Silence is never told as a failure: :class:`~triarch.errors.Timeout` carries the id to ask again by.
"""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .errors import NoLeader, ProtocolError, Refused, Timeout, TriarchError, UsageError, refusal

__all__ = ["Answer", "Attempts", "Call", "Masters", "Patience", "Try", "new_request_id", "parse_masters", "path"]

_ROUND_WAIT_MIN_S = 0.02
_ROUND_WAIT_MAX_S = 0.5
# A Retry-After beyond this is cut: the call has a deadline of its own.
_RETRY_AFTER_MAX_S = 10.0
# Two masters that think the other leads must not keep a call busy.
_REDIRECTS_MAX = 4
_QUOTE_CHARS_MAX = 200
# So many masters are remembered beyond those given.
_LEARNED_MAX = 16

ANSWER_BYTES_MAX = 256 << 20


def parse_masters(masters: str | Iterable[str]) -> list[str]:
    """Reads ``"http://a:7101,b:7102"``, or several such texts; a missing scheme means ``http``.

    The base URLs come out in one form, each once, in the order given.
    """
    texts = [masters] if isinstance(masters, str) else list(masters)
    found: list[str] = []
    for part in (part.strip() for text in texts for part in text.split(",")):
        if part and (base := _base_url(part)) not in found:
            found.append(base)
    if not found:
        raise UsageError("at least one master is needed, such as http://127.0.0.1:7101")
    return found


def _base_url(text: str) -> str:
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme != "http":
        raise UsageError(f"{text}: masters are spoken to over http, not {url.scheme}")
    try:
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UsageError(f"{text} is not a master's URL: {error}") from None
    if not host:
        raise UsageError(f"{text}: the host is missing")
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port or 80}"


def path(*segments: str) -> str:
    """The path of a route under ``/v1``, with every segment escaped."""
    for segment in segments:
        if segment in ("", ".", ".."):
            raise refusal({"code": "not_found", "status": 404, "detail": f'"{segment}" is not an id'})
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def new_request_id() -> str:
    """A name for one logical change."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Patience:
    """How patient a client is, in seconds."""

    #: How long one call may take with all its tries.
    deadline_s: float = 30.0
    #: How long to go on while no master even accepts a connection, so that a wrong address is told soon.
    unreachable_deadline_s: float = 5.0
    #: How long to wait for a connection.
    connect_timeout_s: float = 1.0
    #: How long the first try waits for its answer, beyond what it is held for; each after a silent one twice as long.
    answer_timeout_s: float = 3.0


@dataclass(frozen=True)
class Call:
    """What to ask. ``target`` is the path with its query."""

    method: str
    target: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Names one logical change, over all tries.
    request_id: str | None = None
    #: The cluster was asked to hold its answer for so long.
    hold_s: float = 0.0
    #: Its own deadline instead of the client's; ``hold_s`` comes on top of either.
    deadline_s: float | None = None
    #: Goes on until the deadline even while no master accepts a connection.
    patient: bool = False
    #: Whether silence leaves something unknown.
    changes: bool = True

    @staticmethod
    def get(target: str, query: Mapping[str, Any] | None = None, *, hold_s: float = 0.0, **more: Any) -> Call:
        """A question; parameters that are ``None`` are left out."""
        asked = {name: _word(value) for name, value in (query or {}).items() if value is not None}
        target = f"{target}?{urlencode(asked)}" if asked else target
        return Call("GET", target, hold_s=hold_s, patient=hold_s > 0, changes=False, **more)

    @staticmethod
    def change(method: str, target: str, body: Any = None, *, request_id: str | None = None, **more: Any) -> Call:
        """A change, under a request id of its own unless one is given. ``body`` is JSON, as bytes or as a value."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        return Call(method, target, body, request_id=request_id or new_request_id(), **more)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@dataclass(frozen=True)
class Answer:
    """A success. ``headers`` have names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    master: str

    def json(self) -> Any:
        """The body, read."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ProtocolError(f"{self.master} answered what is not JSON: {error}: {_quoted(self.body)}") from None

    @property
    def index(self) -> int | None:
        """The log index that the answer stands for."""
        text = self.headers.get("triarch-index")
        return int(text) if text and text.isdigit() else None


class Masters:
    """The masters known, in a fixed order, and the one that answered last. Shared by threads."""

    def __init__(self, given: Iterable[str]) -> None:
        self._known = list(given)
        self._given = len(self._known)
        self._start = self._known[0]
        self._answered = False
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Another thread may have held the lock when the process forked."""
        self._lock = threading.Lock()

    def all(self) -> list[str]:
        """All that are known."""
        with self._lock:
            return list(self._known)

    def count(self) -> int:
        """How many are known."""
        return len(self._known)

    def first(self) -> str:
        """Where a call starts."""
        return self._start

    def preferred(self) -> str | None:
        """Who is asked first, if it answered the latest call it got."""
        with self._lock:
            return self._start if self._answered else None

    def after(self, master: str) -> str:
        """Where a call goes on after ``master`` failed it."""
        with self._lock:
            return self._after(master)

    def _after(self, master: str) -> str:
        if master not in self._known:
            return self._known[0]
        return self._known[(self._known.index(master) + 1) % len(self._known)]

    def prefer(self, master: str) -> None:
        """``master`` answered: it is asked first from now on."""
        if self._start == master and self._answered:
            return
        with self._lock:
            self._start = master
            self._answered = True

    def forget(self, master: str) -> None:
        """``master`` failed: unless another took its place meanwhile, calls start with the next."""
        with self._lock:
            if self._start == master:
                self._start = self._after(master)
                self._answered = False

    def learn(self, learned: Iterable[str]) -> None:
        """Replaces what was learned before by these; those given at the start stay."""
        with self._lock:
            self._known = self._known[: self._given]
            for master in list(learned)[:_LEARNED_MAX]:
                if master not in self._known:
                    self._known.append(master)


@dataclass(frozen=True)
class Try:
    """What to do next: after a pause, ask this master."""

    master: str
    headers: Mapping[str, str]
    pause_s: float
    timeout_s: float


class Attempts:
    """The tries of one call. Ask :meth:`next`, do it, tell what came of it; until :meth:`answered` gives an answer."""

    def __init__(self, masters: Masters, patience: Patience, call: Call, now_s: float) -> None:
        self._masters = masters
        self._patience = patience
        self._call = call
        self._begun_s = now_s
        deadline_s = patience.deadline_s if call.deadline_s is None else call.deadline_s
        self._deadline_s = deadline_s + call.hold_s
        self._master = masters.first()
        self._answer_timeout_s = patience.answer_timeout_s
        self._redirects = 0
        self._failures_this_round = 0
        self._round_wait_s = _ROUND_WAIT_MIN_S
        self._pause_s = 0.0
        self._tried: dict[str, str] = {}
        self._reached = False
        self._unknown = False
        self._refused: Refused | None = None

    def next(self, now_s: float) -> Try:
        """What to try now; raises when the deadline has passed."""
        passed_s = now_s - self._begun_s
        left_s = self._deadline_s - passed_s
        hopeless = (
            self._tried and not self._reached and not self._call.patient and passed_s >= self._patience.unreachable_deadline_s
        )
        if left_s <= 0 or hopeless:
            raise self._end()
        pause_s = min(self._pause_s, left_s)
        self._pause_s = 0.0
        headers = dict(self._call.headers)
        if self._call.request_id is not None:
            headers["triarch-request-id"] = self._call.request_id
        if not self._tried:
            headers["triarch-forward"] = "never"
        timeout_s = max(0.001, min(left_s - pause_s, self._answer_timeout_s + self._call.hold_s))
        return Try(self._master, headers, pause_s, timeout_s)

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """A whole answer came. Gives it if it is a success, raises if it is final, else there is more to try."""
        if 200 <= status < 300:
            self._masters.prefer(self._master)
            return Answer(status, headers, body, self._master)
        if status in (307, 308):
            self._redirected(headers.get("location", ""))
            return None
        problem = _problem(status, body)
        told = _told(status, problem, body)
        if status in (429, 503) or (status == 507 and "retry-after" in headers):
            self._not_now(told, problem, headers)
        elif status in (502, 504):
            self.silent(told)
        elif status == 507:
            # The disk of this one failed, and it is stopping.
            self.silent(told)
        elif problem is not None:
            self._masters.prefer(self._master)
            raise refusal(problem)
        else:
            raise ProtocolError(f"{self._master}: {told}")
        return None

    def unreachable(self, message: str) -> None:
        """It never arrived."""
        self._masters.forget(self._master)
        self._tell(message)
        self._refused = None
        self._go_on(self._masters.after(self._master))

    def silent(self, message: str) -> None:
        """It may have arrived; whether it took effect is unknown."""
        self._masters.forget(self._master)
        self._tell(message)
        self._reached = True
        self._unknown = True
        self._refused = None
        self._answer_timeout_s *= 2
        self._go_on(self._masters.after(self._master))

    def _redirected(self, location: str) -> None:
        try:
            to = _base_url(location)
        except UsageError:
            raise ProtocolError(f"{self._master} redirects to {location!r}") from None
        self._redirects += 1
        if self._redirects <= _REDIRECTS_MAX:
            self._master = to
        else:
            self._not_now(f"redirects to {to} without end", None, {})

    def _not_now(self, message: str, problem: Mapping[str, Any] | None, headers: Mapping[str, str]) -> None:
        self._tell(message)
        self._reached = True
        self._refused = None if problem is None else refusal(problem)
        pause_s = _asked_pause_s(problem, headers)
        if problem is not None and problem.get("status") == 429:
            # Too much is too much at every door.
            self._failures_this_round = self._masters.count()
            self._go_on(self._master, pause_s)
        else:
            self._masters.forget(self._master)
            self._go_on(self._masters.after(self._master), pause_s)

    def _go_on(self, master: str, pause_s: float = 0.0) -> None:
        self._master = master
        self._redirects = 0
        self._failures_this_round += 1
        if self._failures_this_round >= self._masters.count():
            # Everybody was asked. Nobody is told to wait for the sake of a single master's trouble.
            jittered_s = self._round_wait_s * random.uniform(0.5, 1.0)
            self._pause_s = max(pause_s, jittered_s)
            self._round_wait_s = min(self._round_wait_s * 2, _ROUND_WAIT_MAX_S)
            self._failures_this_round = 0

    def _tell(self, message: str) -> None:
        self._tried[self._master] = message

    def _end(self) -> TriarchError:
        if self._unknown and self._call.changes:
            return Timeout(self._deadline_s, self._call.request_id, self._tried)
        if self._refused is not None and self._refused.code != "no_leader":
            return self._refused
        if self._unknown:
            return Timeout(self._deadline_s, None, self._tried)
        return NoLeader(self._tried)


def _problem(status: int, body: bytes) -> Mapping[str, Any] | None:
    try:
        problem = json.loads(body)
    except ValueError:
        return None
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        return None
    return {**problem, "status": status}


def _told(status: int, problem: Mapping[str, Any] | None, body: bytes) -> str:
    if problem is None:
        return f"HTTP {status}: {_quoted(body)}"
    return f"{problem.get('detail') or problem.get('title') or ''} ({problem['code']}, HTTP {status})"


def _asked_pause_s(problem: Mapping[str, Any] | None, headers: Mapping[str, str]) -> float:
    """How long the cluster asks to be left alone.

    An election is over long before the whole second that Retry-After must round up to, so a missing leader is looked for at
    the client's own pace unless milliseconds are told.
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
