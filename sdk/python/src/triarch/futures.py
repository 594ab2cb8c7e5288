"""Futures: ``concurrent.futures.Future`` of tasks, an ``Executor`` for a cluster, and a client with Dask's interface.

::

    with ClusterExecutor(app) as executor:
        print(list(executor.map(work, range(100))))

    client = Client("http://…")                     # functions are sent by cloudpickle
    futures = client.map(work, range(100))
    print(client.gather(futures))

A task of an app is submitted by its name, with its app's codec. Any other function is pickled, which needs an app and workers that
accept ``cloudpickle``. Submitting returns at once: a background thread sends the submissions.

Default of ``max_attempts``: 1, because the caller of a function expects its exception. Dask's ``retries`` adds to it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextlib
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from ._http.policy import Request, path
from ._interfaces import ClusterClient
from ._jobs.completion_watcher import WaitResult
from .errors import AlreadyFinished, NotFound, RemoteError, ResultTimeout, TaskFailed, TriarchError, UsageError
from .options import SubmitOptions, TaskOptions
from .outcome import Outcome
from .progress import bar
from .stall import StallNotice
from .task import CALL, CHUNK, Task

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Client", "ClusterExecutor", "TaskFuture", "as_completed"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class FuturesApp(ClusterClient, Protocol):
    """An app as executors and clients use it."""

    #: Options of every task.
    options: TaskOptions
    #: Tasks by name.
    tasks: dict[str, Task[..., Any]]

    def flush(self) -> None:
        """Waits until every background submission has reached the cluster."""


_app_factory: Callable[..., FuturesApp] | None = None


def set_app_factory(factory: Callable[..., FuturesApp]) -> None:
    """Sets the class of the apps that clients make for themselves. Called by :mod:`triarch.app`, which is above this module."""
    global _app_factory
    _app_factory = factory


class _FutureTimeout(ResultTimeout, cf.TimeoutError):
    """Timeout of a future. In Python 3.10 the standard library has a class of its own for it."""


class TaskFuture(cf.Future[R]):
    """Future of a task, for everything in the standard library that takes futures, and for ``await``."""

    def __init__(self, app: ClusterClient, *, cancel_running: bool, name: str = "") -> None:
        super().__init__()
        self.app = app
        self.name = name
        #: The task's id, once the cluster has it.
        self.task: str | None = None
        self.job: str | None = None
        self._cancel_running = cancel_running
        self._cancel_requested = False
        self._cancel_notified = False
        self._lock = threading.Lock()

    # Completion ------------------------------------------------------------------------------------------------

    def _submitted(self, job: str, task: str, error: BaseException | None) -> None:
        """Called by the thread that submits."""
        if error is not None:
            self._end(error=error)
            return
        with self._lock:
            self.job, self.task = job, task
            cancel_requested = self._cancel_requested
        if cancel_requested:
            with contextlib.suppress(TriarchError):
                self.app.transport.call(Request.change("POST", path("tasks", task, "cancel")))
        else:
            self.app.watcher.add([(task, self._on_ended)], retry_unreachable=True)

    def _on_ended(self, result: WaitResult) -> None:
        """Called by the watcher's thread."""
        if not isinstance(result, Outcome):
            self._end(error=result)
        elif result.state == "succeeded":
            try:
                value = result.value(self.app.accept)
            except Exception as error:
                self._end(error=error)
            else:
                with contextlib.suppress(cf.InvalidStateError):
                    self.set_result(value)
        elif result.state == "cancelled" and not result.error:
            self._end_cancelled()
        else:
            self._end(error=_original(result.exception(self.app.accept)))

    def _end(self, error: BaseException) -> None:
        with contextlib.suppress(cf.InvalidStateError):
            self.set_exception(error)

    def _end_cancelled(self) -> None:
        if not super().cancel():
            return
        # The caller's cancel() and the cluster's word that the task is cancelled may come at the same time, and the standard
        # library takes a second notification for a broken executor.
        with self._lock:
            is_first, self._cancel_notified = not self._cancel_notified, True
        if is_first:
            self.set_running_or_notify_cancel()

    # Interface -----------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> R:
        """Waits for the end of the task and returns its result, or raises its exception.

        Raises :class:`~triarch.errors.ResultTimeout`, which is a ``TimeoutError``, if the task has not ended within ``timeout``
        seconds. After 5 s without an end, the log says once why the task is not running yet.
        """
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As :meth:`result`, but returns the exception."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        notice = StallNotice(self.app)
        if any(True for _ in _as_ended([self], timeout, notice)):
            return
        why = notice.in_timeout(self.task, timeout)
        raise _FutureTimeout(
            f"task {self.task or '(not submitted yet)'} has not finished after {timeout or 0:g} s{why}; it goes on, and you can"
            " wait for it again"
        )

    def cancel(self) -> bool:
        """Cancels the task if possible. Returns whether it is cancelled.

        An executor's future can be cancelled before it runs, as in the standard library. A client's future can be cancelled
        also while it runs.
        """
        with self._lock:
            if self.done():
                return self.cancelled()
            task = self.task
            self._cancel_requested = task is None
        if task is not None and not self._cancel_task(task):
            return False
        self._end_cancelled()
        return self.cancelled()

    def _cancel_task(self, task: str) -> bool:
        transport = self.app.transport
        try:
            if not self._cancel_running and transport.json(Request.get(path("tasks", task)))["state"] == "running":
                return False
            transport.call(Request.change("POST", path("tasks", task, "cancel")))
        except (AlreadyFinished, NotFound):
            return False
        self.app.watcher.discard(task, self._on_ended)
        return True

    def running(self) -> bool:
        """Returns whether a worker runs the task now."""
        if self.done() or self.task is None:
            return False
        with contextlib.suppress(NotFound):
            return bool(self.app.transport.json(Request.get(path("tasks", self.task)))["state"] == "running")
        return False

    @property
    def status(self) -> str:
        """State in Dask's terms: ``pending``, ``finished``, ``error`` or ``cancelled``."""
        if not self.done():
            return "pending"
        if self.cancelled():
            return "cancelled"
        return "finished" if self.exception() is None else "error"

    def __await__(self) -> Generator[Any, None, R]:
        return asyncio.wrap_future(self).__await__()

    def __repr__(self) -> str:
        return f"<TaskFuture {self.task or 'submitting'} {self.name}: {self.status}>"

    def _repr_html_(self) -> str:
        return f"<code>{self.task or '…'}</code> {self.name} <b>{self.status}</b>"


