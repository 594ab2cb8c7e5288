"""Sessions of a worker with scripted masters: answers that cannot be read, and parts that are refused."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from triarch import Triarch, current
from triarch.testing import wait_until
from triarch.worker import Worker, WorkerConfig, WorkerError

from .test_connection import Scripted, said


class Master(Scripted):
    """A master with tasks to give, and a log of what it received."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[dict[str, Any]] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.polls: list[float] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.refuse: Callable[[str, dict[str, Any]], bytes | None] = lambda route, body: None
        self.lock = threading.Lock()
        self.answer_to = self._answer_to

    def grant(self, task: str, kind: str, payload: Any) -> None:
        lease = {"id": task, "job": "j", "kind": kind, "payload": payload, "inputs": {}, "attempt": 1, "token": 1}
        with self.lock:
            self.tasks.append({**lease, "lease_ms": 10_000, "timeout_ms": None})

    def _answer_to(self, head: str, body: bytes) -> bytes | None:
        route = head.split(" ")[1].rpartition("/")[2]
        document = json.loads(body) if body else {}
        if head.startswith("DELETE"):
            return said(200, {"id": "w", "returned": 0})
        if route == "workers":
            return said(201, {"id": "w", "heartbeat_ms": 100, "lease_ms": 10_000})
        refused = self.refuse(route, document)
        if refused is not None:
            return refused
        answers = []
        for one in document.get("results", ()):
            self.results[one["task"]] = one
            answers.append({"task": one["task"], "accepted": True})
        if route == "heartbeat":
            self.heartbeats.append(document)
            return said(200, {"cancel": [], "lost": [], "drain": False})
        if route == "report":
            return said(200, {"results": answers})
        if route == "output":
            return said(200, {"attempts": []})
        self.polls.append(time.monotonic())
        with self.lock:
            tasks, self.tasks = self.tasks, []
        if not tasks and not answers:
            time.sleep(0.05)
        return said(200, {"tasks": tasks, "results": answers, "cancel": [], "lost": [], "drain": False})


def problem(field: str) -> bytes:
    return said(400, {"code": "invalid_request", "detail": "it is wrong", "field": field})


@pytest.fixture
def master() -> Iterator[Master]:
    master = Master()
    yield master
    master.close()


HOLD = threading.Event()


@pytest.fixture
def worker(master: Master) -> Iterator[Worker]:
    HOLD.clear()
    app = Triarch(master.url)

    @app.task(name="echo")
    def echo(value: Any = None) -> Any:
        return value

    @app.task(name="notes")
    def notes(note: str) -> str:
        current().progress(0.5, note)
        HOLD.wait(30)
        return "done"

    config = WorkerConfig(concurrency=4, pool="thread", prefetch=0, capture=False, leave_patience_s=0.2, grace_s=0.1)
    with Worker(app, config) as worker:
        yield worker
        HOLD.set()


