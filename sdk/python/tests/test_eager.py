"""Eager mode: tasks run where they are submitted."""

from __future__ import annotations

import asyncio
import pickle
from datetime import timedelta
from typing import Any

import pytest

from triarch import GiveUp, NotFound, Retry, SerializationError, TaskFailed, Triarch, UsageError, current
from triarch._http.policy import Request
from triarch.testing import eager


@pytest.fixture
def app() -> Triarch:
    # No process listens at this address.
    return Triarch("http://127.0.0.1:9")


def test_a_task_runs_at_once_and_its_values_travel(app: Triarch) -> None:
    seen: list[Any] = []

    @app.task
    def keep(values: Any) -> Any:
        seen.append(values)
        return (1, 2)

    given = {"a": [1]}
    with eager(app) as cluster:
        handle = keep.delay(given)
        assert seen == [given]
        assert seen[0] is not given
        # The value is as decoded from the wire, not the original.
        assert handle.result(timeout=5) == [1, 2]
        assert cluster.tasks[handle.id]["state"] == "succeeded"
        with pytest.raises(SerializationError):
            keep.delay(object())


def test_failures_are_retried_and_raised(app: Triarch) -> None:
    attempts: list[int] = []

    @app.task(max_attempts=3)
    def fails(how: str) -> None:
        attempts.append(current().attempt)
        if how == "for good":
            raise GiveUp("no use")
        if how != "until the third" or current().attempt < 3:
            raise ValueError(how)

    with eager(app):
        with pytest.raises(TaskFailed) as failed:
            fails.delay("always").result(timeout=5)
        assert isinstance(failed.value.__cause__, ValueError)
        assert attempts == [1, 2, 3]
        assert fails.delay("until the third").result(timeout=5) is None
        attempts.clear()
        with pytest.raises(TaskFailed):
            fails.delay("for good").result(timeout=5)
        assert attempts == [1]


def test_a_retry_with_a_delay_counts_as_an_attempt_and_shows_its_cause(app: Triarch) -> None:
    attempts: list[int] = []

    @app.task(max_attempts=2)
    def fails(message: str) -> None:
        attempts.append(current().attempt)
        try:
            raise ValueError("the cause")
        except ValueError as error:
            raise Retry(message, after=timedelta(hours=1)) from error

    with eager(app):
        for message, type in (("", "ValueError"), ("later", "triarch.errors.Retry")):
            with pytest.raises(TaskFailed) as failed:
                fails.delay(message).result(timeout=5)
            assert failed.value.type == type
        assert attempts == [1, 2, 1, 2]


def test_a_retry_takes_a_bounded_time_and_can_be_pickled() -> None:
    for wrong in (-1, float("nan"), float("inf"), "soon", None, timedelta(days=3661), 10**400):
        with pytest.raises(UsageError, match="after is"):
            Retry(after=wrong)  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(Retry("later", after=timedelta(minutes=1.5))))
    assert (str(copy), copy.after_s) == ("later", 90.0)


def test_results_are_passed_to_the_next_step(app: Triarch) -> None:
    @app.task
    def double(x: int) -> int:
        return 2 * x

    @app.task
    def fails() -> None:
        raise GiveUp("no")

    first = {"kind": double.name, "key": "first", "payload": {"args": [4]}}
    wired = {"args": [None], "inputs": [{"to": ["args", 0], "from": "first"}]}
    second = {"kind": double.name, "key": "second", "after": ["first"], "payload": wired}
    with eager(app) as cluster:
        # In any order of submission.
        job = app.transport.json(Request.change("POST", "/v1/jobs", {"tasks": [second, first]}))
        assert [cluster.tasks[task]["result"] for task in job["tasks"]] == [16, 8]
        bad = {"kind": fails.name, "key": "first", "payload": None}
        job = app.transport.json(Request.change("POST", "/v1/jobs", {"tasks": [bad, second]}))
        assert [cluster.tasks[task]["state"] for task in job["tasks"]] == ["failed", "cancelled"]


@pytest.mark.parametrize("on_failure", ["continue", "fail_fast"])
def test_handlers_run_by_the_end_of_their_task(app: Triarch, on_failure: Any) -> None:
    @app.task(max_attempts=1)
    def fails() -> None:
        raise ValueError("no")

    @app.task
    def echo(*given: Any) -> Any:
        return list(given)

    dag = app.dag(on_failure=on_failure)
    bad = dag.add(fails)
    needs = dag.add(echo, bad)
    alert = dag.add(echo, bad.failed)
    late = dag.add(echo, needs.failed)
    unneeded = dag.add(echo, alert.failed)
    tidy = dag.add(echo, bad.ended, alert.ended, unneeded.ended)
    with eager(app):
        run = dag.submit()
        [error] = run[alert].result(timeout=5)
        assert (error["type"], error["message"]) == ("ValueError", "no")
        how = "job_failed" if on_failure == "fail_fast" else "dependency_failed"
        assert run[late].result(timeout=5)[0]["type"] == how
        ends = run[tidy].result(timeout=5)
        assert [end["state"] for end in ends] == ["failed", "succeeded", "cancelled"]
        assert (ends[1]["result"], ends[2]["error"]["type"]) == ([error], "not_needed")


def test_coroutines_within_and_without_a_loop(app: Triarch) -> None:
    @app.task
    async def half(x: int) -> float:
        await asyncio.sleep(0)
        assert current().attempt == 1
        return x / 2

    with eager(app):
        assert half.delay(3).result(timeout=5) == 1.5

        async def within() -> float:
            return half.delay(5).result(timeout=5)

        assert asyncio.run(within()) == 2.5


def test_many_at_once_and_once_only_by_their_key(app: Triarch) -> None:
    runs: list[int] = []

    @app.task
    def count(x: int) -> int:
        runs.append(x)
        return x

    with eager(app):
        assert [one.result(timeout=5) for one in count.map(range(50))] == list(range(50))
        first = count.apply_async((99,), idempotency_key="once")
        again = count.apply_async((99,), idempotency_key="once")
        assert first.id == again.id
        assert runs.count(99) == 1


def test_a_call_that_needs_a_cluster_raises_an_error_with_the_reason(app: Triarch) -> None:
    with eager(app), pytest.raises(NotFound, match="eager"):
        app.transport.json(Request.get("/v1/queues"))
    assert "call" not in app.transport.__dict__
