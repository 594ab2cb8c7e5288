"""Start with a full log: the data that one master reads before it serves, and the restart of a whole cluster."""

import time

from tests.perf.scale.sizes import fill, note, scaled
from tests.perf.support.cluster import Cluster, ask
from tests.perf.support.sandbox import until

# About as many tasks as make 128 MiB of commands, after which a snapshot is written and the log is purged.
TASKS = (0, 100_000, 200_000, 400_000)


def measure(options):
    points = []
    with Cluster(options.binary, ("--snapshot-entries", "100000000")) as cluster:
        there = 0
        for count in scaled(options, TASKS):
            fill(cluster, count - there, lambda _: "waiting", options.payload)
            there = count
            follower = next(index for index in range(3) if index != cluster.leader())
            summary = cluster.metrics(follower)
            cluster.kill_master(follower)
            cluster.start_master(follower)
            follower_s = cluster.until_ready(follower)
            for index in range(3):
                cluster.kill_master(index)
            begun = time.perf_counter()
            for index in range(3):
                cluster.start_master(index)
            until(lambda: write(cluster), "a write after all were started again", 300, 0.01)
            points.append(note("startup", {
                "tasks": count,
                "log_mb": summary["triarch_log_bytes"] / 1e6,
                "entries": int(summary["triarch_last_log_index"]),
                "in_snapshot": int(summary["triarch_snapshot_index"]),
                "follower_s": follower_s,
                "all_s": time.perf_counter() - begun,
            }))
            for index in range(3):
                cluster.until_ready(index)
    return points


def write(cluster):
    with cluster.connection(0) as connection:
        ask(connection, "POST", "/v1/jobs", {"tasks": [{"kind": "nobody", "queue": "probe"}]})
    return True


def write_section(page, points):
    page.paragraph("## Starting with a full log")
    page.paragraph(
        "The given number of tasks is queued, and automatic snapshots by the number of entries are disabled. A snapshot is still "
        "written after 128 MiB of commands, which bounds the log. First a follower is killed and started; its time ends when it has "
        "caught up. Then all three masters are killed and started; their time includes an election and ends when a submission is "
        "acknowledged."
    )
    page.plot(
        "startup", "Time to restart", "size of the log, MB", "seconds",
        {
            "all masters, until the first write": [(point["log_mb"], point["all_s"]) for point in points],
            "a follower, until it is ready": [(point["log_mb"], point["follower_s"]) for point in points],
        },
    )
    page.table({
        "tasks": "tasks", "log_mb": "log, MB", "entries": "entries", "in_snapshot": "entries in a snapshot",
        "follower_s": "a follower, s", "all_s": "all three, s",
    }, points)