def _original(error: BaseException) -> BaseException:
    """Returns the exception of the function itself, where it could be rebuilt, else the one of the cluster."""
    cause = error.__cause__
    if isinstance(error, TaskFailed) and cause is not None and not isinstance(cause, RemoteError):
        return cause
    return error


def _as_ended(futures: Iterable[cf.Future[Any]], timeout: float | None, notice: StallNotice) -> Iterator[cf.Future[Any]]:
    """Yields futures as they end within the time, and gives the notice when it is due."""
    deadline_s = None if timeout is None else time.monotonic() + timeout
    pending = {id(one): one for one in futures}
    ended: queue.SimpleQueue[cf.Future[Any]] = queue.SimpleQueue()
    # Those who take the futures decide how long they live, and their results.
    del futures
    for future in list(pending.values()):
        future.add_done_callback(ended.put)
    while pending:
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        times_s = [time_s for time_s in (left_s, notice.due_in_s) if time_s is not None]
        try:
            future = ended.get(timeout=min(times_s, default=None))
        except queue.Empty:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return
            task = _first_task(pending.values())
            if task is None:
                # Nothing is known of tasks that have not been submitted yet.
                notice.progressed()
            elif notice.due_in_s == 0:
                notice.give(task)
            continue
        notice.progressed()
        del pending[id(future)]
        yield future
        del future


def _first_task(futures: Iterable[cf.Future[Any]]) -> str | None:
    return next((one.task for one in futures if isinstance(one, TaskFuture) and one.task and not one.done()), None)


class _TaskFactory:
    """Factory of task submissions from functions, for executors and clients."""

    def __init__(self, app: FuturesApp, options: TaskOptions, *, cancel_running: bool) -> None:
        self.app = app
        self._options = options
        self._cancel_running = cancel_running

    def spec(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], options: TaskOptions
    ) -> tuple[bytes, str]:
        """Returns the call as JSON, and its name."""
        if isinstance(fn, Task):
            said = options.over(fn.options)
            return fn.spec(args, kwargs, said), fn.name
        return self._call_task().spec([fn, *args], kwargs, options), getattr(fn, "__name__", repr(fn))

    def _call_task(self) -> Task[..., Any]:
        if "cloudpickle" not in self.app.accept:
            raise UsageError(
                "a function that is not a task is sent by cloudpickle, which this app does not accept: make it a task with"
                ' @app.task, or make the app Triarch(…, serializer="cloudpickle") and start workers with --accept cloudpickle'
            )
        return self.app.tasks[CALL]

    def future(self, name: str) -> TaskFuture[Any]:
        return TaskFuture(self.app, cancel_running=self._cancel_running, name=name)

    def send(self, future: TaskFuture[Any], spec: bytes, options: TaskOptions, fn: Any) -> None:
        queue = options.queue or (fn.options.queue if isinstance(fn, Task) else None) or "default"
        self.app.submitter.soon(spec, queue, future._submitted)

    def submit(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], options: TaskOptions
    ) -> TaskFuture[Any]:
        spec, name = self.spec(fn, args, kwargs, options)
        future = self.future(name)
        self.send(future, spec, options, fn)
        return future


