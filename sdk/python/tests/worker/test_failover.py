"""Workers continue while masters die, hang and return."""

from __future__ import annotations

import threading
import time
import urllib.request
from typing import Any

import pytest

from triarch import Triarch
from triarch.testing import LocalCluster, wait_until
from triarch.worker import session
from triarch.worker.attempt import Attempt
from triarch.worker.leases import Leases

from .conftest import Bench


def _wait_idle(bench: Bench) -> None:
    """Waits until the leader holds the worker's poll, and no other request is in flight."""
    assert bench.submit("add", 1, 2).result(timeout=30) == 3
    wait_until(lambda: _held_polls(bench.cluster) == 1, 30, "the worker's question for work to be held")


@pytest.mark.parametrize("pool", ["process", "thread", "async"])
def test_an_idle_worker_gets_work_soon_after_the_leader_died(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=2, pool=pool)
    _wait_idle(bench)
    bench.cluster.kill_leader()
    bench.cluster.leader()
    begun = time.monotonic()
    assert bench.submit("add", 1, 2).result(timeout=30) == 3
    # It would take 20 seconds if the poll had stayed at the dead leader.
    assert time.monotonic() - begun < 10


def test_an_idle_worker_gets_work_while_its_leader_hangs(bench: Bench) -> None:
    bench.worker(concurrency=2)
    _wait_idle(bench)
    leader = bench.cluster.leader()
    leader.pause()
    bench.cluster.leader()
    begun = time.monotonic()
    assert bench.submit("add", 1, 2).result(timeout=60) == 3
    assert time.monotonic() - begun < 15
    leader.resume()
    assert bench.submit("add", 2, 2).result(timeout=30) == 4


def test_results_survive_the_leader_that_should_have_had_them(bench: Bench) -> None:
    """The leader dies between the run and the report: nothing runs twice, and nothing is lost."""
    bench.worker(concurrency=4)
    tasks = [bench.submit("held", number) for number in range(4)]
    wait_until(lambda: len(bench.lines("begun")) == 4, 30, "the tasks to begin")
    dead = bench.cluster.kill_leader()
    bench.go_on()
    assert [task.result(timeout=60) for task in tasks] == list(range(4))
    dead.start()
    assert len(bench.lines("begun")) == len(bench.lines("ended")) == 4
    assert all(bench.outcomes(task.id) == ["succeeded"] for task in tasks)


@pytest.mark.parametrize("pool", ["process", "thread", "async"])
def test_the_output_of_ended_tasks_outlives_the_leader(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=2, pool=pool)
    said = bench.submit("says", "hello, next leader")
    said.result(timeout=30)
    failed = bench.submit("says_and_fails")
    with pytest.raises(Exception, match="attempt 2"):
        failed.result(timeout=30)
    bench.cluster.kill_leader()
    bench.cluster.leader()
    assert said.logs() == "hello, next leader\n"
    assert [failed.logs(attempt=number) for number in (1, 2)] == ["this is attempt 1\n", "this is attempt 2\n"]
    assert failed.logs() == "this is attempt 2\n"


def test_results_wait_for_a_majority(bench: Bench) -> None:
    """All masters hang for less than a lease while tasks run. The results are reported afterwards."""
    bench.worker(concurrency=2)
    tasks = [bench.submit("held", number) for number in range(2)]
    wait_until(lambda: len(bench.lines("begun")) == 2, 30, "the tasks to begin")
    for master in bench.cluster.masters:
        master.pause()
    bench.go_on()
    wait_until(lambda: len(bench.lines("ended")) == 2, 30, "the tasks to end")
    for master in bench.cluster.masters:
        master.resume()
    assert [task.result(timeout=60) for task in tasks] == [0, 1]
    assert len(bench.lines("begun")) == 2