def test_one_task_that_cannot_be_read_fails_and_the_others_run(master: Master, worker: Worker) -> None:
    bad = said(200, {"tasks": "TASKS", "results": [], "cancel": [], "lost": [], "drain": False})
    lease = {"job": "j", "kind": "echo", "inputs": {}, "attempt": 1, "token": 1, "timeout_ms": None}
    tasks = [
        {**lease, "id": "t1", "payload": {"args": ["LONG"]}},
        {**lease, "id": "t2", "payload": {"args": [2]}},
        {**lease, "id": "t3", "payload": {"args": [3]}, "inputs": {"a": {"x": ["LONG"]}}},
        {"id": "t4"},
        5,
        {**lease, "id": ["t5"], "payload": None},
        {**lease, "id": "t6", "payload": {"args": [6]}},
    ]
    text = json.dumps({"tasks": tasks, "results": [], "cancel": [], "lost": [], "drain": False})
    body = text.replace('"LONG"', "9" * 5000).encode()
    once = [f"HTTP/1.1 200 x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body]
    master.refuse = lambda route, document: once.pop() if route == "poll" and once else None
    wait_until(lambda: len(master.results) == 4, 10, "four results")
    assert [master.results[task].get("result") for task in ("t2", "t6")] == [2, 6]
    for task, words in (("t1", "payload['args'][0]"), ("t3", "inputs['a']['x'][0]")):
        result = master.results[task]
        assert (result["status"], result["retryable"]) == ("failed", False)
        assert "5,000 digits" in result["error"]["message"]
        assert words in result["error"]["message"]
    assert bad


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 x\r\ncontent-length: 9\r\n\r\n{"tasks":',
        b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 x\r\ncontent-length: 12\r\n\r\n{"tasks":{}}',
        b"HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\n<html>\xff\xfe..",
    ],
)
def test_an_answer_that_cannot_be_read_is_logged_and_asked_for_again_after_a_pause(
    master: Master, worker: Worker, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[float] = []

    def refuse(route: str, document: dict[str, Any]) -> bytes | None:
        if route != "poll":
            return None
        asked.append(time.monotonic())
        return answer

    with caplog.at_level(logging.ERROR, "triarch.worker"):
        master.refuse = refuse
        wait_until(lambda: len(asked) >= 4, 20, "four polls")
    # Each pause is longer than the one before.
    assert asked[3] - asked[0] > 0.25
    assert any("cannot be read" in record.message for record in caplog.records)
    master.refuse = lambda route, document: None
    master.grant("t1", "echo", {"args": [1]})
    wait_until(lambda: "t1" in master.results, 10, "the worker to go on")


@pytest.mark.parametrize(
    "document",
    [{}, [], {"id": 5, "heartbeat_ms": 1, "lease_ms": 1}, {"id": "w", "heartbeat_ms": 1, "lease_ms": 1, "secret": 5}],
)
def test_an_answer_to_a_registration_that_cannot_be_read_is_no_end(master: Master, document: Any) -> None:
    original = master.answer_to
    refused: list[str] = []

    def answer_to(head: str, body: bytes) -> bytes | None:
        if head.startswith("POST /v1/workers ") and not refused:
            refused.append(head)
            return said(201, document)
        return original(head, body)

    master.answer_to = answer_to
    app = Triarch(master.url)
    app.task(name="echo")(lambda value=None: value)
    master.grant("t1", "echo", {"args": [1]})
    config = WorkerConfig(concurrency=1, pool="thread", prefetch=0, capture=False, leave_patience_s=0.2)
    with Worker(app, config):
        wait_until(lambda: "t1" in master.results, 10, "the task to run")


def test_a_note_that_a_master_refuses_costs_no_lease_and_no_result(master: Master, worker: Worker) -> None:
    def refuse(route: str, document: dict[str, Any]) -> bytes | None:
        if any("note" in one for one in document.get("running", ())):
            return problem("running[0].note")
        return None

    master.refuse = refuse
    master.grant("t1", "notes", {"args": ["refused"]})
    wait_until(lambda: any(one["running"] for one in master.heartbeats), 10, "a heartbeat without the note")
    # A neighbour's result is reported as it is.
    for number in range(2, 7):
        master.grant(f"t{number}", "echo", {"args": [number]})
    wait_until(lambda: len(master.results) == 5, 10, "the results of the others")
    assert all(one["status"] == "succeeded" for one in master.results.values())
    HOLD.set()
    wait_until(lambda: "t1" in master.results, 10, "the task with the note to end")
    assert master.results["t1"]["result"] == "done"


def test_a_result_that_a_master_refuses_by_itself_is_replaced_by_the_reason(master: Master, worker: Worker) -> None:
    def refuse(route: str, document: dict[str, Any]) -> bytes | None:
        if any(one.get("result") == "bad" for one in document.get("results", ())):
            return problem("results[0].result")
        return None

    master.refuse = refuse
    for number, value in enumerate(["good", "bad", "good"]):
        master.grant(f"t{number}", "echo", {"args": [value]})
    wait_until(lambda: len(master.results) == 3, 10, "three results")
    assert [master.results[f"t{number}"]["status"] for number in range(3)] == ["succeeded", "failed", "succeeded"]
    assert master.results["t1"]["error"]["type"] == "result_refused"


def test_a_worker_that_was_idle_for_longer_than_a_lease_takes_tasks_without_a_warning(
    master: Master, caplog: pytest.LogCaptureFixture
) -> None:
    app = Triarch(master.url)
    app.task(name="echo")(lambda value=None: value)
    polled = threading.Event()

    def refuse(route: str, document: dict[str, Any]) -> bytes | None:
        if route == "poll" and not polled.is_set():
            polled.set()
            # Longer than the lease, which heartbeats confirm in the meantime.
            time.sleep(0.8)
        return None

    original = master.answer_to

    def answer_to(head: str, body: bytes) -> bytes | None:
        if head.startswith("POST /v1/workers "):
            return said(201, {"id": "w", "heartbeat_ms": 50, "lease_ms": 400})
        return original(head, body)

    master.answer_to = answer_to
    master.refuse = refuse
    master.grant("t1", "echo", {"args": [1]})
    config = WorkerConfig(concurrency=1, pool="thread", prefetch=0, capture=False, leave_patience_s=0.2)
    with caplog.at_level(logging.WARNING, "triarch.worker"), Worker(app, config):
        wait_until(lambda: "t1" in master.results, 10, "the task to run")
    assert not any("expired" in record.message for record in caplog.records)


def test_the_name_of_a_silent_worker_is_waited_for_and_that_of_a_live_one_is_given_up(
    master: Master, caplog: pytest.LogCaptureFixture
) -> None:
    app = Triarch(master.url)
    app.task(name="echo")(lambda value: value)
    silent_ms = iter([9_000, 9_500, 100])
    original = master.answer_to

    def answer_to(head: str, body: bytes) -> bytes | None:
        if head.startswith("POST /v1/workers "):
            document = {"code": "conflict", "status": 409, "detail": "the name is in use", "field": "name"}
            return said(409, {**document, "silent_for_ms": next(silent_ms), "lease_ms": 10_000})
        return original(head, body)

    master.answer_to = answer_to
    config = WorkerConfig(concurrency=1, pool="thread", capture=False, name_patience_s=0)
    with caplog.at_level(logging.WARNING, "triarch.worker"), pytest.raises(WorkerError, match="is taken; choose another"):
        Worker(app, config).run()
    assert next(silent_ms, None) is None
    assert [record.message for record in caplog.records if "still belongs to one that is silent" in record.message]


def test_a_lease_that_cannot_begin_is_returned_or_kept() -> None:
    from triarch.worker.attempt import Attempt
    from triarch.worker.leases import Leases

    leases = Leases(4, 0)
    leases.add([{"id": f"t{number}", "job": "j", "kind": "k", "attempt": 1, "token": number} for number in range(4)])
    leases.limit_slots(1)
    assert leases.wanted() == 0
    leases.return_waiting(1)
    taken = leases.take_results(with_work=False)
    assert [json.loads(one.result or b"") for one in taken] == [
        {"task": f"t{number}", "token": number, "status": "returned"} for number in (3, 2, 1)
    ]
    # They are confirmed until the cluster has them back.
    assert len(leases.confirmed()) == 4
    leases.settle(taken[:2], [{"task": one.task, "accepted": True} for one in taken[:2]])
    assert len(leases.confirmed()) == 2
    # A master of an older version refuses.
    leases.refused(taken[2:], "unknown variant")
    begun: list[Attempt | None] = [leases.next(), leases.next(), leases.next()]
    assert [one.task for one in begun if one is not None] == ["t0", "t1"]
    leases.return_waiting(0)
    leases.limit_slots(4)
    assert leases.wanted() == 2
