"""Worker session: one registration of a worker, from the cluster's answer until the worker leaves or is no longer known.

A session has four threads: long polls for work, reports of results that no poll carried, heartbeats, and live output. Each has a
connection of its own, so that none waits for another. Each request has a deadline and is repeated, so none waits for
ever. When a heartbeat finds a new leader, or is answered again after a lapse, the poll in progress is abandoned and repeated.
"""

from __future__ import annotations

import enum
import json
import logging
import threading
import time
from typing import Any

from triarch._http.transport import Transport
from triarch.errors import ProtocolError, Refused, TriarchError, UnknownWorker
from triarch.worker.attempt import Attempt, Key, StopReason
from triarch.worker.config import WorkerConfig
from triarch.worker.connection import RequestCancelled, WorkerConnection, is_final
from triarch.worker.leases import Leases
from triarch.worker.machine_load import LoadSampler
from triarch.worker.output_sender import OutputSender
from triarch.worker.shutdown import Shutdown

log = logging.getLogger("triarch.worker")

#: The hold of a poll that carries results, because the worker waits for their acknowledgement.
POLL_WITH_RESULTS_HOLD_S = 0.05
#: While there is more work than slots, a result waits this long for the poll in progress and goes with the next poll.
#: Many results and the tasks that take their place then cost one request and one commit.
RESULTS_WAIT_S = 0.02
#: Deadline of a poll or a report, in addition to its hold.
EXCHANGE_DEADLINE_S = 10.0
#: Pauses after a failed exchange, which has already been retried inside its deadline.
PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 2.0
#: Pause before a heartbeat is repeated that was refused.
REFUSED_PAUSE_S = 0.2
#: Time for which progress and notes are left out after a refusal.
PLAIN_S = 60.0
#: Interval of master discovery, so that a worker outlives the masters it was configured with.
DISCOVERY_INTERVAL_S = 60.0


class SessionEnd(enum.Enum):
    """Reason for the end of a session."""

    UNKNOWN = "unknown"  # the cluster does not know this worker (any more)
    LEAVING = "leaving"  # the worker shuts down or was drained


