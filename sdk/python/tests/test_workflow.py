"""Chains, groups, chords and graphs: each is one job, whose results the cluster passes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from fake_worker import FakeWorker
from test_handles import Setup
from triarch import NotFound, TaskCancelled, UsageError, chain, chord, group
from triarch.testing import LocalCluster, wait_until


class Flow(Setup):
    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(cluster)

        @self.app.task
        def total(numbers: list[int], more: int = 0) -> int:
            return sum(numbers) + more

        @self.app.task
        def echo(*args: Any, **kwargs: Any) -> Any:
            return [list(args), kwargs]

        self.total, self.echo = total, echo


@pytest.fixture
def flow(cluster: LocalCluster) -> Flow:
    return Flow(cluster)


def test_a_chain_passes_each_result_to_the_next_task(flow: Flow) -> None:
    with flow.worker():
        handle = (flow.add.s(1, 2) | flow.add.s(10) | flow.add.s(y=100)).submit()
        assert handle.result(timeout=30) == 113
        assert chain(flow.add.s(1), flow.echo.si("alone")).submit().result(timeout=30) == [["alone"], {}]


def test_a_group_is_side_by_side_and_what_comes_after_has_all_of_it(flow: Flow) -> None:
    with flow.worker():
        many = group(flow.add.s(number, 1) for number in range(20)).submit()
        assert many.results(timeout=30) == list(range(1, 21))
        assert len(many.jobs) == 1
        handle = chord([flow.add.s(number) for number in range(100)], flow.total.s(more=5)).submit()
        assert handle.result(timeout=30) == sum(range(100)) + 5
        work = flow.add.s(1) | group(flow.add.s(10), flow.add.s(20)) | group(flow.total.s(), flow.echo.s()) | flow.echo.s()
        assert work.submit().result(timeout=30) == [[[32, [[[11, 21]], {}]]], {}]
        one = group(flow.add.s(3)) | flow.total.s()
        assert one.submit().result(timeout=30) == 3, "the group of one is a list too"


def test_a_graph_of_any_shape(flow: Flow) -> None:
    dag = flow.app.dag(name="shape")
    a = dag.add(flow.add, 1, 2)
    b = dag.add_call(flow.add, (10,), {"y": a}, key="b")
    c = dag.add(flow.echo, [a, b], {"deep": [0, {"er": b}]}, (a, 5), named=a)
    d = dag.add_call(flow.echo, after=[c])
    with flow.worker():
        run = dag.submit()
        assert run[c].result(timeout=30) == [[[3, 13], {"deep": [0, {"er": 13}]}, [3, 5]], {"named": 3}]
        assert run[d].result(timeout=30) == [[], {}]
        assert run["b"].result() == 13
        assert run.handles.jobs == [run.job]
    assert "shape" in repr(dag)
    assert run[c].info()["after"] == [a.key, "b"]


def test_failures_are_handled_and_ends_cleaned_up_after(flow: Flow) -> None:
    wait_until(lambda: flow.app.cluster.status()["level"] == 2, 30, "the cluster to have level 2")
    dag = flow.app.dag(name="saga")
    bad = dag.add_call(flow.broken, ("x",), key="bad", options=flow.broken.options.but({"max_attempts": 1}))
    good = dag.add_call(flow.add, (1, 2), key="good")
    alert = dag.add(flow.echo, bad.failed, nested=[{"error": bad.failed}])
    unneeded = dag.add(flow.echo, good.failed)
    tidy = dag.add(flow.echo, [bad.ended, good.ended])
    alone = dag.add_call(flow.echo, after=[bad.failed, good])
    with flow.worker():
        run = dag.submit()
        [[error], kwargs] = run[alert].result(timeout=30)
        assert kwargs == {"nested": [{"error": error}]}
        assert error["type"] == "ValueError"
        [[ends], _] = run[tidy].result(timeout=30)
        assert ends == [{"state": "failed", "error": error}, {"state": "succeeded", "result": 3}]
        assert run[alone].result(timeout=30) == [[], {}]
        with pytest.raises(TaskCancelled) as cancelled:
            run[unneeded].result(timeout=30)
    assert cancelled.value.error["type"] == "not_needed"
    assert run[alone].info()["after"] == [{"key": "bad", "when": "failed"}, "good"]
    assert "bad (failed)" in dag._repr_html_()
    with pytest.raises(UsageError, match="two different ends"):
        dag.add(flow.echo, bad.failed, bad.ended)


def test_a_workflow_comes_after_jobs_that_end_as_it_says(flow: Flow) -> None:
    wait_until(lambda: flow.app.cluster.status()["level"] == 2, 30, "the cluster to have level 2")
    first = flow.add.delay(1, 2)
    bad = flow.broken.apply_async(("x",), max_attempts=1)
    second = flow.add.s(10, 20).submit(after=[first, (bad, "failed")])
    third = flow.app.dag()
    node = third.add(flow.add, 100, 200)
    run = third.submit(after=second.job)
    denied = flow.add.s(1, 1).submit(after=(first.job, "failed"))
    assert "job" in second.explain()
    assert second.status == "waiting"
    with flow.worker():
        assert run[node].result(timeout=30) == 300
        assert second.result(timeout=30) == 30
        with pytest.raises(TaskCancelled) as cancelled:
            denied.result(timeout=30)
    assert cancelled.value.error["type"] == "job_dependency_failed"
    before = [{"job": first.job, "when": "succeeded", "met": True}, {"job": bad.job, "when": "failed", "met": True}]
    assert flow.app.jobs.get(second.job)["after_jobs"] == before
    with pytest.raises(NotFound):
        flow.add.s(1, 1).submit(after="j1-99")
    with pytest.raises(UsageError, match="comes after jobs"):
        flow.add.s(1, 1).submit(after=[7])  # type: ignore[list-item]


def test_dependents_of_a_failure_are_cancelled_with_its_task_as_the_reason(flow: Flow) -> None:
    with flow.worker():
        dag = flow.app.dag()
        bad = dag.add(flow.broken, "x")
        after = dag.add(flow.echo, bad)
        run = dag.submit()
        with pytest.raises(TaskCancelled, match="ended without success"):
            run[after].result(timeout=30)


def test_a_large_chord_is_small_on_the_wire(flow: Flow) -> None:
    dag, _ = chord([flow.add.s(number) for number in range(2000)], flow.total.s()).dag()
    body = json.loads(dag.specs()[-1])
    assert len(body["after"]) == 2000
    assert len(body["payload"]["inputs"]) == 1
    with FakeWorker(flow.app, 2, queues=(flow.queue,)):
        assert _result(dag) == sum(range(2000))


def _result(dag: Any) -> Any:
    run = dag.submit()
    return run[list(run)[-1]].result(timeout=60)


def test_invalid_workflows_are_refused_before_they_are_sent(flow: Flow) -> None:
    other = flow.app.dag().add(flow.add, 1)
    dag = flow.app.dag()
    with pytest.raises(UsageError, match="another workflow"):
        dag.add(flow.add, [other])
    dag.add_call(flow.add, (1,), key="k")
    with pytest.raises(UsageError, match="already"):
        dag.add_call(flow.add, (1,), key="k")
    with pytest.raises(UsageError, match="no tasks"):
        flow.app.dag().submit()
    with pytest.raises(UsageError, match=r"add\.s"):
        _ = flow.add | flow.total.s()


def test_a_group_without_tasks_has_no_results(flow: Flow) -> None:
    assert group().submit().results(timeout=1) == []
    assert (group([]) | group([])).submit().results() == []
    with flow.worker():
        assert chord([], flow.total.s(5)).submit().result(timeout=30) == 5
        # What follows still comes after what is before.
        work = flow.add.s(1, 2) | group([]) | flow.echo.s()
        assert work.submit().result(timeout=30) == [[[]], {}]
        end: Any = work.dag()[1]
        assert [node.key for node in end.after] == ["add-1"]


def test_a_member_that_fails_is_the_cause_of_what_it_cancels(flow: Flow) -> None:
    @flow.app.task(max_attempts=1)
    def fails(number: int) -> int:
        raise ValueError(f"no {number}")

    with flow.worker():
        after = chord([fails.s(7), flow.add.s(1, 2)], flow.total.s()) | flow.echo.s()
        handle = after.submit()
        waits: list[Callable[[], Any]] = [
            lambda: handle.result(timeout=30),
            lambda: asyncio.run(handle.aresult(timeout=30)),
        ]
        for wait in waits:
            with pytest.raises(TaskCancelled) as cancelled:
                wait()
            causes: list[Any] = [cancelled.value]
            while causes[-1].__cause__ is not None:
                causes.append(causes[-1].__cause__)
            assert [type(one).__name__ for one in causes][:4] == ["TaskCancelled", "TaskCancelled", "TaskFailed", "ValueError"]
            assert causes[3].args == ("no 7",)


def test_a_workflow_is_submitted_once_under_its_key(flow: Flow) -> None:
    work = flow.add.s(1) | flow.add.s(2)
    key = flow.queue
    first = work.submit(idempotency_key=key)
    assert work.submit(idempotency_key=key).id == first.id
    first.cancel()
