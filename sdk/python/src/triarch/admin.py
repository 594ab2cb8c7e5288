"""Looking after a cluster: queues, schedules, workers, jobs, dead letters, events. All of it hangs on an app.

::

    app.queues.set("mail", rate_per_s=50, max_running=8)
    app.schedules.put("nightly", "30 2 * * *", load.si(), timezone="Europe/Paris", overlap="forbid")
    for event in app.events(type="task_changed", state="failed"):
        print(event["task"])

Answers are the documents of the HTTP interface, as dictionaries; their fields are described there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from ._http import MalformedResponse
from ._interfaces import ClusterClient
from ._policy import Request, path
from ._transport import Stream
from .errors import NoLeader, PositionGone, ProtocolError, Refused, TriarchError, UsageError, refusal
from .workflow import Dag, Step

__all__ = ["Cluster", "Jobs", "Queues", "Schedules", "Workers", "events"]

_PAGE = 1000
_EVENT_BYTES_MAX = 1 << 20
# A stream that is silent for longer than its sign of life takes (10 s) has broken off.
_SILENCE_S = 25.0
_AGAIN_S = 0.2


class _Resource:
    """Base of the administered resources of a cluster."""

    def __init__(self, app: ClusterClient) -> None:
        self._app = app

    def _get(self, *segments: str, **query: Any) -> Any:
        return self._app.transport.json(Request.get(path(*segments), query))

    def _change(self, method: str, *segments: str, body: Any = None) -> Any:
        return self._app.transport.json(Request.change(method, path(*segments), body))

    def _pages(self, noun: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        after: str | None = None
        while True:
            page = self._get(noun, limit=_PAGE, after=after, **query)
            yield from page[noun]
            after = page.get("next")
            if after is None:
                return


class Queues(_Resource):
    """The queues of a cluster."""

    def list(self) -> list[dict[str, Any]]:
        """All of them, with what waits and runs in each and their settings."""
        return list(self._get("queues")["queues"])

    def get(self, name: str) -> dict[str, Any]:
        """One of them."""
        return dict(self._get("queues", name))

    def set(self, name: str, **settings: Any) -> dict[str, Any]:
        """Changes settings, such as ``max_running``, ``rate_per_s``, ``max_depth``, ``weight``; ``None`` takes a bound away."""
        return dict(self._change("PUT", "queues", name, body=settings))

    def pause(self, name: str) -> dict[str, Any]:
        """Nothing of it starts any more; what runs goes on."""
        return dict(self._change("POST", "queues", name, "pause"))

    def resume(self, name: str) -> dict[str, Any]:
        """Its tasks start again."""
        return dict(self._change("POST", "queues", name, "resume"))

    def purge(self, name: str, *, dead_letters: bool = False) -> dict[str, Any]:
        """Cancels all that waits in it; or forgets the finished jobs that have dead letters in it."""
        return dict(self._change("POST", "queues", name, "purge", body={"dead_letters": dead_letters}))


class Schedules(_Resource):
    """The schedules of a cluster: jobs that are submitted again and again, each tick once, whatever dies meanwhile."""

    def put(
        self,
        name: str,
        cron: str,
        work: Step | Dag,
        *,
        timezone: str = "UTC",
        overlap: Literal["allow", "forbid"] = "allow",
        catch_up: Literal["none", "one", "all"] = "one",
        paused: bool = False,
        job_name: str | None = None,
    ) -> dict[str, Any]:
        """Makes a schedule, or replaces the one of this name. ``work`` is a call (``task.si(…)``), or a workflow of any kind."""
        dag = work if isinstance(work, Dag) else work.dag()[0]
        tasks = [json.loads(spec) for spec in dag.specs()]
        job = {"name": job_name or dag.name or name, "tasks": tasks}
        if dag.on_failure is not None:
            job["on_failure"] = dag.on_failure
        body = {"cron": cron, "timezone": timezone, "overlap": overlap, "catch_up": catch_up, "paused": paused, "job": job}
        return dict(self._change("PUT", "schedules", name, body=body))

    def list(self) -> Iterator[dict[str, Any]]:
        """All of them, by name."""
        return self._pages("schedules", {})

    def get(self, name: str) -> dict[str, Any]:
        """One of them, with its next ticks."""
        return dict(self._get("schedules", name))

    def delete(self, name: str) -> None:
        """Takes it away; the jobs it made stay."""
        self._change("DELETE", "schedules", name)

    def pause(self, name: str) -> dict[str, Any]:
        """Its ticks pass by."""
        return dict(self._change("POST", "schedules", name, "pause"))

    def resume(self, name: str) -> dict[str, Any]:
        """It ticks again."""
        return dict(self._change("POST", "schedules", name, "resume"))

    def trigger(self, name: str) -> dict[str, Any]:
        """Makes one job now, besides those of its ticks."""
        return dict(self._change("POST", "schedules", name, "trigger"))


class Workers(_Resource):
    """The workers of a cluster."""

    def list(self, *, state: str | None = None) -> Iterator[dict[str, Any]]:
        """All of them, or those in a state."""
        return self._pages("workers", {"state": state})

    def get(self, id: str) -> dict[str, Any]:
        """One of them."""
        return dict(self._get("workers", id))

    def drain(self, id: str) -> dict[str, Any]:
        """It finishes what it has, and leaves."""
        return dict(self._change("POST", "workers", id, "drain"))

    def pause(self, id: str) -> dict[str, Any]:
        """It keeps what it has, and gets nothing new."""
        return dict(self._change("POST", "workers", id, "pause"))

    def resume(self, id: str) -> dict[str, Any]:
        """It gets work again."""
        return dict(self._change("POST", "workers", id, "resume"))


class Jobs(_Resource):
    """Jobs and tasks, whoever submitted them."""

    def list(self, *, state: str | None = None, name: str | None = None) -> Iterator[dict[str, Any]]:
        """Jobs, newest first."""
        return self._pages("jobs", {"state": state, "name": name})

    def get(self, id: str) -> dict[str, Any]:
        """One of them, with how many of its tasks are in which state."""
        return dict(self._get("jobs", id))

    def tasks(self, id: str) -> Iterator[dict[str, Any]]:
        """The tasks of a job, in the order submitted."""
        after: str | None = None
        while True:
            page = self._get("jobs", id, "tasks", limit=_PAGE, after=after)
            yield from page["tasks"]
            after = page.get("next")
            if after is None:
                return

    def find(
        self, *, queue: str | None = None, state: str | None = None, kind: str | None = None, worker: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Tasks of all jobs that a filter selects."""
        return self._pages("tasks", {"queue": queue, "state": state, "kind": kind, "worker": worker})

    def cancel(self, id: str) -> dict[str, Any]:
        """Ends every task of a job that has not ended."""
        return dict(self._change("POST", "jobs", id, "cancel"))

    def cancel_all(self, **selection: Any) -> int:
        """Ends all tasks of a selection by ``queue``, ``state``, ``kind``, ``worker`` or ``job``; says how many."""
        return int(self._change("POST", "tasks", "cancel", body=selection)["count"])

    def retry_all(self, **selection: Any) -> int:
        """Starts the dead letters of a selection over; says how many."""
        return int(self._change("POST", "tasks", "retry", body=selection)["count"])

    def forget_all(self, **selection: Any) -> int:
        """Forgets finished jobs that have dead letters of a selection; says how many."""
        return int(self._change("POST", "tasks", "forget", body=selection)["count"])


