"""Workflows: tasks that depend on other tasks and take their results.

Every workflow is **one job with dependencies**, and the cluster stores it. When a task has succeeded, the tasks that depend on it
start, under any leader and without the client that submitted them.

::

    (fetch.s(url) | parse.s() | store.s()).submit()             # a chain: the result before is the first argument
    group(fetch.s(url) for url in urls).submit()                # in parallel
    chord([count.s(page) for page in pages], total.s()).submit()  # total takes the list of all results
    (split.s(text) | group(count.s(0), count.s(1)) | total.s()).submit()

    dag = Dag(app)
    a = dag.add(load, "a.csv")
    b = dag.add(load, "b.csv")
    c = dag.add(join, a, other=b)                               # a node stands for its result
    dag.add(alert, c.failed)                                    # runs only if `join` fails, and takes its error
    dag.add(tidy, c.ended)                                      # runs in any case
    handle = dag.submit()[c]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ._interfaces import ClusterClient, TaskDefinition
from .errors import UsageError
from .handle import Handle, HandleGroup
from .options import SubmitOptions, TaskOptions
from .serialize import InputBinding

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Chain", "Chord", "Dag", "Group", "Node", "Run", "Signature", "Step", "chain", "chord", "group"]

# Depth to which arguments are searched for nodes. Values may be nested deeper.
_DEPTH_MAX = 32


class Node:
    """Node of a workflow: a call. As an argument of another call it stands for its result."""

    __slots__ = ("after", "args", "dag", "key", "kwargs", "options", "task")

    def __init__(
        self,
        dag: Dag,
        key: str,
        task: TaskDefinition,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        after: Sequence[Node | NodeEnd],
    ) -> None:
        self.dag, self.key, self.task, self.args, self.kwargs = dag, key, task, args, kwargs
        self.options, self.after = options, after

    def __repr__(self) -> str:
        return f"<Node {self.key} {self.task.name}>"

    @property
    def failed(self) -> NodeEnd:
        """Failure of the call. A call that comes after it runs only then; as an argument it stands for the error's document."""
        return NodeEnd(self, "failed")

    @property
    def ended(self) -> NodeEnd:
        """End of the call, in any way. As an argument it stands for ``{"state": …}`` with the ``result`` or the ``error``."""
        return NodeEnd(self, "ended")


@dataclass(frozen=True)
class NodeEnd:
    """End of a node in another way than success, as an argument or in ``after``."""

    node: Node
    when: Literal["failed", "ended"]

    @property
    def dag(self) -> Dag:
        """Workflow of the node."""
        return self.node.dag

    @property
    def key(self) -> str:
        """Key of the node."""
        return self.node.key


