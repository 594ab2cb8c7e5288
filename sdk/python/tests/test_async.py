"""Submissions and waits with asyncio, also a thousand at once."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from fake_worker import FakeWorker
from test_handles import Setup
from triarch import InvalidRequest, NotFound, ResultTimeout, TaskCancelled, TaskFailed, Triarch
from triarch.testing import LocalCluster


@pytest.fixture
def setup(cluster: LocalCluster) -> Setup:
    return Setup(cluster)


def run(setup: Setup, main: object) -> None:
    async def whole() -> None:
        try:
            await main  # type: ignore[misc]
        finally:
            await setup.app.aclose()

    asyncio.run(whole())


def test_a_result_is_awaited(setup: Setup) -> None:
    async def main() -> None:
        handle = await setup.add.adelay(1, 2)
        assert await handle == 3
        assert await handle.astatus() == "succeeded"
        assert await setup.app.handle(handle.id) == 3
        with pytest.raises(TaskFailed, match="ValueError"):
            await (await setup.broken.adelay("x"))

    with setup.worker():
        run(setup, main())


def test_a_thousand_are_in_flight(setup: Setup) -> None:
    async def one(number: int) -> int:
        return await (await setup.add.adelay(number, 1))

    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        tasks = [asyncio.create_task(one(number)) for number in range(1000)]
        while len(setup.app.watcher) < 1000:
            await asyncio.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) - before < 100, "a connection for each"
        assert threading.active_count() < 100
        with setup.worker():
            assert await asyncio.gather(*tasks) == list(range(1, 1001))

    run(setup, asyncio.wait_for(main(), 90))


def test_many_come_as_they_end(setup: Setup) -> None:
    async def main() -> None:
        many = await setup.add.amap(range(200))
        assert await many.aresults() == list(range(200))
        assert {await handle async for handle in many} == set(range(200))

    with setup.worker():
        run(setup, main())


def test_a_wait_times_out_and_cancelling_a_task_ends_its_waits(setup: Setup) -> None:
    async def main() -> None:
        handle = await setup.add.adelay(1)
        with pytest.raises(ResultTimeout):
            await handle.aresult(timeout=0.1)
        waiting = asyncio.create_task(handle.aresult())
        await asyncio.sleep(0)
        assert await handle.acancel()
        with pytest.raises(TaskCancelled):
            await waiting
        await handle.aretry()
        gone = asyncio.create_task(handle.aresult())
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert len(setup.app.watcher) == 0
        await handle.acancel()

    run(setup, main())


def test_refusals_reach_the_one_they_are_for(setup: Setup) -> None:
    async def main() -> None:
        submissions = [setup.add.aapply_async((number,), priority=99 if number == 3 else 1) for number in range(8)]
        outcomes = await asyncio.gather(*submissions, return_exceptions=True)
        assert [number for number, one in enumerate(outcomes) if isinstance(one, InvalidRequest)] == [3]
        with pytest.raises(NotFound):
            await setup.app.handle("t999999-0")
        await asyncio.gather(*(one.acancel() for one in outcomes if not isinstance(one, BaseException)))

    run(setup, main())


def test_loops_come_and_go(setup: Setup) -> None:
    async def main() -> None:
        assert await (await setup.add.adelay(1)) == 1

    with setup.worker():
        for _ in range(3):
            run(setup, main())


def test_a_loop_that_is_gone_is_nobody_who_waits(cluster: LocalCluster) -> None:
    setup = Setup(cluster)

    async def main() -> str:
        handle = await setup.add.adelay(1)
        waiting = asyncio.create_task(handle.aresult())
        while len(setup.app.watcher) < 1:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        return handle.id

    id = asyncio.run(asyncio.wait_for(main(), 60))
    with FakeWorker(setup.app, queues=(setup.queue,)):
        assert Triarch(cluster.url).handle(id).result(timeout=30) == 1
