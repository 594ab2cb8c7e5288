"""A complete worker in plain Python: one file, no packages. The pattern for a worker in any other language.

    TRIARCH_MASTERS=http://127.0.0.1:7101,http://127.0.0.1:7102 python3 worker.py

Three threads call the masters: one polls for tasks, one reports results, one confirms leases. Each attempt is a process of its
own, so that it can be stopped at any moment. `docs/workers/any-language.md` explains the rules, numbered as here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any
from urllib.parse import quote, urlsplit

SLOTS = int(os.environ.get("SLOTS", "4"))
#: Time in seconds after SIGTERM in which running attempts may finish.
SHUTDOWN_S = 30.0


def conformance(payload: dict[str, Any]) -> Any:
    """The task of scripts/worker-conformance.sh."""
    time.sleep(payload["run_ms"] / 1000)
    if "fail" in payload:
        raise ValueError(payload["fail"])
    return "x" * payload["result_bytes"] if "result_bytes" in payload else payload["value"]


#: The tasks that this worker runs, by kind. Add yours.
KINDS = {os.environ.get("TRIARCH_KIND", "conformance"): conformance}


class Unavailable(Exception):
    """No usable answer: try again after a pause."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class Refused(Exception):
    """The request itself is wrong."""


class Gone(Exception):
    """The cluster does not know this worker (any more)."""


class Masters:
    """The masters of a cluster. Remembers the leader."""

    def __init__(self, urls: str) -> None:
        self.hosts = [urlsplit(url if "//" in url else f"http://{url}").netloc for url in urls.split(",")]
        self.leader = self.hosts[0]

    def call(
        self, method: str, path: str, body: Any = None, secret: str = "", timeout_s: float = 10.0, opened: Any = None
    ) -> Any:
        """Sends a request to the leader, whichever master that is."""
        headers = {"content-type": "application/json"} | ({"triarch-worker-secret": secret} if secret else {})
        for _ in range(2 * len(self.hosts)):
            host = self.leader
            connection = http.client.HTTPConnection(host, timeout=timeout_s)
            if opened:
                opened(connection)
            try:
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                self._leave(host)
                continue
            finally:
                connection.close()
            if answer.status == 307:  # Rule 1: the leader is elsewhere. Method and body stay the same.
                self.leader = urlsplit(answer.headers["location"]).netloc
                continue
            try:
                decoded = json.loads(text)
                code = decoded.get("code", "")
            except (ValueError, AttributeError):
                self._leave(host)
                raise Unavailable(f"{host} answers with {answer.status} and what is no JSON object") from None
            if answer.status < 300:
                return decoded
            if code == "unknown_worker":
                raise Gone(decoded["detail"])
            if answer.status < 500 and answer.status != 429:
                raise Refused(f"{method} {path}: {decoded.get('detail')}")
            self._leave(host)
            raise Unavailable(f"{host}: {code}", float(answer.headers.get("retry-after") or 0))
        raise Unavailable("no master answers")

    def _leave(self, host: str) -> None:
        if self.leader == host:
            later = self.hosts.index(host) + 1 if host in self.hosts else 0
            self.leader = self.hosts[later % len(self.hosts)]


