"""Costs of queued tasks: their memory, their effect on the rate of other tasks, and a snapshot of them."""

import statistics
import threading
import time

from tests.perf.scale.sizes import fill, note, scaled
from tests.perf.support.cluster import Cluster, ask

QUEUED = (0, 100_000, 300_000, 1_000_000)
SLOWER_GOAL = 20
RATE_RUNS = 3
RATE_SECONDS = 5
SNAPSHOTS = 3
BASELINE_SECONDS = 5


def measure(options):
    """Measures the rate of complete tasks in one queue, next to tasks in another queue that wait for a worker."""
    points = []
    with Cluster(options.binary) as cluster:
        # Caches are full and all threads exist before memory is measured.
        cluster.lifecycle_rate(options.tasks, options.payload)
        there = 0
        for count in scaled(options, QUEUED):
            before, more, there = resident(cluster), count - there, count
            fill(cluster, more, lambda _: "waiting", options.payload)
            after = resident(cluster)
            each = [(now - then) / more if more else None for now, then in zip(after, before)]
            points.append(note("queued", {
                "tasks": count,
                "rate": rate(cluster, options),
                "leader_mib": after[0] / 2**20,
                "follower_mib": after[1] / 2**20,
                "leader_bytes_each": each[0],
                "follower_bytes_each": each[1],
                **snapshot(cluster),
            }))
        # The same cluster after a purge of the queue. It has processed more entries than at the beginning.
        with cluster.connection(cluster.leader()) as connection:
            ask(connection, "POST", "/v1/queues/waiting/purge", {})
        points[-1]["rate_once_purged"] = rate(cluster, options)
        note("queued", points[-1])
    return points


def rate(cluster, options):
    """Returns the median rate of complete tasks over some runs. Each is long enough that a snapshot does not dominate
    it.
    """
    words = ("--seconds", RATE_SECONDS, "--payload", options.payload)
    return statistics.median(cluster.bench(*words)["tasks_per_s"] for _ in range(RATE_RUNS))


def resident(cluster):
    """Returns the memory in bytes of the leader, and of a follower on average."""
    leader = cluster.leader()
    return (
        cluster.resident_bytes(leader),
        statistics.mean(cluster.resident_bytes(index) for index in range(3) if index != leader),
    )


def snapshot(cluster):
    """Makes the leader write snapshots, and measures single submissions before and during them."""
    leader = cluster.leader()
    # Waits until a snapshot that the initial tasks caused is written.
    with cluster.connection(leader) as connection:
        ask(connection, "POST", "/v1/cluster/snapshot?wait_ms=60000", {})
    calm = submissions(cluster, leader, until=time.monotonic() + BASELINE_SECONDS)
    took, during, summary = [], [], {}
    for _ in range(SNAPSHOTS):
        stop = threading.Event()
        watched = threading.Thread(target=lambda: during.extend(submissions(cluster, leader, stop=stop)))
        watched.start()
        before, begun = cluster.cpu_seconds(leader), time.perf_counter()
        try:
            with cluster.connection(leader) as connection:
                summary = ask(connection, "POST", "/v1/cluster/snapshot?wait_ms=60000", {})
            took.append(time.perf_counter() - begun)
        finally:
            stop.set()
            watched.join()
        cpu = cluster.cpu_seconds(leader) - before
    return {
        "snapshot_mb": summary["bytes"] / 1e6,
        "snapshot_s": statistics.median(took),
        "snapshot_cpu_s": cpu,
        "calm_p99_ms": percentile(calm, 0.99),
        "during_p99_ms": percentile(during, 0.99),
        "during_max_ms": max(during),
    }


def submissions(cluster, leader, until=None, stop=None):
    """Returns the duration of each submission in ms, for at least one."""
    took = []
    with cluster.connection(leader) as connection:
        while True:
            begun = time.perf_counter()
            ask(connection, "POST", "/v1/jobs", {"tasks": [{"kind": "nobody", "queue": "probe", "payload": "x"}]})
            took.append((time.perf_counter() - begun) * 1e3)
            if stop.is_set() if stop else time.monotonic() >= until:
                return took


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def write_section(page, points):
    page.paragraph("## Queued tasks")
    page.paragraph(
        "The rate is that of complete task lifecycles in batches of 100, the median of three runs. Another queue holds the given "
        "number of tasks, which no worker takes. Memory is the resident memory of a master once these tasks are queued. Memory per "
        "task is the growth since the row above, divided by the tasks added since then, payloads included."
    )
    page.plot(
        "queued-rate", "Rate with queued tasks", "tasks queued", "task lifecycles per second",
        {"rate": [(point["tasks"], point["rate"]) for point in points]},
    )
    page.plot(
        "queued-memory", "Memory of a master", "tasks queued", "resident memory, MiB",
        {
            "leader": [(point["tasks"], point["leader_mib"]) for point in points],
            "a follower": [(point["tasks"], point["follower_mib"]) for point in points],
        },
    )
    page.table({
        "tasks": "queued", "rate": "tasks per second", "leader_mib": "leader, MiB", "follower_mib": "a follower, MiB",
        "leader_bytes_each": "leader, bytes per task", "follower_bytes_each": "a follower, bytes per task",
    }, points)
    first, last = points[0]["rate"], points[-1]
    once = last["rate_once_purged"]
    page.paragraph(
        f"After a purge of that queue, the same cluster ran {once:,.0f} tasks per second. A new cluster is quicker than one that has "
        "processed many tasks, because it keeps fewer finished jobs and answers. The rate with the most queued tasks is therefore "
        "compared with the mean of two rates without any: the one at the beginning, and the one after the purge."
    )
    lower = 100 * (1 - last["rate"] / ((first + once) / 2))
    page.goal(f"Decrease of the rate with {last['tasks']:,} queued tasks", lower, SLOWER_GOAL, " %")
    page.paragraph("## Snapshots")
    page.paragraph(
        f"The leader writes {SNAPSHOTS} snapshots of a table with the given number of queued tasks, while one client submits one task "
        f"after the other. For comparison, the client first submits for {BASELINE_SECONDS} s without a snapshot."
    )
    page.plot(
        "snapshot-time", "Time to write a snapshot", "tasks queued", "seconds",
        {"time": [(point["tasks"], point["snapshot_s"]) for point in points]},
    )
    page.plot(
        "snapshot-submit", "Submissions while a snapshot is written", "tasks queued", "submission p99, ms",
        {
            "without a snapshot": [(point["tasks"], point["calm_p99_ms"]) for point in points],
            "during a snapshot": [(point["tasks"], point["during_p99_ms"]) for point in points],
        },
    )
    page.table({
        "tasks": "queued", "snapshot_mb": "snapshot, MB", "snapshot_s": "written in, s",
        "snapshot_cpu_s": "leader's processor time during it, s", "calm_p99_ms": "submission p99 without a snapshot, ms",
        "during_p99_ms": "p99 during one, ms", "during_max_ms": "longest during one, ms",
    }, points)
