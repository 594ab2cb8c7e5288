"""How tasks get to the cluster: many at once, whoever submits them.

Submissions of several threads that come together travel together. Whoever comes while less than two requests are on
their way sends at once, and so pays nothing; others wait, and one of those that wait takes all of them along in the next
request, which costs the cluster one entry of its log instead of many. Tasks that travel together become one job, so what could
make a job be refused for a single task's sake (a unique key, an idempotency key) travels alone.

For those who do not want to wait there is :meth:`Submitter.soon`: one thread of the process sends what has gathered.

Everything is bounded: the tasks and bytes of a request, and what may gather.
"""

from __future__ import annotations

import atexit
import json
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ._policy import Request, new_request_id
from ._transport import Transport
from .errors import InvalidRequest, ProtocolError, TriarchError

__all__ = [
    "BATCH_BYTES_MAX",
    "BATCH_TASKS_MAX",
    "TASKS_PER_JOB_MAX",
    "Submitted",
    "Submitter",
    "job_body",
    "parts_of",
    "read_submitted",
]

#: Tasks of one request, and of one job that comes in parts.
TASKS_PER_REQUEST_MAX = 10_000
TASKS_PER_JOB_MAX = 100_000
# The cluster takes 16 MiB a request.
BATCH_BYTES_MAX = 8 << 20
# So many tasks of different callers travel together.
BATCH_TASKS_MAX = 1_000
_IN_FLIGHT_MAX = 2
# So many may gather before whoever submits more has to wait.
_GATHERED_MAX = 50_000


@dataclass(frozen=True)
class Submitted:
    """What a submission came to."""

    job: str
    tasks: Sequence[str]
    duplicate: bool


class _Item:
    """One task on its way."""

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
    """What waits for one queue."""

    __slots__ = ("flights", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Item] = deque()
        self.flights = 0

    def take(self) -> list[_Item]:
        return _take(self.waiting)


def _take(waiting: deque[_Item]) -> list[_Item]:
    """The first of them that fit into one request."""
    taken: list[_Item] = []
    size_bytes = 0
    while waiting and len(taken) < BATCH_TASKS_MAX:
        size_bytes += len(waiting[0].spec)
        if taken and size_bytes > BATCH_BYTES_MAX:
            break
        taken.append(waiting.popleft())
    return taken


_submitters: weakref.WeakSet[Submitter] = weakref.WeakSet()


