"""Futures: the standard library's rules for executors, and the behaviour of Dask's client."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import gc
import operator
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fake_worker import FakeWorker
from test_handles import Setup
from triarch import (
    Client,
    ClusterExecutor,
    HandleGroup,
    ResultTimeout,
    TaskFailed,
    TaskFuture,
    Triarch,
    UsageError,
    as_completed,
    stall,
)
from triarch.outcome import Outcome
from triarch.testing import LocalCluster, wait_until

GATE = threading.Event()


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise ValueError(number)


def fail_at_three(number: int) -> int:
    return fail(number) if number == 3 else number


def wait_for_gate() -> str:
    GATE.wait(30)
    return "through"


class Pickled(Setup):
    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(cluster)
        self.app = Triarch(cluster.url, queue=self.queue, serializer="cloudpickle")


@pytest.fixture
def setup(cluster: LocalCluster) -> Iterator[Pickled]:
    GATE.clear()
    yield Pickled(cluster)
    GATE.set()


@pytest.fixture
def executor(setup: Pickled) -> Iterator[ClusterExecutor]:
    with FakeWorker(setup.app, 2, slots=1, queues=(setup.queue,)), setup.app.executor() as executor:
        yield executor
        GATE.set()


# What the standard library expects of an executor -------------------------------------------------------------------


def test_submit(executor: ClusterExecutor) -> None:
    future = executor.submit(pow, 2, 8)
    assert future.result(30) == 256
    assert executor.submit(square, number=3).result(30) == 9
    assert executor.submit(operator.add, self := [1], [2]).result(30) == [1, 2]
    assert self == [1]


class Result:
    """A result that can be watched by a weak reference."""


def make_result(number: int) -> Result:
    return Result()


def test_map_frees_each_result_that_its_caller_has_dropped(executor: ClusterExecutor) -> None:
    given: list[weakref.ref[Result]] = []

    def all_are_freed() -> bool:
        gc.collect()
        return all(one() is None for one in given)

    for result in executor.map(make_result, range(20)):
        given.append(weakref.ref(result))
        del result
        # The thread that has set the result may not have left its function yet.
        wait_until(all_are_freed, 10, "the results to be freed")


def test_a_future_that_is_cancelled_twice_at_once_notifies_once(setup: Pickled, caplog: pytest.LogCaptureFixture) -> None:
    future: TaskFuture[None] = TaskFuture(setup.app, cancel_running=True)
    ended: list[object] = []
    future.add_done_callback(ended.append)
    assert future.cancel()
    # What the watcher's thread does when the cluster's word crosses the caller's.
    future._on_ended(Outcome("t1-0", "cancelled"))
    assert future.cancelled()
    assert ended == [future]
    assert [record.message for record in caplog.records] == []


def test_map_keeps_order(executor: ClusterExecutor) -> None:
    assert list(executor.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(executor.map(pow, range(40), range(40), chunksize=6)) == list(map(pow, range(40), range(40)))
    assert list(executor.map(pow, range(40), range(40), chunksize=50)) == list(map(pow, range(40), range(40)))
    assert list(executor.map(square, [])) == []
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(square, [1], chunksize=-1)


def test_map_raises_where_it_comes_to_the_exception(executor: ClusterExecutor) -> None:
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_with_a_timeout_gives_what_came_in_time(executor: ClusterExecutor) -> None:
    results: list[None] = []
    with pytest.raises(cf.TimeoutError):
        for result in executor.map(_maybe_wait, [0, 0, 1], timeout=5):
            results.append(result)
    assert results == [None, None]
    GATE.set()


def _maybe_wait(wait: int) -> None:
    if wait:
        wait_for_gate()


def test_exceptions_are_those_of_the_function(executor: ClusterExecutor) -> None:
    future = executor.submit(fail, 3)
    error = future.exception(30)
    assert isinstance(error, ValueError)
    assert error.args == (3,)
    assert "in fail" in "".join(getattr(error, "__notes__", [])) + str(error.__cause__)
    with pytest.raises(ValueError, match="3"):
        future.result()


def test_done_callbacks(executor: ClusterExecutor) -> None:
    seen: list[cf.Future[int]] = []
    future = executor.submit(square, 2)
    future.add_done_callback(seen.append)
    assert future.result(30) == 4
    wait_until(lambda: seen == [future], 10, "the callback")
    future.add_done_callback(seen.append)
    assert seen == [future, future]


def test_a_future_that_waits_is_cancelled_and_one_that_runs_is_not(executor: ClusterExecutor) -> None:
    running = [executor.submit(wait_for_gate) for _ in range(2)]
    wait_until(lambda: all(future.running() for future in running), 30, "both to run")
    waiting = executor.submit(square, 2)
    wait_until(lambda: waiting.task is not None, 30, "the submission")
    assert not waiting.running()
    assert waiting.cancel()
    assert waiting.cancelled()
    with pytest.raises(cf.CancelledError):
        waiting.result()
    assert not running[0].cancel()
    GATE.set()
    assert [future.result(30) for future in running] == ["through", "through"]
    assert not running[0].cancel(), "it has ended"


def test_a_future_is_cancelled_before_the_cluster_has_it(executor: ClusterExecutor) -> None:
    futures = [executor.submit(square, number) for number in range(200)]
    cancelled = [future.cancel() for future in futures]
    for future, was in zip(futures, cancelled, strict=True):
        if was:
            assert future.cancelled()
        else:
            future.result(60)


def test_waiting_for_the_first_the_first_exception_and_all(executor: ClusterExecutor) -> None:
    gate: cf.Future[Any] = executor.submit(wait_for_gate)
    quick: cf.Future[Any] = executor.submit(square, 3)
    done, left = cf.wait([gate, quick], timeout=30, return_when=cf.FIRST_COMPLETED)
    assert (done, left) == ({quick}, {gate})
    bad: cf.Future[Any] = executor.submit(fail, 1)
    done, left = cf.wait([gate, bad], timeout=30, return_when=cf.FIRST_EXCEPTION)
    assert (done, left) == ({bad}, {gate})
    done, left = cf.wait([gate], timeout=0.1)
    assert (done, left) == (set(), {gate})
    GATE.set()
    done, left = cf.wait([gate, quick, bad], timeout=30)
    assert left == set()
    assert set(cf.as_completed([gate, quick, bad], timeout=10)) == {gate, quick, bad}


def test_result_with_a_timeout(executor: ClusterExecutor) -> None:
    future = executor.submit(wait_for_gate)
    with pytest.raises(cf.TimeoutError):
        future.result(0.1)
    GATE.set()
    assert future.result(30) == "through"


def test_nothing_is_taken_after_shutdown_and_what_was_taken_ends(setup: Pickled) -> None:
    executor = ClusterExecutor(setup.app)
    futures = [executor.submit(square, number) for number in range(20)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)
    with setup.worker():
        executor.shutdown()
        assert all(future.done() for future in futures)
        assert [future.result() for future in futures] == [number**2 for number in range(20)]


def test_shutdown_cancels_what_does_not_run(setup: Pickled) -> None:
    executor = ClusterExecutor(setup.app)
    futures = [executor.submit(square, number) for number in range(20)]
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_it_is_awaited_too(executor: ClusterExecutor) -> None:
    async def main() -> int:
        first = await asyncio.get_running_loop().run_in_executor(executor, square, 3)
        return first + await executor.submit(square, 4)

    assert asyncio.run(main()) == 25


def test_a_unique_key_is_refused_for_an_executor(setup: Pickled) -> None:
    with pytest.raises(UsageError, match="unique_key"):
        setup.app.executor(unique_key="x")


def test_an_app_of_plain_data_runs_its_own_tasks_only(cluster: LocalCluster) -> None:
    setup = Setup(cluster)
    with setup.worker(), setup.app.executor() as executor:
        assert executor.submit(setup.add, 1, y=2).result(30) == 3
        assert list(executor.map(setup.add, range(10), range(10), chunksize=3)) == list(range(0, 20, 2))
        with pytest.raises(UsageError, match=r"@app\.task"):
            executor.submit(square, 1)
        error = executor.submit(setup.broken, "word").exception(30)
        assert isinstance(error, ValueError)


# What Dask's users expect ------------------------------------------------------------------------------------------------


def test_map_and_gather(setup: Pickled) -> None:
    with setup.worker(), Client(setup.app) as client:
        futures = client.map(square, range(500))
        assert client.gather(futures, progress=True) == [number**2 for number in range(500)]
        assert client.gather({"a": futures[2], "b": [futures[3], (futures[4], 7)]}) == {"a": 4, "b": [9, (16, 7)]}
        assert sorted(result for _, result in as_completed(futures[:5], with_results=True)) == [0, 1, 4, 9, 16]
        bad = client.map(fail_at_three, range(5))
        with pytest.raises(ValueError, match="3"):
            client.gather(bad)
        assert client.gather(bad, errors="skip") == [0, 1, 2, 4]
        assert [future.status for future in bad] == ["finished"] * 3 + ["error", "finished"]
        assert "error" in bad[3]._repr_html_()


def test_futures_are_arguments(setup: Pickled) -> None:
    with setup.worker(), Client(setup.app) as client:
        total = client.submit(sum, client.submit(list, client.submit(range, 5)))
        assert total.result(30) == 10
        after = client.submit(square, client.submit(fail, 1))
        with pytest.raises(ValueError, match="1"):
            after.result(30)


def test_map_takes_futures(setup: Pickled) -> None:
    with setup.worker(), Client(setup.app) as client:
        assert client.gather(client.map(square, client.map(square, range(5)))) == [0, 1, 16, 81, 256]


def test_a_caller_that_waits_learns_why(
    setup: Pickled, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "NOTICE_AFTER_S", 0.2)
    monkeypatch.setattr(stall, "_logged", {})
    client = Client(setup.app)
    future = client.submit(square, 2)
    waits: list[Callable[[], Any]] = [
        lambda: future.result(0.7),
        lambda: client.gather([future], timeout=0.7),
        lambda: list(as_completed([future], 0.7)),
        lambda: setup.app.handle(str(future.task)).result(0.7),
        lambda: HandleGroup(setup.app, [setup.app.handle(str(future.task))]).results(0.7),
        lambda: asyncio.run(setup.app.handle(str(future.task)).aresult(0.7)),
    ]
    for wait in waits:
        with caplog.at_level("WARNING", "triarch"), pytest.raises(TimeoutError) as timeout:
            wait()
        assert isinstance(timeout.value, (ResultTimeout, cf.TimeoutError))
        assert "not running yet: no worker takes" in str(timeout.value)
        assert "started by triarch-worker MODULE:APP" in str(timeout.value)
    # Once, although six callers have waited.
    assert len([record for record in caplog.records if "is not running after" in record.message]) == 1
    with setup.worker():
        assert future.result(30) == 4


def test_a_caller_whose_workers_take_no_functions_learns_how_to_start_one_that_does(setup: Pickled) -> None:
    without = Triarch(setup.app.transport.masters.all())
    with FakeWorker(without, 1, slots=1, queues=(setup.queue,)):
        workers = setup.app.workers
        wait_until(lambda: any(setup.queue in one["queues"] for one in workers.list()), 30, "the worker to register")
        future = Client(setup.app).submit(square, 2)
        with pytest.raises(TimeoutError, match=r"kind triarch\.call; .* MODULE:APP --accept cloudpickle"):
            future.result(0.7)


def test_futures_in_lists_and_dictionaries_stand_for_their_results(setup: Pickled) -> None:
    with setup.worker(), Client(setup.app) as client:
        many = client.map(abs, [-1, -2, -3])
        assert client.submit(sum, many).result(30) == 6
        assert client.submit(sorted, {"b": many[0], "a": 0}).result(30) == ["a", "b"]
        assert client.submit(str, [(many[2], None)]).result(30) == "[(3, None)]"


def test_retries(setup: Pickled) -> None:
    with setup.worker(), Client(setup.app, backoff=0.01) as client:
        future = client.submit(fail, 1, retries=2)
        assert isinstance(future.exception(30), ValueError)
        assert future.task is not None
        assert setup.app.handle(future.task).info()["attempt"] == 3


def test_a_running_future_is_cancelled(setup: Pickled) -> None:
    with FakeWorker(setup.app, 1, slots=1, queues=(setup.queue,)), Client(setup.app) as client:
        future = client.submit(wait_for_gate)
        wait_until(future.running, 30, "it to run")
        client.cancel([future])
        assert future.cancelled()
        assert future.status == "cancelled"
        GATE.set()


def test_a_task_that_ends_by_the_clusters_word_says_so(setup: Pickled) -> None:
    client = Client(setup.app, expires=0.01)
    with pytest.raises(Exception, match="not started in time"):
        client.submit(square, 1).result(30)
    assert issubclass(TaskFailed, Exception)


def test_calls_that_gather_are_sent_in_one_request(setup: Pickled) -> None:
    client = Client(setup.app)
    begun = time.monotonic()
    futures = client.map(square, range(2000))
    client.close()
    assert time.monotonic() - begun < 60
    assert len({future.job for future in futures}) < 200
    client.cancel(futures[:5])
    with setup.worker():
        assert client.gather(futures[5:]) == [number**2 for number in range(5, 2000)]
