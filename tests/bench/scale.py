"""How costs grow: waiting workers, queued tasks, queues. Prints a table each and draws a plot each."""

import json
import os
import sys
import urllib.request

from tests.bench.cluster import Cluster
from tests.bench.plot import draw

WORKERS = (100, 500, 1_000, 2_000, 5_000)
QUEUED = (0, 100_000, 300_000, 1_000_000)
QUEUES = (0, 1_000, 10_000)
BATCH = 10_000
IDLE_SECONDS = 20


def measure(options):
    found = {"idle workers": idle(options), "queued tasks": queued(options), "queues": queues(options)}
    os.makedirs(options.plots, exist_ok=True)
    plots = [
        ("idle-workers.svg", "Waiting workers", "workers", "share of a processor, leader", "idle workers", "cpu_share"),
        ("queued-tasks.svg", "Rate beside queued tasks", "tasks queued", "tasks a second", "queued tasks", "rate"),
        ("queues.svg", "Rate beside other queues", "queues, one task in each", "tasks a second", "queues", "rate"),
    ]
    for file, title, across, up, name, figure in plots:
        points = [(point["count"], point[figure]) for point in found[name]]
        draw(os.path.join(options.plots, file), title, across, up, points)
    for name, points in found.items():
        heads = list(points[0])
        print(f"\n{name}:\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
        for point in points:
            print(f"| {' | '.join(f'{value:,.4g}' if isinstance(value, float) else f'{value:,}' for value in point.values())} |")
    return found


def idle(options):
    points = []
    for count in WORKERS:
        with Cluster(options.binary) as cluster:
            report = cluster.bench("--mode", "idle", "--workers", count, "--seconds", IDLE_SECONDS, "--rate", 100)
        leader = next(master for master in report["idle"]["masters"] if master["leads"])
        points.append({
            "count": count,
            "connect_s": report["idle"]["connect_seconds"],
            "cpu_share": leader["cpu_share"],
            "leader_bytes_each": report["idle"]["leader_bytes_per_worker"],
            "submit_p99_ms": report["latency_ms"]["submit"]["p99_ms"],
            "start_p99_ms": report["latency_ms"]["start"]["p99_ms"],
        })
        print(f"  idle workers: {points[-1]}", file=sys.stderr)
    return points


def queued(options):
    """The rate of whole lives in one queue, beside tasks that wait in another for a worker that never comes."""
    points = []
    with Cluster(options.binary) as cluster:
        there = 0
        for count in QUEUED:
            there += fill(cluster, count - there, lambda _: "waiting")
            points.append({"count": count, **rate(cluster, options)})
            print(f"  queued tasks: {points[-1]}", file=sys.stderr)
    return points


def queues(options):
    points = []
    with Cluster(options.binary) as cluster:
        there = 0
        for count in QUEUES:
            there += fill(cluster, count - there, lambda number: f"queue-{there + number}")
            points.append({"count": count, **rate(cluster, options)})
            print(f"  queues: {points[-1]}", file=sys.stderr)
    return points


def rate(cluster, options):
    words = ("--tasks", options.tasks, "--batch", 100, "--payload", options.payload)
    reports = [cluster.bench(*words) for _ in range(3)]
    reports.sort(key=lambda report: report["tasks_per_s"])
    leader = next(master for master in reports[1]["masters"] if master["leads"])
    return {"rate": reports[1]["tasks_per_s"], "leader_mib": leader["resident_bytes"] >> 20}


def fill(cluster, count, queue_of):
    """Submits tasks of a kind that nobody runs."""
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        tasks = [{"kind": "nobody", "queue": queue_of(number), "payload": "x" * 254} for number in numbers]
        body = json.dumps({"tasks": tasks}).encode()
        request = urllib.request.Request(
            f"{cluster.urls[0]}/v1/jobs", data=body, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.status == 201, answer.status
    return max(count, 0)
