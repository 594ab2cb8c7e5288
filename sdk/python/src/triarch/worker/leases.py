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
from typing import Any

from triarch.worker.attempt import Attempt, AttemptOutcome, Key, Phase, StopReason, failure, to_report
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
        #: Called, outside of any lock, when leases were added and when an attempt has to stop.
        self.on_work: Callable[[], None] = lambda: None
        self.on_stop: Callable[[Attempt], None] = lambda attempt: None
        #: Called when there is a result, or room for more work.
        self.on_change: Callable[[], None] = lambda: None
        #: Called when an attempt has written output.
        self.on_output: Callable[[], None] = lambda: None

    # --- work ---

    def add(self, granted: Iterable[dict[str, Any]]) -> int:
        """Adds granted leases, except those that are held already. Returns the number of added leases."""
        added = 0
        stopped: list[Attempt] = []
        with self._lock:
            for task in granted:
                key = (task["id"], task["token"])
                if key in self._held:
                    continue
                other = self._latest.get(task["id"])
                if other is not None:
                    log.warning("task %s was leased again: token %d replaces %d", key[0], key[1], other.token)
                    if self._disown(other, StopReason.LOST):
                        stopped.append(other)
                attempt = Attempt(
                    task["id"],
                    task["job"],
                    task["kind"],
                    task.get("payload"),
                    task.get("inputs") or {},
                    task["attempt"],
                    task["token"],
                    task.get("timeout_ms"),
                )
                self._held[key] = self._latest[attempt.task] = attempt
                self._waiting.append(attempt)
                added += 1
        for one in stopped:
            self.on_stop(one)
        if added:
            self.on_work()
        return added

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
            self._prefetch.record(time.monotonic() - attempt.begun_at)
            result = None if attempt.disowned else to_report(attempt, outcome)
            if result is None:
                self._remove(attempt)
            else:
                attempt.phase = Phase.ENDED
                attempt.payload = attempt.inputs = None  # type: ignore[assignment]  # not needed any more
                attempt.result = result
                self._unsettled_bytes += len(result)
                self._unsent[attempt.key] = attempt
            self._changed.notify_all()
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
            slots = self._concurrency - self._lost_slots
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
        return self._concurrency - self._lost_slots

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

    def confirmed(self, without: Iterable[Key] = ()) -> dict[Key, str]:
        """Returns every held lease, as a heartbeat confirms it."""
        left_out = set(without)
        with self._lock:
            return {
                key: one.confirmation()
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

    def settle(self, taken: list[Attempt], acknowledgements: list[dict[str, Any]]) -> None:
        """Applies the cluster's acknowledgement of each result, in order."""
        with self._lock:
            for at, one in enumerate(taken):
                answer = acknowledgements[at] if at < len(acknowledgements) else None
                if answer is None or answer.get("task") != one.task:
                    log.error("the cluster did not acknowledge the result of task %s; the worker reports it again", one.task)
                    self._requeue(one)
                elif answer.get("accepted"):
                    self._drop(one)
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

    def refused(self, taken: list[Attempt], why: str) -> None:
        """Handles the final refusal of a whole report.

        Each of its results is reported alone. One that is refused alone is replaced by a failure with the reason. When even
        that is refused, it is dropped.
        """
        with self._lock:
            for one in taken:
                if len(taken) > 1:
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

    def _replace(self, one: Attempt, outcome: AttemptOutcome) -> None:
        result = to_report(one, outcome, stopped=False)
        self._unsettled_bytes += len(result or b"") - len(one.result or b"")
        one.result = result
        one.replaced = True
