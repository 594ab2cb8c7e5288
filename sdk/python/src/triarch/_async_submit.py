"""How tasks get to the cluster from coroutines: as in :mod:`triarch._submit`, many at once.

Whatever is submitted in one turn of the event loop travels together, and so does what comes while requests are on their way.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Sequence

from ._async_transport import AsyncTransport
from ._policy import Request, new_request_id
from ._submit import BATCH_BYTES_MAX, BATCH_TASKS_MAX, Submitted, job_body, parts_of, read_submitted
from .errors import InvalidRequest, TriarchError

__all__ = ["AsyncSubmitter"]

_IN_FLIGHT_MAX = 2

_Item = tuple[bytes, "asyncio.Future[tuple[str, str]]"]


class _Lane:
    """What waits for one queue, in one event loop."""

    __slots__ = ("flights", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Item] = deque()
        self.flights: set[asyncio.Task[None]] = set()


class AsyncSubmitter:
    """Brings tasks to the cluster from coroutines, of whatever loop."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Lane]] = weakref.WeakKeyDictionary()

    async def one(self, spec: bytes, queue: str) -> tuple[str, str]:
        """Submits a task, perhaps together with others; gives the ids of its job and of itself.

        A caller that is cancelled meanwhile does not take it back.
        """
        loop = asyncio.get_running_loop()
        lanes = self._lanes.setdefault(loop, {})
        lane = lanes.setdefault(queue, _Lane())
        told: asyncio.Future[tuple[str, str]] = loop.create_future()
        lane.waiting.append((spec, told))
        if len(lane.flights) < _IN_FLIGHT_MAX:
            flight = loop.create_task(self._fly(lane))
            lane.flights.add(flight)
            flight.add_done_callback(lambda flight: self._landed(lanes, queue, lane, flight))
        return await told

    @staticmethod
    def _landed(lanes: dict[str, _Lane], queue: str, lane: _Lane, flight: asyncio.Task[None]) -> None:
        lane.flights.discard(flight)
        if not lane.flights and not lane.waiting:
            lanes.pop(queue, None)

    async def _fly(self, lane: _Lane) -> None:
        while lane.waiting:
            batch: list[_Item] = []
            size_bytes = 0
            while lane.waiting and len(batch) < BATCH_TASKS_MAX:
                size_bytes += len(lane.waiting[0][0])
                if batch and size_bytes > BATCH_BYTES_MAX:
                    break
                batch.append(lane.waiting.popleft())
            await self._send(batch)

    async def _send(self, batch: list[_Item]) -> None:
        try:
            submitted = await self.job([spec for spec, _ in batch])
        except InvalidRequest as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            # One of them is wrong: each is heard for itself.
            for item in batch:
                await self._send([item])
        except BaseException as error:
            _fail(batch, error if isinstance(error, Exception) else TriarchError(f"the submission was interrupted: {error!r}"))
            if not isinstance(error, Exception):
                raise
        else:
            for (_, told), task in zip(batch, submitted.tasks, strict=True):
                if not told.done():
                    told.set_result((submitted.job, task))

    async def job(
        self,
        specs: Sequence[bytes],
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
        on_failure: str | None = None,
    ) -> Submitted:
        """Submits a job of these tasks, in parts if it is large."""
        parts = parts_of(specs)
        if len(parts) == 1:
            body = job_body(specs, name=name, idempotency_key=idempotency_key, on_failure=on_failure)
            return read_submitted(await self._transport.json(Request.change("POST", "/v1/jobs", body)))
        key = idempotency_key or new_request_id()
        answer: object = None
        for number, part in enumerate(parts, 1):
            body = job_body(part, name=name, idempotency_key=key, on_failure=on_failure, part=number, parts=len(parts))
            answer = await self._transport.json(Request.change("POST", "/v1/jobs", body))
        return read_submitted(answer)


def _fail(batch: list[_Item], error: Exception) -> None:
    for _, told in batch:
        if not told.done():
            told.set_exception(error)
