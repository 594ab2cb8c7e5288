"""The pool of processes, without a cluster: batches of tasks that are handed to a process, and taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from triarch.testing import wait_until
from triarch.worker.attempt import Attempt, StopReason
from triarch.worker.leases import Leases
from triarch.worker.pools import processes
from triarch.worker.pools.framing import CHILD_FRAME_BYTES_MAX, FrameDecoder, frame
from triarch.worker.pools.processes import ProcessPool

from .conftest import HERE

TASKS = 10


class Pool:
    """A pool, and the leases from which it takes its tasks."""

    def __init__(self, concurrency: int) -> None:
        self.leases = Leases(concurrency, 100)
        # As if all tasks so far had been very short.
        self.leases._prefetch.mean_s = 1e-5
        self.pool = ProcessPool(self.leases, concurrency, app="tasks_of_tests:app", accept=None, stop_grace_s=1.0)
        self.leases.on_stop = self.pool.stop
        self.number = 0

    def add(self, *calls: tuple[Any, ...]) -> None:
        granted = []
        for name, *args in calls:
            self.number += 1
            granted.append(
                {
                    "id": f"t{self.number}",
                    "job": "j",
                    "kind": f"tasks_of_tests.{name}",
                    "payload": {"args": args},
                    "attempt": 1,
                    "token": self.number,
                }
            )
        self.leases.add(granted)
        self.pool.wake()

    def ended(self) -> dict[str, Any]:
        """Returns the outcomes to report, by task."""
        reports = [json.loads(one.result or b"") for one in self.leases.attempts_held() if one.result is not None]
        return {one["task"]: one for one in reports}

    def begun_in(self) -> list[list[Attempt]]:
        return [list(one.attempts) for one in self.pool._processes]


@pytest.fixture
def pool_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], Pool]]:
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.syspath_prepend(str(HERE))
    # On a slow machine too: the clock does not split the batches here.
    monkeypatch.setattr(processes, "_RECLAIM_AFTER_S", 0.5)
    pools: list[Pool] = []

    def make(concurrency: int) -> Pool:
        pools.append(Pool(concurrency))
        return pools[-1]

    yield make
    for one in pools:
        one.pool.close()


def test_attempts_that_a_dead_process_had_not_begun_run_elsewhere(pool_of: Callable[[int], Pool]) -> None:
    pool = pool_of(1)
    pool.add(("die", "exit"), *[("add", number, 1) for number in range(TASKS)])
    pool.pool.start()
    wait_until(lambda: len(pool.ended()) == 1 + TASKS, 90, "all to end")
    ended = pool.ended()
    assert ended["t1"]["error"]["exit_code"] == 7
    assert [ended[f"t{number + 2}"].get("result") for number in range(TASKS)] == [number + 1 for number in range(TASKS)]


def test_attempts_in_a_batch_behind_a_long_one_are_taken_back(pool_of: Callable[[int], Pool], tmp_path: Path) -> None:
    pool = pool_of(2)
    # Both processes get a batch. The batch of one of them contains a task that does not end.
    pool.add(("held", 0), *[("add", number, 1) for number in range(TASKS)])
    pool.pool.start()
    wait_until(lambda: len(pool.ended()) == TASKS, 90, "the short ones to end")
    assert pool.leases.running == 1
    assert (tmp_path / "begun").exists()


def test_an_attempt_that_is_cancelled_before_its_turn_never_begins(
    pool_of: Callable[[int], Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All three tasks stay in their processes.
    monkeypatch.setattr(processes, "_RECLAIM_AFTER_S", 600.0)
    pool = pool_of(1)
    pool.add(("held", 1), ("held", 2), ("add", 1, 1))
    pool.pool.start()
    wait_until(lambda: (tmp_path / "begun").exists(), 90, "the first to begin")
    assert [one.task for one in pool.begun_in()[0]] == ["t1", "t2", "t3"]
    pool.leases.disown(["t2"], pool.leases.confirmed(), StopReason.CANCELLED)
    wait_until(lambda: not pool.pool._stops, 90, "the supervisor to send the stop")
    (tmp_path / "go on").touch()
    wait_until(lambda: pool.leases.running == 0, 90, "all to end")
    assert set(pool.ended()) == {"t1", "t3"}
    assert len((tmp_path / "begun").read_text().splitlines()) == 1


def test_the_environment_of_tasks_is_that_of_the_worker(pool_of: Callable[[int], Pool]) -> None:
    pool = pool_of(1)
    pool.add(("variable", "PYTHONPATH"))
    pool.pool.start()
    wait_until(pool.ended, 90, "the task to end")
    assert pool.ended()["t1"]["result"] == os.environ.get("PYTHONPATH")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        (100 << 20).to_bytes(4, "little"),
        b"\x02\0\0\0xx",
        (5).to_bytes(4, "little") + b"i\x05\0\0\0",
        (5).to_bytes(4, "little") + b"(\0\0\0\0",
    ],
)
def test_bytes_that_are_no_frame_are_refused(data: bytes) -> None:
    decoder = FrameDecoder(CHILD_FRAME_BYTES_MAX)
    assert decoder.feed(frame("ready")[:5]) == []
    assert decoder.feed(frame("ready")[5:]) == [("ready",)]
    with pytest.raises((ValueError, EOFError, TypeError)):
        decoder.feed(data)


def test_a_pool_whose_processes_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_RESTART_PAUSE_MAX_S", 0.01)
    monkeypatch.setattr(processes, "_FAILURES_MAX", 2)
    reports: list[str] = []
    pool = ProcessPool(Leases(1, 0), 1, app="no_such_module:app", accept=None, stop_grace_s=1.0, on_broken=reports.append)
    pool.start()
    try:
        wait_until(lambda: reports, 90, "the pool to give up")
    finally:
        pool.close()
    assert "exit code 1" in reports[0]
    assert os.getpid() not in pool.pids
