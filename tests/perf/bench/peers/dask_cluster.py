"""Dask distributed: a scheduler and workers as processes; nothing is durable."""

import time

from tests.perf.support.sandbox import Figures, timed

DURABLE = "nothing"


def noop(payload, number):
    return None


def measure(settings):
    from dask.distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=settings.workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    )
    with cluster, Client(cluster) as client:
        payload = settings.payload()
        client.submit(noop, payload, -1, pure=False).result(timeout=60)
        begun = time.perf_counter()
        futures = [client.submit(noop, payload, number, pure=False) for number in range(settings.tasks)]
        client.gather(futures)
        took = time.perf_counter() - begun
        del futures
        trip = lambda: client.submit(noop, payload, 0, pure=False).result(timeout=30)
        return Figures(settings.tasks / took, timed(trip, settings.round_trips))