class Attempt:
    """One attempt: a child process that gets the payload on stdin and writes the outcome to stdout."""

    def __init__(self, lease: dict[str, Any]) -> None:
        self.lease = lease
        self.stopped = False
        self.result: dict[str, Any] | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Runs the task to its end."""
        limit = self.lease.get("timeout_ms")
        try:
            with self._lock:
                if self.stopped:
                    return
                child = [sys.executable, __file__, "--attempt"]
                self._process = subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
            out, _ = self._process.communicate(json.dumps(self.lease).encode(), limit and limit / 1000)
            outcome = json.loads(out) if out else failure("crash", f"the task ended its process: {self._process.returncode}")
        except subprocess.TimeoutExpired:  # Rule 7: the worker enforces the limit.
            self._kill()
            self._process.communicate()
            outcome = failure("timeout", f"the attempt took longer than {limit} ms")
        except ValueError:
            outcome = failure("crash", "the task ended its process while it wrote the result")
        except OSError as error:  # Rule 8: no memory or no files is no failure of the task.
            print(f"cannot start {self.lease['id']}: {error}", file=sys.stderr)
            outcome = {"status": "returned"}
        self.report(outcome)

    def report(self, outcome: dict[str, Any]) -> None:
        """Sets the result to report."""
        self.result = {"task": self.lease["id"], "token": self.lease["token"], **outcome}

    def stop(self) -> None:
        """Stops the task. Its result is not reported."""
        with self._lock:
            self.stopped = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def failure(kind: str, message: str) -> dict[str, Any]:
    """Returns the part of a report that describes a failure."""
    return {"status": "failed", "error": {"type": kind, "message": message}}


class Session:
    """One registration: from `POST /v1/workers` to `DELETE`, or until the cluster has lost it."""

    def __init__(self, masters: Masters, stopping: threading.Event) -> None:
        self.masters = masters
        self.stopping = stopping
        #: No more tasks: after SIGTERM, a drain, or the loss of the registration.
        self.over = threading.Event()
        self.lost = False
        self.left = False
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.changed = threading.Condition()
        self.poll_connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        """Registers, works until SIGTERM, a drain or the loss of the registration, and leaves."""
        name = f"{socket.gethostname()}-{os.getpid()}-{random.randrange(10**6)}"
        about = {"name": name, "queues": ["default"], "kinds": list(KINDS), "slots": SLOTS}
        registered = self._persist(lambda: self.masters.call("POST", "/v1/workers", about), self.stopping)
        if registered is None:
            return
        self.path = f"/v1/workers/{quote(registered['id'], safe='')}"
        self.secret = registered.get("secret", "")
        self.heartbeat_s, self.lease_s = registered["heartbeat_ms"] / 1000, registered["lease_ms"] / 1000
        self.heard = time.monotonic()
        print(f"registered as {registered['id']}", file=sys.stderr)
        for loop in (self._heartbeats, self._reports, self._polls):
            threading.Thread(target=loop, daemon=True).start()
        while not self.over.is_set() and not self.stopping.wait(0.05):
            self._fence()
        self._close_poll()
        deadline = time.monotonic() + SHUTDOWN_S
        while self._listed() and not self.lost and time.monotonic() < deadline:
            time.sleep(0.02)
            self._fence()
        self.left = True
        self._stop(list(self._listed()))
        if not self.lost:  # Rule 9: what still runs goes back to the queue at once.
            with contextlib.suppress(Unavailable, Refused, Gone):
                self._call("DELETE", "")

    def _fence(self) -> None:
        """Rule 3: without an answer for the length of a lease, others may run these tasks by now."""
        if time.monotonic() - self.heard > self.lease_s:
            self._stop(list(self._listed()))

    # --- calls ---

    def _call(self, method: str, path: str, body: Any = None, timeout_s: float = 10.0, opened: Any = None) -> Any:
        begun = time.monotonic()
        try:
            answer = self.masters.call(method, self.path + path, body, self.secret, timeout_s, opened)
        except Gone:  # Rule 6: all leases are gone too.
            self.lost = True
            self.over.set()
            self._stop(list(self._listed()))
            raise
        self.heard = max(self.heard, begun)
        return answer

    def _persist(self, call: Any, until: threading.Event) -> Any:
        """Repeats a call until it has an answer, with growing pauses. Rule 5."""
        pause_s = 0.2
        while not until.is_set() and not self.lost:
            try:
                return call()
            except Gone:
                return None
            except (Unavailable, Refused) as error:
                print(f"trying again: {error}", file=sys.stderr)
                until.wait(max(pause_s * random.uniform(0.5, 1.0), getattr(error, "after_s", 0.0)))
                pause_s = min(2 * pause_s, 5.0)
        return None

    def _listed(self) -> dict[tuple[str, int], Attempt]:
        with self.changed:
            return dict(self.attempts)

    def _obey(self, answer: dict[str, Any], listed: dict[tuple[str, int], Attempt]) -> None:
        """Stops what the answer names. It speaks of the leases that the request listed, not of newer ones. Rule 4."""
        tasks = {*answer.get("cancel", []), *answer.get("lost", [])}
        self._stop([key for key in listed if key[0] in tasks])
        if answer.get("drain"):
            self.over.set()

    def _stop(self, keys: list[tuple[str, int]]) -> None:
        for key in keys:
            with self.changed:
                attempt = self.attempts.pop(key, None)
            if attempt is not None:
                attempt.stop()

    # --- loops ---

    def _heartbeats(self) -> None:
        wait_s = self.heartbeat_s
        while not self.lost and not self.left:
            time.sleep(wait_s)
            listed = self._listed()
            running = [{"task": task, "token": token} for task, token in listed]
            try:
                answer = self._call("POST", "/heartbeat", {"running": running}, timeout_s=self.lease_s)
                wait_s = answer.get("heartbeat_ms", wait_s * 1000) / 1000
                self._obey(answer, listed)
            except Gone:
                return
            except (Unavailable, Refused) as error:
                print(f"no heartbeat: {error}", file=sys.stderr)
                time.sleep(getattr(error, "after_s", 0.0))

    def _polls(self) -> None:
        while not self.over.is_set() and not self.stopping.is_set():
            listed = self._listed()
            free = SLOTS - len(listed)
            if free == 0:
                with self.changed:
                    self.changed.wait(0.5)
                continue
            running = [{"task": task, "token": token} for task, token in listed]
            body = {"max": free, "wait_ms": 20_000, "running": running}
            answer = self._persist(lambda body=body: self._call("POST", "/poll", body, 30.0, self._opened), self.over)
            if answer is None:
                continue
            self._obey(answer, listed)
            for lease in answer.get("tasks", []):
                key = (lease["id"], lease["token"])
                with self.changed:
                    if key in self.attempts:  # Delivered again.
                        continue
                    attempt = self.attempts[key] = Attempt(lease)
                    if self.stopping.is_set() or self.over.is_set():
                        attempt.report({"status": "returned"})
                        self.changed.notify_all()
                        continue
                threading.Thread(target=self._attempt, args=(attempt,), daemon=True).start()

    def _attempt(self, attempt: Attempt) -> None:
        attempt.run()
        with self.changed:
            self.changed.notify_all()

    def _reports(self) -> None:
        while not self.lost and not self.left:
            with self.changed:
                ready = [attempt for attempt in self.attempts.values() if attempt.result]
                if not ready:
                    self.changed.wait(0.5)
                    continue
            for attempt in ready:
                refused = attempt.result["status"] == "failed" and attempt.result["error"]["type"] == "result_refused"
                verdict = self._persist(lambda a=attempt: self._report(a), threading.Event())
                if verdict is None:
                    return
                if verdict.get("code") in ("payload_too_large", "invalid_request") and not refused:
                    attempt.report(failure("result_refused", verdict.get("detail", "")))
                    continue
                with self.changed:  # Accepted, or too late: in both cases the attempt is over.
                    self.attempts.pop((attempt.lease["id"], attempt.lease["token"]), None)
                    self.changed.notify_all()

    def _report(self, attempt: Attempt) -> Any:
        # Rule 2: the same result again, until there is a verdict. The lease is confirmed until then.
        try:
            return self._call("POST", "/report", {"results": [attempt.result]})["results"][0]
        except Refused as error:
            return {"accepted": False, "code": "invalid_request", "detail": str(error)}

    def _opened(self, connection: http.client.HTTPConnection) -> None:
        self.poll_connection = connection

    def _close_poll(self) -> None:
        """Breaks off the poll that waits for tasks, so that no more come."""
        self.over.set()
        connection = self.poll_connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


def attempt_process() -> None:
    """Main function of the child process of an attempt."""
    outcome_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What the task prints goes to the log of the worker.
    lease = json.load(sys.stdin)
    try:
        outcome = {"status": "succeeded", "result": KINDS[lease["kind"]](lease["payload"])}
        text = json.dumps(outcome)
    except Exception as error:
        text = json.dumps(failure(type(error).__name__, str(error)))
    outcome_file.write(text)
    outcome_file.close()


def main() -> None:
    """Runs one session after the other until SIGTERM or Ctrl-C."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    masters = Masters(os.environ.get("TRIARCH_MASTERS", "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103"))
    while not stopping.is_set():
        session = Session(masters, stopping)
        session.run()
        if not session.lost:
            return


if __name__ == "__main__":
    attempt_process() if sys.argv[1:] == ["--attempt"] else main()
