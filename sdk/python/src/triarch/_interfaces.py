"""Structural types of an app and of a task, as the modules below :mod:`triarch.app` see them.

Handles, tasks, workflows and futures hold the app that made them. With these protocols they need no import of it, so that the
package has no import circle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ._async_submit import AsyncSubmitter
from ._async_transport import AsyncTransport
from ._completion_watcher import CompletionWatcher
from ._submit import Submitter
from ._transport import Transport
from .options import TaskOptions
from .serialize import Codec, InputBinding

__all__ = ["ClusterClient", "TaskDefinition"]


class ClusterClient(Protocol):
    """An app's access to its cluster: codecs, transports, submitters, and the completion watcher."""

    @property
    def codec(self) -> Codec:
        """Codec of arguments and results."""

    @property
    def accept(self) -> frozenset[str]:
        """Names of the codecs that are read."""

    @property
    def transport(self) -> Transport:
        """Blocking transport."""

    @property
    def atransport(self) -> AsyncTransport:
        """Transport for asyncio."""

    @property
    def submitter(self) -> Submitter:
        """Blocking submitter."""

    @property
    def asubmitter(self) -> AsyncSubmitter:
        """Submitter for asyncio."""

    @property
    def watcher(self) -> CompletionWatcher:
        """Completion watcher."""


class TaskDefinition(Protocol):
    """A task as a workflow uses it."""

    @property
    def app(self) -> ClusterClient:
        """The app of the task."""

    @property
    def name(self) -> str:
        """The task's kind on the wire."""

    @property
    def options(self) -> TaskOptions:
        """Options of every submission."""

    def spec(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        *,
        inputs: Sequence[InputBinding] = (),
        key: str | None = None,
        after: Sequence[str] = (),
    ) -> bytes:
        """Returns a call of the task as JSON, as part of a job."""
