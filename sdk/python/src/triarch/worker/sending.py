"""Sends what attempts write to the leader, where those who watch find it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable

from triarch.worker.attempt import Attempt
from triarch.worker.leases import Leases
from triarch.worker.link import Abandoned, Link, Refusal, Unanswered
from triarch.worker.output import Sending

log = logging.getLogger("triarch.worker")

#: Output is sent no more often than this.
EVERY_S = 0.25
PATIENCE_S = 2.0
#: How long results wait for what was written before them.
BEFORE_RESULTS_PATIENCE_S = 0.5
#: Of one request.
BYTES_MAX = 1 << 20
BYTES_PER_ATTEMPT_MAX = 128 << 10


class OutputSender:
    """Sends output now and then, by `run` in a thread of its own, and at once before results, by whoever reports those."""

    def __init__(self, link: Link, worker_path: str, leases: Leases) -> None:
        self._link = link
        self._path = f"{worker_path}/output"
        self._leases = leases
        self._closed = threading.Event()
        self._written = threading.Event()
        # The link is for one at a time.
        self._turn = threading.Lock()
        self._from_the_beginning = False

    def wake(self) -> None:
        """Something was written."""
        self._written.set()

    def send_again(self) -> None:
        """There may be a new leader, which has nothing yet."""
        self._from_the_beginning = True
        self._written.set()

    def close(self) -> None:
        """Ends `run`, and what is under way."""
        self._closed.set()
        self._link.close()
        self._written.set()

    def run(self) -> None:
        """Sends what is written until it is closed."""
        while not self._closed.is_set():
            self._written.wait(5.0)
            self._written.clear()
            if self._from_the_beginning:
                self._from_the_beginning = False
                for attempt in self._leases.attempts_held():
                    if attempt.output is not None:
                        attempt.output.send_again()
            while not self._closed.is_set():
                with self._turn:
                    taken = _take(self._leases.attempts_held())
                    fine = not taken or self._send(taken, PATIENCE_S)
                if not taken:
                    break
                if not fine:
                    # It stays unsent, and is sent again.
                    self._written.set()
                    break
            self._closed.wait(EVERY_S)

    def send_before_results(self, ended: list[Attempt]) -> None:
        """Sends what these have written and not sent: the cluster takes no output of an attempt whose result it has.

        Results do not wait long for this, and never fail for it. What could not be sent in time is not seen by those who watch.
        """
        if not any(attempt.output is not None and attempt.output.has_unsent for attempt in ended):
            return
        until = time.monotonic() + BEFORE_RESULTS_PATIENCE_S
        if not self._turn.acquire(timeout=BEFORE_RESULTS_PATIENCE_S):
            return
        try:
            while (left := until - time.monotonic()) > 0:
                taken = _take(ended)
                if not taken or not self._send(taken, left):
                    return
        except Exception:
            log.exception("output was not sent")
        finally:
            self._turn.release()

    def _send(self, taken: list[tuple[Attempt, Sending]], patience_s: float) -> bool:
        chunks = []
        for attempt, one in taken:
            for piece, gap in zip(one.pieces, one.gaps, strict=True):
                chunk = {"task": attempt.task, "token": attempt.token, "stream": piece.stream, "offset": piece.offset}
                if gap:
                    chunk["gap"] = True
                chunk["text"] = piece.text.decode("utf-8", "replace")
                chunks.append(chunk)
        body = json.dumps({"chunks": chunks}, ensure_ascii=False).encode("utf-8", "replace")
        try:
            answer = self._link.call("POST", self._path, body, deadline_s=patience_s)
        except (Refusal, Unanswered, Abandoned) as error:
            log.debug("output was not sent: %s", error)
            return False
        ends = {(one["task"], one["token"]): one for one in answer.get("attempts") or []}
        for attempt, one in taken:
            if attempt.output is not None:
                attempt.output.settle(one, ends.get(attempt.key))
        return True


def _take(attempts: Iterable[Attempt]) -> list[tuple[Attempt, Sending]]:
    taken = []
    room = BYTES_MAX
    for attempt in attempts:
        if attempt.output is None or attempt.disowned or not attempt.output.has_unsent:
            continue
        sending = attempt.output.take(min(room, BYTES_PER_ATTEMPT_MAX))
        if sending is not None:
            taken.append((attempt, sending))
            room -= sending.size
        if room <= 0:
            break
    return taken