class Submitter:
    """Brings tasks to the cluster. Shared by all threads of a process."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._forget()
        _submitters.add(self)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._gathered: dict[str, deque[_Item]] = {}
        self._gathered_count = 0
        self._news = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._quiet = threading.Condition(self._lock)
        self._sender: threading.Thread | None = None
        self._sending = False

    def after_fork(self) -> None:
        """In a child: what the parent has on its way is the parent's."""
        self._forget()

    # One task, and its id --------------------------------------------------------------------------------------------

    def one(self, spec: bytes, queue: str) -> tuple[str, str]:
        """Submits a task, perhaps together with those of other threads; gives the ids of its job and of itself."""
        item = _Item(spec)
        batch: list[_Item] | None = None
        with self._lock:
            lane = self._lanes.setdefault(queue, _Lane())
            if lane.flights < _IN_FLIGHT_MAX and not lane.waiting:
                lane.flights += 1
                batch = [item]
            else:
                lane.waiting.append(item)
        if batch is None:
            assert item.done is not None
            try:
                item.done.wait()
            except BaseException:
                self._gave_up(item, queue, lane)
                raise
            if item.lead:
                with self._lock:
                    batch = [item, *lane.take()]
        if batch is not None:
            try:
                self._fly(batch)
            finally:
                self._landed(queue, lane)
        if item.error is not None:
            raise item.error
        return item.job, item.task

    def _gave_up(self, item: _Item, queue: str, lane: _Lane) -> None:
        """Who waited was interrupted: the task is taken back if it has not left, and somebody else takes over what it was to."""
        with self._lock:
            if item in lane.waiting:
                lane.waiting.remove(item)
            lead = item.lead
        if lead:
            self._landed(queue, lane)

    def _landed(self, queue: str, lane: _Lane) -> None:
        """The next one that waits takes over."""
        with self._lock:
            if lane.waiting:
                heir = lane.waiting.popleft()
                heir.lead = True
                assert heir.done is not None
                heir.done.set()
                return
            lane.flights -= 1
            if lane.flights == 0:
                self._lanes.pop(queue, None)

    def _fly(self, batch: list[_Item]) -> None:
        """One request for all of them; each is told what came of it, but for the first, who is told by returning."""
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
            # One of them is wrong: each is heard for itself.
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

    # Later -----------------------------------------------------------------------------------------------------------

    def soon(self, spec: bytes, queue: str, then: Callable[[str, str, BaseException | None], None]) -> None:
        """Has a task submitted by the thread for it; ``then`` is told the ids of its job and of itself, or what went wrong.

        Returns at once, unless too much has gathered: then as soon as there is room.
        """
        item = _Item(spec, lambda item: then(item.job, item.task, item.error))
        with self._lock:
            while self._gathered_count >= _GATHERED_MAX:
                self._room.wait()
            self._gathered.setdefault(queue, deque()).append(item)
            self._gathered_count += 1
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_gathered, name="triarch-submit", daemon=True)
                self._sender.start()
            self._news.notify()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until nothing that was to be sent soon is on its way; whether that came in time."""
        with self._lock:
            return self._quiet.wait_for(lambda: not self._gathered and not self._sending, timeout_s)

    def _send_gathered(self) -> None:
        while True:
            with self._lock:
                self._sending = False
                if not self._gathered:
                    self._quiet.notify_all()
                while not self._gathered:
                    self._news.wait()
                queue = next(iter(self._gathered))
                waiting = self._gathered.pop(queue)
                batch = _take(waiting)
                if waiting:
                    # Other queues come first now.
                    self._gathered[queue] = waiting
                self._gathered_count -= len(batch)
                self._sending = True
                self._room.notify_all()
            try:
                self._send(batch)
            except BaseException as error:
                for item in batch:
                    item.error = item.error or error
            for item in batch:
                item.end()

    # Jobs ------------------------------------------------------------------------------------------------------------

    def job(
        self,
        specs: Sequence[bytes],
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
        on_failure: str | None = None,
    ) -> Submitted:
        """Submits a job of these tasks, in parts if it is large."""
        parts = parts_of(specs)
        if len(parts) == 1:
            body = job_body(specs, name=name, idempotency_key=idempotency_key, on_failure=on_failure)
            return read_submitted(self._transport.json(Request.change("POST", "/v1/jobs", body)))
        key = idempotency_key or new_request_id()
        answer: Any = None
        for number, part in enumerate(parts, 1):
            body = job_body(part, name=name, idempotency_key=key, on_failure=on_failure, part=number, parts=len(parts))
            answer = self._transport.json(Request.change("POST", "/v1/jobs", body))
        return read_submitted(answer)


def parts_of(specs: Sequence[bytes]) -> list[Sequence[bytes]]:
    """The tasks of a job, as many together as one request takes."""
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


def job_body(specs: Sequence[bytes], **fields: Any) -> bytes:
    """The body of a submission; fields that are ``None`` are left out."""
    said = {name: value for name, value in fields.items() if value is not None}
    head = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()[:-1]
    return head + (b',"tasks":[' if said else b'"tasks":[') + b",".join(specs) + b"]}"


def read_submitted(answer: Any) -> Submitted:
    """The answer to a submission that is whole."""
    try:
        return Submitted(answer["id"], answer["tasks"], bool(answer.get("duplicate")))
    except (KeyError, TypeError, AttributeError):
        raise ProtocolError(f"this is not the answer to a submission: {str(answer)[:200]}") from None


def after_fork() -> None:
    """In a child: all of them begin anew."""
    for submitter in list(_submitters):
        submitter.after_fork()


@atexit.register
def _at_exit() -> None:
    """What was to be sent soon is sent before the process ends, within the patience of one call."""
    for submitter in list(_submitters):
        submitter.flush(30.0)
