"""Crashes: a task that damages its process affects no other task."""

from __future__ import annotations

import os
import signal

import pytest

from triarch import TaskFailed
from triarch.testing import wait_until

from .conftest import Bench


@pytest.mark.parametrize(
    ("how", "error"),
    [("exit", {"exit_code": 7}), ("segfault", {"signal": "SIGSEGV"}), ("kill", {"signal": "SIGKILL"})],
)
def test_a_crash_costs_one_attempt_and_nothing_else(bench: Bench, how: str, error: dict[str, object]) -> None:
    worker = bench.worker(concurrency=2)
    others = [bench.submit("held", 0)]
    wait_until(lambda: bench.lines("begun"), 30, "another task to run beside it")
    dies = bench.submit("die", how)
    others += [bench.submit("held", number) for number in (1, 2)]
    with pytest.raises(TaskFailed) as failed:
        dies.result(timeout=30)
    assert failed.value.type == "process_died"
    assert error.items() <= failed.value.error.items()
    assert bench.outcomes(dies.id) == ["failed"]
    # The other tasks are not affected, and the worker continues.
    assert bench.task(others[0].id)["state"] == "running"
    bench.go_on()
    assert [other.result(timeout=30) for other in others] == [0, 1, 2]
    assert all(bench.outcomes(other.id) == ["succeeded"] for other in others)
    assert bench.submit("add", 1, 2).result(timeout=30) == 3
    assert worker.is_running()


def test_a_crash_is_retried_like_a_failure(bench: Bench) -> None:
    bench.worker(concurrency=1)
    again = bench.submit("die_once", "segfault")
    assert again.result(timeout=30) == 2
    assert bench.outcomes(again.id) == ["failed", "succeeded"]
    attempts = bench.task(again.id)["attempts"]
    assert len({one["token"] for one in attempts}) == len(attempts)


def test_short_tasks_in_a_batch_with_a_crashing_task_run_elsewhere(bench: Bench) -> None:
    bench.worker(concurrency=2)
    short = [("add", number, 1) for number in range(100)]
    for warm in bench.submit_together(*short):
        warm.result(timeout=60)
    handles = bench.submit_together(*short, ("die", "exit"), *short, ("die", "segfault"), *short)
    for number, handle in enumerate(handles):
        if number in (100, 201):
            with pytest.raises(TaskFailed):
                handle.result(timeout=60)
        else:
            # None of these tasks has lost an attempt.
            handle.result(timeout=60)
            assert bench.outcomes(handle.id) == ["succeeded"]
    assert len(bench.lines("died")) == 2


def test_short_tasks_do_not_wait_behind_a_long_one(bench: Bench) -> None:
    bench.worker(concurrency=2)
    short = [("add", number, 1) for number in range(200)]
    for warm in bench.submit_together(*short):
        warm.result(timeout=60)
    long, *handles = bench.submit_together(("held", 0), *short)
    for handle in handles:
        handle.result(timeout=60)
    assert bench.task(long.id)["state"] == "running"
    assert not bench.lines("ended")
    bench.go_on()
    assert long.result(timeout=30) == 0


def test_child_processes_of_a_dead_task_end_with_it(bench: Bench) -> None:
    bench.worker(concurrency=1)
    parent = bench.submit("leaves_children", 60)
    wait_until(lambda: bench.lines("begun"), 30, "the task to begin")
    child, process = int(bench.lines("child")[0]), int(bench.lines("begun")[0])
    os.kill(process, signal.SIGKILL)
    with pytest.raises(TaskFailed):
        parent.result(timeout=30)
    wait_until(lambda: not _is_alive(child), 10, "the task's own child to end")


def test_pool_processes_die_with_their_worker(bench: Bench) -> None:
    worker = bench.worker(concurrency=2)
    pids = {bench.submit("pid").result(timeout=30) for _ in range(5)}
    # One of them ignores the signal.
    bench.submit("stubborn", 60)
    wait_until(lambda: bench.lines("begun"), 30, "the task to begin")
    pids.add(int(bench.lines("begun")[0]))
    os.kill(worker.pid or 0, signal.SIGKILL)
    wait_until(lambda: not any(map(_is_alive, pids)), 10, "the pool's processes to end")


def test_sys_exit_is_a_failure_of_the_task(bench: Bench) -> None:
    bench.worker(concurrency=1)
    before = bench.submit("pid").result(timeout=30)
    with pytest.raises(TaskFailed) as failed:
        bench.submit("exits").result(timeout=30)
    assert failed.value.type == "SystemExit"
    assert bench.submit("pid").result(timeout=30) == before


def test_processes_are_replaced_after_so_many_tasks(bench: Bench) -> None:
    bench.worker("--max-tasks-per-child", "2", concurrency=1)
    pids = [bench.submit("pid").result(timeout=30) for _ in range(6)]
    assert len(set(pids)) == 3
    assert all(pids.count(pid) == 2 for pid in pids)


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
