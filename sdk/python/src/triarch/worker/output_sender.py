"""Sender of live output: sends the output of attempts to the leader, where clients read it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable

from triarch.errors import TriarchError
from triarch.worker.attempt import Attempt
from triarch.worker.connection import RequestCancelled, WorkerConnection
from triarch.worker.leases import Leases
from triarch.worker.output import OutputBatch

log = logging.getLogger("triarch.worker")

#: Minimum interval between two requests.
SEND_INTERVAL_S = 0.25
SEND_DEADLINE_S = 2.0
#: How long results wait for the output that was written before them.
BEFORE_RESULTS_DEADLINE_S = 0.5
#: Output of one request.
BYTES_MAX = 1 << 20
BYTES_PER_ATTEMPT_MAX = 128 << 10


class OutputSender:
    """Sends output at intervals from the thread of ``run``, and at once before results from the threads that report them."""

    def __init__(self, connection: WorkerConnection, worker_path: str, leases: Leases) -> None:
        self._connection = connection
        self._path = f"{worker_path}/output"
        self._leases = leases
        self._closed = threading.Event()
        self._written = threading.Event()
        # The connection carries one call at a time, and pieces must arrive in order.
        self._send_lock = threading.Lock()
        self._resend_all = False

    def wake(self) -> None:
        """Announces new output."""
        self._written.set()

    def send_again(self) -> None:
        """Sends all kept output again, because a new leader has none of it."""
        self._resend_all = True
        self._written.set()

    def close(self) -> None:
        """Ends ``run`` and the request in progress."""
        self._closed.set()
        self._connection.close()
        self._written.set()

    def run(self) -> None:
        """Sends output until ``close``."""
        while not self._closed.is_set():
            self._written.wait(5.0)
            self._written.clear()
            if self._resend_all:
                self._resend_all = False
                for attempt in self._leases.attempts_held():
                    if attempt.output is not None:
                        attempt.output.send_again()
            while not self._closed.is_set():
                with self._send_lock:
                    batches = _take(self._leases.attempts_held())
                    sent = not batches or self._send(batches, SEND_DEADLINE_S)
                if not batches:
                    break
                if not sent:
                    # It stays unsent, and is sent again.
                    self._written.set()
                    break
            self._closed.wait(SEND_INTERVAL_S)

    def send_before_results(self, ended: list[Attempt]) -> None:
        """Sends the unsent output of these attempts, because the cluster takes no output of an attempt whose result it has.

        Results do not wait long for this, and never fail for it. Output that could not be sent in time is lost to its readers.
        """
        if not any(attempt.output is not None and attempt.output.has_unsent for attempt in ended):
            return
        until = time.monotonic() + BEFORE_RESULTS_DEADLINE_S
        if not self._send_lock.acquire(timeout=BEFORE_RESULTS_DEADLINE_S):
            return
        try:
            while (left := until - time.monotonic()) > 0:
                batches = _take(ended)
                if not batches or not self._send(batches, left):
                    return
        except Exception:
            log.exception("output was not sent; results are reported without it")
        finally:
            self._send_lock.release()

    def _send(self, batches: list[tuple[Attempt, OutputBatch]], deadline_s: float) -> bool:
        chunks = []
        for attempt, batch in batches:
            for piece, gap in zip(batch.pieces, batch.gaps, strict=True):
                chunk = {"task": attempt.task, "token": attempt.token, "stream": piece.stream, "offset": piece.offset}
                if gap:
                    chunk["gap"] = True
                chunk["text"] = piece.text.decode("utf-8", "replace")
                chunks.append(chunk)
        body = json.dumps({"chunks": chunks}, ensure_ascii=False).encode("utf-8", "replace")
        try:
            answer = self._connection.call("POST", self._path, body, deadline_s=deadline_s)
        except (TriarchError, RequestCancelled) as error:
            log.debug("output was not sent: %s", error)
            return False
        ends = {(one["task"], one["token"]): one for one in answer.get("attempts") or []}
        for attempt, batch in batches:
            if attempt.output is not None:
                attempt.output.settle(batch, ends.get(attempt.key))
        return True


def _take(attempts: Iterable[Attempt]) -> list[tuple[Attempt, OutputBatch]]:
    taken = []
    left_bytes = BYTES_MAX
    for attempt in attempts:
        if attempt.output is None or attempt.disowned or not attempt.output.has_unsent:
            continue
        batch = attempt.output.take(min(left_bytes, BYTES_PER_ATTEMPT_MAX))
        if batch is not None:
            taken.append((attempt, batch))
            left_bytes -= batch.size
        if left_bytes <= 0:
            break
    return taken
