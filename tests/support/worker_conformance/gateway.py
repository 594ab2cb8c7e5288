"""Gateway between the worker under test and the masters: one listener for each master. It records calls and injects faults."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

#: Headers that concern one connection, or that are set again.
HOP_HEADERS = {"host", "connection", "keep-alive", "content-length", "transfer-encoding", "expect"}
#: Maximum time in seconds of one forwarded call, more than a long poll takes.
FORWARD_TIMEOUT_S = 150.0


@dataclass
class Call:
    """One call of the worker, with its answer."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    begun: float
    #: Path as the worker sent it.
    sent_path: str = ""
    #: What the call is for: `register`, `poll`, `heartbeat`, `report`, `output`, `leave` or `other`.
    route: str = "other"
    #: Id of the worker in the path, as the cluster knows it.
    worker: str = ""
    body: Any = None
    status: int = 0
    answer_headers: list[tuple[str, str]] = field(default_factory=list)
    answer_raw: bytes = b""
    answer: Any = None
    #: Whether the connection was closed instead of an answer.
    lost: bool = False
    ended: float = 0.0

    def running(self) -> list[dict[str, Any]]:
        """Returns the attempts that the worker lists as running."""
        return self._items(self.body, "running")

    def results(self) -> list[dict[str, Any]]:
        """Returns the results that the call carries."""
        return self._items(self.body, "results")

    def tasks(self) -> list[dict[str, Any]]:
        """Returns the tasks in the answer to a poll."""
        return self._items(self.answer, "tasks")

    def holds(self, task: str) -> bool:
        """Returns whether the call lists a task as running."""
        return any(item.get("task") == task for item in self.running())

    @staticmethod
    def _items(body: Any, name: str) -> list[dict[str, Any]]:
        items = body.get(name) if isinstance(body, dict) else None
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


class Rule:
    """A fault, or another change of calls. Both methods run under the lock of the gateway."""

    def request(self, call: Call) -> None:
        """Changes the call before it is forwarded. A call whose `status` is set is answered at once."""

    def answer(self, call: Call) -> None:
        """Changes the answer, or sets `lost`."""


