"""Lease table of a worker: leases that wait for a free slot, attempts that run, and results that are not acknowledged.

# Invariants

* The task and the token identify an attempt. A message about an old lease therefore never affects a newer lease of the same
  task.
* A result leaves the table only when the cluster has acknowledged it, or has disowned its lease.
* Heartbeats confirm the leases of unacknowledged results, because the worker still holds them.
* The table is bounded: by slots and prefetch, and because no work is requested while too many results are unacknowledged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from triarch._values import json_reader
from triarch.worker import task_log
from triarch.worker.attempt import Attempt, AttemptOutcome, Key, Phase, StopReason, failure, returned_report, to_report
from triarch.worker.prefetch import PrefetchController

log = logging.getLogger("triarch.worker")

#: Results, and bytes of results, of one report. A single larger result is sent alone.
RESULTS_PER_REPORT_MAX = 1000
RESULT_BYTES_PER_REPORT_MAX = 4 << 20
#: Unacknowledged results at which no more work is requested.
UNSETTLED_MAX = 10_000
UNSETTLED_BYTES_MAX = 64 << 20


class Leases:
    """See the module."""

    def __init__(self, concurrency: int, prefetch_max: int) -> None:
        self._concurrency = concurrency
        self._prefetch_max = prefetch_max
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held: dict[Key, Attempt] = {}
        self._latest: dict[str, Attempt] = {}
        self._waiting: deque[Attempt] = deque()
        self._running: dict[Key, Attempt] = {}
        self._unsent: dict[Key, Attempt] = {}
        self._unsettled_bytes = 0
        self._prefetch = PrefetchController()
        self._lost_slots = 0
        self._missing_slots = 0
        self._may_return = True
        #: Called, outside of any lock, when leases were added and when an attempt has to stop.
        self.on_work: Callable[[], None] = lambda: None
        self.on_stop: Callable[[Attempt], None] = lambda attempt: None
        #: Called when there is a result, or room for more work.
        self.on_change: Callable[[], None] = lambda: None
        #: Called when an attempt has written output.
        self.on_output: Callable[[], None] = lambda: None

    # --- work ---

    def add(self, granted: Iterable[Any]) -> int:
        """Adds granted leases, except those that are held already. Returns the number of added leases.

        A task that cannot be read ends as failed. The others are not affected.
        """
        added: list[Attempt] = []
        stopped: list[Attempt] = []
        unreadable: list[tuple[Attempt, str]] = []
        with self._lock:
            for task in granted:
                attempt = Attempt.of(task)
                if attempt is None:
                    log.error("the cluster granted a lease that this worker cannot read, and ignores: %.500r", task)
                    continue
                if attempt.key in self._held:
                    continue
                other = self._latest.get(attempt.task)
                if other is not None:
                    log.warning("task %s was leased again: token %d replaces %d", *attempt.key, other.token)
                    if self._disown(other, StopReason.LOST):
                        stopped.append(other)
                self._held[attempt.key] = self._latest[attempt.task] = attempt
                if not isinstance(attempt.payload, json_reader.MARKED) and not isinstance(attempt.inputs, json_reader.MARKED):
                    self._waiting.append(attempt)
                    added.append(attempt)
                else:
                    why = json_reader.unreadable(attempt.payload, "payload") or json_reader.unreadable(attempt.inputs, "inputs")
                    attempt.phase, attempt.begun_at = Phase.RUNNING, time.monotonic()
                    self._running[attempt.key] = attempt
                    unreadable.append((attempt, why or "it cannot be read"))
        for one in stopped:
            self.on_stop(one)
        for one, why in unreadable:
            self.end(one, failure("triarch.errors.SerializationError", f"the call cannot be used: {why}", retryable=False))
        if added:
            if log.isEnabledFor(logging.DEBUG):
                for one in added:
                    task_log.received(one)
            self.on_work()
        return len(added)

    def next(self) -> Attempt | None:
        """Takes the next attempt to begin, if one waits. It counts as running from now on."""
        with self._lock:
            if not self._waiting:
                return None
            attempt = self._waiting.popleft()
            attempt.phase = Phase.RUNNING
            attempt.begun_at = time.monotonic()
            self._running[attempt.key] = attempt
            return attempt

    def begins(self, attempt: Attempt) -> None:
        """Restarts the clock of an attempt that was assigned earlier and begins only now."""
        attempt.begun_at = time.monotonic()

    def put_back(self, attempt: Attempt) -> None:
        """Returns an attempt that has not begun to the head of the queue."""
        with self._lock:
            self._running.pop(attempt.key, None)
            if attempt.disowned:
                self._remove(attempt)
                return
            attempt.phase = Phase.WAITING
            self._waiting.appendleft(attempt)

    def end(self, attempt: Attempt, outcome: AttemptOutcome | None) -> None:
        """Ends an attempt. `outcome` is `None` if the attempt was stopped."""
        with self._lock:
            if self._running.pop(attempt.key, None) is None or attempt.phase is not Phase.RUNNING:
                return
            took_s = time.monotonic() - attempt.begun_at
            self._prefetch.record(took_s)
            result = None if attempt.disowned else to_report(attempt, outcome)
            if result is None:
                self._remove(attempt)
            else:
                attempt.phase = Phase.ENDED
                attempt.payload = attempt.inputs = None  # type: ignore[assignment]  # not needed any more
                attempt.result = result
                if outcome is not None and outcome.retry_after_ms is not None:
                    attempt.result_without_delay = to_report(attempt, replace(outcome, retry_after_ms=None))
                self._unsettled_bytes += len(result)
                self._unsent[attempt.key] = attempt
            self._changed.notify_all()
        self.on_change()
        if not attempt.disowned:
            task_log.ended(attempt, outcome, took_s)

    def return_lease(self, attempt: Attempt) -> None:
        """Returns the lease of an attempt that could not begin. The cluster counts nothing, and another worker runs it.

        A master that does not take leases back refuses this, and the attempt waits here until it can begin.
        """
        with self._lock:
            if self._running.pop(attempt.key, None) is None:
                if attempt not in self._waiting:
                    return
                self._waiting.remove(attempt)
            if attempt.disowned:
                self._remove(attempt)
                return
            attempt.phase = Phase.ENDED
            attempt.is_returned = True
            attempt.result = returned_report(attempt)
            self._unsettled_bytes += len(attempt.result)
            self._unsent[attempt.key] = attempt
            self._changed.notify_all()
        log.warning("task %s is handed back, because this worker lacks the means to begin it", attempt.task)
        self.on_change()

    def return_waiting(self, keep: int) -> None:
        """Returns the leases of attempts that wait for a slot, except the first `keep`, if the cluster takes them."""
        with self._lock:
            surplus = list(self._waiting)[max(0, keep) :] if self._may_return else []
        for attempt in reversed(surplus):
            self.return_lease(attempt)

    def _take_back(self, attempt: Attempt) -> None:
        """Lets an attempt wait again whose lease the cluster did not take back."""
        if self._may_return:
            self._may_return = False
            log.warning("the masters take no leases back, so tasks wait here until this worker has the means to begin them")
        self._unsettled_bytes -= len(attempt.result or b"")
        attempt.result, attempt.sent, attempt.is_returned = None, False, False
        if attempt.disowned:
            self._remove(attempt)
            return
        attempt.phase = Phase.WAITING
        self._waiting.append(attempt)

    def limit_slots(self, usable: int) -> None:
        """Sets how many slots can be used now. Fewer than configured, while the means for the others are missing."""
        with self._lock:
            missing = max(0, self._concurrency - usable)
            changed, self._missing_slots = missing != self._missing_slots, missing
        if changed:
            self.on_change()

    def slot_lost(self) -> None:
        """Removes a slot, because an attempt that cannot be stopped occupies it."""
        with self._lock:
            self._lost_slots += 1

    def slot_found(self) -> None:
        """Adds the removed slot again."""
        with self._lock:
            self._lost_slots -= 1
        self.on_change()

    # --- demand ---

    def wanted(self) -> int:
        """Returns how many more leases to request: free slots, plus the prefetch depth."""
        with self._lock:
            unsettled = len(self._held) - len(self._running) - len(self._waiting)
            if unsettled >= UNSETTLED_MAX or self._unsettled_bytes >= UNSETTLED_BYTES_MAX:
                return 0
            slots = self.slots_left
            if slots <= 0:
                return 0
            active = len(self._running) + len(self._waiting)
            free = slots - active
            oldest = min((one.begun_at for one in self._running.values()), default=None) if self._prefetch_max else None
            ahead = min(self._prefetch_max, self._prefetch.depth(slots, oldest)) if self._prefetch_max else 0
            if free > 0:
                return free + ahead
            # Prefetched in batches: not before half of them are used up.
            missing = slots + ahead - active
            return missing if missing * 2 >= ahead and missing > 0 else 0

    @property
    def running(self) -> int:
        """Attempts that run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Attempts that wait for a slot."""
        return len(self._waiting)

    @property
    def mean_duration_s(self) -> float:
        """Moving average of the duration of attempts."""
        return self._prefetch.mean_s

    @property
    def slots_left(self) -> int:
        """Slots that can be used."""
        return self._concurrency - self._lost_slots - self._missing_slots

    @property
    def active(self) -> int:
        """Attempts that run or wait for a slot."""
        return len(self._running) + len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and every result is acknowledged."""
        return not self._held

    @property
    def has_results(self) -> bool:
        """Whether a result waits to be reported."""
        return bool(self._unsent)

    def attempts_held(self) -> list[Attempt]:
        """Returns the attempts that wait, run, or have an unacknowledged result."""
        with self._lock:
            return list(self._held.values())

    # --- confirmation ---

    def confirmed(self, without: Iterable[Key] = (), *, plain: bool = False) -> dict[Key, str]:
        """Returns every held lease, as a heartbeat confirms it. `plain` leaves progress and notes out."""
        left_out = set(without)
        with self._lock:
            return {
                key: one.confirmation(plain=plain)
                for key, one in self._held.items()
                if key not in left_out and (not one.disowned or one.phase is Phase.RUNNING)
            }

    def disown(self, tasks: Iterable[str], sent: Iterable[Key], reason: StopReason) -> None:
        """Ends the attempts of these tasks whose leases were confirmed in `sent`.

        The answer to a confirmation is about its leases alone, never about a lease that was added after it.
        """
        named = set(tasks)
        if not named:
            return
        stopped = []
        with self._lock:
            for key in sent:
                one = self._held.get(key) if key[0] in named else None
                if one is None:
                    continue
                if self._disown(one, reason):
                    stopped.append(one)
            self._changed.notify_all()
        for one in stopped:
            log.info("stopping task %s (token %d): %s", one.task, one.token, reason.value)
            self.on_stop(one)
        self.on_change()

    def disown_all(self) -> None:
        """Ends all attempts and drops all results, because the cluster does not know this worker any more."""
        with self._lock:
            stopped = [one for one in list(self._held.values()) if self._disown(one, StopReason.LOST)]
            self._changed.notify_all()
        for one in stopped:
            self.on_stop(one)

    def stop_running(self, reason: StopReason) -> int:
        """Ends every attempt that runs or waits. Returns their number. Results stay, and the cluster decides on them by token."""
        with self._lock:
            ended = [one for one in self._held.values() if one.phase is not Phase.ENDED]
            stopped = []
            for one in ended:
                if reason in (StopReason.CANCELLED, StopReason.LOST) or one.phase is Phase.WAITING:
                    if self._disown(one, reason):
                        stopped.append(one)
                elif one.stop_reason is None:
                    one.stop_reason = reason
                    stopped.append(one)
            self._changed.notify_all()
        for one in stopped:
            self.on_stop(one)
        return len(ended)

    def _disown(self, one: Attempt, reason: StopReason) -> bool:
        """Marks an attempt as disowned. Returns whether it runs and has to be stopped."""
        one.disowned = True
        if one.phase is Phase.RUNNING:
            if one.stop_reason is None:
                one.stop_reason = reason
                return True
            return False
        if one.phase is Phase.WAITING:
            self._waiting.remove(one)
            self._remove(one)
        elif not one.sent:
            self._unsent.pop(one.key, None)
            self._drop(one)
        return False

    # --- results ---

    def take_results(self, *, with_work: bool) -> list[Attempt]:
        """Takes results to report. The caller settles each, or puts it back by `unsettled`.

        A result that was refused once is reported alone, so that it never delays the poll for work.
        """
        with self._lock:
            taken: list[Attempt] = []
            size = 0
            for one in self._unsent.values():
                bytes_more = len(one.result or b"")
                if one.alone:
                    if taken or with_work:
                        continue
                    taken.append(one)
                    break
                full = len(taken) >= RESULTS_PER_REPORT_MAX or size + bytes_more > RESULT_BYTES_PER_REPORT_MAX
                if taken and full:
                    break
                taken.append(one)
                size += bytes_more
            for one in taken:
                one.sent = True
                del self._unsent[one.key]
            return taken

    def settle(self, taken: list[Attempt], acknowledgements: list[Any]) -> None:
        """Applies the cluster's acknowledgement of each result, in order."""
        with self._lock:
            for at, one in enumerate(taken):
                answer = acknowledgements[at] if at < len(acknowledgements) else None
                if not isinstance(answer, dict) or answer.get("task") != one.task:
                    log.error("the cluster did not acknowledge the result of task %s; the worker reports it again", one.task)
                    self._requeue(one)
                elif answer.get("accepted"):
                    self._drop(one)
                elif one.is_returned and answer.get("code") == "invalid_request":
                    self._take_back(one)
                elif answer.get("code") == "invalid_request" and self._remove_delay(one):
                    self._requeue(one)
                elif answer.get("code") == "invalid_request" and not one.replaced and not one.disowned:
                    why = f"{answer.get('detail') or 'it is invalid'} (field {answer.get('field') or 'unknown'})"
                    log.warning("the cluster cannot read the result of task %s, so the task fails: %s", one.task, why)
                    message = f"the cluster refused the result of this attempt: {why}"
                    self._replace(one, failure("result_refused", message, retryable=False))
                    self._requeue(one)
                elif answer.get("code") == "payload_too_large" and not one.replaced and not one.disowned:
                    # The worker still holds the lease. Without a result the task would be leased again for ever.
                    log.warning(
                        "the result of task %s exceeds the limit of the cluster, so the task fails; return the data's location",
                        one.task,
                    )
                    message = (
                        "the result exceeds the limit of the cluster; store it where others reach it and return its location"
                    )
                    self._replace(one, failure("result_too_large", message, retryable=False))
                    self._requeue(one)
                else:
                    code = answer.get("code") or "without a code"
                    log.warning(
                        "the cluster did not accept the result of task %s (token %d), and the worker drops it: %s",
                        one.task,
                        one.token,
                        code,
                    )
                    self._drop(one)
            self._changed.notify_all()
        self.on_change()

    def unsettled(self, taken: list[Attempt]) -> None:
        """Puts results back whose report was not answered."""
        with self._lock:
            for one in taken:
                self._requeue(one)
            self._changed.notify_all()

    def refused(self, taken: list[Attempt], why: str, *, only_results: bool = True) -> None:
        """Handles the final refusal of a whole request.

        Each of its results is reported alone, in a request with `only_results`. One that is refused there is replaced by a
        failure with the reason. When even that is refused, it is dropped.
        """
        with self._lock:
            for one in taken:
                if len(taken) > 1 or not only_results:
                    one.alone = True
                elif one.is_returned:
                    self._take_back(one)
                    continue
                elif self._remove_delay(one):
                    one.alone = True
                elif not one.replaced:
                    log.warning(
                        "the cluster refused the result of task %s, and the worker reports a failure: %s", one.task, why
                    )
                    one.alone = True
                    message = f"the cluster refused the result of this attempt: {why}"
                    self._replace(one, failure("result_refused", message, retryable=False))
                else:
                    log.error("the cluster refused the result of task %s again, and the worker drops it: %s", one.task, why)
                    self._drop(one)
                    continue
                self._requeue(one)
            self._changed.notify_all()

    def _requeue(self, one: Attempt) -> None:
        one.sent = False
        if one.disowned:
            self._drop(one)
        elif self._held.get(one.key) is one:
            self._unsent[one.key] = one

    def _drop(self, one: Attempt) -> None:
        if self._remove(one):
            self._unsettled_bytes -= len(one.result or b"")

    def _remove(self, one: Attempt) -> bool:
        if self._latest.get(one.task) is one:
            del self._latest[one.task]
        return self._held.pop(one.key, None) is not None

    def _remove_delay(self, one: Attempt) -> bool:
        """Removes the delay before the next attempt from a refused failure. Returns whether it had one."""
        if one.result_without_delay is None or one.disowned:
            return False
        log.warning(
            "the cluster takes no delay before the next attempt of task %s, whose back-off applies: upgrade it", one.task
        )
        self._unsettled_bytes += len(one.result_without_delay) - len(one.result or b"")
        one.result, one.result_without_delay = one.result_without_delay, None
        return True

    def _replace(self, one: Attempt, outcome: AttemptOutcome) -> None:
        result = to_report(one, outcome, stopped=False)
        self._unsettled_bytes += len(result or b"") - len(one.result or b"")
        one.result = result
        one.replaced = True