class Dag:
    """Workflow as a directed acyclic graph, submitted as one job.

    ``on_failure`` is ``continue`` (tasks that do not depend on a failed one go on) or ``fail_fast``.
    """

    def __init__(
        self, app: ClusterClient, *, name: str | None = None, on_failure: Literal["continue", "fail_fast"] | None = None
    ) -> None:
        self.app = app
        self.name = name
        self.on_failure = on_failure
        self._nodes: dict[str, Node] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        return f"<Dag {self.name or ''}: {len(self)} tasks>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{node.key}</td><td>{node.task.name}</td><td>{', '.join(_sources(node))}</td></tr>"
            for node in self._nodes.values()
        )
        return f"<table><tr><th>key</th><th>task</th><th>after</th></tr>{rows}</table>"

    def add(self, task: TaskDefinition, /, *args: Any, **kwargs: Any) -> Node:
        """Adds a call. Nodes among the arguments, also inside lists, tuples and dictionaries, stand for their results."""
        return self.add_call(task, args, kwargs)

    def add_call(
        self,
        task: TaskDefinition,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        after: Sequence[Node | NodeEnd] = (),
        options: TaskOptions | None = None,
    ) -> Node:
        """Adds a call with its own key, options, and dependencies (``after``) whose results it does not take.

        ``after=[node.failed]`` and ``after=[node.ended]`` are for a call that handles a failure, or cleans up.
        """
        if key is None:
            key = f"{task.name.rpartition('.')[2]}-{next(self._numbers)}"[-200:]
        if key in self._nodes:
            raise UsageError(f"the workflow has a task of the key {key!r} already; choose another key")
        node = Node(self, key, task, args, kwargs or {}, options or task.options, after)
        for source in (*_nodes_in(args, 0), *_nodes_in(node.kwargs, 0), *after):
            if source.dag is not self:
                raise UsageError(
                    f"{source} belongs to another workflow, so its result is not available here; add it to this workflow"
                )
        _ends(node)
        self._nodes[key] = node
        return node

    def submit(self, *, idempotency_key: str | None = None, after: After = ()) -> Run:
        """Submits the workflow as one job.

        ``after`` are jobs that must succeed first: handles, submitted workflows or ids, alone or in a list. ``(job, "failed")``
        and ``(job, "ended")`` wait for other ends.
        """
        submitted = self.app.submitter.job(
            self.specs(),
            name=self.name,
            idempotency_key=idempotency_key,
            on_failure=self.on_failure,
            after_jobs=_jobs_before(after),
        )
        return self._run(submitted.job, submitted.tasks)

    async def asubmit(self, *, idempotency_key: str | None = None, after: After = ()) -> Run:
        """As :meth:`submit`, for asyncio."""
        submitted = await self.app.asubmitter.job(
            self.specs(),
            name=self.name,
            idempotency_key=idempotency_key,
            on_failure=self.on_failure,
            after_jobs=_jobs_before(after),
        )
        return self._run(submitted.job, submitted.tasks)

    def specs(self) -> list[bytes]:
        """Returns the tasks of the job, as JSON."""
        if not self._nodes:
            raise UsageError("the workflow has no tasks; add at least one before you submit it")
        return [_spec(node) for node in self._nodes.values()]

    def _run(self, job: str, tasks: Sequence[str]) -> Run:
        nodes = zip(self._nodes.values(), tasks, strict=True)
        return Run(self.app, job, {node.key: Handle(self.app, task, job, name=node.task.name) for node, task in nodes})


class Run(Mapping[Any, Handle[Any]]):
    """Submitted workflow: the handles of its tasks, by node or by key."""

    def __init__(self, app: ClusterClient, job: str, handles: Mapping[str, Handle[Any]]) -> None:
        self.app = app
        self.job = job
        self._handles = handles

    def __getitem__(self, node: Node | str) -> Handle[Any]:
        return self._handles[node.key if isinstance(node, Node) else node]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def handles(self) -> HandleGroup[Any]:
        """Handles of all tasks, in the order added."""
        return HandleGroup(self.app, self._handles.values())

    def cancel(self) -> None:
        """Cancels every task that has not ended."""
        self.handles.cancel()

    def __repr__(self) -> str:
        return f"<Run {self.job}: {self.handles!r}>"


JobBefore = str | Handle[Any] | Run
#: Jobs that must end first.
After = JobBefore | tuple[JobBefore, str] | Sequence[JobBefore | tuple[JobBefore, str]]


def _jobs_before(after: After) -> list[dict[str, str]]:
    """Returns the documents of the jobs that a job comes after."""
    pair = isinstance(after, tuple) and len(after) == 2 and after[1] in ("succeeded", "failed", "ended")
    items = [after] if pair or isinstance(after, (str, Handle, Run)) else list(after)
    found = []
    for item in items:
        job, when = item if isinstance(item, tuple) else (item, "succeeded")
        if not isinstance(job, (str, Handle, Run)):
            raise UsageError(f"a workflow comes after jobs: handles, submitted workflows or ids, not {job!r:.200}")
        found.append({"job": job if isinstance(job, str) else job.job, "when": when})
    return found


def _nodes_in(value: Any, depth: int) -> Iterator[Node | NodeEnd]:
    for _, node in _positions(value, (), depth):
        yield node


def _positions(value: Any, at: tuple[str | int, ...], depth: int) -> Iterator[tuple[tuple[str | int, ...], Node | NodeEnd]]:
    if isinstance(value, (Node, NodeEnd)):
        yield at, value
    elif depth < _DEPTH_MAX:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from _positions(item, (*at, key), depth + 1)
        elif type(value) in (list, tuple):
            for position, item in enumerate(value):
                yield from _positions(item, (*at, position), depth + 1)


def _without_nodes(value: Any, depth: int) -> Any:
    if isinstance(value, (Node, NodeEnd)):
        return None
    if depth < _DEPTH_MAX:
        if isinstance(value, dict):
            return {key: _without_nodes(item, depth + 1) for key, item in value.items()}
        if type(value) is list:
            return [_without_nodes(item, depth + 1) for item in value]
        if type(value) is tuple:
            return tuple(_without_nodes(item, depth + 1) for item in value)
    return value


