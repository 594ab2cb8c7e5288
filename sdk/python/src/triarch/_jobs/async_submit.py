"""Batching submitter for asyncio: the twin of :mod:`triarch._jobs.submit`.

Submissions of one turn of the event loop share a request, and so do those that arrive while two requests are in flight.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Mapping, Sequence

from .._http.async_transport import AsyncTransport
from ..errors import InvalidRequest, TriarchError
from .submit import BATCH_BYTES_MAX, BATCH_TASKS_MAX, Submitted, job_requests, read_submitted

__all__ = ["AsyncSubmitter"]

_IN_FLIGHT_MAX = 2

_Item = tuple[bytes, "asyncio.Future[tuple[str, str]]"]


class _Lane:
    """Submissions of one queue and event loop that wait, and the requests in flight."""

    __slots__ = ("in_flight", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Item] = deque()
        self.in_flight: set[asyncio.Task[None]] = set()


class AsyncSubmitter:
    """Submits tasks from coroutines of any event loop."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Lane]] = weakref.WeakKeyDictionary()

    async def one(self, spec: bytes, queue: str) -> tuple[str, str]:
        """Submits a task, perhaps in a batch with others. Returns the ids of its job and of itself.

        Cancelling the caller does not withdraw the task.
        """
        loop = asyncio.get_running_loop()
        lanes = self._lanes.setdefault(loop, {})
        lane = lanes.setdefault(queue, _Lane())
        receipt: asyncio.Future[tuple[str, str]] = loop.create_future()
        lane.waiting.append((spec, receipt))
        if len(lane.in_flight) < _IN_FLIGHT_MAX:
            sending = loop.create_task(self._send_batches(lane))
            lane.in_flight.add(sending)
            sending.add_done_callback(lambda sending: self._on_batch_sent(lanes, queue, lane, sending))
        return await receipt

    @staticmethod
    def _on_batch_sent(lanes: dict[str, _Lane], queue: str, lane: _Lane, sending: asyncio.Task[None]) -> None:
        lane.in_flight.discard(sending)
        if not lane.in_flight and not lane.waiting:
            lanes.pop(queue, None)

    async def _send_batches(self, lane: _Lane) -> None:
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
            # One of them is invalid: each is submitted alone.
            for item in batch:
                await self._send([item])
        except BaseException as error:
            _fail(batch, error if isinstance(error, Exception) else TriarchError(f"the submission was interrupted: {error!r}"))
            if not isinstance(error, Exception):
                raise
        else:
            for (_, receipt), task in zip(batch, submitted.tasks, strict=True):
                if not receipt.done():
                    receipt.set_result((submitted.job, task))

    async def job(
        self,
        specs: Sequence[bytes],
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
        on_failure: str | None = None,
        after_jobs: Sequence[Mapping[str, str]] | None = None,
    ) -> Submitted:
        """Submits a job of these tasks, in parts if it is large."""
        answer: object = None
        fields = {"name": name, "on_failure": on_failure, "after_jobs": after_jobs or None}
        for request in job_requests(specs, fields, idempotency_key=idempotency_key):
            answer = await self._transport.json(request)
        return read_submitted(answer)


def _fail(batch: list[_Item], error: Exception) -> None:
    for _, receipt in batch:
        if not receipt.done():
            receipt.set_exception(error)
