"""The surroundings of one worker under test: a cluster, a gateway, the process of the worker, and its tasks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .gateway import Gateway

#: Maximum time in seconds of a request to the cluster, in addition to its hold.
REQUEST_TIMEOUT_S = 15.0
#: States of a task that has ended.
ENDED = ("succeeded", "failed", "cancelled", "expired")
#: Run time of a task that is to be stopped, in ms.
ENDLESS_MS = 60_000


class Cluster:
    """Client of the cluster, past the gateway."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = [node.rstrip("/") if "://" in node else f"http://{node}" for node in nodes]

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, hold_s: float = 0.0) -> Any:
        """Sends a request to the first master that answers. Returns the JSON of a success."""
        data = None if body is None else json.dumps(body).encode()
        problem: Exception | None = None
        for node in self.nodes:
            request = urllib.request.Request(node + path, data=data, method=method, headers=headers or {})
            request.add_header("content-type", "application/json")
            try:
                with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S + hold_s) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code == 307:
                    leader = error.headers["location"].removesuffix(path)
                    return Cluster([leader]).call(method, path, body, headers, hold_s)
                text = error.read().decode(errors="replace")
                if error.code < 500:
                    raise RuntimeError(f"{method} {path}: {text}") from None
                problem = RuntimeError(f"{method} {path}: {text}")
            except OSError as error:
                problem = error
        raise RuntimeError(f"no master answers: {problem}")

    def followers_first(self) -> list[str]:
        """Returns the nodes with the leader at the end, so that a worker meets a follower first."""
        status = self.call("GET", "/v1/cluster")
        leader = next((node["addr"] for node in status["nodes"] if node["id"] == status["leader"]), "")
        return sorted(self.nodes, key=lambda node: node.endswith(f"//{leader}"))


class WorkerProcess:
    """Process of the worker under test, with everything it starts."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.log = Path(tempfile.mkstemp(prefix="triarch-conformance-", suffix=".log")[1])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                list(command),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exit_code(self, timeout_s: float) -> int | None:
        """Returns the exit code, or `None` if the process runs on."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """Sends SIGTERM to the process, as an operator does."""
        self.process.send_signal(signal.SIGTERM)

    def tail(self) -> str:
        """Returns the last lines of its output."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"      | {line[:200]}" for line in lines[-12:])

    def close(self) -> None:
        """Kills what is left of it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.unlink(missing_ok=True)


class Bench:
    """A worker under test, and the tasks that it is given."""

    def __init__(self, cluster: Cluster, command: Sequence[str], kind: str, exec_tasks: bool) -> None:
        self.cluster = cluster
        self.exec_tasks = exec_tasks
        self.kind = "exec" if exec_tasks else kind
        self.gateway = Gateway(cluster.nodes)
        masters = [self.gateway.url(node.split("//", 1)[1]) for node in cluster.followers_first()]
        environment = {"TRIARCH_MASTERS": ",".join(masters), "TRIARCH_KIND": self.kind}
        self.worker = WorkerProcess(command, environment)
        self.submitted: list[str] = []
        self.lease_s = 10.0

    def close(self) -> None:
        """Ends the worker, and forgets its tasks."""
        self.worker.close()
        self.gateway.close()
        for task in self.submitted:
            with contextlib.suppress(RuntimeError):
                if self.show(task)["state"] not in ENDED:
                    self.cancel(task)

    @property
    def patience_s(self) -> float:
        """Time in which a worker does what it should."""
        return 8.0 + self.lease_s

    # --- tasks ---

    def submit(self, *, run_ms: int = 0, value: Any = None, fail: str = "", result_bytes: int = 0, **options: Any) -> str:
        """Submits one task for the worker under test, and returns its id."""
        if self.exec_tasks:
            script = f"sleep {run_ms / 1000}; "
            if fail:
                script += 'printf %s "$FAIL" >&2; exit 3'
            elif result_bytes:
                script += f"head -c {result_bytes} /dev/zero | tr '\\0' x"
            else:
                script += 'printf %s "$VALUE"'
            payload: dict[str, Any] = {"argv": ["sh", "-c", script], "env": {"FAIL": fail, "VALUE": json.dumps(value)}}
        else:
            payload = {"run_ms": run_ms, "value": value}
            payload |= {"fail": fail} if fail else {}
            payload |= {"result_bytes": result_bytes} if result_bytes else {}
        task = {"kind": self.kind, "payload": payload, **options}
        body = {"name": "conformance", "idempotency_key": uuid.uuid4().hex, "tasks": [task]}
        id = str(self.cluster.call("POST", "/v1/jobs", body)["tasks"][0])
        self.submitted.append(id)
        return id

    def show(self, task: str, wait_s: float = 0.0) -> dict[str, Any]:
        """Returns a task; with `wait_s`, waits for its end."""
        wait = f"?wait_ms={int(wait_s * 1000)}" if wait_s else ""
        shown: dict[str, Any] = self.cluster.call("GET", f"/v1/tasks/{task}{wait}", hold_s=wait_s)
        return shown

    def cancel(self, task: str) -> None:
        """Cancels a task."""
        self.cluster.call("POST", f"/v1/tasks/{task}/cancel")

    def result(self, shown: dict[str, Any]) -> Any:
        """Returns the value that a task returned."""
        if not self.exec_tasks or not isinstance(shown["result"], dict):
            return shown["result"]
        return json.loads(shown["result"]["stdout"] or "null")

    def runs(self, shown: dict[str, Any]) -> int:
        """Returns how often a task was run. A lease that went back, because no poll fetched it in time, is no run."""
        return sum(attempt.get("outcome") != "returned" for attempt in shown["attempts"])

    def error_text(self, shown: dict[str, Any]) -> str:
        """Returns everything that the error of a task says."""
        return json.dumps(shown["error"], ensure_ascii=False)

    # --- what the worker does ---

    def wait_running(self, task: str) -> bool:
        """Waits until the worker has been given a task."""
        given = self.gateway.wait(
            lambda call: call.route == "poll" and not call.lost and any(item.get("id") == task for item in call.tasks()),
            self.patience_s,
        )
        return given is not None

    def wait_dropped(self, task: str) -> bool:
        """Waits until the worker has stopped to list a task as running, while it goes on with its calls."""
        quiet_s = self.lease_s * 0.8
        begun = time.monotonic()
        while time.monotonic() < begun + self.patience_s + quiet_s:
            listed, called = begun, 0.0
            for call in list(self.gateway.calls):
                called = max(called, call.begun)
                if call.holds(task):
                    listed = max(listed, call.begun)
            if called > listed and time.monotonic() > listed + quiet_s:
                return True
            time.sleep(0.05)
        return False

    def forget_worker(self, worker: str) -> None:
        """Removes the registration of the worker, as if it had been lost."""
        secret = self.gateway.secrets.get(worker, "")
        headers = {} if secret in self.gateway.invented else {"triarch-worker-secret": secret}
        self.cluster.call("DELETE", f"/v1/workers/{quote(worker, safe='')}", headers=headers)
