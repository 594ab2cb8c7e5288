"""Fake worker inside the test process: polls, runs tasks, and reports their results with its next poll."""

from __future__ import annotations

import json
import threading
import time
from types import TracebackType
from typing import Any

from triarch import GiveUp, Triarch, TriarchError
from triarch._http.policy import Request, path
from triarch.errors import UnknownWorker
from triarch.serialize import decode_call, encode_error, encode_result


class FakeWorker:
    """Runs the tasks of an app in threads until it is stopped. Each thread is registered as a worker."""

    def __init__(self, app: Triarch, threads: int = 1, slots: int = 64, queues: tuple[str, ...] = ("default",)) -> None:
        self.app = app
        self.slots = slots
        self.queues = list(queues)
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self.ran = 0

    def __enter__(self) -> FakeWorker:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)

    def _register(self) -> str:
        name = f"fake-{threading.get_ident()}-{time.monotonic_ns()}"
        body = {"name": name, "queues": self.queues, "slots": self.slots, "kinds": self.app.kinds()}
        return str(self.app.transport.json(Request.change("POST", "/v1/workers", body))["id"])

    def _run(self) -> None:
        worker = ""
        results: list[dict[str, Any]] = []
        while not self.stopping.is_set():
            try:
                worker = worker or self._register()
                body = {"max": self.slots, "wait_ms": 200, "results": results, "running": []}
                call = Request("POST", path("workers", worker, "poll"), json.dumps(body).encode(), hold_s=0.2, mutates=False)
                answer = self.app.transport.json(call)
                results = [self._run_task(lease) for lease in answer["tasks"]]
            except UnknownWorker:
                worker, results = "", []
            except TriarchError:
                continue
        if worker:
            try:
                if results:
                    self.app.transport.json(Request.change("POST", path("workers", worker, "report"), {"results": results}))
                self.app.transport.json(Request.change("DELETE", path("workers", worker)))
            except TriarchError:
                pass

    def _run_task(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.ran += 1
        result_head = {"task": lease["id"], "token": lease["token"]}
        task = self.app.tasks[lease["kind"]]
        try:
            args, kwargs = decode_call(lease["payload"], self.app.accept, lease.get("inputs"))
            result = json.loads(encode_result(task.codec, task.fn(*args, **kwargs)))
        except Exception as error:
            retryable = not isinstance(error, GiveUp)
            return {**result_head, "status": "failed", "error": encode_error(error, task.codec), "retryable": retryable}
        return {**result_head, "status": "succeeded", "result": result}
