"""Batching submitter: concurrent submissions share requests.

A submission is sent at once while fewer than two requests of its queue are in flight, so that batching adds no latency. Others
wait, and one of the waiting threads sends all of them in the next request. This costs the cluster one log entry instead of many.
The tasks of a batch become one job. A task that could make the whole job be refused, by a unique key or an idempotency
key, is therefore submitted alone.

:meth:`Submitter.soon` submits in the background: one thread of the process sends what has accumulated.

# Invariants

* The tasks and the bytes of a request are bounded.
* The accumulated background submissions are bounded. A further one waits.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._http.policy import Request, new_request_id
from .._http.transport import Transport
from ..errors import InvalidRequest, ProtocolError, TriarchError
from ..options import encoded

__all__ = [
    "BATCH_BYTES_MAX",
    "BATCH_TASKS_MAX",
    "TASKS_PER_JOB_MAX",
    "Submitted",
    "Submitter",
    "job_requests",
    "read_submitted",
]

#: Tasks of one request, and of one job that is submitted in parts.
TASKS_PER_REQUEST_MAX = 10_000
TASKS_PER_JOB_MAX = 100_000
# The cluster takes 16 MiB per request.
BATCH_BYTES_MAX = 8 << 20
# Tasks of one batch.
BATCH_TASKS_MAX = 1_000
_IN_FLIGHT_MAX = 2
# Background submissions that may accumulate.
_BACKGROUND_MAX = 50_000


@dataclass(frozen=True)
class Submitted:
    """Receipt of a submission."""

    job: str
    tasks: Sequence[str]
    duplicate: bool


class _Item:
    """One task that is being submitted."""

    __slots__ = ("done", "error", "job", "lead", "spec", "task", "then")

    def __init__(self, spec: bytes, then: Callable[[_Item], None] | None = None) -> None:
        self.spec = spec
        self.then = then
        self.done: threading.Event | None = None if then else threading.Event()
        self.lead = False
        self.job = ""
        self.task = ""
        self.error: BaseException | None = None

    def end(self) -> None:
        if self.then is not None:
            self.then(self)
        elif self.done is not None:
            self.done.set()


class _Lane:
    """Submissions of one queue that wait, and the number of requests in flight."""

    __slots__ = ("in_flight", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Item] = deque()
        self.in_flight = 0

    def take(self) -> list[_Item]:
        return _take(self.waiting)


def _take(waiting: deque[_Item]) -> list[_Item]:
    """Takes the first tasks that fit into one request."""
    taken: list[_Item] = []
    size_bytes = 0
    while waiting and len(taken) < BATCH_TASKS_MAX:
        size_bytes += len(waiting[0].spec)
        if taken and size_bytes > BATCH_BYTES_MAX:
            break
        taken.append(waiting.popleft())
    return taken


def _end(batch: list[_Item]) -> None:
    """Ends the submissions, and drops each one: an item holds the future of its task, and so perhaps a result."""
    batch.reverse()
    while batch:
        batch.pop().end()


def _fail(batch: list[_Item], error: BaseException) -> None:
    for item in batch:
        item.error = item.error or error


_submitters: weakref.WeakSet[Submitter] = weakref.WeakSet()


class Submitter:
    """Submits tasks. Shared by all threads of a process."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reset()
        _submitters.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._background: dict[str, deque[_Item]] = {}
        self._background_count = 0
        self._added = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._quiet = threading.Condition(self._lock)
        self._sender: threading.Thread | None = None
        self._sending = False

    def after_fork(self) -> None:
        """Forgets the parent's submissions in a forked child."""
        self._reset()

    # Single tasks --------------------------------------------------------------------------------------------

    def one(self, spec: bytes, queue: str) -> tuple[str, str]:
        """Submits a task, perhaps in a batch with those of other threads. Returns the ids of its job and of itself."""
        item = _Item(spec)
        batch: list[_Item] | None = None
        with self._lock:
            lane = self._lanes.setdefault(queue, _Lane())
            if lane.in_flight < _IN_FLIGHT_MAX and not lane.waiting:
                lane.in_flight += 1
                batch = [item]
            else:
                lane.waiting.append(item)
        if batch is None:
            assert item.done is not None
            try:
                item.done.wait()
            except BaseException:
                self._withdraw(item, queue, lane)
                raise
            if item.lead:
                with self._lock:
                    batch = [item, *lane.take()]
        if batch is not None:
            try:
                self._send_batch(batch)
            finally:
                self._pass_on(queue, lane)
        if item.error is not None:
            raise item.error
        return item.job, item.task

    def _withdraw(self, item: _Item, queue: str, lane: _Lane) -> None:
        """Withdraws a task whose caller was interrupted, if it was not sent, and passes its role as leader on."""
        with self._lock:
            if item in lane.waiting:
                lane.waiting.remove(item)
            lead = item.lead
        if lead:
            self._pass_on(queue, lane)

    def _pass_on(self, queue: str, lane: _Lane) -> None:
        """Makes the next waiting thread send the next batch."""
        with self._lock:
            if lane.waiting:
                successor = lane.waiting.popleft()
                successor.lead = True
                assert successor.done is not None
                successor.done.set()
                return
            lane.in_flight -= 1
            if lane.in_flight == 0:
                self._lanes.pop(queue, None)

    def _send_batch(self, batch: list[_Item]) -> None:
        """Sends one request for a batch, and wakes its waiting threads. The first task is the caller's own."""
        try:
            self._send(batch)
        finally:
            for item in batch[1:]:
                item.end()

    def _send(self, batch: list[_Item]) -> None:
        try:
            submitted = self.job([item.spec for item in batch])
        except InvalidRequest as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            # One of them is invalid: each is submitted alone.
            for item in batch:
                self._send([item])
        except TriarchError as error:
            for item in batch:
                item.error = error
        except BaseException as error:
            for item in batch:
                item.error = ProtocolError(f"the submission was interrupted: {error!r}")
            raise
        else:
            for item, task in zip(batch, submitted.tasks, strict=True):
                item.job, item.task = submitted.job, task

    # Background -----------------------------------------------------------------------------------------------------------

    def soon(self, spec: bytes, queue: str, then: Callable[[str, str, BaseException | None], None]) -> None:
        """Submits a task in the background. ``then`` is called with the ids of its job and of itself, or with the error.

        Returns at once, unless the bound of background submissions is reached.
        """
        item = _Item(spec, lambda item: then(item.job, item.task, item.error))
        with self._lock:
            while self._background_count >= _BACKGROUND_MAX:
                self._room.wait()
            self._background.setdefault(queue, deque()).append(item)
            self._background_count += 1
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_background, name="triarch-submit", daemon=True)
                self._sender.start()
            self._added.notify()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until no background submission is left. Returns whether that came in time."""
        with self._lock:
            return self._quiet.wait_for(lambda: not self._background and not self._sending, timeout_s)

    def _send_background(self) -> None:
        while True:
            with self._lock:
                self._sending = False
                if not self._background:
                    self._quiet.notify_all()
                while not self._background:
                    self._added.wait()
                queue = next(iter(self._background))
                waiting = self._background.pop(queue)
                batch = _take(waiting)
                if waiting:
                    # Other queues take turns.
                    self._background[queue] = waiting
                self._background_count -= len(batch)
                self._sending = True
                self._room.notify_all()
            try:
                self._send(batch)
            except BaseException as error:
                _fail(batch, error)
            _end(batch)

    # Jobs ------------------------------------------------------------------------------------------------------------

    def job(
        self,
        specs: Sequence[bytes],
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
        on_failure: str | None = None,
        after_jobs: Sequence[Mapping[str, str]] | None = None,
    ) -> Submitted:
        """Submits a job of these tasks, in parts if it is large."""
        answer: Any = None
        fields = {"name": name, "on_failure": on_failure, "after_jobs": after_jobs or None}
        for request in job_requests(specs, fields, idempotency_key=idempotency_key):
            answer = self._transport.json(request)
        return read_submitted(answer)


def job_requests(specs: Sequence[bytes], fields: Mapping[str, Any], *, idempotency_key: str | None) -> Iterator[Request]:
    """Yields the requests that submit one job, in order. The answer to the last one describes the whole job."""
    fields = {**fields, "idempotency_key": idempotency_key}
    parts = _parts_of(specs)
    if len(parts) == 1:
        yield Request.change("POST", "/v1/jobs", _job_body(specs, **fields))
        return
    # The parts of one job share its key.
    fields["idempotency_key"] = idempotency_key or new_request_id()
    for number, part in enumerate(parts, 1):
        yield Request.change("POST", "/v1/jobs", _job_body(part, **fields, part=number, parts=len(parts)))


def _parts_of(specs: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Splits the tasks of a job into parts that fit into one request."""
    parts: list[Sequence[bytes]] = []
    begin = size_bytes = 0
    for position, spec in enumerate(specs):
        full = position - begin >= TASKS_PER_REQUEST_MAX or size_bytes + len(spec) > BATCH_BYTES_MAX
        if full and position > begin:
            parts.append(specs[begin:position])
            begin, size_bytes = position, 0
        size_bytes += len(spec) + 1
    parts.append(specs[begin:])
    return parts


def _job_body(specs: Sequence[bytes], **fields: Any) -> bytes:
    """Returns the body of a submission. Fields that are ``None`` are left out."""
    said = {name: value for name, value in fields.items() if value is not None}
    head = encoded(said, "the name or the idempotency key of the job")[:-1]
    return head + (b',"tasks":[' if said else b'"tasks":[') + b",".join(specs) + b"]}"


def read_submitted(answer: Any) -> Submitted:
    """Parses the answer to a complete submission."""
    try:
        return Submitted(answer["id"], answer["tasks"], bool(answer.get("duplicate")))
    except (KeyError, TypeError, AttributeError):
        raise ProtocolError(f"this is not the answer to a submission: {str(answer)[:200]}") from None


def after_fork() -> None:
    """Resets every submitter of a forked child."""
    for submitter in list(_submitters):
        submitter.after_fork()


@atexit.register
def _at_exit() -> None:
    """Sends background submissions before the process ends, within the deadline of one request."""
    for submitter in list(_submitters):
        submitter.flush(30.0)