def _bindings(node: Node) -> list[InputBinding]:
    inputs = []
    for name, holder in (("args", list(node.args)), ("kwargs", dict(node.kwargs))):
        for at, source in _positions(holder, (), 0):
            inputs.append(InputBinding((name, *at), source.key, _WHAT[_when(source)]))
    return inputs


_WHAT: dict[str, Literal["result", "error", "end"]] = {"succeeded": "result", "failed": "error", "ended": "end"}


def _when(source: Node | NodeEnd) -> str:
    return source.when if isinstance(source, NodeEnd) else "succeeded"


def _ends(node: Node) -> dict[str, str]:
    """Returns the keys of the tasks that a call comes after, each with how the task must end."""
    places = (*_nodes_in(list(node.args), 0), *_nodes_in(dict(node.kwargs), 0), *node.after)
    ends: dict[str, str] = {}
    for source in places:
        if ends.setdefault(source.key, _when(source)) != _when(source):
            raise UsageError(
                f"{node} comes after two different ends of {source.key!r}; take .ended and look at its state instead"
            )
    return ends


def _sources(node: Node) -> list[str]:
    return [key if when == "succeeded" else f"{key} ({when})" for key, when in _ends(node).items()]


def _after(node: Node) -> list[str | dict[str, str]]:
    return [key if when == "succeeded" else {"key": key, "when": when} for key, when in _ends(node).items()]


def _spec(node: Node) -> bytes:
    inputs = _bindings(node)
    args, kwargs = _without_nodes(list(node.args), 0), _without_nodes(dict(node.kwargs), 0)
    # A list of nothing but nodes travels as one binding with many sources.
    args, kwargs, inputs = _compact(args, kwargs, node, inputs)
    return node.task.spec(args, kwargs, node.options, inputs=inputs, key=node.key, after=_after(node))


def _compact(
    args: list[Any], kwargs: dict[str, Any], node: Node, inputs: list[InputBinding]
) -> tuple[list[Any], dict[str, Any], list[InputBinding]]:
    left = list(inputs)
    for name, given, holder in (("args", enumerate(node.args), args), ("kwargs", node.kwargs.items(), kwargs)):
        for place, value in given:
            if type(value) is list and len(value) > 1 and all(isinstance(item, Node) for item in value):
                left = [one for one in left if one.to[:2] != (name, place)]
                left.append(InputBinding((name, place), tuple(item.key for item in value)))
                holder[place] = None  # type: ignore[index]
    return args, kwargs, left


# ---------------------------------------------------------------------------------------------------------------------
# Chains, groups, chords


#: Stands for the cluster of a group without tasks, which needs none.
NO_CLUSTER: Any = None


class _NoResults(list[Node]):
    """Ends of a group without steps. What follows takes an empty list, after the tasks in `after`."""

    def __init__(self, after: list[Node]) -> None:
        super().__init__()
        self.after = after


class Step:
    """Composable part of a workflow: in ``a | b``, ``b`` takes the result of ``a``."""

    app: ClusterClient

    def __or__(self, other: Step) -> Chain:
        return Chain(self, other)

    def build(self, dag: Dag, before: Node | list[Node] | None) -> Node | list[Node]:
        """Adds the tasks of this step after those before it. Returns the last tasks of the step."""
        raise NotImplementedError

    def _find_app(self, steps: Iterable[Step]) -> None:
        # A group without steps has none.
        found = next((step.app for step in steps if hasattr(step, "app")), None)
        if found is not None:
            self.app = found

    def dag(self, **settings: Any) -> tuple[Dag, Node | list[Node]]:
        """Returns the workflow of this step, and its last nodes."""
        dag = Dag(self.app, **settings)
        return dag, self.build(dag, None)

    def submit(
        self,
        *,
        name: str | None = None,
        on_failure: Literal["continue", "fail_fast"] | None = None,
        idempotency_key: str | None = None,
        after: After = (),
    ) -> Any:
        """Submits the step as one job. Returns the handle of its last task, or the group of its last tasks.

        ``after`` are jobs that must end first, as for :meth:`Dag.submit`.
        """
        if not hasattr(self, "app"):
            return HandleGroup(NO_CLUSTER, [])
        dag, ends = self.dag(name=name, on_failure=on_failure)
        return _ends_of(dag.submit(idempotency_key=idempotency_key, after=after), ends)

    async def asubmit(
        self,
        *,
        name: str | None = None,
        on_failure: Literal["continue", "fail_fast"] | None = None,
        idempotency_key: str | None = None,
        after: After = (),
    ) -> Any:
        """As :meth:`submit`, for asyncio."""
        if not hasattr(self, "app"):
            return HandleGroup(NO_CLUSTER, [])
        dag, ends = self.dag(name=name, on_failure=on_failure)
        return _ends_of(await dag.asubmit(idempotency_key=idempotency_key, after=after), ends)

    def delay(self) -> Any:
        """As :meth:`submit`, under the name that a single task has for it."""
        return self.submit()


