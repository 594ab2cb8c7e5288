"""Handles: submitting, waiting, cancelling and retrying, for one task and for many."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_worker import FakeWorker
from triarch import (
    Conflict,
    GiveUp,
    InvalidRequest,
    NotFound,
    RemoteError,
    ResultTimeout,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    Triarch,
    UsageError,
)
from triarch.testing import LocalCluster, wait_until


class Setup:
    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.queue = f"q-{uuid.uuid4().hex[:8]}"
        self.app = app = Triarch(cluster.url, queue=self.queue)

        @app.task
        def add(x: int, y: int = 0) -> int:
            return x + y

        @app.task(max_attempts=1)
        def broken(word: str) -> None:
            try:
                words: dict[str, int] = {}
                words[word]
            except KeyError as error:
                raise ValueError(word) from error

        @app.task
        def hopeless() -> None:
            raise GiveUp("it never works")

        self.add, self.broken, self.hopeless = add, broken, hopeless

    def worker(self, threads: int = 1) -> FakeWorker:
        return FakeWorker(self.app, threads, queues=(self.queue,))


@pytest.fixture
def setup(cluster: LocalCluster) -> Setup:
    return Setup(cluster)


def test_a_result_comes_back(setup: Setup) -> None:
    with setup.worker():
        handle = setup.add.delay(1, y=2)
        assert handle.result(timeout=30) == 3
        assert handle.status == "succeeded"
        assert handle.done()
        assert repr(handle) == f"<Handle {handle.id} {setup.add.name}: succeeded>"
        assert "succeeded" in handle._repr_html_()
        assert setup.app.handle(handle.id).result(timeout=30) == 3


def test_an_exception_comes_back_with_its_causes(setup: Setup) -> None:
    with setup.worker():
        handle = setup.broken.delay("word")
        with pytest.raises(TaskFailed, match="ValueError: word") as caught:
            handle.result(timeout=30)
    assert caught.value.type == "ValueError"
    assert "in broken" in (caught.value.traceback or "")
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert isinstance(cause.__cause__, KeyError)
    assert isinstance(handle.exception(), TaskFailed)


def test_a_task_that_gives_up_is_not_retried(setup: Setup) -> None:
    with setup.worker():
        handle = setup.hopeless.delay()
        with pytest.raises(TaskFailed) as caught:
            handle.result(timeout=30)
    assert isinstance(caught.value.__cause__, RemoteError)
    ends = [one["outcome"] for one in handle.info()["attempts"]]
    assert [end for end in ends if end != "returned"] == ["failed"]


def test_waiting_ends_and_the_task_goes_on(setup: Setup) -> None:
    handle = setup.add.delay(1)
    begun = time.monotonic()
    with pytest.raises(ResultTimeout, match="it goes on"):
        handle.result(timeout=0.2)
    assert time.monotonic() - begun >= 0.2
    assert handle.status == "queued"
    assert "worker" in handle.explain()
    assert handle.cancel()


def test_cancelling_what_waits_and_what_has_ended(setup: Setup) -> None:
    waiting = setup.add.delay(1)
    assert waiting.cancel()
    assert waiting.cancel(), "asked again, it is still cancelled"
    with pytest.raises(TaskCancelled):
        waiting.result()
    waiting.retry()
    with setup.worker():
        assert waiting.result(timeout=30) == 1
        assert not waiting.cancel()


def test_cancelling_many(setup: Setup) -> None:
    many = setup.add.map(range(50))
    many.cancel()
    assert many.wait(timeout=30)
    assert many.counts() == {"cancelled": 50}


def test_options_reach_the_cluster(setup: Setup) -> None:
    handle = setup.add.apply_async(
        (1,), {"y": 2}, priority=7, countdown=60, timeout=5, max_attempts=4, tags=["a"], labels={"zone": "eu"}
    )
    info = handle.info()
    assert (info["state"], info["priority"], info["timeout_ms"], info["max_attempts"]) == ("delayed", 7, 5000, 4)
    assert info["tags"] == ["a"]
    assert info["requires"]["labels"] == {"zone": "eu"}
    handle.cancel()
    expired = setup.add.apply_async((1,), expires=0.01)
    with pytest.raises(TaskExpired):
        expired.result(timeout=30)


def test_a_refusal_of_the_cluster_raises_the_error_of_its_code(setup: Setup) -> None:
    with pytest.raises(InvalidRequest) as caught:
        setup.add.apply_async((1,), priority=10)
    assert caught.value.field == "tasks[0].priority"
    with pytest.raises(UsageError, match="there is no option 'prio'"):
        setup.add.apply_async((1,), prio=3)  # type: ignore[call-arg]
    with pytest.raises(NotFound):
        setup.app.handle("t999999-0").result(timeout=5)
    with pytest.raises(NotFound):
        setup.app.handle("../x").info()


def test_keys_make_one_task_of_many_submissions(setup: Setup) -> None:
    key = uuid.uuid4().hex
    first = setup.add.apply_async((1,), idempotency_key=key)
    assert setup.add.apply_async((1,), idempotency_key=key).id == first.id
    with pytest.raises(Conflict):
        setup.add.apply_async((2,), idempotency_key=key)
    only = setup.add.apply_async((1,), unique_key=key)
    with pytest.raises(Conflict) as caught:
        setup.add.apply_async((1,), unique_key=key)
    assert caught.value.task == only.id
    assert setup.add.apply_async((1,), unique_key=key, on_duplicate="return").id == only.id
    only.cancel()
    first.cancel()


def test_many_come_back_in_order_and_as_they_end(setup: Setup) -> None:
    with setup.worker():
        many = setup.add.map(range(3000), [10] * 3000)
        assert many.results(timeout=60) == list(range(10, 3010))
        assert len(many.jobs) == 1
        assert {handle.result() for handle in many.as_completed()} == set(range(10, 3010))
        assert [handle.result() for handle in setup.add.starmap([(1, 1), (2, 2)])[:1]] == [2]


def test_many_raise_what_the_first_failure_raises(setup: Setup) -> None:
    with setup.worker(), pytest.raises(TaskFailed, match="ValueError"):
        setup.broken.map(["a", "b"]).results(timeout=30)
    late = setup.add.map(range(5))
    with pytest.raises(ResultTimeout, match="5 of 5"):
        late.results(timeout=0.2)
    late.cancel()


def test_threads_submit_together(setup: Setup) -> None:
    with setup.worker(), ThreadPoolExecutor(32) as pool:
        handles = list(pool.map(lambda number: setup.add.delay(number, 1), range(640)))
        assert len({handle.id for handle in handles}) == 640
        assert [handle.result(timeout=60) for handle in handles] == list(range(1, 641))
        assert len({handle.job for handle in handles}) < 640, "none of them travelled together"


def test_a_refused_submission_does_not_fail_others(setup: Setup) -> None:
    barrier = threading.Barrier(16)

    def submit(number: int) -> object:
        barrier.wait(30)
        try:
            return setup.add.apply_async((number,), priority=99 if number == 3 else 1)
        except InvalidRequest as error:
            return error

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(submit, range(16)))
    assert [number for number, one in enumerate(outcomes) if isinstance(one, InvalidRequest)] == [3]


def test_more_threads_wait_than_connections_are_made(setup: Setup) -> None:
    handles = [setup.add.delay(number) for number in range(40)]
    with ThreadPoolExecutor(40) as pool:
        results = [pool.submit(handle.result, 60) for handle in handles]
        wait_until(lambda: len(setup.app.watcher) >= 30, 30, "threads to wait by the watcher")
        with setup.worker():
            assert [result.result(60) for result in results] == list(range(40))
    assert len(setup.app.watcher) == 0


def test_a_whole_map_larger_than_a_request(setup: Setup) -> None:
    many = setup.add.map(range(10_001))
    assert len(many) == 10_001
    assert len(many.jobs) == 1
    many.cancel()
    assert many.wait(timeout=60)
