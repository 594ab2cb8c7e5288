"""Time limits, cancellation, lost leases, and the shutdown of the worker."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path

import pytest

from triarch import TaskCancelled, TaskFailed
from triarch.testing import wait_until
from triarch.worker.cli import reopen_log_files

from .conftest import Bench

POOLS = ("process", "thread", "async")


def _begun(bench: Bench, count: int = 1) -> None:
    wait_until(lambda: len(bench.lines("begun")) >= count, 30, "the task to begin")


# --- time limits ---


@pytest.mark.parametrize("pool", POOLS)
def test_a_hard_limit_ends_the_attempt(bench: Bench, pool: str) -> None:
    bench.worker("--stop-grace", "0.2", concurrency=1, pool=pool)
    kind = "anap" if pool == "async" else "nap"
    with pytest.raises(TaskFailed) as failed:
        bench.submit(kind, 60, timeout=0.5).result(timeout=30)
    assert failed.value.type == "timeout"
    # The slot is free again in any case.
    assert bench.submit("add", 1, 2).result(timeout=30) == 3


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_soft_limit_is_raised_in_the_task(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=1, pool=pool)
    before = bench.submit("pid").result(timeout=30)
    assert bench.submit("soft", 20).result(timeout=30) == "in time"
    with pytest.raises(TaskFailed) as failed:
        bench.submit("soft_unhandled").result(timeout=30)
    assert failed.value.type == "timeout"
    assert "soft_unhandled" in (failed.value.traceback or "")
    assert bench.submit("pid").result(timeout=30) == before
    # A task within its limit is not affected, and neither is the next one.
    assert bench.submit("soft", 0).result(timeout=30) == "too late"
    assert bench.submit("nap", 0.6).result(timeout=30) == 0.6


@pytest.mark.parametrize("pool", POOLS)
def test_a_soft_limit_of_a_coroutine(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=1, pool=pool)
    with pytest.raises(TaskFailed) as failed:
        bench.submit("soft_async").result(timeout=30)
    assert failed.value.type == "timeout"
    assert bench.submit("add", 1, 2).result(timeout=30) == 3


# --- cancelling ---


def test_cancelling_lets_a_task_clean_up_and_keeps_its_process(bench: Bench) -> None:
    bench.worker(concurrency=1)
    before = bench.submit("pid").result(timeout=30)
    task = bench.submit("tidy", 60)
    _begun(bench)
    bench.post("tasks", task.id, "cancel")
    with pytest.raises(TaskCancelled):
        task.result(timeout=30)
    wait_until(lambda: bench.lines("tidied"), 10, "the task to clean up")
    assert bench.lines("stopped") == ["cancelled"]
    assert bench.submit("pid").result(timeout=30) == before


def test_cancelling_a_task_that_does_not_listen_kills_its_process(bench: Bench) -> None:
    # Long enough for the stop to be raised in the task on a busy machine.
    bench.worker("--stop-grace", "2", concurrency=1)
    before = bench.submit("pid").result(timeout=30)
    task = bench.submit("stubborn", 60)
    _begun(bench)
    bench.post("tasks", task.id, "cancel")
    assert bench.submit("pid").result(timeout=30) != before
    assert bench.lines("ignored")
    assert not bench.lines("ended")


@pytest.mark.parametrize("pool", POOLS)
def test_cancelling_a_coroutine(bench: Bench, pool: str) -> None:
    bench.worker(concurrency=1, pool=pool)
    task = bench.submit("anap", 60)
    _begun(bench)
    bench.post("tasks", task.id, "cancel")
    wait_until(lambda: bench.lines("stopped"), 10, "the coroutine to be cancelled")
    assert bench.lines("stopped") == ["cancelled"]
    assert bench.submit("add", 1, 2).result(timeout=30) == 3


def test_a_thread_sees_that_it_is_cancelled(bench: Bench) -> None:
    bench.worker(concurrency=1, pool="thread")
    task = bench.submit("looks_up", 60)
    _begun(bench)
    bench.post("tasks", task.id, "cancel")
    wait_until(lambda: bench.lines("stopped"), 10, "the task to look up")
    assert bench.lines("stopped") == ["cancelled"]
    assert bench.submit("add", 1, 2).result(timeout=30) == 3


def test_a_task_that_waits_in_the_worker_is_never_begun_once_cancelled(bench: Bench) -> None:
    bench.worker(concurrency=1)
    for _ in range(40):
        bench.submit("add", 1, 2).result(timeout=30)
    first = bench.submit("held", 1)
    _begun(bench)
    second = bench.submit("held", 2)
    bench.post("tasks", second.id, "cancel")
    bench.wait_for_heartbeat(bench.task(first.id)["worker"])
    bench.go_on()
    first.result(timeout=30)
    with pytest.raises(TaskCancelled):
        second.result(timeout=30)
    assert bench.submit("add", 1, 2).result(timeout=30) == 3
    assert len(bench.lines("begun")) == 1


# --- the worker's end ---


@pytest.mark.parametrize("pool", POOLS)
def test_sigterm_lets_running_tasks_finish(bench: Bench, pool: str) -> None:
    worker = bench.worker(concurrency=1, pool=pool)
    running = bench.submit("aheld" if pool == "async" else "held", 1)
    _begun(bench)
    later = bench.submit("add", 1, 2)
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "shutting down" in worker.last_words(), 30, "the worker to hear")
    bench.go_on()
    assert worker.wait(30) == 0
    assert bench.task(running.id)["state"] == "succeeded"
    assert bench.task(later.id)["state"] == "queued"
    assert bench.task(later.id)["attempts"] == []


def test_an_attempt_beyond_the_shutdown_timeout_is_returned_and_counts_as_no_attempt(bench: Bench) -> None:
    worker = bench.worker("--drain", "0.5", "--stop-grace", "20", concurrency=1)
    task = bench.submit("tidy", 60)
    _begun(bench)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert bench.lines("stopped") == ["shutting_down"]
    found = bench.task(task.id)
    assert found["state"] == "queued"
    assert found["attempts"][0]["outcome"] == "returned"


def test_a_second_sigterm_is_quick(bench: Bench) -> None:
    worker = bench.worker(concurrency=1)
    task = bench.submit("stubborn", 60)
    _begun(bench)
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "shutting down" in worker.last_words(), 10, "the worker to hear")
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert time.monotonic() - begun < 20
    assert bench.task(task.id)["state"] == "queued"


def test_a_drained_worker_finishes_and_leaves(bench: Bench) -> None:
    worker = bench.worker(concurrency=1)
    task = bench.submit("held", 1)
    _begun(bench)
    bench.post("workers", bench.task(task.id)["worker"], "drain")
    wait_until(lambda: "it finishes its tasks and leaves" in worker.last_words(), 30, "the worker to hear")
    bench.go_on()
    assert worker.wait(30) == 0
    assert bench.task(task.id)["state"] == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGTTOU])
def test_a_signal_that_means_no_stop_leaves_worker_and_task_alone(bench: Bench, number: signal.Signals) -> None:
    # Under nohup, the tests and all they start would ignore SIGHUP.
    before = signal.signal(number, signal.SIG_DFL)
    worker = bench.worker(concurrency=1)
    signal.signal(number, before)
    held = bench.submit("held", 1)
    _begun(bench)
    worker.send_signal(number)
    if number == signal.SIGHUP:
        wait_until(lambda: "SIGHUP has no effect" in worker.last_words(), 30, "the worker to say so")
    bench.go_on()
    assert held.result(timeout=30) == 1
    assert bench.task(held.id)["losses"] == 0
    assert worker.returncode is None


def test_a_hangup_reopens_log_files_that_a_rotation_has_renamed(tmp_path: Path) -> None:
    log, rotated = tmp_path / "worker.log", tmp_path / "worker.log.1"
    handler = logging.FileHandler(log)
    logger = logging.getLogger("test_a_hangup")
    logger.addHandler(handler)
    try:
        logger.warning("before")
        log.rename(rotated)
        reopen_log_files()
        logger.warning("after")
        assert rotated.read_text() == "before\n"
        assert log.read_text() == "after\n"
    finally:
        logger.removeHandler(handler)
        handler.close()
