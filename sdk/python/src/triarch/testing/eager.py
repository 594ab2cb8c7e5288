"""Eager mode: runs tasks in the process that submits them, without a cluster. For tests of tasks, not of clusters.

Only the network is left out. The codec encodes arguments and results, and the worker's own runtime makes the calls. Dependencies
and their inputs are honoured. Failed attempts are repeated up to `max_attempts`, without back-off. Queues and their limits,
priorities, delays, expiry, unique keys and time limits are not simulated. A job has ended when its submission returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote, urlsplit

from triarch import context as contexts
from triarch._http.policy import Request, Response
from triarch.app import Triarch
from triarch.context import TaskContext, TaskStopped
from triarch.errors import refusal
from triarch.worker.attempt import AttemptOutcome
from triarch.worker.execute import PreparedCall, Runner

_TERMINAL = ("succeeded", "failed", "cancelled", "expired")


@contextlib.contextmanager
def eager(app: Triarch) -> Iterator[EagerCluster]:
    """Runs the submissions of this app at once in this process, within the block.

    >>> with eager(app):                                  # doctest: +SKIP
    ...     assert add.delay(1, 2).result() == 3
    """
    cluster = EagerCluster(app)
    app.transport.__dict__["call"] = cluster.call
    app.atransport.__dict__["call"] = cluster.acall
    try:
        yield cluster
    finally:
        for transport in (app.transport, app.atransport):
            transport.__dict__.pop("call", None)


class EagerCluster:
    """Fake cluster of one app: answers its requests from the tasks that ran in this process."""

    def __init__(self, app: Triarch) -> None:
        self._app = app
        # Accepts the codecs of the app, as its workers do by default.
        self._runner = Runner(app)
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._jobs: dict[str, dict[str, Any]] = {}
        self._by_key: dict[str, str] = {}
        self._parts: dict[str, dict[int, list[dict[str, Any]]]] = {}
        #: Every task that was submitted, by its id, as `GET /v1/tasks/{id}` shows it.
        self.tasks: dict[str, dict[str, Any]] = {}

    # --- requests ---

    def call(self, call: Request, cancellation: object = None) -> Response:
        """Answers a request, or raises the refusal of a cluster."""
        with self._lock:
            document = self._answer(call)
        return Response(200, {"triarch-index": str(len(self.tasks))}, json.dumps(document).encode(), "eager")

    async def acall(self, call: Request) -> Response:
        """As `call`, in a thread, so that tasks may use event loops of their own."""
        return await asyncio.to_thread(self.call, call)

    def _answer(self, call: Request) -> Any:
        words = [unquote(word) for word in urlsplit(call.target).path.split("/")[2:]]
        body: dict[str, Any] = json.loads(call.body) if call.body else {}
        match (call.method, *words):
            case ("POST", "jobs"):
                return self._submit(body)
            case ("GET", "jobs", id):
                return self._job(id)
            case ("GET", "jobs", id, "tasks"):
                return {"tasks": [self.tasks[task] for task in self._job(id)["tasks"]], "next": None}
            case ("POST", "jobs", id, "cancel"):
                return self._job(id)
            case ("POST", "tasks", "wait"):
                known = [self.tasks[id] for id in body["tasks"] if id in self.tasks]
                return {"ended": known, "missing": [id for id in body["tasks"] if id not in self.tasks]}
            case ("GET", "tasks", id):
                return self._task(id)
            case ("POST", "tasks", id, "cancel"):
                raise _refused(
                    "already_finished", 409, f"task {self._task(id)['id']} has ended, because eager tasks end at once"
                )
            case ("POST", "tasks", id, "retry"):
                task = self._task(id)
                self._run_one(task)
                return task
            case ("GET", "tasks", id, "explain"):
                return {"task": id, "state": self._task(id)["state"], "summary": "it has ended", "reasons": []}
            case ("GET", "tasks", id, "logs"):
                task = self._task(id)
                return {"task": id, "attempt": task["attempt"], "state": task["state"], "chunks": [], "done": True}
            case _:
                message = (
                    f"{call.method} {call.target} needs a cluster, and this app is eager; use triarch.testing.LocalCluster"
                )
                raise _refused("not_found", 404, message)

    def _task(self, id: str) -> dict[str, Any]:
        if id not in self.tasks:
            raise _refused("not_found", 404, f"there is no task {id}")
        return self.tasks[id]

    def _job(self, id: str) -> dict[str, Any]:
        if id not in self._jobs:
            raise _refused("not_found", 404, f"there is no job {id}")
        job = self._jobs[id]
        states = [self.tasks[task]["state"] for task in job["tasks"]]
        counts = {state: states.count(state) for state in _TERMINAL}
        not_needed = sum(_error_type(self.tasks[task]) == "not_needed" for task in job["tasks"])
        succeeded = counts["succeeded"] + not_needed == len(states)
        return {**job, "counts": counts, "state": "succeeded" if succeeded else "failed"}

    # --- jobs ---

    def _submit(self, body: dict[str, Any]) -> dict[str, Any]:
        key = body.get("idempotency_key")
        if key is not None and key in self._by_key:
            job = self._jobs[self._by_key[key]]
            return {"id": job["id"], "tasks": job["tasks"], "duplicate": True}
        specs: list[dict[str, Any]] = body.get("tasks") or []
        if "parts" in body:
            parts = self._parts.setdefault(str(key), {})
            parts[body["part"]] = specs
            if len(parts) < body["parts"]:
                return {"received": sorted(parts), "parts": body["parts"]}
            specs = [spec for part in sorted(parts) for spec in parts[part]]
            del self._parts[str(key)]
        number = next(self._numbers)
        job_id = f"j{number}-0"
        tasks = [self._made(job_id, f"t{number}-{position}", spec) for position, spec in enumerate(specs)]
        self._jobs[job_id] = {
            "id": job_id,
            "name": body.get("name"),
            "tasks": [task["id"] for task in tasks],
            "created_at": _now(),
            "finished_at": _now(),
        }
        if key is not None:
            self._by_key[key] = job_id
        before = [(self._job(one["job"]), one.get("when", "succeeded")) for one in body.get("after_jobs") or ()]
        denied = next((job["id"] for job, when in before if when not in ("ended", job["state"])), None)
        for task in tasks if denied is not None else ():
            _end(task, "cancelled", error={"type": "job_dependency_failed", "job": denied})
        self._run(tasks, fail_fast=body.get("on_failure") == "fail_fast")
        return {"id": job_id, "tasks": [task["id"] for task in tasks], "duplicate": False}

    def _made(self, job: str, id: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        task = {
            "id": id,
            "job": job,
            "key": spec.get("key"),
            "kind": spec["kind"],
            "queue": spec.get("queue", "default"),
            "state": "queued",
            "priority": spec.get("priority", 0),
            "attempt": 0,
            "max_attempts": spec.get("max_attempts", 3),
            "worker": None,
            "payload": spec.get("payload"),
            "after": list(spec.get("after") or ()),
            "result": None,
            "error": None,
            "attempts": [],
            "created_at": _now(),
            "started_at": None,
            "finished_at": None,
        }
        self.tasks[id] = task
        return task

    def _run(self, tasks: list[dict[str, Any]], *, fail_fast: bool) -> None:
        by_key = {task["key"]: task for task in tasks if task["key"] is not None}
        for task in tasks:
            for key, _ in _after(task):
                if key not in by_key:
                    raise _refused("invalid_request", 400, f"task {task['id']} comes after {key!r}, which is no key of its job")
        left = list(tasks)
        while left:
            ready = [task for task in left if all(by_key[key]["state"] in _TERMINAL for key, _ in _after(task))]
            if not ready:
                raise _refused("invalid_request", 400, "the dependencies of this job form a circle; remove one of them")
            for task in ready:
                self._run_after(task, [(by_key[key], when) for key, when in _after(task)])
                if fail_fast and task["state"] == "failed":
                    for other in left:
                        if other["state"] == "queued" and all(when == "succeeded" for _, when in _after(other)):
                            _end(other, "cancelled", error={"type": "job_failed", "task": task["id"]})
            left = [task for task in left if task["state"] == "queued"]

    def _run_after(self, task: dict[str, Any], before: list[tuple[dict[str, Any], str]]) -> None:
        if task["state"] != "queued":
            return
        for one, when in before:
            if not _meets(one, when):
                not_needed = one["state"] == "succeeded" or _error_type(one) == "not_needed"
                type = "not_needed" if not_needed else "dependency_failed"
                _end(task, "cancelled", error={"type": type, "task": one["id"]})
                return
        task["inputs"] = {one["key"]: _input(one, when) for one, when in before}
        self._run_one(task)

    # --- one task ---

    def _run_one(self, task: dict[str, Any]) -> None:
        for left in reversed(range(task["max_attempts"])):
            token = next(self._numbers)
            task["attempt"] += 1
            task["started_at"] = task["started_at"] or _now()
            outcome = self._attempt(task, token)
            read = json.loads(outcome.body)
            attempt = {"attempt": task["attempt"], "worker": "eager", "token": token, "error": None if outcome.ok else read}
            task["attempts"].append({**attempt, "outcome": "succeeded" if outcome.ok else "failed"})
            if outcome.ok:
                _end(task, "succeeded", result=read)
                return
            if left == 0 or not outcome.retryable:
                _end(task, "failed", error=read)
                return

    def _attempt(self, task: dict[str, Any], token: int) -> AttemptOutcome:
        # A copy, because encoding never gives the same objects.
        payload, inputs = json.loads(json.dumps([task["payload"], task.get("inputs") or {}]))
        prepared = self._runner.prepare(task["kind"], payload, inputs)
        if isinstance(prepared, AttemptOutcome):
            return prepared

        def report_progress(share: float | None, note: str | None) -> None:
            task["progress"], task["note"] = share, note

        this = TaskContext(task["id"], task["job"], task["kind"], task["attempt"], token, inputs, report_progress, lambda: None)
        try:
            value = contextvars.copy_context().run(_call, this, prepared)
        except (Exception, SystemExit, TaskStopped, asyncio.CancelledError) as error:
            return self._runner.failed(prepared.function, error)
        return self._runner.succeeded(prepared.function, value)


def _after(task: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the keys of the tasks that a task comes after, each with how it must end."""
    return [
        (item, "succeeded") if isinstance(item, str) else (item["key"], item.get("when", "succeeded")) for item in task["after"]
    ]


