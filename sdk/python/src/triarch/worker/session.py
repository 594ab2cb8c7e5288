"""One registration of a worker, from the cluster's welcome until the worker leaves or is no longer known.

Several threads, each with a connection of its own, so that none waits behind another: one asks for work, one reports what no
question for work has taken along, one sends heartbeats, one sends what tasks write. None of them waits for ever: every request
has a deadline and is asked anew, and when a heartbeat finds a new leader, or is answered again after a lapse, a question for work
from before is abandoned.
"""

from __future__ import annotations

import enum
import json
import logging
import threading
import time
from typing import Any

from triarch.worker.attempt import Attempt, Key, StopReason
from triarch.worker.config import WorkerConfig
from triarch.worker.leases import Leases
from triarch.worker.link import Abandoned, Link, Masters, Refusal, Unanswered
from triarch.worker.machine import Machine
from triarch.worker.sending import OutputSender
from triarch.worker.shutdown import Shutdown

log = logging.getLogger("triarch.worker")

#: A question for work that brings results is not held longer than this, for the worker waits for its verdicts.
POLL_WITH_RESULTS_WAIT_S = 0.05
#: While there is more work than slots, a result waits so long for the question that is on its way to come back, and goes with the
#: next: one request and one commit for many results and the tasks that take their place.
RESULTS_WAIT_S = 0.02
#: How long a poll or a report may take beyond what it is held for.
EXCHANGE_PATIENCE_S = 10.0
#: Pauses after an exchange that failed. The line has waited inside its deadline already.
PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 2.0
#: How often to ask who the masters are, so that a worker that was given one of them outlives it.
LEARN_EVERY_S = 60.0


class End(enum.Enum):
    """Why a session is over."""

    UNKNOWN = "unknown"  # the cluster does not know this worker (any more)
    LEAVING = "leaving"  # the worker is to go, and has done what could be done before


