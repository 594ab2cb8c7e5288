"""Task definitions: functions that workers run, and the submission of their calls."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, Protocol, TypeVar, overload

from . import serialize
from ._interfaces import ClusterClient
from ._jobs.submit import TASKS_PER_JOB_MAX
from .arguments import ArgumentCheck
from .errors import UsageError
from .handle import Handle, HandleGroup
from .options import Seconds, SubmitOptions, TaskOptions, encoded
from .text import well_formed
from .workflow import Signature

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CALL", "CHUNK", "Task", "TaskDecorator", "default_name"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

#: The kind of a task whose function travels with it. Only workers that accept ``cloudpickle`` take it.
CALL = "triarch.call"
#: The kind of a task that makes many calls of another one.
CHUNK = "triarch.chunk"

_NO_KWARGS: Mapping[str, Any] = {}


class Task(Generic[P, R_co]):
    """Task definition: a function that workers run. Made by :meth:`triarch.Triarch.task`.

    A direct call runs the function in the caller. ``delay``, ``apply_async`` and ``map`` submit calls for workers.
    """

    def __init__(
        self,
        app: ClusterClient,
        fn: Callable[P, Any],
        *,
        name: str,
        options: TaskOptions,
        serializer: str | None = None,
        soft_timeout: Seconds | None = None,
        give_up_on: type[BaseException] | tuple[type[BaseException], ...] = (),
    ) -> None:
        if not name or len(name.encode("utf-8", "surrogatepass")) > 200 or well_formed(name) != name:
            raise UsageError(f"the name of a task has 1 to 200 bytes of Unicode text, not {name!r:.500}; pass another name=…")
        self.app = app
        self.fn = fn
        #: The task's kind on the wire.
        self.name = name
        self.options = options
        self.codec = serialize.codec(serializer) if serializer else app.codec
        #: Running time after which :class:`~triarch.errors.SoftTimeout` is raised in an attempt. The worker enforces it.
        self.soft_timeout = soft_timeout
        #: Exceptions after which the task is not attempted again. The worker evaluates them.
        self.give_up_on = _exception_types(give_up_on)
        #: Check of the arguments, at each submission and before each run.
        self.arguments = ArgumentCheck(fn)
        self.is_async = inspect.iscoroutinefunction(fn)
        self._static = _Static(name, options)
        functools.update_wrapper(self, fn, updated=())

    def __or__(self, other: object) -> NoReturn:
        raise UsageError(f"{self.name} is a task, and a workflow takes calls; write {self.name.rpartition('.')[2]}.s(…) | …")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Runs the function in the caller."""
        result: R_co = self.fn(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickles the task by its name. Unpickling gives the task of the receiving app."""
        return _found, (self.fn.__module__, self.fn.__qualname__, self.name)

    # Submitting ------------------------------------------------------------------------------------------------------

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """Submits a call, and returns when the call is durable in the cluster."""
        return self._submit(args, kwargs, self.options)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Handle[R_co]:
        """Submits a call with options that override those of the task.

        Repeating a submission with the same ``idempotency_key`` returns the handle of the first.
        """
        return self._submit(args, kwargs or {}, self.options.but(options), idempotency_key=idempotency_key)

    def map(self, *iterables: Iterable[Any], **options: Unpack[SubmitOptions]) -> HandleGroup[R_co]:
        """Submits a call for each item, or for each tuple of several iterables' items, as one job, in batches."""
        calls = ((args, _NO_KWARGS) for args in zip(*iterables, strict=False))
        return self._submit_all(calls, self.options.but(options))

    def starmap(self, calls: Iterable[Sequence[Any]], **options: Unpack[SubmitOptions]) -> HandleGroup[R_co]:
        """Submits a call for each sequence of arguments, as one job, in batches."""
        return self._submit_all(((args, _NO_KWARGS) for args in calls), self.options.but(options))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """As :meth:`delay`, for asyncio: ``handle = await add.adelay(1, 2)``, ``result = await handle``."""
        return await self._asubmit(args, kwargs, self.options)

    async def aapply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Handle[R_co]:
        """As :meth:`apply_async`, for asyncio."""
        return await self._asubmit(args, kwargs or {}, self.options.but(options), idempotency_key=idempotency_key)

    async def amap(self, *iterables: Iterable[Any], **options: Unpack[SubmitOptions]) -> HandleGroup[R_co]:
        """As :meth:`map`, for asyncio."""
        calls = ((args, _NO_KWARGS) for args in zip(*iterables, strict=False))
        return await self._asubmit_all(calls, self.options.but(options))

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Returns a call for a workflow, whose first argument is the result of the step before it."""
        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Returns a call for a workflow that does not take the result of the step before it."""
        return Signature(self, args, kwargs, immutable=True)

    def _submit(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        *,
        idempotency_key: str | None = None,
    ) -> Handle[Any]:
        spec = self.spec(args, kwargs, options)
        if idempotency_key is None and options.unique_key is None:
            job, id = self.app.submitter.one(spec, options.queue or "default")
        else:
            submitted = self.app.submitter.job([spec], idempotency_key=idempotency_key)
            job, id = submitted.job, submitted.tasks[0]
        return Handle(self.app, id, job, name=self.name)

    async def _asubmit(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        *,
        idempotency_key: str | None = None,
    ) -> Handle[Any]:
        spec = self.spec(args, kwargs, options)
        if idempotency_key is None and options.unique_key is None:
            job, id = await self.app.asubmitter.one(spec, options.queue or "default")
        else:
            submitted = await self.app.asubmitter.job([spec], idempotency_key=idempotency_key)
            job, id = submitted.job, submitted.tasks[0]
        return Handle(self.app, id, job, name=self.name)

    def _submit_all(self, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]], options: TaskOptions) -> HandleGroup[Any]:
        specs = [self.spec(args, kwargs, options) for args, kwargs in calls]
        handles: list[Handle[Any]] = []
        for begin in range(0, len(specs), TASKS_PER_JOB_MAX):
            submitted = self.app.submitter.job(specs[begin : begin + TASKS_PER_JOB_MAX])
            handles += [Handle(self.app, id, submitted.job, name=self.name) for id in submitted.tasks]
        return HandleGroup(self.app, handles)

    async def _asubmit_all(
        self, calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]], options: TaskOptions
    ) -> HandleGroup[Any]:
        specs = [self.spec(args, kwargs, options) for args, kwargs in calls]
        handles: list[Handle[Any]] = []
        for begin in range(0, len(specs), TASKS_PER_JOB_MAX):
            submitted = await self.app.asubmitter.job(specs[begin : begin + TASKS_PER_JOB_MAX])
            handles += [Handle(self.app, id, submitted.job, name=self.name) for id in submitted.tasks]
        return HandleGroup(self.app, handles)

    # On the wire -----------------------------------------------------------------------------------------------------

    def spec(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        *,
        inputs: Sequence[serialize.InputBinding] = (),
        key: str | None = None,
        after: Sequence[str | Mapping[str, str]] = (),
    ) -> bytes:
        """Returns a call as JSON, as part of a job."""
        self.arguments.check(self.name, args, kwargs)
        payload = serialize.encode_call(self.codec, args, kwargs, inputs, what=self.name)
        static = self._static if options is self.options and not options.is_relative else _Static(self.name, options)
        if key is None and not after:
            return static.head + payload + b"}"
        graph = encoded({"key": key, "after": list(after)}, f"the key of {self.name}")
        return static.head + payload + b"," + graph[1:]


