"""Command line: `scripts/worker-conformance.sh [options] COMMAND…`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Iterator

from triarch.testing import LocalCluster

from .bench import Bench, Cluster
from .checks import CHECKS, SESSIONS, outcomes

#: Lease of the workers of a cluster that is started here, in ms. The checks wait for some leases.
LEASE_MS = 2_000


def main() -> int:
    """Runs the checks. Returns 0 if the worker breaks no rule, else 1."""
    parser = argparse.ArgumentParser(
        prog="scripts/worker-conformance.sh",
        description="Runs a worker against a cluster and injected faults, and says of each rule of the worker protocol whether "
        "it keeps the rule: ok, FAIL, or weak if it works without that, but less well. The exit code is 1 after a FAIL. The worker "
        "finds the masters in TRIARCH_MASTERS and takes tasks of the kind TRIARCH_KIND: see docs/workers/any-language.md.",
    )
    parser.add_argument("--nodes", metavar="URL,URL", help="masters of a running cluster (default: starts three)")
    parser.add_argument("--kind", default="conformance", help="kind of the tasks (conformance)")
    parser.add_argument("--exec", action="store_true", help="the worker runs commands: tasks of the kind exec")
    parser.add_argument("--only", metavar="CHECK,CHECK", help="only these checks, and registers")
    parser.add_argument("--list", action="store_true", help="lists the checks")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="starts the worker")
    options = parser.parse_args()
    if options.list:
        for check in CHECKS.values():
            print(f"{check.name:24}{check.rule}")
        return 0
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    only = set(options.only.split(",")) if options.only else set(CHECKS)
    if unknown := only - CHECKS.keys():
        parser.error(f"unknown checks: {', '.join(sorted(unknown))}; --list names all")
    if not command:
        parser.error("name the command that starts the worker")
    run = _Run(command, options, only)
    sessions = [
        number for number, steps in enumerate(SESSIONS) if only & {name for _, names in steps for name in names} - {"registers"}
    ]
    run.all(sessions or [0])
    broken = run.counts["FAIL"]
    print(f"\n{run.counts['ok']} ok, {run.counts['weak']} weak, {broken} FAIL")
    return 1 if broken else 0


class _Run:
    """One run of the checks, on one or two clusters at a time."""

    def __init__(self, command: list[str], options: argparse.Namespace, only: set[str]) -> None:
        self.command = command
        self.options = options
        self.only = only
        self.counts = {"ok": 0, "weak": 0, "FAIL": 0}
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def all(self, sessions: list[int]) -> None:
        """Runs sessions: at the same time on clusters of their own, or one after the other on the given one."""
        threads = [threading.Thread(target=self._session, args=(number,)) for number in sessions]
        for thread in threads:
            thread.start()
            if self.options.nodes:
                thread.join()
        for thread in threads:
            thread.join()

    def _session(self, number: int) -> None:
        try:
            with self._cluster() as cluster, contextlib.closing(self._bench(cluster)) as bench:
                self._checks(bench, number)
        except (RuntimeError, OSError) as error:
            with self._lock:
                self.counts["FAIL"] += 1
                print(f"FAIL  not decided: {error}", flush=True)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[Cluster]:
        if self.options.nodes:
            yield Cluster(self.options.nodes.split(","))
            return
        with LocalCluster(lease_ms=LEASE_MS) as local:
            yield Cluster(local.urls)

    def _bench(self, cluster: Cluster) -> Bench:
        return Bench(cluster, self.command, self.options.kind, self.options.exec)

    def _checks(self, bench: Bench, number: int) -> None:
        failed = False
        for step in SESSIONS[number]:
            for check, verdict, remark in outcomes(bench, step, lambda name: name == "registers" or name in self.only):
                failed = failed or verdict == "FAIL"
                self._print(check.name, verdict, check.rule if verdict != "ok" else "", remark)
                if check.name == "registers" and verdict == "FAIL":
                    self._tail(bench, number)
                    return
        if failed:
            self._tail(bench, number)

    def _tail(self, bench: Bench, number: int) -> None:
        with self._lock:
            print(f"      the last lines of the worker, session {number + 1}:\n{bench.worker.tail()}", flush=True)

    def _print(self, name: str, verdict: str, rule: str, remark: str) -> None:
        with self._lock:
            # Each session begins with a registration; it counts once.
            if name in self._seen and verdict == "ok":
                return
            self._seen.add(name)
            self.counts[verdict] += 1
            text = ": ".join(part for part in (rule, remark) if part)
            print(f"{verdict:6}{name:24}{text}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
