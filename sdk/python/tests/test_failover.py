"""What clients keep while leaders die. Each test has a cluster of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_worker import FakeWorker
from test_handles import Setup
from test_workflow import Flow
from triarch import NoLeader, Patience, Timeout, Triarch, chord
from triarch.testing import LocalCluster, wait_until

pytestmark = pytest.mark.timeout(300)


def kill_and_restart(cluster: LocalCluster) -> None:
    """The leader dies, another leads, and the dead one comes back."""
    dead = cluster.kill_leader()
    cluster.leader()
    dead.start()
    cluster.wait_ready()


def test_ten_thousand_tasks_while_the_leader_is_killed_five_times(own_cluster: LocalCluster) -> None:
    setup = Setup(own_cluster)
    with FakeWorker(setup.app, 2, slots=20, queues=(setup.queue,)) as worker:
        many = setup.add.map(range(10_000), [1] * 10_000)
        ended = iter(many.as_completed())
        for kill in range(5):
            # Some come between one kill and the next.
            for _ in range(1_000):
                next(ended)
            assert worker.ran < 10_000, f"all was over before kill {kill + 1}"
            kill_and_restart(own_cluster)
        assert len(list(ended)) == 5_000
    assert many.results() == list(range(1, 10_001))
    info = setup.app.jobs.get(many.jobs[0])
    assert info["counts"] == {"succeeded": 10_000}


def test_submissions_are_made_once_each_while_leaders_die(own_cluster: LocalCluster) -> None:
    setup = Setup(own_cluster)
    stop = threading.Event()
    handles: list[list[str]] = [[] for _ in range(8)]

    def submit(mine: list[str]) -> None:
        while not stop.is_set():
            mine.append(setup.add.delay(len(mine)).id)

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(submit, mine) for mine in handles]
        for _ in range(3):
            before = sum(map(len, handles))
            kill_and_restart(own_cluster)
            wait_until(lambda before=before: sum(map(len, handles)) > before + 50, 60, "submissions to go on")  # type: ignore[misc]
        stop.set()
        for one in running:
            one.result(60)
    acknowledged = [id for mine in handles for id in mine]
    assert len(set(acknowledged)) == len(acknowledged)
    found = sum(1 for _ in setup.app.jobs.find(queue=setup.queue))
    assert found == len(acknowledged), "what was tried again was made twice, or is not there"


def test_a_chord_ends_once_whose_last_members_end_during_a_failover(own_cluster: LocalCluster) -> None:
    flow = Flow(own_cluster)
    gate = threading.Event()
    calls: list[int] = []

    @flow.app.task
    def gated(number: int) -> int:
        if number >= 90:
            gate.wait(60)
        return number

    @flow.app.task(max_attempts=1)
    def total(numbers: list[int]) -> int:
        calls.append(len(numbers))
        return sum(numbers)

    with FakeWorker(flow.app, 4, slots=1, queues=(flow.queue,)) as worker:
        handle = chord([gated.s(number) for number in range(94)], total.s()).submit()
        wait_until(lambda: worker.ran >= 94, 60, "the last four to run")
        # Their reports meet nobody who leads.
        dead = own_cluster.kill_leader()
        gate.set()
        assert handle.result(timeout=60) == sum(range(94))
        dead.start()
    assert calls == [94]


def test_a_thousand_coroutines_wait_through_a_failover(own_cluster: LocalCluster) -> None:
    setup = Setup(own_cluster)

    async def one(number: int) -> int:
        return await (await setup.add.adelay(number))

    async def main() -> None:
        tasks = [asyncio.create_task(one(number)) for number in range(1000)]
        while len(setup.app.watcher) < 1000:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(kill_and_restart, own_cluster)
        with setup.worker():
            assert await asyncio.gather(*tasks) == list(range(1000))
        await setup.app.aclose()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_no_majority_is_told_as_that_and_waiting_goes_on(own_cluster: LocalCluster) -> None:
    setup = Setup(own_cluster)
    brief = Triarch(own_cluster.url, queue=setup.queue, patience=Patience(deadline_s=2.0, unreachable_deadline_s=1.0))
    brief_add = brief.task(name=setup.add.name)(setup.add.fn)
    future = setup.app.executor().submit(setup.add, 4)
    wait_until(lambda: future.task is not None, 30, "the submission")
    dead = own_cluster.followers()
    for master in dead:
        master.kill9()
    # The one that is left may not know yet that it leads nobody; then it may still come to pass.
    with pytest.raises((NoLeader, Timeout)):
        brief_add.delay(1)
    assert not future.done()
    for master in dead:
        master.start()
    with setup.worker():
        assert future.result(60) == 4
        assert brief_add.delay(1).result(timeout=30) == 1


def test_a_master_that_stops_without_a_word_costs_one_try(own_cluster: LocalCluster) -> None:
    setup = Setup(own_cluster)
    setup.add.delay(1)
    paused = own_cluster.leader()
    paused.pause()
    try:
        begun = time.monotonic()
        handle = setup.add.delay(2)
        assert time.monotonic() - begun < 30
        with setup.worker():
            assert handle.result(timeout=60) == 2
    finally:
        paused.resume()
