"""Application: the address of a cluster, and the registry of tasks."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from . import _fork as _fork  # registers the fork guard
from . import admin, serialize, workflow
from ._http.async_transport import AsyncTransport
from ._http.policy import RetryPolicy
from ._http.transport import Transport
from ._jobs.async_submit import AsyncSubmitter
from ._jobs.completion_watcher import CompletionWatcher
from ._jobs.submit import Submitter
from .errors import UsageError
from .futures import Client, ClusterExecutor, set_app_factory
from .handle import Handle
from .options import Seconds, SubmitOptions, TaskOptions, words
from .task import CALL, CHUNK, Task, TaskDecorator, default_name

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CALL", "CHUNK", "Triarch"]

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULT_MASTERS = "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103"


class Triarch:
    """Application: the address of its cluster, its tasks, and the codecs of their values.

    ``masters`` are URLs in one text or several. Default: ``$TRIARCH_MASTERS``, or the local cluster of ``triarch dev``.
    ``serializer`` is ``json`` (values that every language knows), ``msgpack``, ``cloudpickle`` or a registered codec.
    ``accept`` names the codecs in which results, and in a worker calls, are read. Default: ``json`` and the serializer.
    ``retry_policy`` bounds requests in time. Its old name is ``patience``.

    The constructor opens no connection. An app is shared by threads, and works in a forked child.
    """

    def __init__(
        self,
        masters: str | Iterable[str] | None = None,
        *,
        serializer: str = "json",
        accept: str | Collection[str] | None = None,
        queue: str | None = None,
        retry_policy: RetryPolicy | None = None,
        patience: RetryPolicy | None = None,
    ) -> None:
        if masters is None:
            masters = os.environ.get("TRIARCH_MASTERS") or _DEFAULT_MASTERS
        self.serializer = serializer
        self.codec = serialize.codec(serializer)
        self.accept: frozenset[str] = frozenset({"json", self.codec.name} if accept is None else words(accept, "accept"))
        for name in self.accept:
            serialize.codec(name)
        self.options = TaskOptions(queue=queue)
        self.tasks: dict[str, Task[..., Any]] = {}
        #: Modules that a worker imports, because they register tasks.
        self.discovered: list[str] = []
        self.transport = Transport(masters, retry_policy or patience)
        self.atransport = AsyncTransport(self.transport)
        self.submitter = Submitter(self.transport)
        self.watcher = CompletionWatcher(self.transport)
        self.asubmitter = AsyncSubmitter(self.atransport)
        self.queues = admin.Queues(self)
        self.schedules = admin.Schedules(self)
        self.workers = admin.Workers(self)
        self.jobs = admin.Jobs(self)
        self.cluster = admin.Cluster(self)
        self.tasks[CALL] = Task(
            self, _call, name=CALL, options=self.options, serializer="cloudpickle" if "cloudpickle" in self.accept else None
        )
        self.tasks[CHUNK] = Task(self, self._call_chunk, name=CHUNK, options=self.options)

    def __repr__(self) -> str:
        return f"<Triarch {','.join(self.transport.masters.all())}, {len(self.tasks) - 2} tasks>"

    # Tasks -----------------------------------------------------------------------------------------------------------

    @overload
    def task(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(
        self,
        *,
        name: str | None = None,
        serializer: str | None = None,
        soft_timeout: Seconds | None = None,
        give_up_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        **options: Unpack[SubmitOptions],
    ) -> TaskDecorator: ...

    # mypy does not see that this takes the options of an unpacked dictionary.
    def task(self, fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:  # type: ignore[misc]
        """Registers a function as a task: ``@app.task``, or ``@app.task(queue="mail", max_attempts=5, …)``.

        The options are those of :class:`~triarch.options.TaskOptions`, and can be changed at each submission. Workers find the
        task by its name. Default: ``module.function``.
        """
        own = {word: options.pop(word) for word in ("serializer", "soft_timeout", "give_up_on") if word in options}
        name: str | None = options.pop("name", None)
        said = self.options.but(options)

        def make(fn: Callable[..., Any]) -> Task[..., Any]:
            task: Task[..., Any] = Task(self, fn, name=name or default_name(fn), options=said, **own)
            known = self.tasks.get(task.name)
            if known is not None and _location(known.fn) != _location(fn):
                where = f"{_location(known.fn)} and {_location(fn)}"
                raise UsageError(f"two functions are named {task.name}: {where}; pass name=… for one of them")
            self.tasks[task.name] = task
            return task

        return make if fn is None else make(fn)

    def _call_chunk(self, name: str, calls: list[list[Any]]) -> list[Any]:
        """Calls one task several times, one after the other."""
        fn = self.tasks[name].fn
        return [_call(fn, *args) for args in calls]

    def kinds(self, accept: Collection[str] | None = None) -> list[str]:
        """Returns the kinds that a worker of this app takes, given the codecs it accepts."""
        accepted = self.accept if accept is None else accept
        return sorted(name for name in self.tasks if name != CALL or "cloudpickle" in accepted)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Handle[Any]:
        """Submits a call of a task by its name, also of one whose function is not here. See :meth:`Task.apply_async`."""
        return self._named(name).apply_async(args, kwargs, idempotency_key=idempotency_key, **options)

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Handle[Any]:
        """As :meth:`send_task`, for asyncio."""
        return await self._named(name).aapply_async(args, kwargs, idempotency_key=idempotency_key, **options)

    def signature(self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> workflow.Signature:
        """Returns a call for a workflow, of a task by its name."""
        return self._named(name).s(*args, **(kwargs or {}))

    def _named(self, name: str) -> Task[..., Any]:
        known = self.tasks.get(name)
        return known if known is not None else Task(self, _elsewhere, name=name, options=self.options)

    def autodiscover_tasks(self, packages: str | Iterable[str], related_name: str = "tasks") -> None:
        """Names packages whose module ``tasks`` registers tasks. A worker imports these modules before it registers."""
        for package in [packages] if isinstance(packages, str) else packages:
            self.discovered.append(f"{package}.{related_name}" if related_name else package)

    def handle(self, task: str, job: str = "") -> Handle[Any]:
        """Returns the handle of a task that was submitted earlier, by its id."""
        return Handle(self, task, job)

    def events(self, *, after: str | None = None, **filters: str | Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yields events of the cluster as they happen: see :func:`triarch.admin.events`."""
        return admin.events(self, after=after, **filters)

    def client(self, **options: Unpack[SubmitOptions]) -> Client:
        """Returns a client with the interface of Dask's."""
        return Client(self, **options)

    def executor(self, **options: Unpack[SubmitOptions]) -> ClusterExecutor:
        """Returns a ``concurrent.futures.Executor`` whose workers are the cluster's."""
        return ClusterExecutor(self, **options)

    def dag(self, *, name: str | None = None, on_failure: Literal["continue", "fail_fast"] | None = None) -> workflow.Dag:
        """Returns an empty workflow."""
        return workflow.Dag(self, name=name, on_failure=on_failure)

    def flush(self, timeout: Seconds | None = None) -> None:
        """Waits until every background submission has reached the cluster."""
        self.submitter.flush(None if timeout is None else _seconds(timeout))

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        await self.atransport.close()


# A client that is given masters makes an app of its own. Its module is below this one.
set_app_factory(Triarch)


def _call(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Calls a function that was submitted by value."""
    result = fn(*args, **kwargs)
    if inspect.iscoroutine(result):
        return asyncio.run(result)
    return result


def _elsewhere(*args: Any, **kwargs: Any) -> Any:
    raise UsageError("the function of this task is not here; submit it with delay(), or run it where it is defined")


def _location(fn: Callable[..., Any]) -> str:
    code = getattr(fn, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else ""
    return f"{fn.__module__}.{fn.__qualname__} ({where})"


def _seconds(span: Seconds) -> float:
    return float(span) if isinstance(span, (int, float)) else span.total_seconds()
