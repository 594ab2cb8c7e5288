"""A forked child process has its own connections, threads and locks."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable

import pytest

from test_handles import Setup
from triarch.testing import LocalCluster, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def in_child(work: Callable[[], None]) -> int:
    """Runs this in a forked child, and returns its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    ended: list[int] = []
    waiter = threading.Thread(target=lambda: ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), daemon=True)
    waiter.start()
    waiter.join(60)
    if not ended:
        os.kill(pid, 9)
        raise AssertionError("the child hangs")
    return ended[0]


def test_children_submit_and_wait_beside_their_parent(cluster: LocalCluster) -> None:
    setup = Setup(cluster)
    executor = setup.app.executor()
    with setup.worker():
        assert setup.add.delay(1).result(timeout=30) == 1
        assert setup.add.map(range(10)).results(timeout=30) == list(range(10))
        assert executor.submit(setup.add, 1).result(30) == 1

        def work() -> None:
            assert setup.add.delay(1, 1).result(timeout=30) == 2
            assert setup.add.map(range(100)).results(timeout=30) == list(range(100))
            assert setup.app.executor().submit(setup.add, 2).result(30) == 2
            setup.app.flush()

        assert [in_child(work) for _ in range(3)] == [0, 0, 0]
        assert setup.add.delay(5).result(timeout=30) == 5
        assert setup.add.map(range(10)).results(timeout=30) == list(range(10))


def test_a_fork_in_the_middle_of_everything(cluster: LocalCluster) -> None:
    setup = Setup(cluster)
    stop = threading.Event()
    counts = [0] * 4

    def submit(mine: int) -> None:
        while not stop.is_set():
            assert setup.add.delay(mine).result(timeout=60) == mine
            counts[mine] += 1

    with setup.worker():
        threads = [threading.Thread(target=submit, args=(mine,)) for mine in range(4)]
        for thread in threads:
            thread.start()

        def work() -> None:
            assert setup.add.delay(1, 1).result(timeout=30) == 2

        try:
            codes = [in_child(work) for _ in range(10)]
            before = list(counts)
            wait_until(lambda: all(now > then for now, then in zip(counts, before, strict=True)), 60, "the parent to go on")
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert codes == [0] * 10
