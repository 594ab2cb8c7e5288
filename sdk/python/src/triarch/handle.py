"""Handles: what a submission gives back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ._policy import Call, path
from .errors import ResultTimeout
from .outcome import Outcome

if TYPE_CHECKING:
    from .app import Triarch

__all__ = ["Handle", "Many"]

R_co = TypeVar("R_co", covariant=True)

_HOLD_S = 20.0


class Handle(Generic[R_co]):
    """A task that was submitted: its state, its result, and ways to end it or start it over."""

    def __init__(self, app: Triarch, task: str, job: str = "", *, name: str = "") -> None:
        self.app = app
        #: The task's id.
        self.id = task
        #: Its job's id.
        self.job = job
        self.name = name
        self._outcome: Outcome | None = None

    def result(self, timeout: float | None = None) -> R_co:
        """Waits for the task's end and gives its result, or raises :class:`~triarch.errors.TaskError`."""
        value: R_co = self._ended(timeout).value(self.app.accept)
        return value

    def _ended(self, timeout: float | None) -> Outcome:
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while self._outcome is None:
            left_s = _HOLD_S if deadline_s is None else min(_HOLD_S, max(0.0, deadline_s - time.monotonic()))
            call = Call.get(path("tasks", self.id), {"wait_ms": round(left_s * 1000)}, hold_s=left_s)
            self._outcome = Outcome.of(self.app.transport.json(call))
            if self._outcome is None and deadline_s is not None and time.monotonic() >= deadline_s:
                raise ResultTimeout(f"task {self.id} has not finished after {timeout:g} s; it goes on")
        return self._outcome

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Handle {self.id}{name}>"


class Many(Sequence[Handle[R_co]]):
    """The handles of many tasks, in the order submitted."""

    def __init__(self, app: Triarch, handles: Sequence[Handle[R_co]]) -> None:
        self.app = app
        self.handles = handles

    def __len__(self) -> int:
        return len(self.handles)

    @overload
    def __getitem__(self, index: int) -> Handle[R_co]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Handle[R_co]]: ...

    def __getitem__(self, index: Any) -> Any:
        return self.handles[index]

    def __iter__(self) -> Iterator[Handle[R_co]]:
        return iter(self.handles)
