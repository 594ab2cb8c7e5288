"""Pytest plugin: fixtures for a real cluster, an app of it, and workers.

* ``triarch_cluster``: a :class:`~triarch.testing.LocalCluster`.
  One cluster serves all tests of a session. Masters that a test has killed or paused are started again before the next test.
  ``@pytest.mark.triarch_cluster(masters=1, lease_ms=2000)`` gives a test a cluster of its own.
* ``triarch_app``: a :class:`~triarch.Triarch` of that cluster. It has a queue of its own, so tests do not see each other's tasks.
* ``triarch_connect``: function that makes an app use the cluster for the rest of the test: ``triarch_connect(app)``.
* ``triarch_worker``: function that starts a worker in this process: ``triarch_worker(app, concurrency=2, pool="thread")``.
* ``triarch_eager``: an app whose tasks run in the process that submits them, without a cluster. See :func:`triarch.testing.eager`.
  ``@pytest.mark.triarch_eager("module:app")`` does this with an app of yours for one test.

The program is found as :func:`triarch.testing.find_binary` says.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from triarch import Triarch
    from triarch.testing import LocalCluster
    from triarch.worker import Worker

#: Size of the cluster of a session.
_OPTION = "--triarch-masters"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option for the cluster's size."""
    group = parser.getgroup("triarch")
    group.addoption(
        _OPTION, type=int, default=3, metavar="N", help="number of masters of the cluster that tests share. Default: 3."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marks."""
    config.addinivalue_line(
        "markers", "triarch_eager('module:app'): runs the tasks of this app in the process that submits them"
    )
    config.addinivalue_line(
        "markers", "triarch_cluster(masters=3, lease_ms=None, …): gives the test a Triarch cluster of its own"
    )


@pytest.fixture(scope="session")
def _triarch_shared(request: pytest.FixtureRequest) -> Iterator[Callable[[], LocalCluster]]:
    from triarch.testing import LocalCluster

    started: list[LocalCluster] = []

    def give() -> LocalCluster:
        if not started:
            started.append(LocalCluster(int(request.config.getoption(_OPTION) or 3), lease_ms=5000).start())
        return started[0]

    yield give
    for cluster in started:
        cluster.stop()


@pytest.fixture
def triarch_cluster(request: pytest.FixtureRequest, _triarch_shared: Callable[[], LocalCluster]) -> Iterator[LocalCluster]:
    """A cluster that is ready. See the module."""
    from triarch.testing import LocalCluster

    mark = request.node.get_closest_marker("triarch_cluster")
    if mark is not None:
        with LocalCluster(*mark.args, **mark.kwargs) as own:
            yield own
        return
    shared = _triarch_shared()
    shared.heal()
    yield shared
    shared.stop_workers()


@pytest.fixture
def triarch_app(triarch_cluster: LocalCluster) -> Triarch:
    """An app of the cluster, with a queue of its own."""
    from triarch import Triarch

    return Triarch(triarch_cluster.url, queue=f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def triarch_eager() -> Iterator[Triarch]:
    """An eager app. See the module."""
    from triarch import Triarch
    from triarch.testing import eager

    app = Triarch("http://127.0.0.1:9")
    with eager(app):
        yield app


@pytest.fixture(autouse=True)
def _triarch_eager_by_mark(request: pytest.FixtureRequest) -> Iterator[None]:
    mark = request.node.get_closest_marker("triarch_eager")
    if mark is None:
        yield
        return
    from triarch.testing import eager
    from triarch.worker import load_app

    with eager(load_app(mark.args[0])):
        yield


@pytest.fixture
def triarch_connect(triarch_cluster: LocalCluster) -> Iterator[Callable[[Triarch], Triarch]]:
    """Makes apps use the cluster. See the module."""
    from triarch.testing import connected

    with contextlib.ExitStack() as stack:
        yield lambda app: stack.enter_context(connected(app, triarch_cluster.url))


@pytest.fixture
def triarch_worker() -> Iterator[Callable[..., Worker]]:
    """Starts workers in this process, and stops them at the end of the test. See the module."""
    from triarch.worker import Worker, WorkerConfig

    workers: list[Worker] = []

    def start(app: Triarch, **config: Any) -> Worker:
        config.setdefault("pool", "thread")
        config.setdefault("concurrency", 2)
        config.setdefault("capture", False)
        config.setdefault("name", f"test-{uuid.uuid4().hex[:12]}")
        reference = config.pop("reference", None)
        if "queues" not in config and app.options.queue is not None:
            config["queues"] = (app.options.queue,)
        worker = Worker(app, WorkerConfig(**config), reference=reference)
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop(now=True, timeout=20.0)
