"""RQ on Redis, with an append-only file that is fsynced at each write. Its workers fork a process for each job by default.
These workers (`SimpleWorker`) do not fork."""

import sys
import time

from tests.perf.bench.peers import python_environment
from tests.perf.support.sandbox import Figures, Sandbox, interpreter, start_redis, timed

DURABLE = "one Redis, appendfsync always"


def measure(settings):
    import redis
    from rq import Queue

    with Sandbox() as sandbox:
        port = start_redis(sandbox)
        environment = python_environment()
        sys.path.insert(0, environment["PYTHONPATH"])
        import rq_app

        url = f"redis://127.0.0.1:{port}/0"
        for _ in range(settings.workers):
            sandbox.start(
                interpreter(), "-m", "rq.cli", "worker", "--url", url, "--worker-class", "rq.worker.SimpleWorker",
                "--quiet", "bench", env=environment,
            )
        queue = Queue("bench", connection=redis.Redis.from_url(url))
        payload = settings.payload()

        def finish(job):
            deadline = time.monotonic() + 120
            while True:
                state = job.get_status()
                if state == "finished":
                    return
                if state == "failed" or time.monotonic() > deadline:
                    raise RuntimeError(f"a job is {state}")
                time.sleep(0.001)

        finish(queue.enqueue(rq_app.noop, payload))
        begun = time.perf_counter()
        jobs = [queue.enqueue(rq_app.noop, payload) for _ in range(settings.tasks)]
        for job in jobs:
            finish(job)
        took = time.perf_counter() - begun
        trips = timed(lambda: finish(queue.enqueue(rq_app.noop, payload)), settings.round_trips)
        return Figures(settings.tasks / took, trips)
