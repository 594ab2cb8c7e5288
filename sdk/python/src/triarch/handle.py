"""Task handles: the state and result of submitted tasks, singly and in groups."""

from __future__ import annotations

import asyncio
import contextlib
import html
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from ._http.policy import Request, path
from ._interfaces import ClusterClient
from ._jobs.completion_watcher import WaitResult
from .errors import AlreadyFinished, ResultTimeout, TaskError, TriarchError
from .outcome import Outcome
from .progress import bar
from .stall import StallNotice

__all__ = ["Handle", "HandleGroup", "Many"]

R_co = TypeVar("R_co", covariant=True)

_HOLD_S = 20.0
# Tasks that ended because of each other, and the deadline of reading one of them.
_CAUSES_MAX = 8
_CAUSE_DEADLINE_S = 5.0
# Threads of a process that long-poll for a single task themselves, which is quickest. Further threads use the watcher.
_DIRECT_WAITS = threading.BoundedSemaphore(8)


class Handle(Generic[R_co]):
    """Handle of a submitted task: its state, its result, and ways to cancel or retry it.

    Everything but the ids is read from the cluster on demand. A known outcome is kept. In coroutines use
    ``await handle``, and the methods that begin with an ``a``.
    """

    __slots__ = ("_outcome", "app", "id", "job", "name")

    def __init__(self, app: ClusterClient, task: str, job: str = "", *, name: str = "") -> None:
        self.app = app
        #: The task's id.
        self.id = task
        #: Its job's id.
        self.job = job
        #: The task's kind, if it is known here.
        self.name = name
        self._outcome: Outcome | None = None

    # Result ---------------------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> R_co:
        """Waits for the end of the task and returns its result.

        Raises :class:`~triarch.errors.TaskFailed`, :class:`~triarch.errors.TaskCancelled` or
        :class:`~triarch.errors.TaskExpired` as the task ended, or :class:`~triarch.errors.ResultTimeout` if it has not ended
        within ``timeout`` seconds.
        """
        outcome = self.wait(timeout)
        if outcome.state != "succeeded":
            raise exception_of(self.app, outcome)
        value: R_co = outcome.value(self.app.accept)
        return value

    def exception(self, timeout: float | None = None) -> TaskError | None:
        """Waits for the end of the task and returns the exception that :meth:`result` would raise."""
        outcome = self.wait(timeout)
        return None if outcome.state == "succeeded" else exception_of(self.app, outcome)

    def wait(self, timeout: float | None = None) -> Outcome:
        """Waits for the end of the task. Raises :class:`~triarch.errors.ResultTimeout` if the task does not end in time."""
        if self._outcome is not None:
            return self._outcome
        notice = StallNotice(self.app)
        if _DIRECT_WAITS.acquire(blocking=False):
            try:
                self._outcome = self._poll_until(timeout, notice)
            finally:
                _DIRECT_WAITS.release()
        else:
            HandleGroup(self.app, [self]).wait(timeout)
        if self._outcome is None:
            raise self._unfinished(timeout, notice.in_timeout(self.id, timeout))
        return self._outcome

    def _poll_until(self, timeout: float | None, notice: StallNotice) -> Outcome | None:
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while True:
            left_s = _HOLD_S if deadline_s is None else min(_HOLD_S, max(0.0, deadline_s - time.monotonic()))
            due_in_s = notice.due_in_s
            hold_s = left_s if due_in_s is None else min(left_s, due_in_s)
            query = {"wait_ms": round(hold_s * 1000) or None}
            outcome = Outcome.of(self.app.transport.json(Request.get(path("tasks", self.id), query, hold_s=hold_s)))
            if outcome is not None or (deadline_s is not None and time.monotonic() >= deadline_s):
                return outcome
            if notice.due_in_s == 0:
                notice.give(self.id)

    def _unfinished(self, timeout: float | None, why: str) -> ResultTimeout:
        return ResultTimeout(
            f"task {self.id} has not finished after {timeout or 0:g} s{why}; it goes on, and you can wait for it again"
        )

    def __await__(self) -> Generator[Any, None, R_co]:
        """Makes ``await handle`` return the result."""
        return self.aresult().__await__()

    async def aresult(self, timeout: float | None = None) -> R_co:
        """As :meth:`result`, for asyncio. Thousands of callers may wait at once, and all of them share one connection."""
        outcome = await self.await_end(timeout)
        if outcome.state != "succeeded":
            raise await aexception_of(self.app, outcome)
        value: R_co = outcome.value(self.app.accept)
        return value

    async def await_end(self, timeout: float | None = None) -> Outcome:
        """As :meth:`wait`, for asyncio."""
        if self._outcome is None:
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[Outcome] = loop.create_future()

            def callback(result: WaitResult) -> None:
                # The loop may be closed by now, and then nobody waits.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_settle, ended, result)

            notice = StallNotice(self.app)
            deadline_s = None if timeout is None else time.monotonic() + timeout
            self.app.watcher.add([(self.id, callback)])
            try:
                while not ended.done():
                    left_s = None if deadline_s is None else deadline_s - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        raise self._unfinished(timeout, await notice.ain_timeout(self.id, timeout))
                    await asyncio.wait([ended], timeout=_sooner(left_s, notice.due_in_s))
                    if not ended.done() and notice.due_in_s == 0:
                        await notice.agive(self.id)
                self._outcome = ended.result()
            finally:
                if not ended.done() or ended.cancelled():
                    self.app.watcher.discard(self.id, callback)
        return self._outcome

    # State -------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """Current state: ``waiting``, ``delayed``, ``queued``, ``running``, or a terminal one."""
        return self._outcome.state if self._outcome is not None else str(self.info()["state"])

    def done(self) -> bool:
        """Returns whether the task has ended."""
        if self._outcome is None:
            self.info()
        return self._outcome is not None

    def info(self) -> dict[str, Any]:
        """Returns the task's document: state, attempts, worker, progress and note, times."""
        return self._seen(self.app.transport.json(Request.get(path("tasks", self.id))))

    def explain(self) -> str:
        """Returns the reason why the task is not running yet."""
        return str(self.app.transport.json(Request.get(path("tasks", self.id, "explain")))["summary"])

    def logs(self, attempt: int | None = None) -> str:
        """Returns the output of the latest attempt, or of another one, as far as it is kept."""
        chunks = self.app.transport.json(Request.get(path("tasks", self.id, "logs"), {"attempt": attempt}))["chunks"]
        return "".join(str(chunk["text"]) for chunk in chunks)

    async def astatus(self) -> str:
        """As :attr:`status`, for asyncio."""
        return self._outcome.state if self._outcome is not None else str((await self.ainfo())["state"])

    async def ainfo(self) -> dict[str, Any]:
        """As :meth:`info`, for asyncio."""
        return self._seen(await self.app.atransport.json(Request.get(path("tasks", self.id))))

    def _seen(self, task: dict[str, Any]) -> dict[str, Any]:
        self._outcome = Outcome.of(task)
        self.job, self.name = task["job"], task["kind"]
        return task

    # Changes ------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancels the task, also while it runs. Returns false if the task had ended before in another way."""
        try:
            self._seen(self.app.transport.json(self._cancel_call()))
        except AlreadyFinished:
            return False
        return True

    def retry(self) -> None:
        """Retries an ended task, with fresh attempts."""
        self._outcome = None
        self._seen(self.app.transport.json(self._retry_call()))

    async def acancel(self) -> bool:
        """As :meth:`cancel`, for asyncio."""
        try:
            self._seen(await self.app.atransport.json(self._cancel_call()))
        except AlreadyFinished:
            return False
        return True

    async def aretry(self) -> None:
        """As :meth:`retry`, for asyncio."""
        self._outcome = None
        self._seen(await self.app.atransport.json(self._retry_call()))

    def _cancel_call(self) -> Request:
        return Request.change("POST", path("tasks", self.id, "cancel"))

    def _retry_call(self) -> Request:
        return Request.change("POST", path("tasks", self.id, "retry"))

    # Display ---------------------------------------------------------------------------------------------------------

    @property
    def known_state(self) -> str:
        """Terminal state, if it is known here already. Sends no request."""
        return self._outcome.state if self._outcome is not None else "submitted"

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Handle {self.id}{name}: {self.known_state}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(self.id)}</code> {html.escape(self.name)} <b>{self.known_state}</b>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a handle cannot be pickled; pass its id, {self.id!r}, and make a handle of it: app.handle(id)")


