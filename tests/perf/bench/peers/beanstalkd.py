"""beanstalkd: one process, no replicas, each job in a binlog that is fsynced before the answer (`-f0`).

A task's life is put, reserve, delete; there are no results."""

import threading
import time

from tests.perf.support.sandbox import Figures, Sandbox, free_port, listens, timed

DURABLE = "one process, fsync of each put (-f0); deletions are not synced before their answer"


def measure(settings):
    import greenstalk

    with Sandbox() as sandbox:
        port = free_port()
        sandbox.start("beanstalkd", "-l", "127.0.0.1", "-p", str(port), "-b", sandbox.folder, "-f0")
        listens(port)
        address = ("127.0.0.1", port)
        payload = settings.payload()
        producers, workers = 2, settings.workers
        share = settings.tasks // producers
        total = share * producers
        done = threading.Semaphore(0)

        def produce():
            with greenstalk.Client(address) as client:
                for _ in range(share):
                    client.put(payload)

        def work():
            with greenstalk.Client(address) as client:
                while True:
                    try:
                        job = client.reserve(timeout=1)
                    except greenstalk.TimedOutError:
                        return
                    client.delete(job)
                    done.release()

        threads = [threading.Thread(target=work) for _ in range(workers)]
        begun = time.perf_counter()
        threads += [threading.Thread(target=produce) for _ in range(producers)]
        for thread in threads:
            thread.start()
        for _ in range(total):
            done.acquire()
        took = time.perf_counter() - begun
        for thread in threads:
            thread.join()

        with greenstalk.Client(address) as client, greenstalk.Client(address) as worker:

            def trip():
                client.put(payload)
                worker.delete(worker.reserve())

            return Figures(total / took, timed(trip, settings.round_trips))
