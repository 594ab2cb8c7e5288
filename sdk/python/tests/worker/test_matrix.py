"""Matrix of pools and harmful tasks: the worker goes on, its other tasks are not harmed, and each outcome is reported as it was."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from triarch import Handle, HandleGroup, SerializationError, TaskFailed, Triarch
from triarch._http.policy import Request
from triarch.testing import LocalCluster, Process, wait_until

from .conftest import Bench

POOLS = ("process", "thread", "async")
#: Time in which the worker must run the next task. It takes milliseconds; a machine with two busy cores may take longer.
NEXT_TASK_S = 10.0


@dataclass(frozen=True)
class Failed:
    """An expected failure."""

    type: str
    words: str = ""


#: What happens in every pool.
EVERYWHERE: dict[str, Any] = {
    "sys.exit": Failed("SystemExit", "3"),
    "sys.exit with text": Failed("SystemExit", "bye"),
    "interrupt": Failed("KeyboardInterrupt"),
    "generator exit": Failed("GeneratorExit"),
    "stop iteration": (Failed("StopIteration", "5"), Failed("RuntimeError", "StopIteration")),
    "cancelled error": Failed("asyncio.exceptions.CancelledError"),
    "base exception": Failed("BaseException", "of the base"),
    "harmless signals": "went on",
    "fork that returns": "returned",
    "fork that raises": 1,
    "forks that print": 0,
    "multiprocessing": [1, 2],
    "terminate a child": -15,
    "terminate forks": [-15, -1, -10],
    "thread left behind": "left",
    "recursion": Failed("RecursionError"),
    "recursion limit": None,
    "close stdout": None,
    "detach stdout": Failed("io.UnsupportedOperation", "shared"),
    "close descriptor 1": "closed",
    "close descriptors 0 to 2": "closed",
    "output of a child": 0,
    "large output": None,
    "one large line": None,
    "binary output": 256,
    "output of a subclass": 18,
    "output with surrogates": None,
    "result of a large number": Failed("triarch.errors.SerializationError", "4300"),
    "result with surrogates": Failed("triarch.errors.SerializationError", "['name'][0]"),
    "result that is no number": Failed("triarch.errors.SerializationError", "nan"),
    "result with other keys": Failed("triarch.errors.SerializationError", "keys are text"),
    "result of an object": Failed("triarch.errors.SerializationError", "builtins.object"),
    "result too deep": Failed("triarch.errors.SerializationError", "nested deeper"),
    "result in a circle": Failed("triarch.errors.SerializationError", "nested deeper"),
    "result without end": Failed("triarch.errors.PayloadTooLarge", "524,288 parts"),
    "result too large": Failed("triarch.errors.PayloadTooLarge", "1,048,576"),
    "result with codec": {"codec": ["x"], "data": 5},
    "result with types": [
        Decimal("1.50"),
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc),
        date(2026, 1, 2),
        timedelta(days=1, microseconds=2),
        UUID(int=5),
        b"\x00\xff",
        {"__type__": "mine"},
    ],
    "note with surrogates": "noted",
    "long note in Chinese": "noted",
    "note of a subclass": "noted",
    "note of control characters": "noted",
    "error with surrogates": Failed("ValueError", "cannot parse \ufffd"),
    "error with control characters": Failed("ValueError", "\x01 … \x01"),
    "error with a large number": Failed("ValueError", "cannot be formatted"),
    "error without a message": Failed("harmful_tasks.BadMessage", "cannot be formatted"),
    "error of two arguments": Failed("harmful_tasks.TwoArguments", "7: seven"),
    "error in a circle": Failed("ValueError", "first"),
    "long chain of errors": Failed("ValueError", "number 499"),
    "group of errors": (
        Failed("ExceptionGroup", "ValueError: bad input; ExceptionGroup: KeyError: 'k'"),
        Failed("ValueError", "bad input; KeyError: 'k'"),
    ),
    "error of a bad type": Failed("None.Bad\ufffd", "a"),
    "error of a file": Failed("FileNotFoundError", "/no/such/file"),
}
#: What costs a process, and so can be isolated by processes only.
ONLY_PROCESSES: dict[str, Any] = {
    "os._exit": Failed("process_died", "exit code 7"),
    "segfault": Failed("process_died", "SIGSEGV"),
    "abort": Failed("process_died", "SIGABRT"),
    "kill": Failed("process_died", "SIGKILL"),
    "real-time signal": Failed("process_died", "SIGRTMIN+3"),
    "signals": "went on",
    "signal of the group": None,
    "exec": Failed("process_died"),
    "fork in C that holds everything": Failed("process_died", "exit code 9"),
    "orphan": "left",
    "memory": Failed("MemoryError"),
    "limit for good": "limited",
    "alarm left behind": "left",
    "directory": None,
    "replace stdout": None,
    "umask": True,
    "files left open": "left",
    "bytes on every descriptor": Failed("process_died", "wrote to its connection"),
    "close all descriptors": Failed("process_died"),
}
COROUTINES: dict[str, Any] = {
    "exit in a task": "went on",
    "exit of an awaited task": Failed("SystemExit", "4"),
    "exit in a callback": "went on",
    "stop": "went on",
    "close": Failed("RuntimeError", "Cannot close a running event loop"),
    "cancel all": "cancelled",
    "cancel itself": Failed("asyncio.exceptions.CancelledError"),
    "leave a task": "left",
    "break the factory": "broken",
}
#: Payloads that are JSON, and what becomes of a task `echo` with them.
PAYLOADS: dict[str, Any] = {
    '{"args":[%s]}' % ("9" * 5000): Failed("triarch.errors.SerializationError", "5,000 digits"),
    '{"args":[{"a":[-%s]}]}' % ("9" * 5000): Failed("triarch.errors.SerializationError", "payload['args'][0]['a'][0]"),
    '{"args":[1e999]}': Failed("triarch.errors.SerializationError", "inf"),
    '{"args":["\\ud800"]}': Failed("triarch.errors.SerializationError", "no Unicode text"),
    '{"args":["\\u0000\\u2028"]}': "\0\u2028",
    '{"args":[1],"args":[2]}': 2,
    '{"args":[1.0000000000000000000000000000000000000001]}': 1.0,
    '{"args":[' + "[" * 50 + "1" + "]" * 50 + "]}": json.loads("[" * 50 + "1" + "]" * 50),
    "null": None,
    "5": Failed("triarch.errors.SerializationError"),
    '"text"': Failed("triarch.errors.SerializationError"),
    "[]": Failed("triarch.errors.SerializationError"),
    "{}": None,
    '{"args":5}': Failed("triarch.errors.SerializationError"),
    '{"args":null}': Failed("triarch.errors.SerializationError"),
    '{"kwargs":{"nobody":1}}': Failed("triarch.errors.ArgumentsError", "nobody"),
    '{"args":[1,2,3]}': Failed("triarch.errors.ArgumentsError", "too many"),
    '{"codec":["json"],"data":""}': Failed("triarch.errors.SerializationError"),
    '{"codec":{},"data":""}': Failed("triarch.errors.SerializationError"),
    '{"codec":"\\ud800","data":""}': Failed("triarch.errors.SerializationError"),
    '{"codec":"json","data":7}': Failed("triarch.errors.SerializationError"),
    '{"codec":"json+types","data":{"args":[{"__type__":"decimal","__value__":"x"}]}}': Failed(
        "triarch.errors.SerializationError"
    ),
    '{"codec":"json+types","data":{"args":[{"__type__":[]}]}}': Failed("triarch.errors.SerializationError"),
    '{"args":[1],"inputs":5}': Failed("triarch.errors.SerializationError"),
    '{"args":[1],"inputs":[{"from":[[]],"to":["args",0]}]}': Failed("triarch.errors.SerializationError"),
    '{"args":[1],"inputs":[{"from":"x","to":' + json.dumps(["args"] * 5000) + "}]}": Failed(
        "triarch.errors.SerializationError"
    ),
}


class Subject:
    """A worker of one pool. Where it has more than one slot, a neighbour runs through all of the harm."""

    def __init__(
        self, cluster: LocalCluster, pool: str, notes: Path, *, concurrency: int = 3, next_task_s: float = NEXT_TASK_S
    ) -> None:
        self.pool = pool
        self.slowest_s = 0.0
        self.bench = Bench(cluster, notes)
        self._next_task_s = next_task_s
        self.worker: Process = self.bench.worker(
            "--stop-grace", "0.5", "--log-level", "debug", app="harmful_tasks:app", concurrency=concurrency, pool=pool
        )
        self.app = Triarch(cluster.url, accept=("json", "msgpack"))
        self.neighbour: Handle[Any] | None = None
        if concurrency > 1:
            self.neighbour = self.send("aneighbour" if pool == "async" else "neighbour")
            wait_until(lambda: self.bench.lines("begun"), 60, "the neighbour to begin")
        else:
            self.check(self.send("echo", 5), 5)

    def send(self, name: str, *args: Any, **options: Any) -> Handle[Any]:
        return self.app.send_task(f"harmful_tasks.{name}", args, queue=self.bench.queue, max_attempts=1, **options)

    def send_raw(self, kind: str, payload: str) -> Handle[Any]:
        task = f'{{"kind":"{kind}","queue":"{self.bench.queue}","max_attempts":1,"payload":{payload}}}'
        job = self.app.transport.json(Request.change("POST", "/v1/jobs", f'{{"tasks":[{task}]}}'.encode()))
        return Handle(self.app, job["tasks"][0], job["id"])

    def check(self, handle: Handle[Any], expected: Any) -> None:
        """Checks an outcome, and that the worker runs the next task at once."""
        try:
            outcome: Any = handle.result(timeout=30)
        except TaskFailed as failed:
            outcome = failed
        begun = time.monotonic()
        assert self.send("aadd" if self.pool == "async" else "add", 1, 2).result(timeout=30) == 3
        took_s = time.monotonic() - begun
        assert took_s < self._next_task_s, f"the next task ended after {took_s:.3f} s"
        self.slowest_s = max(self.slowest_s, took_s)
        assert is_as(outcome, expected), (outcome, getattr(outcome, "error", None))

    def check_all(self, cases: dict[str, Any], task: str) -> None:
        for action, expected in cases.items():
            try:
                self.check(self.send(task, action), expected)
            except BaseException as error:
                raise AssertionError(f"{self.pool}, {task}: {action}: {error!r}") from error

    def check_matrix(self) -> None:
        self.check_all(EVERYWHERE, "act")
        if self.pool == "process":
            self.check_all(ONLY_PROCESSES, "act")
        if self.pool == "async":
            # An async def cannot raise StopIteration, and its forks and children work as elsewhere.
            self.check_all(EVERYWHERE, "aact")
        self.check_all(COROUTINES, "awaits")

    def finish(self) -> None:
        """Checks that the neighbour and the worker are unharmed."""
        assert self.neighbour is not None
        self.bench.go_on()
        assert self.neighbour.result(timeout=30) == "unharmed"
        assert self.bench.outcomes(self.neighbour.id) == ["succeeded"]
        assert len(self.bench.lines("begun")) == 1
        assert self.worker.is_running()


def is_as(outcome: Any, expected: Any) -> bool:
    """Returns whether an outcome is the expected one, or one of several."""
    if isinstance(expected, tuple):
        return any(is_as(outcome, one) for one in expected)
    if not isinstance(expected, Failed):
        return type(outcome) is type(expected) and outcome == expected
    if not isinstance(outcome, TaskFailed):
        return False
    text = str(outcome.error.get("message"))
    return outcome.type.startswith(expected.type) and expected.words in text


@pytest.fixture(scope="module")
def one_cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1) as cluster:
        yield cluster


@pytest.fixture(params=POOLS)
def subject(request: pytest.FixtureRequest, one_cluster: LocalCluster, tmp_path: Path, monkeypatch: Any) -> Iterator[Subject]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("NOTES", str(tmp_path))
    subject = Subject(one_cluster, request.param, tmp_path)
    yield subject
    subject.worker.kill9()


def test_no_task_harms_its_worker_or_a_neighbour(subject: Subject) -> None:
    subject.check_matrix()
    subject.finish()


def test_no_payload_harms_its_worker_or_a_neighbour(subject: Subject) -> None:
    for payload, expected in PAYLOADS.items():
        try:
            subject.check(subject.send_raw("harmful_tasks.echo", payload), expected)
        except BaseException as error:
            raise AssertionError(f"{subject.pool}: {payload[:100]}: {error!r}") from error
    subject.finish()


def test_a_result_that_cannot_be_read_costs_its_reader_that_result_only(one_cluster: LocalCluster) -> None:
    app = Triarch(one_cluster.url)
    body = {"name": f"reports-{time.monotonic_ns()}", "queues": ["reports"], "slots": 4, "kinds": ["reported"]}
    worker = app.transport.json(Request.change("POST", "/v1/workers", body))["id"]
    handles = [app.send_task("reported", (number,), queue="reports") for number in range(3)]
    results = ["9" * 5000, '"\\ud800"', "[1]"]
    leased: list[Any] = []
    while len(leased) < 3:
        poll = Request.change("POST", f"/v1/workers/{worker}/poll", {"max": 4, "wait_ms": 5000})
        leased += app.transport.json(poll)["tasks"]
    reports = []
    for task in leased:
        result = results[task["payload"]["args"][0]]
        reports.append(f'{{"task":"{task["id"]}","token":{task["token"]},"status":"succeeded","result":{result}}}')
    report = f'{{"results":[{",".join(reports)}]}}'.encode()
    app.transport.json(Request.change("POST", f"/v1/workers/{worker}/report", report))
    for one in (handles, [app.handle(handle.id) for handle in handles]):
        with pytest.raises(SerializationError, match="5,000 digits"):
            one[0].result(timeout=20)
        assert one[2].result(timeout=20) == [1]
    # Through the watcher, which reads many results in one answer.
    group = HandleGroup(app, [app.handle(handle.id) for handle in handles])
    assert len(list(group.as_completed(timeout=20))) == 3
    assert group[2].result() == [1]
    assert [row["result"] for row in app.jobs.tasks(handles[0].job)] == ["9" * 5000]
    assert asyncio.run(_read(app, handles[2].id)) == [1]


async def _read(app: Triarch, task: str) -> Any:
    return await app.handle(task).aresult(timeout=20)
