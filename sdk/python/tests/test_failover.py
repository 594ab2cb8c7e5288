"""Guarantees to clients while leaders die. Each test has a cluster of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from fake_worker import FakeWorker
from test_handles import Setup
from test_workflow import Flow
from triarch import Handle, HandleGroup, NoLeader, RetryPolicy, Timeout, Triarch, chord
from triarch.testing import LocalCluster, Master, wait_until

pytestmark = pytest.mark.timeout(300)


def kill_and_restart(cluster: LocalCluster) -> None:
    """Kills the leader, waits for another one, and restarts the dead master."""
    replace_dead(cluster, cluster.kill_leader())


def replace_dead(cluster: LocalCluster, dead: Master) -> None:
    """Waits for another leader, and restarts the dead master."""
    cluster.leader()
    dead.start()
    cluster.wait_ready()


def test_ten_thousand_tasks_while_the_leader_is_killed_five_times(own_cluster: LocalCluster) -> None:
    """Tasks arrive in waves during the kills: a kill without unfinished tasks does not count as one of the five."""
    setup = Setup(own_cluster)
    wave = 1_000
    waves: list[HandleGroup[int]] = []
    all_killed = threading.Event()
    begun: set[int] = set()

    @setup.app.task
    def successor(number: int) -> int:
        begun.add(number)
        return number + 1

    def to_begin() -> int:
        """Returns a lower bound of the submitted tasks that have not begun."""
        return len(waves) * wave - len(begun)

    def submit() -> None:
        while not (all_killed.is_set() and len(waves) >= 10):
            first = len(waves) * wave
            waves.append(successor.map(range(first, first + wave)))
            wait_until(lambda: to_begin() < 3 * wave or all_killed.is_set(), 120, "tasks to begin")

    def as_completed(submitting: Future[None]) -> Iterator[Handle[int]]:
        for nth in itertools.count():
            wait_until(lambda nth=nth: len(waves) > nth or submitting.done(), 120, "the next wave")  # type: ignore[misc]
            if len(waves) == nth:
                return
            yield from waves[nth].as_completed()

    with ThreadPoolExecutor(1) as pool, FakeWorker(setup.app, 2, slots=20, queues=(setup.queue,)):
        submitting = pool.submit(submit)
        try:
            completed = as_completed(submitting)
            ended: list[str] = []
            kills = 0
            while kills < 5:
                # Some tasks begin and some are submitted between two kills.
                before = len(begun)
                ended += [next(completed).id for _ in range(wave)]
                wait_until(lambda before=before: len(begun) >= before + wave, 120, "tasks to begin")  # type: ignore[misc]
                dead = own_cluster.kill_leader()
                kills += to_begin() > 0
                replace_dead(own_cluster, dead)
        finally:
            all_killed.set()
        submitting.result(120)
        ended += [handle.id for handle in completed]
    assert len(ended) == len(waves) * wave >= 10_000
    assert set(ended) == {handle.id for many in waves for handle in many}
    for nth, many in enumerate(waves):
        assert many.results() == list(range(nth * wave + 1, (nth + 1) * wave + 1))
        assert setup.app.jobs.get(many.jobs[0])["counts"] == {"succeeded": wave}


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
        # The workers' reports meet no leader.
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


def test_a_lost_majority_raises_no_leader_and_waits_go_on(own_cluster: LocalCluster) -> None:
    setup = Setup(own_cluster)
    brief = Triarch(own_cluster.url, queue=setup.queue, retry_policy=RetryPolicy(deadline_s=2.0, unreachable_deadline_s=1.0))
    brief_add = brief.task(name=setup.add.name)(setup.add.fn)
    future = setup.app.executor().submit(setup.add, 4)
    wait_until(lambda: future.task is not None, 30, "the submission")
    dead = own_cluster.followers()
    for master in dead:
        master.kill9()
    # The remaining master may not know yet that it has no quorum. Then the request may still take effect later.
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
