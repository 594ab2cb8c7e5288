"""Queues, schedules, workers, jobs and events from Python."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from typing import Any

import pytest

from test_handles import Setup
from triarch import InvalidRequest, NotFound, TaskFailed, UsageError
from triarch.errors import NoLeader, PositionGone
from triarch.testing import LocalCluster, wait_until


@pytest.fixture
def setup(cluster: LocalCluster) -> Setup:
    return Setup(cluster)


def test_queues(setup: Setup) -> None:
    queues = setup.app.queues
    assert queues.set(setup.queue, max_running=3, rate_per_s=100)["max_running"] == 3
    assert queues.set(setup.queue, max_running=None)["max_running"] is None
    assert queues.pause(setup.queue)["paused"]
    handle = setup.add.delay(1)
    assert "paused" in handle.explain()
    assert not queues.resume(setup.queue)["paused"]
    assert queues.get(setup.queue)["depth"] == 1
    assert setup.queue in [queue["name"] for queue in queues.list()]
    assert queues.purge(setup.queue)["cancelled"] == 1
    with pytest.raises(InvalidRequest) as caught:
        queues.set(setup.queue, weight=-1)
    assert caught.value.field == "weight"


def test_schedules(setup: Setup) -> None:
    schedules = setup.app.schedules
    name = setup.queue
    put = schedules.put(name, "0 3 * * *", setup.add.si(1, 2) | setup.add.s(3), timezone="Europe/Paris", overlap="forbid")
    assert put["overlap"] == "forbid"
    assert len(schedules.get(name)["next_runs"]) == 5
    assert name in [schedule["name"] for schedule in schedules.list()]
    assert schedules.pause(name)["paused"]
    job = schedules.trigger(name)
    with setup.worker():
        assert setup.app.handle(job["tasks"][-1]).result(timeout=30) == 6
    assert not schedules.resume(name)["paused"]
    wait_until(lambda: setup.app.cluster.status()["level"] == 2, 30, "the cluster to have level 2")
    for every in (90, timedelta(seconds=90)):
        assert schedules.put(name, setup.add.si(1, 2), every=every)["every_ms"] == 90_000
    for wrong in ({"every": 90, "cron": "0 3 * * *"}, {}):
        with pytest.raises(UsageError, match="either a cron expression or every"):
            schedules.put(name, work=setup.add.si(1, 2), **wrong)  # type: ignore[call-overload]
    schedules.delete(name)
    with pytest.raises(NotFound):
        schedules.get(name)


def test_jobs_workers_and_the_cluster(setup: Setup) -> None:
    with setup.worker():
        many = setup.add.map(range(1500))
        many.wait(timeout=60)
        with pytest.raises(TaskFailed):
            setup.broken.delay("x").result(timeout=30)
        assert "live" in {worker["state"] for worker in setup.app.workers.list()}
    job = many.jobs[0]
    assert setup.app.jobs.get(job)["state"] == "succeeded"
    assert [task["result"] for task in setup.app.jobs.tasks(job)] == list(range(1500))
    assert job in [one["id"] for one in setup.app.jobs.list(state="succeeded")]
    assert len(list(setup.app.jobs.find(queue=setup.queue, state="failed"))) == 1
    assert setup.app.jobs.retry_all(queue=setup.queue) == 1
    assert setup.app.jobs.cancel_all(queue=setup.queue) == 1
    assert len(setup.app.cluster.status()["nodes"]) == 3


def test_events_are_followed_over_a_failover(own_cluster: LocalCluster) -> None:
    setup = Setup(own_cluster)
    seen: list[dict[str, Any]] = []
    begin = str(setup.app.transport.call(_look()).index)

    def follow() -> None:
        # The stream continues until its cluster is removed, after the test.
        with contextlib.suppress(NoLeader):
            for event in setup.app.events(after=begin, queue=setup.queue, type=["task_changed"], state="succeeded"):
                seen.append(event)

    threading.Thread(target=follow, daemon=True).start()
    with setup.worker():
        for turn in range(3):
            many = setup.add.map(range(100))
            assert many.wait(timeout=60)
            # The stream has begun when the leader is killed.
            wait_until(lambda turn=turn: len(seen) > 100 * turn, 60, "an event to come")  # type: ignore[misc]
            dead = own_cluster.kill_leader()
            own_cluster.leader()
            dead.start()
        wait_until(lambda: len(seen) >= 300, 60, "all events to come")
    assert len({event["task"] for event in seen}) == len(seen) == 300


def _look() -> Any:
    from triarch._http.policy import Request

    return Request.get("/v1/cluster")


def test_unknown_event_filters_are_refused(setup: Setup) -> None:
    with pytest.raises(UsageError, match="colour"):
        next(setup.app.events(colour="red"))
    with pytest.raises(InvalidRequest):
        next(setup.app.events(type="no_such_type"))
    assert issubclass(PositionGone, Exception)