class Cluster(_Resource):
    """The masters."""

    def status(self) -> dict[str, Any]:
        """Who leads, and how far each master is."""
        return dict(self._get("cluster"))

    def transfer_leader(self, to: int | None = None) -> dict[str, Any]:
        """Hands leadership to a master, or to the one that is furthest."""
        return dict(self._change("POST", "cluster", "transfer-leader", body={} if to is None else {"to": to}))

    def snapshot(self) -> dict[str, Any]:
        """Has the leader write a snapshot."""
        return dict(self._change("POST", "cluster", "snapshot"))


# ---------------------------------------------------------------------------------------------------------------------
# Events


def events(app: ClusterClient, *, after: str | None = None, **filters: str | Iterable[str]) -> Iterator[dict[str, Any]]:
    """What happens, in the order of the log, without end; goes on at another master when one dies, missing nothing.

    Filters are ``queue``, ``job``, ``task``, ``state`` and ``type``, a word or several each. ``after`` is the id of the event to
    go on after, or a log index. Raises :class:`~triarch.errors.PositionGone` when what comes next is not kept any more.
    """
    unknown = sorted(set(filters) - {"queue", "job", "task", "state", "type"})
    if unknown:
        raise UsageError(f"events are not filtered by {unknown[0]!r}")
    query = {name: words if isinstance(words, str) else ",".join(words) for name, words in filters.items()}
    position = after
    masters = app.transport.masters
    master = masters.first()
    silent_since_s = time.monotonic()
    tried: dict[str, str] = {}
    while True:
        call = Request.get("/v1/events", {**query, "after": position})
        try:
            with app.transport.stream(call, master, _SILENCE_S) as stream:
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
        time.sleep(_AGAIN_S)


def _refuse(stream: Stream) -> None:
    try:
        problem = json.loads(stream.read(1 << 16))
    except ValueError:
        problem = {}
    raise refusal({"status": stream.status, "detail": f"HTTP {stream.status}", **problem})


def _read(stream: Stream) -> Iterator[tuple[str | None, dict[str, Any] | None]]:
    """The messages of a stream: the position each stands for, and what it tells, if it tells something."""
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
                raise refusal(json.loads(data))
            if id is not None or data:
                yield id, json.loads(data) if data else None
            kind, data = "", ""