def _error_type(task: dict[str, Any]) -> str | None:
    error = task["error"]
    return error.get("type") if isinstance(error, dict) else None


def _meets(task: dict[str, Any], when: str) -> bool:
    if when == "failed":
        return task["state"] == "failed" or _error_type(task) in ("dependency_failed", "job_failed")
    return when == "ended" or task["state"] == "succeeded"


def _input(task: dict[str, Any], when: str) -> Any:
    if when != "ended":
        return task["result"] if when == "succeeded" else task["error"]
    end = {"state": task["state"]}
    return {**end, "result": task["result"]} if task["state"] == "succeeded" else {**end, "error": task["error"]}


def _call(this: TaskContext, call: PreparedCall) -> Any:
    contexts.entered(this)
    if not call.function.is_async:
        return call.function.call(*call.args, **call.kwargs)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(call.function.call(*call.args, **call.kwargs))
    # Submitted by a coroutine: the task gets an event loop in a thread of its own.
    ended: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            ended[:] = [True, asyncio.run(call.function.call(*call.args, **call.kwargs))]
        except BaseException as error:
            ended[:] = [False, error]

    thread = threading.Thread(target=context.run, args=(run,))
    thread.start()
    thread.join()
    if not ended[0]:
        raise ended[1]
    return ended[1]


def _end(task: dict[str, Any], state: str, *, result: Any = None, error: Any = None) -> None:
    task["state"], task["result"], task["error"], task["finished_at"] = state, result, error, _now()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refused(code: str, status: int, detail: str) -> Exception:
    return refusal({"code": code, "status": status, "detail": detail})