class Session:
    """See the module."""

    def __init__(
        self,
        transport: Transport,
        config: WorkerConfig,
        leases: Leases,
        shutdown: Shutdown,
        registered: dict[str, Any],
        registered_at: float,
    ) -> None:
        self._transport = transport
        self._config = config
        self._leases = leases
        self._shutdown = shutdown
        self.id: str = registered["id"]
        self._path = f"/v1/workers/{self.id}"
        self._secret: str | None = registered.get("secret")
        self._heartbeat_s = max(0.01, registered["heartbeat_ms"] / 1000)
        self._lease_s = max(0.1, registered["lease_ms"] / 1000)
        self._condition = threading.Condition()
        self._acknowledged_at = registered_at
        self._fenced = False
        self._end: SessionEnd | None = None
        self._draining = False
        self._left = False
        # State of the poll in progress.
        self._polling_since: float | None = None
        self._poll_pause_until = 0.0
        self._backlog = False
        #: Until then progress and notes are left out, because a master has refused a request with some. Leases are worth more.
        self._plain_until = 0.0
        self._last_leader: str | None = None
        self._poll_connection = WorkerConnection(transport, self._secret)
        self._report_connection = WorkerConnection(transport, self._secret)
        self._heartbeat_connection = WorkerConnection(transport, self._secret)
        self._output = OutputSender(WorkerConnection(transport, self._secret), self._path, leases)

    # --- life cycle ---

    def run(self) -> SessionEnd:
        """Works until the session is over. When this method returns, no attempt of the session runs any more."""
        leases = self._leases
        leases.on_change = self._notify
        leases.on_output = self._output.wake
        self._shutdown.listeners.append(self._notify)
        threads = [
            threading.Thread(target=self._run_loop, args=(loop,), name=f"triarch-{name}", daemon=True)
            for name, loop in (
                ("poll", self._poll_loop),
                ("report", self._report_loop),
                ("heartbeat", self._heartbeat_loop),
                ("output", self._output.run),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            end = self._supervise()
            if end is SessionEnd.UNKNOWN:
                leases.disown_all()
                self._wait_for_stopped()
            else:
                self._leave()
            return end
        finally:
            self._finish(SessionEnd.LEAVING)
            self._shutdown.listeners.remove(self._notify)
            for connection in (self._poll_connection, self._report_connection, self._heartbeat_connection):
                connection.close()
            self._output.close()
            for thread in threads:
                thread.join(1.0)
            self._transport.close()

    def _notify(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _finish(self, end: SessionEnd) -> None:
        with self._condition:
            if self._end is None:
                self._end = end
            if end is SessionEnd.LEAVING:
                self._left = True
            self._condition.notify_all()

    def _run_loop(self, loop: Any) -> None:
        try:
            while not self._left:
                try:
                    loop()
                    return
                except RequestCancelled:
                    continue
                except Exception:
                    # Whatever it is, the worker must not stop polling or lose its leases for it.
                    log.exception("a thread of the worker failed unexpectedly; it is restarted")
                    time.sleep(1.0)
        finally:
            self._transport.close()

    @property
    def _is_plain(self) -> bool:
        return time.monotonic() < self._plain_until

    @property
    def _is_leaving(self) -> bool:
        return self._shutdown.is_asked or self._draining

    def _supervise(self) -> SessionEnd:
        """Waits for the end. Enforces the end of leases that are not confirmed, and the shutdown timeout."""
        grace_until: float | None = None
        while True:
            with self._condition:
                now = time.monotonic()
                if self._end is not None:
                    return self._end
                if self._shutdown.is_now:
                    return SessionEnd.LEAVING
                if self._is_leaving:
                    if self._leases.is_idle:
                        return SessionEnd.LEAVING
                    if grace_until is None and self._shutdown.is_asked:
                        # A drained worker has all the time its tasks take. One that shuts down has a timeout.
                        log.info("shutting down: %d tasks are left, and the worker takes no more", self._leases.active)
                        grace_until = now + self._config.grace_s
                    if grace_until is not None and now >= grace_until:
                        return SessionEnd.LEAVING
                fence_at = self._acknowledged_at + self._lease_s
                must_fence = now >= fence_at and not self._fenced
                if must_fence:
                    self._fenced = True
                else:
                    deadlines = [now + 1.0]
                    if not self._fenced:
                        deadlines.append(fence_at)
                    if grace_until is not None:
                        deadlines.append(grace_until)
                    self._condition.wait(max(0.0, min(deadlines) - now))
            if must_fence:
                stopped = self._leases.stop_running(StopReason.LOST)
                if stopped:
                    log.warning(
                        "no heartbeat was answered for %g s, so the leases have expired; %d tasks are stopped and run elsewhere",
                        self._lease_s,
                        stopped,
                    )

    def _renew_leases(self, sent_at: float) -> None:
        """Extends the leases, given when the acknowledged request was sent."""
        with self._condition:
            self._acknowledged_at = max(self._acknowledged_at, sent_at)
            if time.monotonic() < self._acknowledged_at + self._lease_s:
                self._fenced = False
            self._condition.notify_all()

    def _apply_directives(self, answer: dict[str, Any], confirmed: dict[Key, str]) -> None:
        """Stops cancelled and lost attempts, and begins to drain, as the cluster's answer says."""
        self._leases.disown(_ids(answer, "cancel"), confirmed, StopReason.CANCELLED)
        self._leases.disown(_ids(answer, "lost"), confirmed, StopReason.LOST)
        for problem in _list(answer, "problems"):
            log.warning("the cluster left out a part of what this worker reported: %.500s", problem)
        if answer.get("drain") and not self._draining:
            log.info("the cluster drains this worker: it finishes its tasks and leaves")
            self._draining = True
            self._notify()

    # --- work ---

    def _poll_loop(self) -> None:
        pause = 0.0
        while True:
            with self._condition:
                while not self._may_poll():
                    if self._end is not None or self._is_leaving:
                        return
                    self._condition.wait(self._poll_wait_s())
                if self._end is not None or self._is_leaving:
                    return
                self._polling_since = time.monotonic()
            fine = False
            try:
                fine = self._poll()
            except RequestCancelled:
                fine = True
            finally:
                with self._condition:
                    self._polling_since = None
                    pause = 0.0 if fine else min(max(pause * 2, PAUSE_MIN_S), PAUSE_MAX_S)
                    self._poll_pause_until = time.monotonic() + pause if pause else 0.0
                    self._condition.notify_all()

    def _may_poll(self) -> bool:
        return (
            self._end is None
            and not self._is_leaving
            and time.monotonic() >= self._poll_pause_until
            and self._leases.wanted() > 0
        )

    def _poll_wait_s(self) -> float:
        left = self._poll_pause_until - time.monotonic()
        return left if left > 0 else 1.0

    def _poll(self) -> bool:
        """Sends one poll, with the results there are. Returns whether it was answered."""
        leases = self._leases
        taken = leases.take_results(with_work=True)
        self._output.send_before_results(taken)
        hold_s = POLL_WITH_RESULTS_HOLD_S if taken else self._config.poll_wait_s
        # The results are settled before the rest of the answer is applied: by then their leases are over.
        confirmed = leases.confirmed(without=(one.key for one in taken), plain=self._is_plain)
        wanted = leases.wanted()
        body = (
            f'{{"max":{wanted},"wait_ms":{int(hold_s * 1000)},"running":[{",".join(confirmed.values())}],"results":['.encode()
            + b",".join(one.result or b"" for one in taken)
            + b"]}"
        )
        begun = time.monotonic()
        answer = self._exchange(self._poll_connection, "poll", body, taken, hold_s)
        if answer is None:
            return False
        self._renew_leases(begun)
        leases.settle(taken, _list(answer, "results"))
        self._apply_directives(answer, confirmed)
        tasks = _list(answer, "tasks")
        self._backlog = len(tasks) >= wanted
        now = time.monotonic()
        # A lease begins when it is granted, which a poll that was held does not say. While heartbeats are answered, the next one
        # reports a lease that has ended.
        if tasks and now >= min(self._acknowledged_at, begun + hold_s) + self._lease_s:
            # The cluster grants them again with the next poll, or to other workers.
            log.warning("%d leases arrived after they may have expired, and are ignored", len(tasks))
        elif tasks:
            leases.add(tasks)
        return True

    def _exchange(
        self, connection: WorkerConnection, route: str, body: bytes, taken: list[Attempt], hold_s: float = 0.0
    ) -> dict[str, Any] | None:
        """Returns the answer. Without an answer it returns ``None`` and keeps the results that the request carried."""
        try:
            answer = connection.call("POST", f"{self._path}/{route}", body, deadline_s=EXCHANGE_DEADLINE_S, hold_s=hold_s)
            _check_shape(answer, "tasks" if route == "poll" else "results")
            return answer
        except UnknownWorker as error:
            log.warning("the cluster does not know this worker, which registers again: %s", error)
            self._finish(SessionEnd.UNKNOWN)
            self._leases.unsettled(taken)
            return None
        except Refused as error:
            if is_final(error) and route == "poll":
                # Whatever is wrong with it is no fault of the results, which are reported by themselves.
                self._plain_until = time.monotonic() + PLAIN_S
                self._leases.refused(taken, str(error), only_results=False)
            elif taken and is_final(error):
                self._leases.refused(taken, str(error))
            else:
                self._leases.unsettled(taken)
            log.warning("the cluster refused the %s, and the worker repeats it: %s", route, error)
        except ProtocolError as error:
            self._leases.unsettled(taken)
            log.error("the answer to the %s cannot be read, and the worker repeats it after a pause: %s", route, error)
        except TriarchError as error:
            self._leases.unsettled(taken)
            log.warning("no master answered the %s, and the worker repeats it: %s", route, error)
        except BaseException:
            self._leases.unsettled(taken)
            raise
        return None

    # --- results ---

    def _report_loop(self) -> None:
        pause = 0.0
        while True:
            with self._condition:
                while True:
                    if self._left or self._end is SessionEnd.UNKNOWN:
                        return
                    wait = self._report_wait_s()
                    if wait <= 0:
                        break
                    self._condition.wait(wait)
            if self._report(self._report_connection):
                pause = 0.0
            else:
                pause = min(max(pause * 2, PAUSE_MIN_S), PAUSE_MAX_S)
                time.sleep(pause)

    def _report_wait_s(self) -> float:
        """Returns how long a report waits: 0 when it is due."""
        if not self._leases.has_results:
            return 1.0
        now = time.monotonic()
        since = self._polling_since
        if since is not None:
            # With a backlog the poll in progress returns soon, and the next one carries the results.
            return max(0.0, since + RESULTS_WAIT_S - now) if self._backlog else 0.0
        # The next poll carries them.
        return 0.001 if self._may_poll() else 0.0

    def _report(self, connection: WorkerConnection) -> bool:
        taken = self._leases.take_results(with_work=False)
        if not taken:
            return True
        self._output.send_before_results(taken)
        body = b'{"results":[' + b",".join(one.result or b"" for one in taken) + b"]}"
        begun = time.monotonic()
        answer = self._exchange(connection, "report", body, taken)
        if answer is None:
            return False
        self._renew_leases(begun)
        self._leases.settle(taken, _list(answer, "results"))
        return True

    # --- heartbeats ---

    def _heartbeat_loop(self) -> None:
        sampler = LoadSampler()
        lapsed = False
        next_at = time.monotonic()
        discovered_at = time.monotonic() - DISCOVERY_INTERVAL_S + 1.0
        # Not longer than until the next heartbeat, which has newer data.
        deadline_s = max(self._heartbeat_s, 0.25)
        while not self._left and self._end is not SessionEnd.UNKNOWN:
            now = time.monotonic()
            if now < next_at:
                with self._condition:
                    self._condition.wait(next_at - now)
                continue
            next_at = max(next_at + self._heartbeat_s, now + self._heartbeat_s / 2)
            confirmed = self._leases.confirmed(plain=self._is_plain)
            load = json.dumps(sampler.sample())
            body = f'{{"running":[{",".join(confirmed.values())}],"load":{load}}}'.encode()
            begun = time.monotonic()
            try:
                answer = self._heartbeat_connection.call(
                    "POST", f"{self._path}/heartbeat", body, deadline_s=deadline_s, answer_timeout_s=deadline_s / 2
                )
            except UnknownWorker as error:
                log.warning("the cluster does not know this worker, which registers again: %s", error)
                self._finish(SessionEnd.UNKNOWN)
                return
            except TriarchError as error:
                log.warning("a heartbeat failed, and the worker retries at the next interval: %s", error)
                lapsed = True
                if isinstance(error, Refused) and is_final(error) and not self._is_plain:
                    # At once, so that no lease ends because of a note.
                    self._plain_until = now + PLAIN_S
                    next_at = now + min(self._heartbeat_s, REFUSED_PAUSE_S)
            else:
                self._renew_leases(begun)
                next_at = max(next_at, begun + next_heartbeat_s(answer.get("heartbeat_ms"), self._heartbeat_s, self._lease_s))
                self._apply_directives(answer, confirmed)
                self._on_heartbeat(lapsed)
                lapsed = False
                if now - discovered_at >= DISCOVERY_INTERVAL_S:
                    discovered_at = now
                    self._discover_masters(min(deadline_s, 1.0))

    def _on_heartbeat(self, lapsed: bool) -> None:
        """Abandons requests in progress after a lapse or a change of leader, because they may never be answered."""
        leader = self._transport.masters.leader()
        changed = leader is not None and self._last_leader is not None and leader != self._last_leader
        if leader is not None:
            self._last_leader = leader
        if changed or lapsed:
            if self._polling_since is not None:
                log.info("the poll is repeated after a lapse or a change of leader (leader: %s)", leader)
                self._poll_connection.abandon()
            self._report_connection.abandon()
            self._output.send_again()

    def _discover_masters(self, deadline_s: float) -> None:
        try:
            cluster = self._heartbeat_connection.call("GET", "/v1/cluster?consistency=stale", deadline_s=deadline_s)
            self._transport.masters.discover(f"http://{node['addr']}" for node in cluster.get("nodes") or [])
        except (TriarchError, KeyError, TypeError) as error:
            log.debug("the masters were not discovered: %s", error)

    # --- the end ---

    def _leave(self) -> None:
        """Stops what still runs without counting it as a failure, reports finished results, and deregisters.

        Deregistering returns the other leases at once, without counting an attempt.
        """
        self._poll_connection.close()
        stopped = self._leases.stop_running(StopReason.SHUTTING_DOWN)
        if stopped:
            log.info("%d unfinished tasks are stopped; other workers run them", stopped)
        self._wait_for_stopped()
        with self._condition:
            self._left = True
            self._condition.notify_all()
        self._report_connection.close()
        connection = WorkerConnection(self._transport, self._secret)
        until = time.monotonic() + self._config.leave_patience_s
        try:
            while self._leases.has_results and time.monotonic() < until:
                if not self._report(connection):
                    break
        except RequestCancelled:
            self._output.send_again()
        try:
            answer = connection.call("DELETE", self._path, deadline_s=self._config.leave_patience_s)
            log.info("the worker has left; %d leases were returned", answer.get("returned", 0))
        except UnknownWorker:
            pass
        except TriarchError as error:
            log.warning("the worker could not deregister; its leases expire by themselves: %s", error)
        connection.close()

    def _wait_for_stopped(self) -> None:
        """Waits until stopped attempts have ended. Heartbeats confirm their leases until then."""
        until = time.monotonic() + self._config.stop_grace_s + 2.0
        with self._condition:
            while self._leases.running and time.monotonic() < until and not self._shutdown.is_now:
                self._condition.wait(0.1)


def _list(answer: dict[str, Any], field: str) -> list[Any]:
    found = answer.get(field)
    return found if isinstance(found, list) else []


def _ids(answer: dict[str, Any], field: str) -> list[str]:
    return [one for one in _list(answer, field) if isinstance(one, str)]


def _check_shape(answer: dict[str, Any], field: str) -> None:
    """Refuses an answer without the list that it is about. It must not pass for an empty one."""
    if not isinstance(answer.get(field), list):
        raise ProtocolError(f"the answer has no list {field!r}: {str(answer)[:200]}; is this a Triarch master?")


def next_heartbeat_s(asked_ms: object, registered_s: float, lease_s: float) -> float:
    """Returns the interval until the next heartbeat.

    A cluster with many workers asks for fewer heartbeats than at registration. The bound is half a lease, because heartbeats
    renew leases.
    """
    if not isinstance(asked_ms, (int, float)):
        return registered_s
    return min(max(asked_ms / 1000, registered_s), max(lease_s / 2, registered_s))