# ---------------------------------------------------------------------------------------------------------------------
# concurrent.futures


class ClusterExecutor(cf.Executor):
    """``concurrent.futures.Executor`` whose workers are those of the cluster. The options hold for all its tasks."""

    def __init__(self, app: FuturesApp, **options: Unpack[SubmitOptions]) -> None:
        said = TaskOptions(max_attempts=1, queue=app.options.queue).but(options)
        if said.unique_key is not None:
            raise UsageError("an executor takes no unique_key, because all its calls would share it; submit with apply_async")
        self.app = app
        self._options = said
        self._factory = _TaskFactory(app, said, cancel_running=False)
        self._pending: weakref.WeakSet[TaskFuture[Any]] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._over = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> TaskFuture[R]:
        """Submits a call of the function."""
        with self._lock:
            if self._over:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future = self._factory.submit(fn, args, kwargs, self._options)
            self._pending.add(future)
        return future

    def map(  # type: ignore[override, unused-ignore]
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[R]:
        """As the built-in ``map``, on workers. ``chunksize`` calls form one task."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        chunks = _chunks(zip(*iterables, strict=False), chunksize)
        if isinstance(fn, Task):
            results = super().map(self.app.tasks[CHUNK], itertools.repeat(fn.name), chunks, timeout=timeout)
        else:
            results = super().map(_call_each, itertools.repeat(fn), chunks, timeout=timeout)
        return itertools.chain.from_iterable(cast("Iterator[list[R]]", results))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuses further calls. With ``wait`` it returns when all futures have ended."""
        with self._lock:
            self._over = True
            pending = [future for future in self._pending if not future.done()]
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            cf.wait(pending)


def _chunks(calls: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    calls = iter(calls)
    while chunk := list(itertools.islice(calls, size)):
        yield chunk


def _call_each(fn: Callable[..., R], calls: list[tuple[Any, ...]]) -> list[R]:
    return [fn(*args) for args in calls]


# ---------------------------------------------------------------------------------------------------------------------
# Dask's interface


class Client:
    """Client with Dask's interface: submits functions and gathers results.

    Given masters instead of an app, it makes an app that sends functions by cloudpickle. Its workers must accept that:
    ``triarch-worker --accept cloudpickle``.
    """

    def __init__(self, app: FuturesApp | str | Iterable[str] | None = None, **options: Unpack[SubmitOptions]) -> None:
        if app is None or isinstance(app, Iterable):
            assert _app_factory is not None
            app = _app_factory(app, serializer="cloudpickle")
        self.app = app
        self._options = TaskOptions(max_attempts=1, queue=self.app.options.queue).but(options)
        self._factory = _TaskFactory(self.app, self._options, cancel_running=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exit: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until every submission has reached the cluster."""
        self.app.flush()

    def submit(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,
        retries: int | None = None,
        options: SubmitOptions | None = None,
        **kwargs: Any,
    ) -> TaskFuture[R]:
        """Submits a call of the function, with up to ``retries`` further attempts if it raises.

        Futures among the arguments, also inside lists, tuples and dictionaries, stand for their results: the call is
        submitted when they have them. For a graph that the cluster stores, see :mod:`triarch.workflow`.
        """
        said = self._options_of(retries, options)
        waited_for = list({id(one): one for one in _futures_in([*args, *kwargs.values()])}.values())
        if not waited_for:
            return self._factory.submit(fn, args, kwargs, said)
        future = self._factory.future(getattr(fn, "__name__", str(fn)))
        _After(self._factory, future, fn, args, kwargs, said, waited_for)
        return future

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        retries: int | None = None,
        options: SubmitOptions | None = None,
    ) -> list[TaskFuture[R]]:
        """Returns a future for each item, or for each tuple of items of several iterables."""
        return [self.submit(fn, *args, retries=retries, options=options) for args in zip(*iterables, strict=False)]

    def gather(
        self, futures: Any, errors: Literal["raise", "skip"] = "raise", *, timeout: float | None = None, progress: bool = False
    ) -> Any:
        """Returns the results of futures in lists, tuples and dictionaries, which keep their shape.

        ``errors="skip"`` leaves out list items without a result. ``progress`` shows a bar, if tqdm or rich is installed.
        """
        found = list(_futures_in(futures))
        with bar(len(found), shown=progress) as advance:
            notice = StallNotice(self.app)
            for future in _as_ended(found, timeout, notice):
                advance(1)
                if errors == "raise":
                    future.result()
            left = sum(not future.done() for future in found)
            if left:
                why = notice.in_timeout(_first_task(found), timeout)
                raise _FutureTimeout(f"{left} of {len(found)} tasks have not finished after {timeout or 0:g} s{why}")
        return _gathered(futures, errors == "skip")

    def cancel(self, futures: TaskFuture[Any] | Iterable[TaskFuture[Any]]) -> None:
        """Cancels tasks, also while they run."""
        for future in [futures] if isinstance(futures, TaskFuture) else list(futures):
            future.cancel()

    def scatter(self, data: R) -> R:
        """Returns the data unchanged. Each call carries the data, so put large data into a store of its own."""
        return data

    def _options_of(self, retries: int | None, options: SubmitOptions | None) -> TaskOptions:
        said = self._options.but(options or {})
        return said if retries is None else said.but({"max_attempts": retries + 1})

    def __repr__(self) -> str:
        return f"<Client {','.join(self.app.transport.masters.all())}>"


class _After:
    """Deferred call: submitted when the futures among its arguments have their results."""

    def __init__(
        self,
        submitting: _TaskFactory,
        future: TaskFuture[Any],
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: TaskOptions,
        waited_for: list[cf.Future[Any]],
    ) -> None:
        self._factory, self._future, self._fn = submitting, future, fn
        self._args, self._kwargs, self._options = args, kwargs, options
        self._left = len(waited_for)
        self._lock = threading.Lock()
        for one in waited_for:
            one.add_done_callback(self._done)

    def _done(self, ended: cf.Future[Any]) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if self._future.done():
            return
        if ended.cancelled():
            self._future._end_cancelled()
        elif (error := ended.exception()) is not None:
            self._future._end(error=error)
        elif last:
            try:
                args = [_value(arg) for arg in self._args]
                kwargs = {name: _value(arg) for name, arg in self._kwargs.items()}
                spec, _ = self._factory.spec(self._fn, args, kwargs, self._options)
                self._factory.send(self._future, spec, self._options, self._fn)
            except Exception as broken:
                self._future._end(error=broken)


def _value(arg: Any) -> Any:
    # A value without futures stays as it is, whatever its type.
    return _gathered(arg, skip=False) if any(True for _ in _futures_in(arg)) else arg


def _futures_in(value: Any) -> Iterator[cf.Future[Any]]:
    if isinstance(value, cf.Future):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _futures_in(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _futures_in(item)


def _gathered(value: Any, skip: bool) -> Any:
    if isinstance(value, cf.Future):
        return value.result()
    if isinstance(value, dict):
        return {key: _gathered(item, skip) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        kept = [item for item in value if not (skip and isinstance(item, cf.Future) and _without_result(item))]
        return type(value)(_gathered(item, skip) for item in kept)
    return value


def _without_result(future: cf.Future[Any]) -> bool:
    return future.cancelled() or future.exception() is not None


def as_completed(
    futures: Iterable[TaskFuture[R]], timeout: float | None = None, *, with_results: bool = False
) -> Iterator[Any]:
    """Yields each future as it ends. With ``with_results`` it yields pairs of future and result."""
    pending = list({id(one): one for one in futures}.values())
    left, task = len(pending), _first_task(pending)
    if not pending:
        return
    notice = StallNotice(pending[0].app)
    ended = _as_ended(iter(pending), timeout, notice)
    for future in ended:
        pending.clear()
        left -= 1
        yield (future, future.result()) if with_results else future
        del future
    if left:
        why = notice.in_timeout(task, timeout)
        raise _FutureTimeout(f"{left} tasks have not finished after {timeout or 0:g} s{why}")
