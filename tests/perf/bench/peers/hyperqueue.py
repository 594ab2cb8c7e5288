"""HyperQueue: it runs processes (`true`), with its server and one worker in one process; nothing is durable."""

import subprocess

from tests.perf.support.sandbox import Figures, Missing, interpreter

DURABLE = "nothing (its journal is off, and would not be synced)"

# The server runs in the process of its client and cannot be ended, so it gets a separate process.
PROGRAM = """
import sys, time
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

tasks, cores = int(sys.argv[1]), int(sys.argv[2])
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=cores))
    client = cluster.client()

    def run(count):
        job = Job()
        for _ in range(count):
            job.program(["true"], stdout=None, stderr=None)
        client.wait_for_jobs([client.submit(job)])

    run(1)
    begun = time.perf_counter()
    run(tasks)
    print(tasks / (time.perf_counter() - begun))
"""


def measure(settings):
    try:
        import hyperqueue  # noqa: F401
    except ImportError as error:
        raise Missing(str(error)) from error
    argv = [interpreter(), "-c", PROGRAM, str(settings.tasks), "16"]
    ran = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=300)
    return Figures(float(ran.stdout.split()[-1]), [])
