"""Triarch next to Celery (Redis that writes to disk before it answers) and Dask: no-op tasks, end to end.

    python sdk/python/bench/compare.py                 # all three, five rounds in turns, medians
    python sdk/python/bench/compare.py --systems triarch --tasks 20000

One client process and two worker processes each, on this machine; COMPARE_POOL=process has Triarch's workers run tasks in
children. A round of a system is: ``--tasks`` no-op tasks submitted at
once and all their results fetched, for the rate; then ``--trips`` tasks one after the other, each waited for, for the round
trip. Triarch has three masters, each of which writes to disk before it answers; Redis is alone, with ``appendfsync always``;
Dask keeps nothing.

Needs redis-server, and in this Python: triarch, celery[redis], distributed. TRIARCH_BIN names the program.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORKERS = 2
# A worker process that runs one task at a time in a thread of its own, as Dask's does; "process" has a child run them, as
# Celery's does.
POOL = os.environ.get("COMPARE_POOL", "thread")


@dataclass
class System:
    """One that is measured, while it runs."""

    name: str
    #: Runs this number of tasks and checks their results.
    many: Callable[[int], None]
    #: Runs one.
    one: Callable[[int], None]
    rates: list[float] = field(default_factory=list)
    trips_ms: list[float] = field(default_factory=list)

    def round(self, tasks: int, trips: int) -> None:
        begun = time.perf_counter()
        self.many(tasks)
        self.rates.append(tasks / (time.perf_counter() - begun))
        took = []
        for number in range(trips):
            begun = time.perf_counter()
            self.one(number)
            took.append((time.perf_counter() - begun) * 1000)
        self.trips_ms.append(statistics.median(took))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def process(*command: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=HERE, **more)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def check(results: list[Any], count: int) -> None:
    if results != list(range(count)):
        raise SystemExit("the results are not those of the tasks")


@contextlib.contextmanager
def triarch() -> Iterator[System]:
    from triarch.testing import LocalCluster

    with LocalCluster() as cluster:
        os.environ["TRIARCH_MASTERS"] = cluster.url
        noop = importlib.import_module("noop_triarch").noop
        for _ in range(WORKERS):
            cluster.start_worker("noop_triarch:app", concurrency=1, pool=POOL, cwd=HERE, args=["--no-capture"])
        noop.delay(0).result(timeout=60)
        yield System(
            "triarch",
            lambda count: check(noop.map(range(count)).results(timeout=600), count),
            lambda number: noop.delay(number).result(timeout=60),
        )


@contextlib.contextmanager
def celery() -> Iterator[System]:
    directory, port = tempfile.mkdtemp(prefix="triarch-compare-"), free_port()
    url = f"redis://127.0.0.1:{port}/0"
    redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory]
    redis += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    env = {**os.environ, "REDIS_URL": url}
    worker = [sys.executable, "-m", "celery", "-A", "noop_celery", "worker", "-c", str(WORKERS), "-l", "error"]
    try:
        with process(*redis), process(*worker, env=env):
            os.environ["REDIS_URL"] = url
            noop = importlib.import_module("noop_celery").noop
            group = importlib.import_module("celery").group
            noop.delay(0).get(timeout=60)

            def many(count: int) -> None:
                check(group(noop.s(number) for number in range(count)).apply_async().get(timeout=600), count)

            yield System("celery", many, lambda number: noop.delay(number).get(timeout=60))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def dask() -> Iterator[System]:
    from distributed import Client, LocalCluster

    def noop(number: int) -> int:
        return number

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.submit(noop, 0).result()
        yield System(
            "dask",
            lambda count: check(client.gather(client.map(noop, range(count), pure=False)), count),
            lambda number: client.submit(noop, number, pure=False).result(),
        )


SYSTEMS: dict[str, Callable[[], contextlib.AbstractContextManager[System]]] = {
    "triarch": triarch,
    "celery": celery,
    "dask": dask,
}


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    ask.add_argument("--systems", default="triarch,celery,dask")
    ask.add_argument("--tasks", type=int, default=2000, help="tasks of a round, all at once [default: 2000]")
    ask.add_argument("--trips", type=int, default=200, help="tasks of a round, one after the other [default: 200]")
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--output", choices=["table", "json"], default="table")
    args = ask.parse_args()
    sys.path.insert(0, str(HERE))
    totals: dict[str, System] = {}
    # In turns, each alone on the machine while it is measured.
    for number in range(args.rounds):
        for name in args.systems.split(","):
            with SYSTEMS[name]() as system:
                system.round(args.tasks // 10, args.trips // 10)  # warm
                before = totals.get(name)
                system.rates = before.rates if before else []
                system.trips_ms = before.trips_ms if before else []
                system.round(args.tasks, args.trips)
                totals[name] = system
            sys.modules.pop(f"noop_{name}", None)
            print(f"round {number + 1}: {name}: {system.rates[-1]:.0f} tasks/s, {system.trips_ms[-1]:.2f} ms", file=sys.stderr)
    if args.output == "json":
        print(json.dumps({name: {"rates": one.rates, "trips_ms": one.trips_ms} for name, one in totals.items()}))
        return
    print("| | tasks/s | round trip p50 |\n|---|---:|---:|")
    for name, one in totals.items():
        print(f"| {name} | {statistics.median(one.rates):,.0f} | {statistics.median(one.trips_ms):.2f} ms |")


if __name__ == "__main__":
    main()
