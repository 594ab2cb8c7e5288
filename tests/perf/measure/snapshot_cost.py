"""Measures how a snapshot of a large table delays clients that submit during it.

Starts three masters as separate processes, fills them with tasks, and submits one task after the other: first for
some seconds without a snapshot, then while the leader writes a snapshot of everything, several times. Prints both
latencies, and whether the term changed. It stops the processes that it started, by pid, and deletes its data.
"""

import argparse
import sys
import threading
import time

from large_table import fill, http, run, submit


def percentiles(seen):
    seen = sorted(seen)
    at = lambda share: seen[min(len(seen) - 1, int(len(seen) * share))]
    return {"count": len(seen), "p50": at(0.5), "p99": at(0.99), "max": seen[-1]}


def summary(found):
    return f"p50 {found['p50']:.2f} ms, p99 {found['p99']:.2f}, max {found['max']:.2f} ({found['count']} submissions)"


def submissions(masters, leader, until):
    """Submits one task at a time until `until` says so. Returns the latencies in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", masters.ports[leader - 1], timeout=60)
    job = {"tasks": [{"kind": "measure", "queue": "probe", "payload": "x"}]}
    seen = []
    while until():
        begun = time.perf_counter()
        submit(connection, job)
        seen.append((time.perf_counter() - begun) * 1000)
    connection.close()
    return seen


def snapshot(masters, leader):
    """Makes the leader write a snapshot. Returns its duration in seconds."""
    begun = time.monotonic()
    deadline = begun + 300
    while True:
        status, answer = masters.request(leader, "POST", "/v1/cluster/snapshot?wait_ms=60000", {}, timeout=120)
        if status == 200:
            return time.monotonic() - begun, answer
        if time.monotonic() > deadline:
            raise SystemExit(f"no snapshot: {status} {answer}")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tasks", type=int, default=1_000_000)
    options.add_argument("--payload-bytes", type=int, default=256)
    options.add_argument("--snapshots", type=int, default=3)
    options.add_argument("--calm-s", type=float, default=15.0)
    run(options, measure)


def measure(masters, given):
    report = lambda text: print(text, flush=True)
    for node in (1, 2, 3):
        masters.start(node)
    leader = masters.leader()
    task = {"kind": "measure", "queue": "now", "payload": "x" * (given.payload_bytes - 2)}
    rate = fill(masters, leader, given.tasks, task)
    report(f"{given.tasks} tasks of {given.payload_bytes} bytes submitted: {rate:.0f} a second")
    leader = masters.leader()
    # Waits until the snapshots that the initial tasks caused are written.
    snapshot(masters, leader)
    _, cluster = masters.request(leader, "GET", "/v1/cluster")
    term = cluster["term"]
    end = time.monotonic() + given.calm_s
    calm = percentiles(submissions(masters, leader, lambda: time.monotonic() < end))
    report(f"without a snapshot: {summary(calm)}")
    busy, took = [], []
    for _ in range(given.snapshots):
        outcome = []
        writer = threading.Thread(target=lambda: outcome.append(snapshot(masters, leader)))
        writer.start()
        busy += submissions(masters, leader, writer.is_alive)
        writer.join()
        seconds, answer = outcome[0]
        took.append(seconds)
        report(f"a snapshot of {answer['bytes']} bytes: {seconds:.1f} s")
    busy = percentiles(busy)
    report(f"during a snapshot:  {summary(busy)}")
    report(f"p99 during / without: {busy['p99'] / calm['p99']:.2f}")
    _, cluster = masters.request(leader, "GET", "/v1/cluster")
    report(f"elections during the run: {cluster['term'] - term}")
    sys.exit(0 if cluster["term"] == term else 1)


if __name__ == "__main__":
    main()
