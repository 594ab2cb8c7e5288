"""Structural types of an app and of a task, as the modules below :mod:`triarch.app` see them.

Handles, tasks, workflows and futures hold the app that made them. With these protocols they need no import of it, so that the
package has no import circle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ._http.async_transport import AsyncTransport
from ._http.transport import Transport
from ._jobs.async_submit import AsyncSubmitter
from ._jobs.completion_watcher import CompletionWatcher
from ._jobs.submit import Submitter
from .options import TaskOptions
from .serialize import Codec, InputBinding

__all__ = ["ClusterClient", "TaskDefinition"]


class ClusterClient(Protocol):
    """An app's access to its cluster: codecs, transports, submitters, and the completion watcher."""

    #: Codec of arguments and results.
    codec: Codec
    #: Names of the codecs that are read.
    accept: frozenset[str]
    #: Blocking transport.
    transport: Transport
    #: Transport for asyncio.
    atransport: AsyncTransport
    #: Blocking submitter.
    submitter: Submitter
    #: Submitter for asyncio.
    asubmitter: AsyncSubmitter
    #: Completion watcher.
    watcher: CompletionWatcher


class TaskDefinition(Protocol):
    """A task as a workflow uses it."""

    #: The app of the task.
    app: ClusterClient
    #: The task's kind on the wire.
    name: str
    #: Options of every submission.
    options: TaskOptions

    def spec(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        *,
        inputs: Sequence[InputBinding] = (),
        key: str | None = None,
        after: Sequence[str | Mapping[str, str]] = (),
    ) -> bytes:
        """Returns a call of the task as JSON, as part of a job."""
        ...
