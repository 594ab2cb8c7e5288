"""Run of the whole matrix under stress: harmful tasks at random in workers of every pool, while masters are killed.

`scripts/test-python.sh --matrix` runs it. It has three parts: each harmful task in a worker with one slot, with a second at most
until the next task has ended; a gigabyte of output next to short tasks; and a random run. The random run checks at its end that
every task has the right outcome, that every slot takes tasks, that no zombie is left, and that the memory of the workers does not
grow.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triarch import Handle, TaskFailed, Triarch
from triarch.testing import LocalCluster, Process, wait_until

from .conftest import HERE, Bench
from .test_matrix import COROUTINES, EVERYWHERE, ONLY_PROCESSES, POOLS, Subject, is_as

#: What changes a process that tasks share, so that the outcome of other tasks is not determined.
_NOT_SHARED = {"recursion limit", "close descriptor 1", "close descriptors 0 to 2", "output of a child", "cancel all"}
_NOT_SHARED |= {"break the factory", "forks that print", "multiprocessing"}
_SLOTS = 3
_IN_FLIGHT = 2 * _SLOTS
_RESULT_TIMEOUT_S = 120.0
#: Growth of the memory of a worker between the middle of the time and its end. Each thread keeps a heap of the size of its largest
#: values, so memory grows at first.
_GROWTH_MAX = 1.3
_GROWTH_MIB_MAX = 40.0
_MEMORY_AFTER_S = 600.0


@dataclass
class Report:
    """What a random run has seen."""

    tasks: int = 0
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    memory_mib: dict[str, tuple[float, float]] = field(default_factory=dict)


def cases(pool: str) -> dict[tuple[str, str], Any]:
    """Returns the expected outcomes of a pool by task and action, without what would change the others' outcomes."""
    found: dict[tuple[str, str], Any] = {}
    groups = [("act", EVERYWHERE), ("awaits", COROUTINES)]
    if pool == "process":
        groups.append(("act", ONLY_PROCESSES))
    if pool == "async":
        groups.append(("aact", EVERYWHERE))
    for task, expectations in groups:
        for action, expected in expectations.items():
            if pool == "process" or action not in _NOT_SHARED:
                found[task, action] = expected
    return found


class RandomRun:
    """Random run with a worker of each pool, and a thread that kills masters."""

    def __init__(self, cluster: LocalCluster, notes: Path, seed: int) -> None:
        self.cluster = cluster
        self.seed = seed
        self.report = Report()
        self._notes = notes
        self._over = threading.Event()
        self._lock = threading.Lock()

    def run(self, seconds: float, *, kill_every_s: float) -> Report:
        """Runs for this time. Raises AssertionError for what a worker has lost."""
        benches = {pool: Bench(self.cluster, self._notes / pool) for pool in POOLS}
        workers: dict[str, Process] = {}
        for pool, bench in benches.items():
            bench.notes.mkdir()
            arguments = ("--stop-grace", "0.5", "--log-level", "warning")
            workers[pool] = bench.worker(*arguments, app="harmful_tasks:app", concurrency=_SLOTS, pool=pool)
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._send, args=(pool, bench, until), name=pool) for pool, bench in benches.items()]
        killer = threading.Thread(target=self._kill, args=(kill_every_s,), name="killer")
        for thread in [*threads, killer]:
            thread.start()
        before: dict[str, float] = {}
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(1.0, seconds / 10))
            if not before and time.monotonic() > until - seconds / 2:
                before = {pool: memory_mib(worker) for pool, worker in workers.items()}
        self._over.set()
        killer.join()
        self.cluster.heal()
        for pool, worker in workers.items():
            assert worker.is_running(), f"the worker of the pool {pool} has ended: {worker.log_tail()}"
            self._check_slots(pool, benches[pool])
            wait_until(functools.partial(has_no_zombies, worker), 30, f"no zombies of the pool {pool}")
            self.report.memory_mib[pool] = (before[pool], memory_mib(worker))
        assert self.report.wrong == [], "\n".join(self.report.wrong)
        for pool, (first, last) in self.report.memory_mib.items():
            # In a shorter run the largest values may come after the first measurement.
            assert seconds < _MEMORY_AFTER_S or last <= max(first * _GROWTH_MAX, first + _GROWTH_MIB_MAX), (
                f"{pool} grew from {first:.0f} to {last:.0f} MiB"
            )
        return self.report

    def _send(self, pool: str, bench: Bench, until: float) -> None:
        """Keeps the worker of a pool busy, and compares outcomes."""
        choice = random.Random(f"{self.seed} {pool}")
        expectations = cases(pool)
        names = list(expectations)
        app = Triarch(self.cluster.url)
        pending: list[tuple[tuple[str, str], Handle[Any]]] = []
        try:
            while time.monotonic() < until or pending:
                while len(pending) < _IN_FLIGHT and time.monotonic() < until:
                    case = choice.choice(names)
                    pending.append((case, _send(app, bench, *case)))
                case, handle = pending.pop(0)
                outcome = outcome_of(handle)
                with self._lock:
                    self.report.tasks += 1
                    if not is_as(outcome, expectations[case]):
                        self.report.wrong.append(f"{pool}, {case}: {handle.id}: {outcome!r}"[:1000])
        except Exception as error:
            with self._lock:
                self.report.wrong.append(f"{pool}: {error!r}")

    def _kill(self, every_s: float) -> None:
        choice = random.Random(f"{self.seed} kills")
        while not self._over.wait(every_s * choice.uniform(0.5, 1.5)):
            master = self.cluster.master(choice.randint(1, 3))
            master.kill9()
            self.report.kills += 1
            self._over.wait(choice.uniform(0.1, 2.0))
            self.cluster.heal()

    def _check_slots(self, pool: str, bench: Bench) -> None:
        """Checks that as many tasks run at once as the worker has slots."""
        name = "aneighbour" if pool == "async" else "neighbour"
        handles = [bench.app.send_task(f"harmful_tasks.{name}", queue=bench.queue) for _ in range(_SLOTS)]
        wait_until(lambda: len(bench.lines("begun")) == _SLOTS, 30, f"all slots of the pool {pool} to run a task")
        bench.go_on()
        assert [handle.result(timeout=60) for handle in handles] == ["unharmed"] * _SLOTS