class _Static:
    """The constant part of all submissions with the same options, encoded once."""

    __slots__ = ("head",)

    def __init__(self, kind: str, options: TaskOptions) -> None:
        self.head = encoded({"kind": kind, **options.to_wire()}, f"an option of {kind}")[:-1] + b',"payload":'


def _exception_types(given: Any) -> tuple[type[BaseException], ...]:
    types = tuple(given) if isinstance(given, (tuple, list, set, frozenset)) else (given,)
    if not all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
        raise UsageError(f"give_up_on takes classes of exceptions, not {given!r}")
    return types


def default_name(fn: Callable[..., Any]) -> str:
    """Returns ``module.function``. For ``__main__`` it uses the file name, under which a worker imports the module."""
    module = fn.__module__
    if module == "__main__":
        main = sys.modules.get("__main__")
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if spec is not None and spec.name != "__main__":
            module = spec.name.removesuffix(".__main__")
        elif file:
            module = Path(file).stem
    return f"{module}.{fn.__qualname__}"


def _found(module: str, qualname: str, name: str) -> Any:
    """Returns the task of the receiving app that has the name of a pickled task."""
    import importlib

    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not isinstance(found, Task) or found.name != name:
        raise UsageError(f"{module}:{qualname} is not the task {name}; run the same code on both sides")
    return found


class TaskDecorator(Protocol):
    """Type of the decorator that :meth:`triarch.Triarch.task` with options returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...
