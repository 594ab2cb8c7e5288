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
    page.paragraph("## Workers that wait")
    page.paragraph(
        "Each keeps a poll open and sends heartbeats, as `triarch worker` does. First they are left alone; then, in another "
        f"cluster, {TASKS_PER_S} tasks a second are submitted for them, leased and reported."
    )
    lines = {
        "left alone": [(point["workers"], point["idle_cpu_percent"]) for point in points],
        f"with {TASKS_PER_S} tasks a second": [(point["workers"], point["busy_cpu_percent"]) for point in points],
    }
    page.plot(
        "workers", "What waiting workers cost the leader", "workers", "% of one processor", lines, ("goal", SHARE_GOAL)
    )
    page.table({
        "workers": "workers", "connect_s": "until all wait, s", "idle_cpu_percent": "leader, left alone, % of a processor",
        "follower_idle_cpu_percent": "a follower, %", "busy_cpu_percent": f"leader, {TASKS_PER_S} tasks a second, %",
        "leader_bytes_each": "leader's memory for each, bytes", "submit_p99_ms": "submit p99, ms",
        "start_p99_ms": "until a worker has it p99, ms",
    }, points)
    last = points[-1]
    page.goal(f"{last['workers']:,} workers that wait, of one processor of the leader", last["idle_cpu_percent"], SHARE_GOAL, " %")