def _sooner(one: float | None, other: float | None) -> float | None:
    """Returns the shorter of two times, of which ``None`` has no end."""
    return min((time_s for time_s in (one, other) if time_s is not None), default=None)


def exception_of(app: ClusterClient, outcome: Outcome) -> TaskError:
    """Returns the exception for an outcome without a result. A task that another one has ended gets that one's as its cause."""
    error = outcome.exception(app.accept)
    last, because_of = error, outcome.because_of
    for _ in range(_CAUSES_MAX):
        if because_of is None:
            break
        try:
            cause = Outcome.of(app.transport.json(_cause_request(because_of)))
        except TriarchError:
            break
        last, because_of = _chained(app, last, cause)
    return error


async def aexception_of(app: ClusterClient, outcome: Outcome) -> TaskError:
    """As :func:`exception_of`, for asyncio."""
    error = outcome.exception(app.accept)
    last, because_of = error, outcome.because_of
    for _ in range(_CAUSES_MAX):
        if because_of is None:
            break
        try:
            cause = Outcome.of(await app.atransport.json(_cause_request(because_of)))
        except TriarchError:
            break
        last, because_of = _chained(app, last, cause)
    return error


def _cause_request(task: str) -> Request:
    return Request.get(path("tasks", task), deadline_s=_CAUSE_DEADLINE_S)