class Session:
    """See the module."""

    def __init__(
        self,
        masters: Masters,
        config: WorkerConfig,
        leases: Leases,
        shutdown: Shutdown,
        registered: dict[str, Any],
        registered_at: float,
    ) -> None:
        self._masters = masters
        self._config = config
        self._leases = leases
        self._shutdown = shutdown
        self.id: str = registered["id"]
        self._path = f"/v1/workers/{self.id}"
        self._heartbeat_s = max(0.01, registered["heartbeat_ms"] / 1000)
        self._lease_s = max(0.1, registered["lease_ms"] / 1000)
        self._condition = threading.Condition()
        self._acknowledged_at = registered_at
        self._fenced = False
        self._end: End | None = None
        self._draining = False
        self._left = False
        # Of the question for work that is on its way.
        self._polling_since: float | None = None
        self._poll_pause_until = 0.0
        self._backlog = False
        self._lapses = 0
        self._leader_heard: str | None = None
        self._poll_link = Link(masters, "poll")
        self._report_link = Link(masters, "report")
        self._heartbeat_link = Link(masters, "heartbeat")
        self._output = OutputSender(Link(masters, "output"), self._path, leases)

    # --- the whole ---

    def run(self) -> End:
        """Works until the session is over. No attempt of it runs any more when it returns."""
        leases = self._leases
        leases.on_change = self._ring
        leases.on_output = self._output.wake
        self._shutdown.listeners.append(self._ring)
        threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=f"triarch-{name}", daemon=True)
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
            end = self._watch()
            if end is End.UNKNOWN:
                leases.disown_all()
                self._wind_down()
            else:
                self._hand_back()
            return end
        finally:
            self._over(End.LEAVING)
            self._shutdown.listeners.remove(self._ring)
            for link in (self._poll_link, self._report_link, self._heartbeat_link):
                link.close()
            self._output.close()
            for thread in threads:
                thread.join(1.0)

    def _ring(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _over(self, end: End) -> None:
        with self._condition:
            if self._end is None:
                self._end = end
            if end is End.LEAVING:
                self._left = True
            self._condition.notify_all()

    def _guarded(self, loop: Any) -> None:
        while not self._left:
            try:
                loop()
                return
            except Abandoned:
                continue
            except Exception:
                # Whatever it is, the worker must not go deaf for it.
                log.exception("a worker's thread met what it did not expect, and goes on")
                time.sleep(1.0)

    @property
    def _is_leaving(self) -> bool:
        return self._shutdown.is_asked or self._draining

    def _watch(self) -> End:
        """The fence, the grace, and the end."""
        grace_until: float | None = None
        while True:
            with self._condition:
                now = time.monotonic()
                if self._end is not None:
                    return self._end
                if self._shutdown.is_now:
                    return End.LEAVING
                if self._is_leaving:
                    if self._leases.is_idle:
                        return End.LEAVING
                    if grace_until is None and self._shutdown.is_asked:
                        # One that is drained has all the time its tasks take; one told to go has its grace.
                        log.info("taking no more tasks, %d are running", self._leases.active)
                        grace_until = now + self._config.grace_s
                    if grace_until is not None and now >= grace_until:
                        return End.LEAVING
                fence_at = self._acknowledged_at + self._lease_s
                must_fence = now >= fence_at and not self._fenced
                if must_fence:
                    self._fenced = True
                else:
                    moments = [now + 1.0]
                    if not self._fenced:
                        moments.append(fence_at)
                    if grace_until is not None:
                        moments.append(grace_until)
                    self._condition.wait(max(0.0, min(moments) - now))
            if must_fence:
                stopped = self._leases.stop_running(StopReason.LOST)
                if stopped:
                    log.warning("heard nothing for %g s: the leases are over, stopping %d tasks", self._lease_s, stopped)

    def _acknowledge(self, sent_at: float) -> None:
        with self._condition:
            self._acknowledged_at = max(self._acknowledged_at, sent_at)
            if time.monotonic() < self._acknowledged_at + self._lease_s:
                self._fenced = False
            self._condition.notify_all()

    def _obey(self, answer: dict[str, Any], sent: dict[Key, str]) -> None:
        self._leases.disown(answer.get("cancel") or (), sent, StopReason.CANCELLED)
        self._leases.disown(answer.get("lost") or (), sent, StopReason.LOST)
        if answer.get("drain") and not self._draining:
            log.info("the cluster asks this worker to finish and leave")
            self._draining = True
            self._ring()

    # --- work ---

    def _poll_loop(self) -> None:
        pause = 0.0
        while True:
            with self._condition:
                while not self._may_poll():
                    if self._end is not None or self._is_leaving:
                        return
                    self._condition.wait(self._poll_patience())
                if self._end is not None or self._is_leaving:
                    return
                self._polling_since = time.monotonic()
            fine = False
            try:
                fine = self._poll()
            except Abandoned:
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

    def _poll_patience(self) -> float:
        left = self._poll_pause_until - time.monotonic()
        return left if left > 0 else 1.0

    def _poll(self) -> bool:
        leases = self._leases
        taken = leases.take_results(with_work=True)
        self._output.send_before_results(taken)
        hold_s = POLL_WITH_RESULTS_WAIT_S if taken else self._config.poll_wait_s
        # The results are settled before the rest is looked at: by then their leases are over.
        sent = leases.confirmed(without=(one.key for one in taken))
        wanted = leases.wanted()
        body = (
            f'{{"max":{wanted},"wait_ms":{int(hold_s * 1000)},"running":[{",".join(sent.values())}],"results":['.encode()
            + b",".join(one.result or b"" for one in taken)
            + b"]}"
        )
        begun = time.monotonic()
        answer = self._exchange(self._poll_link, "poll", body, taken, "asking for work", hold_s)
        if answer is None:
            return False
        self._acknowledge(begun)
        leases.settle(taken, answer.get("results") or [])
        self._obey(answer, sent)
        tasks = answer.get("tasks") or []
        self._backlog = len(tasks) >= wanted
        if tasks and begun + self._lease_s <= time.monotonic():
            # They will be handed out again with the next poll, or to others.
            log.warning("%d leases arrived too late to be trusted", len(tasks))
        elif tasks:
            leases.add(tasks)
        return True

    def _exchange(
        self, link: Link, route: str, body: bytes, taken: list[Attempt], doing: str, hold_s: float = 0.0
    ) -> dict[str, Any] | None:
        """The answer; or None when there is none, and then nothing that was taken along is forgotten."""
        try:
            return link.call("POST", f"{self._path}/{route}", body, deadline_s=EXCHANGE_PATIENCE_S, hold_s=hold_s)
        except Refusal as refusal:
            if refusal.code == "unknown_worker":
                log.warning("the cluster does not know this worker: %s", refusal)
                self._over(End.UNKNOWN)
                self._leases.unsettled(taken)
                return None
            if taken and refusal.status < 429:
                self._leases.refused(taken, str(refusal))
            else:
                self._leases.unsettled(taken)
            log.warning("%s failed, asking again: %s", doing, refusal)
        except Unanswered as error:
            self._leases.unsettled(taken)
            log.warning("%s failed, asking again: %s", doing, error)
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
                    if self._left or self._end is End.UNKNOWN:
                        return
                    wait = self._report_wait()
                    if wait <= 0:
                        break
                    self._condition.wait(wait)
            if self._report(self._report_link):
                pause = 0.0
            else:
                pause = min(max(pause * 2, PAUSE_MIN_S), PAUSE_MAX_S)
                time.sleep(pause)

    def _report_wait(self) -> float:
        """How long a report has to wait: 0 when it is to be sent now."""
        if not self._leases.has_results:
            return 1.0
        now = time.monotonic()
        since = self._polling_since
        if since is not None:
            # The question that is on its way comes back soon, when there is more work than slots.
            return max(0.0, since + RESULTS_WAIT_S - now) if self._backlog else 0.0
        # The next question takes it along.
        return 0.001 if self._may_poll() else 0.0

    def _report(self, link: Link) -> bool:
        taken = self._leases.take_results(with_work=False)
        if not taken:
            return True
        self._output.send_before_results(taken)
        body = b'{"results":[' + b",".join(one.result or b"" for one in taken) + b"]}"
        begun = time.monotonic()
        answer = self._exchange(link, "report", body, taken, "reporting results")
        if answer is None:
            return False
        self._acknowledge(begun)
        self._leases.settle(taken, answer.get("results") or [])
        return True

    # --- staying known ---

    def _heartbeat_loop(self) -> None:
        machine = Machine()
        lapsed = False
        next_at = time.monotonic()
        learned_at = time.monotonic() - LEARN_EVERY_S + 1.0
        # Not longer than until the next: that one knows more.
        deadline_s = max(self._heartbeat_s, 0.25)
        while not self._left and self._end is not End.UNKNOWN:
            now = time.monotonic()
            if now < next_at:
                with self._condition:
                    self._condition.wait(next_at - now)
                continue
            next_at = max(next_at + self._heartbeat_s, now + self._heartbeat_s / 2)
            sent = self._leases.confirmed()
            load = json.dumps(machine.look())
            body = f'{{"running":[{",".join(sent.values())}],"load":{load}}}'.encode()
            begun = time.monotonic()
            try:
                answer = self._heartbeat_link.call(
                    "POST", f"{self._path}/heartbeat", body, deadline_s=deadline_s, patience_s=deadline_s / 2
                )
            except Refusal as refusal:
                if refusal.code == "unknown_worker":
                    log.warning("the cluster does not know this worker: %s", refusal)
                    self._over(End.UNKNOWN)
                    return
                log.warning("a heartbeat was refused: %s", refusal)
                lapsed = True
            except Unanswered as error:
                log.warning("a heartbeat was not answered: %s", error)
                lapsed = True
            else:
                self._acknowledge(begun)
                next_at = max(next_at, begun + until_next_s(answer.get("heartbeat_ms"), self._heartbeat_s, self._lease_s))
                self._obey(answer, sent)
                self._heard(lapsed)
                lapsed = False
                if now - learned_at >= LEARN_EVERY_S:
                    learned_at = now
                    self._learn_masters(min(deadline_s, 1.0))

    def _heard(self, lapsed: bool) -> None:
        """A heartbeat was answered. When that is news, a question for work from before may wait for ever: it is abandoned."""
        leader = self._masters.leader
        moved = leader is not None and leader != self._leader_heard
        first = self._leader_heard is None
        if leader is not None:
            self._leader_heard = leader
        if (moved and not first) or lapsed:
            since = self._polling_since
            if since is not None:
                log.info("asking for work anew after a lapse or a change of leader (%s leads)", leader)
                self._poll_link.abandon()
            self._report_link.abandon()
            self._output.send_again()

    def _learn_masters(self, deadline_s: float) -> None:
        try:
            cluster = self._heartbeat_link.call("GET", "/v1/cluster?consistency=stale", deadline_s=deadline_s)
            self._masters.learn(f"http://{node['addr']}" for node in cluster.get("nodes") or [])
        except (Refusal, Unanswered, KeyError, TypeError) as error:
            log.debug("could not ask who the masters are: %s", error)

    # --- the end ---

    def _hand_back(self) -> None:
        """Ends what still runs without counting it as a failure, reports what ended well, and leaves.

        Leaving gives the rest back at once, counted as nothing.
        """
        self._poll_link.close()
        stopped = self._leases.stop_running(StopReason.SHUTTING_DOWN)
        if stopped:
            log.info("handing back %d tasks that are not finished", stopped)
        self._wind_down()
        with self._condition:
            self._left = True
            self._condition.notify_all()
        self._report_link.close()
        link = Link(self._masters, "leave")
        until = time.monotonic() + self._config.leave_patience_s
        try:
            while self._leases.has_results and time.monotonic() < until:
                if not self._report(link):
                    break
        except Abandoned:
            self._output.send_again()
        try:
            answer = link.call("DELETE", self._path, deadline_s=self._config.leave_patience_s)
            log.info("left; %s leases went back", answer.get("returned", 0))
        except Refusal as refusal:
            if refusal.code != "unknown_worker":
                log.warning("could not say goodbye: %s", refusal)
        except Unanswered as error:
            log.warning("could not say goodbye: %s", error)
        link.close()

    def _wind_down(self) -> None:
        """Waits until what was told to stop has ended; its leases are confirmed meanwhile."""
        until = time.monotonic() + self._config.stop_grace_s + 2.0
        with self._condition:
            while self._leases.running and time.monotonic() < until and not self._shutdown.is_now:
                self._condition.wait(0.1)


def until_next_s(told_ms: object, at_first_s: float, lease_s: float) -> float:
    """Between two heartbeats. A cluster with many workers asks for fewer of them than it told each at first, within reason: the
    worker holds its leases by them."""
    if not isinstance(told_ms, (int, float)):
        return at_first_s
    return min(max(told_ms / 1000, at_first_s), max(lease_s / 2, at_first_s))
