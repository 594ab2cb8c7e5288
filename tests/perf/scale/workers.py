"""Waiting workers, each with a held poll and heartbeats: their cost for the leader, and the additional cost of 100
tasks per second.
"""

from tests.perf.scale.sizes import note, scaled
from tests.perf.support.cluster import Cluster

WORKERS = (100, 500, 1_000, 2_000, 5_000)
SECONDS = 20
TASKS_PER_S = 100
SHARE_GOAL = 10


def measure(options):
    points = []
    for count in scaled(options, WORKERS):
        with Cluster(options.binary) as cluster:
            quiet = cluster.bench("--mode", "idle", "--workers", count, "--seconds", SECONDS)
        with Cluster(options.binary) as cluster:
            words = ("--mode", "idle", "--workers", count, "--seconds", SECONDS, "--rate", TASKS_PER_S)
            busy = cluster.bench(*words, "--payload", options.payload)
        points.append(note("workers", {
            "workers": count,
            "connect_s": quiet["idle"]["connect_seconds"],
            "idle_cpu_percent": share(quiet, True),
            "follower_idle_cpu_percent": share(quiet, False),
            "busy_cpu_percent": share(busy, True),
            "leader_bytes_each": quiet["idle"]["leader_bytes_per_worker"],
            "submit_p99_ms": busy["latency_ms"]["submit"]["p99_ms"],
            "start_p99_ms": busy["latency_ms"]["start"]["p99_ms"],
        }))
    return points


def share(report, leads):
    shares = [master["cpu_share"] for master in report["idle"]["masters"] if master["leads"] == leads]
    return 100 * sum(shares) / len(shares) if shares else None


def write_section(page, points):
    page.paragraph("## Idle workers")
    page.paragraph(
        "Each worker holds one long poll and sends heartbeats, as `triarch worker` does. A first run submits no task. A second run, "
        f"on a new cluster, submits {TASKS_PER_S} tasks per second, which the workers lease and report."
    )
    lines = {
        "without tasks": [(point["workers"], point["idle_cpu_percent"]) for point in points],
        f"with {TASKS_PER_S} tasks per second": [(point["workers"], point["busy_cpu_percent"]) for point in points],
    }
    page.plot(
        "workers", "Processor time of the leader", "workers", "% of one processor", lines, ("goal", SHARE_GOAL)
    )
    page.table({
        "workers": "workers", "connect_s": "until all of them poll, s", "idle_cpu_percent": "leader without tasks, % of a processor",
        "follower_idle_cpu_percent": "a follower without tasks, %", "busy_cpu_percent": f"leader with {TASKS_PER_S} tasks per second, %",
        "leader_bytes_each": "leader's memory per worker, bytes", "submit_p99_ms": "submission p99, ms",
        "start_p99_ms": "until a worker has the task, p99, ms",
    }, points)
    last = points[-1]
    page.goal(
        f"Processor time of the leader with {last['workers']:,} idle workers, of one processor",
        last["idle_cpu_percent"], SHARE_GOAL, " %",
    )
