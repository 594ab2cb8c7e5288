"""The leases that a worker holds, tested without a worker."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from triarch.worker.attempt import Attempt, AttemptOutcome, StopReason, failure
from triarch.worker.leases import Leases
from triarch.worker.prefetch import PrefetchController
from triarch.worker.session import next_heartbeat_s

FINE = AttemptOutcome(True, b"42")


def _granted(number: int, token: int = 1) -> dict[str, Any]:
    return {"id": f"t{number}", "job": "j", "kind": "k", "payload": None, "attempt": 1, "token": token, "timeout_ms": None}


def _leases(count: int = 3, *, concurrency: int = 4) -> tuple[Leases, list[Attempt]]:
    leases = Leases(concurrency, 0)
    assert leases.add(_granted(number) for number in range(count)) == count
    begun = [leases.next() for _ in range(count)]
    assert leases.next() is None
    return leases, [one for one in begun if one is not None]


def _accepted(taken: list[Attempt], **acknowledgement: Any) -> list[dict[str, Any]]:
    return [{"task": one.task, "accepted": True, **acknowledgement} for one in taken]


def test_a_lease_that_is_delivered_again_is_not_added() -> None:
    leases, _ = _leases(1)
    assert leases.add([_granted(0)]) == 0
    assert (leases.running, leases.wanted()) == (1, 3)


def test_a_result_is_kept_until_it_is_acknowledged() -> None:
    leases, (one, *_) = _leases(1)
    leases.end(one, FINE)
    taken = leases.take_results(with_work=False)
    assert json.loads(taken[0].result or b"") == {"task": "t0", "token": 1, "status": "succeeded", "result": 42}
    # While a report is in flight, its result is not taken again, and its lease is confirmed.
    assert leases.take_results(with_work=False) == []
    assert list(leases.confirmed()) == [("t0", 1)]
    leases.unsettled(taken)
    again = leases.take_results(with_work=True)
    assert again == taken
    leases.settle(again, _accepted(again))
    assert leases.is_idle


def test_unacknowledged_results_are_reported_again() -> None:
    leases, attempts = _leases(2)
    for one in attempts:
        leases.end(one, FINE)
    taken = leases.take_results(with_work=False)
    leases.settle(taken, _accepted(taken[:1]))
    assert leases.take_results(with_work=False) == taken[1:]


def test_a_stale_result_is_dropped() -> None:
    leases, (one, *_) = _leases(1)
    leases.end(one, FINE)
    taken = leases.take_results(with_work=False)
    leases.settle(taken, [{"task": "t0", "accepted": False, "code": "stale_token"}])
    assert leases.is_idle


def test_a_result_that_is_too_large_is_reported_as_a_failure() -> None:
    leases, (one, *_) = _leases(1)
    leases.end(one, FINE)
    taken = leases.take_results(with_work=False)
    leases.settle(taken, [{"task": "t0", "accepted": False, "code": "payload_too_large"}])
    (again,) = leases.take_results(with_work=False)
    report = json.loads(again.result or b"")
    assert (report["status"], report["error"]["type"], report["retryable"]) == ("failed", "result_too_large", False)


@pytest.mark.parametrize("refused_as_a_whole", [False, True])
def test_a_master_that_knows_no_delay_gets_the_same_failure_without_it(refused_as_a_whole: bool) -> None:
    leases, (one, *_) = _leases(1)
    leases.end(one, replace(failure("triarch.errors.Retry", "busy"), retry_after_ms=500))
    (sent,) = leases.take_results(with_work=False)
    assert json.loads(sent.result or b"")["retry_after_ms"] == 500
    if refused_as_a_whole:
        leases.refused([sent], "unknown field")
    else:
        leases.settle([sent], [{"task": "t0", "accepted": False, "code": "invalid_request"}])
    (again,) = leases.take_results(with_work=False)
    report = json.loads(again.result or b"")
    assert (report["status"], report["error"]["message"], report["retryable"]) == ("failed", "busy", True)
    assert "retry_after_ms" not in report
    leases.settle([again], _accepted([again]))
    assert leases.is_idle


def test_a_report_that_is_refused_is_taken_apart() -> None:
    leases, attempts = _leases(3)
    for one in attempts:
        leases.end(one, FINE)
    leases.refused(leases.take_results(with_work=True), "bad")
    # Never between a worker and its work.
    assert leases.take_results(with_work=True) == []
    (first,) = leases.take_results(with_work=False)
    leases.refused([first], "still bad")
    for _ in range(2):
        (other,) = leases.take_results(with_work=False)
        leases.settle([other], _accepted([other]))
    (first,) = leases.take_results(with_work=False)
    assert json.loads(first.result or b"")["error"]["type"] == "result_refused"
    leases.refused([first], "hopeless")
    assert leases.is_idle


@pytest.mark.parametrize("reason", [StopReason.CANCELLED, StopReason.LOST])
def test_a_disowned_attempt_is_stopped_and_not_reported(reason: StopReason) -> None:
    leases, (one, *_) = _leases(1)
    stopped: list[Attempt] = []
    leases.on_stop = stopped.append
    sent = leases.confirmed()
    leases.disown(["t0"], sent, reason)
    leases.disown(["t0"], sent, reason)
    assert (stopped, one.stop_reason) == ([one], reason)
    # The attempt still runs, and is listed as running.
    assert list(leases.confirmed()) == [("t0", 1)]
    leases.end(one, FINE)
    assert leases.is_idle


def test_word_on_an_old_lease_does_not_touch_a_new_one() -> None:
    leases, (old, *_) = _leases(1)
    sent = leases.confirmed()
    leases.end(old, failure("x", "y"))
    taken = leases.take_results(with_work=True)
    leases.settle(taken, _accepted(taken))
    leases.add([_granted(0, token=2)])
    leases.disown(["t0"], sent, StopReason.LOST)
    new = leases.next()
    assert new is not None
    assert (new.token, new.disowned) == (2, False)


def test_a_new_lease_ends_the_old_one_of_the_same_task() -> None:
    leases, (old, *_) = _leases(1)
    leases.add([_granted(0, token=2)])
    assert (old.disowned, old.stop_reason) == (True, StopReason.LOST)


def test_a_waiting_attempt_is_dropped_once_cancelled() -> None:
    leases = Leases(1, 0)
    leases.add([_granted(0), _granted(1)])
    leases.disown(["t0"], leases.confirmed(), StopReason.CANCELLED)
    one = leases.next()
    assert one is not None
    assert one.task == "t1"
    assert leases.next() is None


def test_attempts_that_did_not_begin_are_first_in_the_queue_again() -> None:
    leases, (first, second, third) = _leases(3)
    leases.put_back(third)
    leases.put_back(second)
    assert [leases.next(), leases.next(), leases.next()] == [second, third, None]
    leases.disown(["t0"], leases.confirmed(), StopReason.LOST)
    leases.put_back(first)
    assert leases.next() is None


def test_a_returned_attempt_is_no_failure() -> None:
    leases, (one, two, _) = _leases(3)
    leases.stop_running(StopReason.SHUTTING_DOWN)
    leases.end(one, failure("KeyboardInterrupt", "interrupted"))
    leases.end(two, FINE)
    assert [taken.task for taken in leases.take_results(with_work=False)] == ["t1"]


def test_nothing_is_wanted_while_too_much_is_unsettled() -> None:
    leases, attempts = _leases(4)
    assert leases.wanted() == 0
    for one in attempts:
        leases.end(one, AttemptOutcome(True, b"x" * (17 << 20)))
    assert leases.wanted() == 0
    taken = leases.take_results(with_work=False)
    # A single result that exceeds the size of a report is sent alone.
    assert len(taken) == 1
    leases.settle(taken, _accepted(taken))
    assert leases.wanted() == 4


def test_only_short_tasks_are_fetched_ahead() -> None:
    prefetch = PrefetchController()
    assert prefetch.depth(8, None) == 0
    for _ in range(100):
        prefetch.record(0.0001)
    assert prefetch.depth(8, None) > 100
    # A task that runs for long stops the prefetching, during its run and after it.
    assert prefetch.depth(8, time.monotonic() - 10) == 0
    prefetch.record(2.0)
    assert prefetch.depth(8, None) == 0
    for _ in range(10):
        prefetch.record(0.0001)
    assert prefetch.depth(8, None) < 8


def test_fetching_ahead_is_bounded_and_in_batches() -> None:
    leases = Leases(2, 10)
    number = 0
    for _ in range(100):
        leases.add([_granted(number)])
        one = leases.next()
        assert one is not None
        leases.end(one, FINE)
        number += 1
    assert leases.wanted() == 12
    leases.add(_granted(number + more) for more in range(12))
    assert leases.wanted() == 0
    for _ in range(4):
        one = leases.next()
        assert one is not None
        leases.end(one, FINE)
    assert leases.wanted() == 0
    one = leases.next()
    assert one is not None
    leases.end(one, FINE)
    assert leases.wanted() == 5


def test_heartbeats_come_when_asked_for_but_often_enough_for_a_lease() -> None:
    assert next_heartbeat_s(None, 2.0, 10.0) == 2.0  # an older master says nothing
    assert next_heartbeat_s(3500, 2.0, 10.0) == 3.5
    assert next_heartbeat_s(0, 2.0, 10.0) == 2.0
    assert next_heartbeat_s(10**12, 2.0, 10.0) == 5.0
    assert next_heartbeat_s(9, 0.3, 0.4) == 0.3