def _chained(app: ClusterClient, error: TaskError, cause: Outcome | None) -> tuple[TaskError, str | None]:
    if cause is None or cause.state == "succeeded":
        return error, None
    error.__cause__ = cause.exception(app.accept)
    return error.__cause__, cause.because_of


def _settle(ended: asyncio.Future[Outcome], result: WaitResult) -> None:
    if ended.done():
        return
    if isinstance(result, Outcome):
        ended.set_result(result)
    else:
        ended.set_exception(result)


class HandleGroup(Sequence[Handle[R_co]]):
    """Handles of many tasks, in the order submitted. One connection waits for all of them. Old name: ``Many``."""

    def __init__(self, app: ClusterClient, handles: Iterable[Handle[R_co]]) -> None:
        self.app = app
        self.handles = list(handles)

    def __len__(self) -> int:
        return len(self.handles)

    @overload
    def __getitem__(self, index: int) -> Handle[R_co]: ...

    @overload
    def __getitem__(self, index: slice) -> HandleGroup[R_co]: ...

    def __getitem__(self, index: Any) -> Any:
        found = self.handles[index]
        return HandleGroup(self.app, found) if isinstance(index, slice) else found

    def __iter__(self) -> Iterator[Handle[R_co]]:
        return iter(self.handles)

    @property
    def jobs(self) -> list[str]:
        """Ids of the jobs of these tasks, mostly one."""
        return list(dict.fromkeys(handle.job for handle in self.handles if handle.job))

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for all tasks to end. Returns whether they ended in time."""
        for _ in self._as_ended(timeout):
            pass
        return all(handle._outcome is not None for handle in self.handles)

    def results(self, timeout: float | None = None, *, progress: bool = False) -> list[R_co]:
        """Waits for all tasks and returns their results in order. Raises the exception of the first task without a result.

        ``progress`` shows a bar, if tqdm or rich is installed.
        """
        with bar(len(self.handles), shown=progress) as advance:
            deadline_s = None if timeout is None else time.monotonic() + timeout
            for handle in self._as_ended(timeout):
                advance(1)
                if handle._outcome is not None and handle._outcome.state != "succeeded":
                    break
            # The first in order of those that ended without success by now.
            for handle in self.handles:
                if handle._outcome is not None:
                    handle.result()
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        missing = [handle for handle in self.handles if handle._outcome is None]
        if missing and left_s is not None:
            why = StallNotice(self.app).in_timeout(missing[0].id, timeout)
            raise ResultTimeout(
                f"{len(missing)} of {len(self)} tasks have not finished after {timeout:g} s{why}; they go on, and you can wait for"
                " them again"
            )
        return [handle.result() for handle in self.handles]

    def as_completed(self, timeout: float | None = None) -> Iterator[Handle[R_co]]:
        """Yields each handle as its task ends. Raises :class:`~triarch.errors.ResultTimeout` if a task does not end in time."""
        count = 0
        for handle in self._as_ended(timeout):
            count += 1
            yield handle
        if count < len(self):
            raise ResultTimeout(f"{len(self) - count} of {len(self)} tasks have not finished after {timeout or 0:g} s")

    def __aiter__(self) -> AsyncIterator[Handle[R_co]]:
        """Makes ``async for handle in group`` yield each handle as its task ends."""
        return self._aiter()

    async def _aiter(self) -> AsyncIterator[Handle[R_co]]:
        async def ended(handle: Handle[R_co]) -> Handle[R_co]:
            await handle.await_end()
            return handle

        for next_one in asyncio.as_completed([ended(handle) for handle in self.handles]):
            yield await next_one

    async def aresults(self) -> list[R_co]:
        """As :meth:`results`, for asyncio."""
        return list(await asyncio.gather(*(handle.aresult() for handle in self.handles)))

    def counts(self) -> dict[str, int]:
        """Returns the number of tasks in each state, as far as it is known here. Sends no request."""
        return dict(Counter(handle.known_state for handle in self.handles))

    def cancel(self) -> None:
        """Cancels all tasks that have not ended. A job without other tasks is cancelled as a whole."""
        for job in self.jobs:
            own = [handle for handle in self.handles if handle.job == job]
            counts = self.app.transport.json(Request.get(path("jobs", job)))["counts"]
            if sum(counts.values()) == len(own):
                with contextlib.suppress(AlreadyFinished):
                    self.app.transport.json(Request.change("POST", path("jobs", job, "cancel")))
            else:
                for handle in own:
                    handle.cancel()

    def _as_ended(self, timeout: float | None) -> Iterator[Handle[R_co]]:
        """Yields those that have ended, then each that ends within the time."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        ended: queue.SimpleQueue[tuple[Handle[R_co], WaitResult]] = queue.SimpleQueue()
        awaited: dict[int, tuple[str, Callable[[WaitResult], None]]] = {}
        for handle in self.handles:
            if handle._outcome is None:
                awaited[id(handle)] = (handle.id, _put_into(ended, handle))
        ready = [handle for handle in self.handles if handle._outcome is not None]
        if not self.handles:
            return
        notice = StallNotice(self.app)
        self.app.watcher.add(awaited.values())
        try:
            yield from ready
            while awaited:
                left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
                try:
                    handle, result = ended.get(timeout=_sooner(left_s, notice.due_in_s))
                except queue.Empty:
                    if deadline_s is not None and time.monotonic() >= deadline_s:
                        return
                    if notice.due_in_s == 0:
                        notice.give(next(iter(awaited.values()))[0])
                    continue
                notice.progressed()
                awaited.pop(id(handle), None)
                if not isinstance(result, Outcome):
                    raise result
                handle._outcome = result
                yield handle
        finally:
            for task, callback in awaited.values():
                self.app.watcher.discard(task, callback)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.counts().items())
        return f"<HandleGroup {counts or 'empty'}>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{state}</td><td>{count}</td></tr>" for state, count in self.counts().items())
        return f"<table><tr><th>state</th><th>tasks</th></tr>{rows}</table>"


#: The old name of ``HandleGroup``.
Many = HandleGroup


def _put_into(ended: queue.SimpleQueue[tuple[Handle[R_co], WaitResult]], handle: Handle[R_co]) -> Callable[[WaitResult], None]:
    return lambda result: ended.put((handle, result))
