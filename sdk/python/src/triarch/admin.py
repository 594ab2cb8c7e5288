"""Administration of a cluster: queues, schedules, workers, jobs, dead letters, events. An app has these as attributes.

::

    app.queues.set("mail", rate_per_s=50, max_running=8)
    app.schedules.put("nightly", "30 2 * * *", load.si(), timezone="Europe/Paris", overlap="forbid")
    for event in app.events(type="task_changed", state="failed"):
        print(event["task"])

Answers are the documents of the HTTP interface, as dictionaries. Their fields are described there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, overload

from ._http.policy import Request, path
from ._http.protocol import MalformedResponse
from ._http.transport import Stream
from ._interfaces import ClusterClient
from ._values import json_reader
from .errors import NoLeader, PositionGone, ProtocolError, Refused, TriarchError, UsageError, refusal
from .options import Seconds, milliseconds
from .workflow import Dag, Step

__all__ = ["Cluster", "Jobs", "Queues", "Schedules", "Workers", "events"]

_PAGE = 1000
# Fields that rows of tasks leave out unless they are named.
_TASK_FIELDS = "result,error"
_EVENT_BYTES_MAX = 1 << 20
# A stream has a keep-alive message every 10 s. A stream that is silent for longer is broken.
_STREAM_TIMEOUT_S = 25.0
_RECONNECT_DELAY_S = 0.2


class _Resource:
    """Base of the administered resources of a cluster."""

    def __init__(self, app: ClusterClient) -> None:
        self._app = app

    def _get(self, *segments: str, **query: Any) -> Any:
        return self._app.transport.json(Request.get(path(*segments), query))

    def _change(self, method: str, *segments: str, body: Any = None, once: bool = False) -> Any:
        return self._app.transport.json(Request.change(method, path(*segments), body, once=once))

    def _pages(self, noun: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        after: str | None = None
        while True:
            page = self._get(noun, limit=_PAGE, after=after, **query)
            yield from page[noun]
            after = page.get("next")
            if after is None:
                return


class Queues(_Resource):
    """Queues of a cluster."""

    def list(self) -> list[dict[str, Any]]:
        """Returns all queues, with their depths and settings."""
        return list(self._pages("queues", {}))

    def get(self, name: str) -> dict[str, Any]:
        """Returns a queue by its id or name."""
        return dict(self._get("queues", name))

    def set(self, name: str, **settings: Any) -> dict[str, Any]:
        """Changes settings, such as ``max_running``, ``rate_per_s``, ``max_depth``, ``weight``. ``None`` removes a bound."""
        return dict(self._change("PUT", "queues", name, body=settings))

    def pause(self, name: str) -> dict[str, Any]:
        """Pauses the queue. No task starts, and running tasks go on."""
        return dict(self._change("POST", "queues", name, "pause"))

    def resume(self, name: str) -> dict[str, Any]:
        """Resumes the queue."""
        return dict(self._change("POST", "queues", name, "resume"))

    def purge(self, name: str, *, dead_letters: bool = False) -> dict[str, Any]:
        """Cancels all waiting tasks. With ``dead_letters`` it deletes the finished jobs with dead letters in the queue instead."""
        return dict(self._change("POST", "queues", name, "purge", body={"dead_letters": dead_letters}))


class Schedules(_Resource):
    """Schedules of a cluster: jobs that are submitted periodically, exactly once per tick, across failovers."""

    @overload
    def put(
        self,
        name: str,
        cron: str,
        work: Step | Dag,
        *,
        timezone: str | None = None,
        overlap: Literal["allow", "forbid"] = "allow",
        catch_up: Literal["none", "one", "all"] = "one",
        paused: bool = False,
        job_name: str | None = None,
    ) -> dict[str, Any]: ...

    @overload
    def put(
        self,
        name: str,
        work: Step | Dag,
        /,
        *,
        every: Seconds,
        overlap: Literal["allow", "forbid"] = "allow",
        catch_up: Literal["none", "one", "all"] = "one",
        paused: bool = False,
        job_name: str | None = None,
    ) -> dict[str, Any]: ...

    def put(
        self,
        name: str,
        cron: str | Step | Dag | None = None,
        work: Step | Dag | None = None,
        *,
        every: Seconds | None = None,
        timezone: str | None = None,
        overlap: Literal["allow", "forbid"] = "allow",
        catch_up: Literal["none", "one", "all"] = "one",
        paused: bool = False,
        job_name: str | None = None,
    ) -> dict[str, Any]:
        """Creates or replaces a schedule: ``put(name, cron, work)`` or ``put(name, work, every=90)``.

        ``work`` is a call (``task.si(…)``) or a workflow. ``every`` is the interval between two ticks, in whole seconds or as
        a :class:`~datetime.timedelta`. ``timezone`` belongs to ``cron``. Default: ``UTC``.
        """
        if work is None and not isinstance(cron, str):
            cron, work = None, cron
        if work is None or (cron is None) == (every is None):
            raise UsageError("a schedule takes work and either a cron expression or every=…, an interval")
        times: dict[str, Any] = {"cron": cron} if every is None else {"every_ms": milliseconds(every, "every")}
        if timezone is not None:
            times["timezone"] = timezone
        dag = work if isinstance(work, Dag) else work.dag()[0]
        tasks = [json.loads(spec) for spec in dag.specs()]
        job = {"name": job_name or dag.name or name, "tasks": tasks}
        if dag.on_failure is not None:
            job["on_failure"] = dag.on_failure
        body = {**times, "overlap": overlap, "catch_up": catch_up, "paused": paused, "job": job}
        return dict(self._change("PUT", "schedules", name, body=body))

    def list(self) -> Iterator[dict[str, Any]]:
        """Yields all schedules, by name."""
        return self._pages("schedules", {})

    def get(self, name: str) -> dict[str, Any]:
        """Returns a schedule, with its next ticks."""
        return dict(self._get("schedules", name))

    def delete(self, name: str) -> None:
        """Deletes the schedule. Its jobs stay."""
        self._change("DELETE", "schedules", name)

    def pause(self, name: str) -> dict[str, Any]:
        """Pauses the schedule. Its ticks are skipped."""
        return dict(self._change("POST", "schedules", name, "pause"))

    def resume(self, name: str) -> dict[str, Any]:
        """Resumes the schedule."""
        return dict(self._change("POST", "schedules", name, "resume"))

    def trigger(self, name: str) -> dict[str, Any]:
        """Submits one job now, in addition to those of the ticks."""
        return dict(self._change("POST", "schedules", name, "trigger"))


class Workers(_Resource):
    """Workers of a cluster."""

    def list(self, *, state: str | None = None) -> Iterator[dict[str, Any]]:
        """Yields all workers, or those in a state."""
        return self._pages("workers", {"state": state})

    def get(self, id: str) -> dict[str, Any]:
        """Returns a worker by its id or name."""
        return dict(self._get("workers", id))

    def drain(self, id: str) -> dict[str, Any]:
        """Drains the worker. It finishes its tasks and leaves."""
        return dict(self._change("POST", "workers", id, "drain"))

    def pause(self, id: str) -> dict[str, Any]:
        """Pauses the worker. It keeps its tasks and gets no new ones."""
        return dict(self._change("POST", "workers", id, "pause"))

    def resume(self, id: str) -> dict[str, Any]:
        """Resumes the worker."""
        return dict(self._change("POST", "workers", id, "resume"))


class Jobs(_Resource):
    """Jobs and tasks of all clients."""

    def list(self, *, state: str | None = None, name: str | None = None) -> Iterator[dict[str, Any]]:
        """Yields jobs, newest first."""
        return self._pages("jobs", {"state": state, "name": name})

    def get(self, id: str) -> dict[str, Any]:
        """Returns a job, with the number of its tasks in each state."""
        return dict(self._get("jobs", id))

    def tasks(self, id: str) -> Iterator[dict[str, Any]]:
        """Yields the tasks of a job, in the order submitted."""
        after: str | None = None
        while True:
            page = self._get("jobs", id, "tasks", limit=_PAGE, after=after, fields=_TASK_FIELDS)
            yield from page["tasks"]
            after = page.get("next")
            if after is None:
                return

    def find(
        self, *, queue: str | None = None, state: str | None = None, kind: str | None = None, worker: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yields the tasks of all jobs that match a filter."""
        query = {"queue": queue, "state": state, "kind": kind, "worker": worker, "fields": _TASK_FIELDS}
        return self._pages("tasks", query)

    def cancel(self, id: str) -> dict[str, Any]:
        """Cancels every task of a job that has not ended."""
        return dict(self._change("POST", "jobs", id, "cancel"))

    def cancel_all(self, **selection: Any) -> int:
        """Cancels all tasks that match ``queue``, ``state``, ``kind``, ``worker`` or ``job``. Returns their number."""
        return int(self._change("POST", "tasks", "cancel", body=selection)["count"])

    def retry_all(self, **selection: Any) -> int:
        """Retries all matching dead letters. Returns their number."""
        return int(self._change("POST", "tasks", "retry", body=selection, once=True)["count"])

    def forget_all(self, **selection: Any) -> int:
        """Deletes finished jobs with matching dead letters. Returns their number."""
        return int(self._change("POST", "tasks", "forget", body=selection)["count"])


