"""Celery on Redis, with an append-only file that is fsynced at each write, as broker and as store of results."""

import importlib
import os
import sys
import time

from tests.perf.bench.peers import python_environment
from tests.perf.support.sandbox import Figures, Sandbox, interpreter, start_redis, timed, until

DURABLE = "one Redis, appendfsync always"


def measure(settings):
    with Sandbox() as sandbox:
        port = start_redis(sandbox)
        return run(sandbox, settings, f"redis://127.0.0.1:{port}/0", f"redis://127.0.0.1:{port}/1")


def run(sandbox, settings, broker, backend):
    """Measures Celery with a running broker."""
    where = {"BENCH_BROKER": broker, "BENCH_BACKEND": backend}
    os.environ.update(where)
    environment = {**python_environment(), **where}
    sys.path.insert(0, environment["PYTHONPATH"])
    application = importlib.import_module("celery_app")
    sandbox.start(
        interpreter(), "-m", "celery", "-A", "celery_app", "worker", "--loglevel", "ERROR", "--concurrency",
        str(settings.workers), "--without-gossip", "--without-mingle", "--without-heartbeat", env=environment,
    )
    payload = settings.payload()
    until(lambda: application.noop.delay(payload).get(timeout=5) is None, "a worker answers")
    begun = time.perf_counter()
    results = [application.noop.delay(payload) for _ in range(settings.tasks)]
    for result in results:
        result.get(timeout=120)
    took = time.perf_counter() - begun
    trips = timed(lambda: application.noop.delay(payload).get(timeout=30), settings.round_trips)
    return Figures(settings.tasks / took, trips)