def _send(app: Triarch, bench: Bench, task: str, action: str) -> Handle[Any]:
    return app.send_task(f"harmful_tasks.{task}", (action,), queue=bench.queue, max_attempts=1, max_losses=50)


def outcome_of(handle: Handle[Any]) -> Any:
    """Returns a result, or the failure."""
    try:
        return handle.result(timeout=_RESULT_TIMEOUT_S)
    except TaskFailed as failed:
        return failed


def memory_mib(worker: Process) -> float:
    """Returns the resident memory of the worker's own process."""
    pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def has_no_zombies(worker: Process) -> bool:
    """Returns whether every child of a worker that has ended was reaped."""
    for thread in Path(f"/proc/{worker.pid}/task").iterdir():
        for pid in (thread / "children").read_text().split():
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state == "Z":
                return False
    return True


# The parts that need no chance ------------------------------------------------------------------------------------------


def check_each_alone(cluster: LocalCluster, notes: Path, pool: str) -> float:
    """Runs the matrix in a worker with one slot. Returns the longest time until the next task had ended."""
    subject = Subject(cluster, pool, notes, concurrency=1, next_task_s=1.0)
    try:
        subject.check_matrix()
        return subject.slowest_s
    finally:
        subject.worker.kill9()


def check_large_output(cluster: LocalCluster, notes: Path, pool: str) -> tuple[float, float]:
    """Prints a gigabyte. Returns the seconds that this took, and the longest of a short task at that time."""
    subject = Subject(cluster, pool, notes, concurrency=2)
    try:
        begun = time.monotonic()
        large = subject.send("act", "a gigabyte of output")
        slowest_s = 0.0
        while not large.done():
            sent = time.monotonic()
            assert subject.send("aadd" if pool == "async" else "add", 1, 2).result(timeout=30) == 3
            slowest_s = max(slowest_s, time.monotonic() - sent)
            time.sleep(0.1)
        assert large.result() is None
        return time.monotonic() - begun, slowest_s
    finally:
        subject.worker.kill9()


@contextmanager
def _environment(pool: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="triarch-matrix-") as directory:
        print(f"== {pool}", flush=True)
        yield Path(directory)


def main() -> None:
    """Runs all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="Duration of the random run. Default: 5.")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="Seed of the random run. Default: a random one."
    )
    parser.add_argument(
        "--kill-every", type=float, default=15.0, metavar="SECONDS", help="Mean time between two kills. Default: 15."
    )
    asked = parser.parse_args()
    os.chdir(HERE)
    with LocalCluster(1) as cluster:
        for pool in POOLS:
            with _environment(f"pool {pool}, one slot") as notes:
                print(f"the next task ended within {check_each_alone(cluster, notes, pool):.3f} s", flush=True)
            with _environment(f"pool {pool}, a gigabyte of output") as notes:
                took_s, slowest_s = check_large_output(cluster, notes, pool)
                print(f"printed in {took_s:.1f} s; a short task at that time ended within {slowest_s:.3f} s", flush=True)
    print(f"seed {asked.seed}", flush=True)
    with LocalCluster(3) as cluster, _environment(f"random run of {asked.minutes:g} minutes") as notes:
        report = RandomRun(cluster, notes, asked.seed).run(asked.minutes * 60, kill_every_s=asked.kill_every)
    for pool, (first, last) in report.memory_mib.items():
        print(f"memory of {pool}: {first:.0f} MiB, at the end {last:.0f} MiB")
    print(f"{report.tasks} tasks, {report.kills} masters killed: every outcome right, no slot lost, no zombie")


if __name__ == "__main__":
    main()