def test_a_report_that_was_not_answered_is_made_again(
    triarch_cluster: LocalCluster, triarch_app: Triarch, triarch_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "EXCHANGE_DEADLINE_S", 0.2)
    unanswered: list[Attempt] = []
    unsettled = Leases.unsettled

    def count(leases: Leases, taken: list[Attempt]) -> None:
        unanswered.extend(taken)
        unsettled(leases, taken)

    monkeypatch.setattr(Leases, "unsettled", count)
    begun, go_on = threading.Event(), threading.Event()

    @triarch_app.task(max_attempts=1)
    def waits() -> str:
        begun.set()
        go_on.wait(60)
        return "at last"

    triarch_worker(triarch_app, poll_wait_s=1.0)
    handle = waits.delay()
    assert begun.wait(30)
    for master in triarch_cluster.masters:
        master.pause()
    go_on.set()
    wait_until(lambda: unanswered, 30, "a report to be given up")
    for master in triarch_cluster.masters:
        master.resume()
    assert handle.result(timeout=60) == "at last"


def test_a_worker_outlives_restarts_of_every_master(bench: Bench) -> None:
    worker = bench.worker(concurrency=2)
    _wait_idle(bench)
    for master in bench.cluster.masters:
        master.kill9()
    for master in bench.cluster.masters:
        master.start()
    bench.cluster.wait_ready()
    assert bench.submit("add", 1, 2).result(timeout=60) == 3
    assert worker.is_running()


@pytest.mark.triarch_cluster(lease_ms=1500)
def test_a_worker_that_was_cut_off_stops_what_it_runs_and_comes_back(bench: Bench) -> None:
    bench.worker(concurrency=1)
    task = bench.submit("tidy", 60)
    wait_until(lambda: bench.lines("begun"), 30, "the task to begin")
    for master in bench.cluster.masters:
        master.pause()
    # The worker stops its attempts after a whole lease without an answer of the cluster.
    wait_until(lambda: bench.lines("stopped"), 30, "the worker to stop its task")
    assert bench.lines("stopped") == ["lost"]
    for master in bench.cluster.masters:
        master.resume()
    bench.cluster.wait_ready()
    wait_until(lambda: len(bench.lines("begun")) >= 2, 60, "the task to be begun again")
    bench.post("tasks", task.id, "cancel")
    assert bench.submit("add", 1, 2).result(timeout=60) == 3


@pytest.mark.triarch_cluster(lease_ms=1500)
def test_a_worker_that_hung_registers_again(bench: Bench) -> None:
    worker = bench.worker(concurrency=1)
    _wait_idle(bench)
    worker.pause()
    wait_until(lambda: _workers(bench.cluster, "lost"), 30, "the worker to be lost")
    worker.resume()
    assert bench.submit("add", 1, 2).result(timeout=60) == 3


def test_many_tasks_are_each_run_once_while_leaders_die(bench: Bench) -> None:
    bench.worker(concurrency=2)
    bench.worker(concurrency=2)
    tasks = [bench.submit("add", number, 0) for number in range(50)]
    for kill in range(2):
        # None of these tasks ends before the leader is dead.
        before = len(bench.lines("begun"))
        tasks += [bench.submit("held", number, f"kill {kill}") for number in range(len(tasks), len(tasks) + 50)]
        wait_until(lambda before=before: len(bench.lines("begun")) > before, 60, "some to begin")  # type: ignore[misc]
        bench.cluster.kill_leader()
        bench.go_on(f"kill {kill}")
        bench.cluster.heal()
    assert [task.result(timeout=60) for task in tasks] == list(range(150))
    assert len(set(bench.lines("begun"))) == len(bench.lines("begun")) == len(bench.lines("ended")) == 100


def _held_polls(cluster: LocalCluster) -> int:
    """Returns the number of polls that the leader holds."""
    with urllib.request.urlopen(f"{cluster.leader().url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith('triarch_http_held{kind="poll"'))


def _workers(cluster: LocalCluster, state: str) -> list[object]:
    for master in cluster.masters:
        answer = master.ask(f"/v1/workers?state={state}")
        if answer is not None:
            return list(answer["workers"])
    return []