class Gateway:
    """Listeners for the masters of a cluster, with a common record of all calls."""

    def __init__(self, nodes: list[str]) -> None:
        self.calls: list[Call] = []
        self.changed = threading.Condition()
        self._rules: list[Rule] = []
        self._listeners: dict[str, ThreadingHTTPServer] = {}
        #: Id that the worker was given, if it differs from the one in the cluster.
        self.worker_aliases: dict[str, str] = {}
        #: Secret of each registration, as the worker was given it.
        self.secrets: dict[str, str] = {}
        #: Secrets that the gateway invented, because the cluster gave none.
        self.invented: set[str] = set()
        for node in nodes:
            self.url(urlsplit(node).netloc)

    def close(self) -> None:
        """Ends all listeners."""
        for listener in self._listeners.values():
            listener.shutdown()
            listener.server_close()

    def url(self, node: str) -> str:
        """Returns the URL of the listener for the master at `node`, which is `host:port`."""
        with self.changed:
            listener = self._listeners.get(node)
            if listener is None:
                listener = _Listener(("127.0.0.1", 0), _Handler)
                listener.daemon_threads = True
                listener.gateway, listener.node = self, node
                threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
                self._listeners[node] = listener
        return f"http://127.0.0.1:{listener.server_address[1]}"

    @contextlib.contextmanager
    def rule(self, rule: Rule) -> Any:
        """Applies a rule for the time of a `with` block."""
        with self.changed:
            self._rules.append(rule)
        try:
            yield rule
        finally:
            with self.changed:
                self._rules.remove(rule)

    def find(self, wanted: Callable[[Call], bool], since: int = 0) -> Call | None:
        """Returns the first recorded call that is wanted."""
        with self.changed:
            return next((call for call in self.calls[since:] if wanted(call)), None)

    def wait(self, wanted: Callable[[Call], bool], timeout_s: float, since: int = 0) -> Call | None:
        """Waits for a call that has ended and is wanted."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self.changed:
                found = next((call for call in self.calls[since:] if call.ended and wanted(call)), None)
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self.changed.wait(min(left, 0.1))

    def mark(self) -> int:
        """Returns a position in the record, for `since`."""
        with self.changed:
            return len(self.calls)

    # --- for the handlers ---

    def begin(self, call: Call) -> None:
        """Classifies and records a call, and applies the rules to it."""
        with self.changed:
            self._classify(call)
            self.calls.append(call)
            for rule in self._rules:
                rule.request(call)
            self.changed.notify_all()

    def end(self, call: Call) -> None:
        """Applies the rules to the answer."""
        with self.changed:
            if call.route == "register" and call.status == 201 and isinstance(call.answer, dict):
                self._registered(call)
            for rule in reversed(self._rules):
                rule.answer(call)
            call.ended = time.monotonic()
            self.changed.notify_all()

    def _classify(self, call: Call) -> None:
        parts = urlsplit(call.path).path.strip("/").split("/")
        with contextlib.suppress(ValueError):
            call.body = json.loads(call.raw) if call.raw else None
        if parts[:2] != ["v1", "workers"]:
            return
        for real, alias in self.worker_aliases.items():
            # An id that was not encoded is recognized as well, so that the other checks can go on.
            for spelled in (quote(alias, safe=""), alias):
                call.path = call.path.replace(f"/v1/workers/{spelled}", f"/v1/workers/{real}", 1)
        parts = urlsplit(call.path).path.strip("/").split("/")
        if len(parts) == 2 and call.method == "POST":
            call.route = "register"
        elif len(parts) == 3 and call.method == "DELETE":
            call.route = "leave"
        elif len(parts) == 4 and call.method == "POST":
            call.route = parts[3]
        call.worker = unquote(parts[2]) if len(parts) > 2 else ""

    def _registered(self, call: Call) -> None:
        worker = call.answer.get("id", "")
        if "secret" not in call.answer:
            call.answer["secret"] = f"invented-{worker}"
            self.invented.add(call.answer["secret"])
        self.secrets[worker] = call.answer["secret"]


class _Listener(ThreadingHTTPServer):
    gateway: Gateway
    node: str
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores connections that the worker breaks off."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: the record contains every call."""

    def _serve(self) -> None:
        gateway = self.server.gateway
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, self.path, headers, self._body(), time.monotonic(), self.path)
        gateway.begin(call)
        if not call.status:
            try:
                self._forward(call)
            except (OSError, http.client.HTTPException):
                # The master is gone: so is the connection to it.
                call.lost = True
        gateway.end(call)
        if call.lost:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        if call.answer is not None:
            call.answer_raw = json.dumps(call.answer).encode()
        self.send_response_only(call.status)
        for name, value in call.answer_headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(call.answer_raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(call.answer_raw)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _forward(self, call: Call) -> None:
        node = self.server.node
        headers = {name: value for name, value in call.headers.items() if name not in HOP_HEADERS}
        if headers.get("triarch-worker-secret") in self.server.gateway.invented:
            del headers["triarch-worker-secret"]
        body = call.raw if call.body is None else json.dumps(call.body).encode()
        connection = http.client.HTTPConnection(node, timeout=FORWARD_TIMEOUT_S)
        try:
            connection.request(call.method, call.path, body or None, {**headers, "host": node})
            if not self._answered(connection.sock):
                raise ConnectionError("the worker has broken off the call")
            answer = connection.getresponse()
            call.status, call.answer_raw = answer.status, answer.read()
            for name, value in answer.getheaders():
                if name.lower() == "location":
                    parts = urlsplit(value)
                    value = self.server.gateway.url(parts.netloc) + parts._replace(scheme="", netloc="").geturl()
                if name.lower() not in HOP_HEADERS:
                    call.answer_headers.append((name, value))
            with contextlib.suppress(ValueError):
                call.answer = json.loads(call.answer_raw)
            # A worker that asks for the members would go past the gateway.
            nodes = call.answer.get("nodes") if isinstance(call.answer, dict) else None
            for node in nodes or []:
                node["addr"] = urlsplit(self.server.gateway.url(node["addr"])).netloc
        finally:
            connection.close()

    def _answered(self, master: socket.socket) -> bool:
        """Waits for the answer of the master. Returns `False` if the worker breaks off the call before that."""
        while True:
            ready, _, _ = select.select([master, self.connection], [], [], FORWARD_TIMEOUT_S)
            if master in ready or not ready:
                return True
            if not self.connection.recv(1, socket.MSG_PEEK):
                return False
            # The next request of the same connection has begun to arrive.
            select.select([master], [], [], FORWARD_TIMEOUT_S)
            return True