def _ends_of(run: Run, ends: Node | list[Node]) -> Handle[Any] | HandleGroup[Any]:
    if isinstance(ends, Node):
        return run[ends]
    return HandleGroup(run.app, [run[end] for end in ends])


@dataclass(frozen=True)
class Signature(Step):
    """Call that is not submitted yet: ``add.s(1, 2)``.

    In a workflow its first argument is the result of the step before it. ``add.si(1, 2)`` takes no result.
    """

    task: TaskDefinition
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    options: TaskOptions | None = None
    immutable: bool = False

    @property
    def app(self) -> ClusterClient:  # type: ignore[override]
        """App of the task."""
        return self.task.app

    def set(self, **options: Unpack[SubmitOptions]) -> Signature:
        """Returns the same call with further options."""
        return replace(self, options=(self.options or self.task.options).but(options))

    def build(self, dag: Dag, before: Node | list[Node] | None) -> Node:
        """Adds the call."""
        args, after = self.args, []
        if isinstance(before, _NoResults):
            after = before.after
        if before is not None and self.immutable:
            after = [*after, *(before if isinstance(before, list) else [before])]
        elif before is not None:
            args = ([] if isinstance(before, _NoResults) else before, *args)
        return dag.add_call(self.task, args, self.kwargs, after=after, options=self.options)

    def __repr__(self) -> str:
        arguments = [repr(arg) for arg in self.args] + [f"{name}={value!r}" for name, value in (self.kwargs or {}).items()]
        return f"{self.task.name}({', '.join(arguments)})"


class Chain(Step):
    """Steps in sequence, each with the result of the one before."""

    def __init__(self, *steps: Step) -> None:
        flat: list[Step] = []
        for step in steps:
            flat += step.steps if isinstance(step, Chain) else [step]
        if not flat:
            raise UsageError("the chain is empty; a chain has at least one step")
        self.steps: list[Step] = flat
        self._find_app(flat)

    def build(self, dag: Dag, before: Node | list[Node] | None) -> Node | list[Node]:
        """Adds the tasks of all steps."""
        ends = before
        for step in self.steps:
            ends = step.build(dag, ends)
        assert ends is not None
        return ends

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.steps))


class Group(Step):
    """Parallel steps. The step after a group takes the list of its results, in order: a chord."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps: list[Step] = list(steps)
        self._find_app(self.steps)

    def build(self, dag: Dag, before: Node | list[Node] | None) -> list[Node]:
        """Adds the tasks of all steps."""
        if not self.steps:
            # The results of no tasks are an empty list, and what follows still comes after what is before.
            after = before.after if isinstance(before, _NoResults) else before if isinstance(before, list) else [before]
            return _NoResults([one for one in after if one is not None])
        ends: list[Node] = []
        for step in self.steps:
            end = step.build(dag, before)
            ends += end if isinstance(end, list) else [end]
        return ends

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.steps))})"


class Chord(Chain):
    """Group, and a task that takes the list of its results."""


def chain(*steps: Step) -> Chain:
    """Returns steps in sequence: ``chain(a.s(1), b.s())`` is ``a.s(1) | b.s()``."""
    return Chain(*steps)


def group(*steps: Step | Iterable[Step]) -> Group:
    """Returns parallel steps, given singly or in iterables."""
    return Group(itertools.chain.from_iterable([step] if isinstance(step, Step) else step for step in steps))


def chord(header: Iterable[Step], body: Step) -> Chord:
    """Returns parallel steps, and a step that takes the list of their results."""
    return Chord(Group(header), body)