class Cluster(_Resource):
    """Masters of a cluster."""

    def status(self) -> dict[str, Any]:
        """Returns the leader, and the log position of each master."""
        return dict(self._get("cluster"))

    def transfer_leader(self, to: int | None = None) -> dict[str, Any]:
        """Transfers leadership to a master. Default: the most up-to-date one."""
        body = {} if to is None else {"to": to}
        return dict(self._change("POST", "cluster", "transfer-leader", body=body, once=True))

    def snapshot(self) -> dict[str, Any]:
        """Makes the leader write a snapshot."""
        return dict(self._change("POST", "cluster", "snapshot"))


# ---------------------------------------------------------------------------------------------------------------------
# Events


def events(app: ClusterClient, *, after: str | None = None, **filters: str | Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields events in the order of the log, without end. Reconnects to another master when one fails, without a gap.

    Filters are ``queue``, ``job``, ``task``, ``state`` and ``type``, one value or several each. ``after`` is the id of the last
    event seen, or a log index. Raises :class:`~triarch.errors.PositionGone` when the next events are not kept any more.
    """
    unknown = sorted(set(filters) - {"queue", "job", "task", "state", "type"})
    if unknown:
        raise UsageError(f"events have no filter {unknown[0]!r}; the filters are queue, job, task, state and type")
    query = {name: values if isinstance(values, str) else ",".join(values) for name, values in filters.items()}
    position = after
    masters = app.transport.masters
    master = masters.first()
    silent_since_s = time.monotonic()
    tried: dict[str, str] = {}
    while True:
        call = Request.get("/v1/events", {**query, "after": position})
        try:
            with app.transport.stream(call, master, _STREAM_TIMEOUT_S) as stream:
                if stream.status != 200:
                    _refuse(stream)
                for id, event in _read(stream):
                    silent_since_s = time.monotonic()
                    tried.clear()
                    position = id or position
                    if event is not None:
                        yield event
            tried[master] = "the stream ended"
        except PositionGone:
            raise
        except TriarchError as error:
            if isinstance(error, Refused) and error.status not in (503, 504):
                raise
            tried[master] = str(error)
        except (OSError, MalformedResponse) as error:
            tried[master] = str(error) or type(error).__name__
        if time.monotonic() - silent_since_s > app.transport.policy.deadline_s:
            raise NoLeader(tried)
        master = masters.after(master)
        time.sleep(_RECONNECT_DELAY_S)


def _refuse(stream: Stream) -> None:
    try:
        problem = json_reader.loads(stream.read(1 << 16))
    except ValueError:
        problem = {}
    more = problem if isinstance(problem, dict) else {}
    raise refusal({"status": stream.status, "detail": f"HTTP {stream.status}", **more})


def _document(data: str) -> dict[str, Any]:
    """Returns the document of a message of the stream."""
    try:
        document = json_reader.loads(data)
    except ValueError as error:
        raise ProtocolError(f"an event cannot be read: {error}: {data[:200]}") from None
    if not isinstance(document, dict):
        raise ProtocolError(f"an event is no JSON object: {data[:200]}")
    return document


def _read(stream: Stream) -> Iterator[tuple[str | None, dict[str, Any] | None]]:
    """Parses server-sent events: yields the position of each message, and its event, if it has one."""
    id: str | None = None
    kind, data = "", ""
    while line := stream.readline(_EVENT_BYTES_MAX):
        if not line.endswith(b"\n"):
            if len(line) >= _EVENT_BYTES_MAX:
                raise ProtocolError("a message of the stream of events is too long")
            return
        name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            id = value
        elif name == "event":
            kind = value
        elif name == "data":
            data += value
        elif name == "" and not value:
            if kind == "gone":
                raise refusal(_document(data))
            if id is not None or data:
                yield id, _document(data) if data else None
            kind, data = "", ""
